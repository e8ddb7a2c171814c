"""The SQL of the mirror. One thread at a time uses a store; everything here waits for the server."""

from __future__ import annotations

import random
import socket
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pymysql

from presence_operator.mirror.connection import FAILURES, connect, error_text, is_dolt, is_retryable, reason_of
from presence_operator.mirror.projection import (
    DELETED_PHASE,
    ClaimRow,
    EventRow,
    OwnedRow,
    RowKey,
    SessionRow,
    difference,
    row_key,
    session_row,
    sql_time,
)
from presence_operator.mirror.schema import applied_version, newest_version, read_applied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from presence_operator.core.facts import Claim, Session
    from presence_operator.mirror.connection import Connection
    from presence_operator.mirror.dsn import Dsn
    from presence_operator.mirror.projection import Gone

#: The tables of the mirror: the only ones that it adds to a Dolt commit.
TABLES = ("presence_boards", "presence_claims", "presence_events", "presence_owned", "presence_sessions")
AUTHOR = "presence-operator <operator@presence.dev>"

_PAIRS = 100
"""Keys in one list of pairs: Dolt takes three times as long for one list of 2,000 as for four of 500."""
_ATTEMPTS = 6
_CLAIM_COLUMNS = "session_id, resource_label, purpose, claimed_at, expires_at, host, `user`, agent_name"
_OWNED_COLUMNS = (
    "claim_uid, board, session_id, resource_label, claimed_at, phase, ttl_seconds, purpose, `user`, host, agent, "
    "has_row"
)
_EVENT_COLUMNS = (
    "event_id, claim_uid, kind, at, board, session_id, resource_label, purpose, `user`, host, agent, reason, "
    "expires_at, token"
)
_SESSION_COLUMNS = (
    "session_uid, board, session_id, kind, `user`, host, agent, model, project, url, phase, started_at, expires_at, "
    "ended_at"
)  # The comparison makes it safe to meet a row that somebody else wrote since we looked: it stays as it is.
_CLAIM_UPDATE = ", ".join(
    f"{column} = IF(claimed_at = VALUES(claimed_at), VALUES({column}), {column})"
    for column in ("purpose", "expires_at", "host", "`user`", "agent_name")
)


class SupersededError(Exception):
    """Another operator has connected for this board since we did; nothing was written."""

    def __init__(self) -> None:
        super().__init__(
            "another operator has begun to write this board; where both are wanted, give each a namespace or a "
            "database of its own"
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts to bring into the database: all that the board knows of some keys of presence_claims."""

    keys: tuple[RowKey, ...]
    claims: tuple[Claim, ...]
    gone: tuple[Gone, ...]
    now: float
    """Seconds since the epoch by the API server's clock."""

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches with about half of the keys each."""
        middle = len(self.keys) // 2
        return self._only(self.keys[:middle]), self._only(self.keys[middle:])

    def _only(self, keys: tuple[RowKey, ...]) -> Batch:
        chosen = set(keys)
        return Batch(
            keys,
            tuple(each for each in self.claims if row_key(each) in chosen),
            tuple(each for each in self.gone if row_key(each.claim) in chosen),
            self.now,
        )


@dataclass(slots=True)
class Written:
    """What became of a batch."""

    rows: int = 0
    """Rows added, changed or removed, of all tables."""
    events: dict[str, int] = field(default_factory=dict)
    """How many events of each kind were new."""
    foreign: set[RowKey] = field(default_factory=set)
    """Keys that somebody else's row holds."""
    rejected: dict[RowKey, str] = field(default_factory=dict)
    """Keys whose rows the server does not take, with its reason."""
    sessions: int = 0
    """Sessions that began, changed their phase or ended."""

    def add(self, other: Written) -> None:
        """Count `other` in."""
        self.rows += other.rows
        self.sessions += other.sessions
        for kind, count in other.events.items():
            self.events[kind] = self.events.get(kind, 0) + count
        self.foreign |= other.foreign
        self.rejected |= other.rejected


class Store:
    """The tables of one board in one database. Not opened yet; every method but `abort` raises FAILURES."""

    def __init__(self, dsn: Dsn, board: str) -> None:
        self._dsn = dsn
        self._board = board
        self._connection: Connection | None = None
        self._writer = uuid.uuid4().hex
        self.dolt = False

    def use(self, dsn: Dsn) -> None:
        """Connect there from the next `open` on."""
        self._dsn = dsn

    def open(self) -> tuple[int, int]:
        """Connect; up to which version the schema is there, and the newest that was begun."""
        self.close()
        connection = self._connection = connect(self._dsn)
        self.dolt = is_dolt(connection)
        applied = read_applied(connection)
        connection.rollback()
        return applied_version(applied), newest_version(applied)

    def take_over(self, now: float) -> None:
        """Become the only operator that writes this board; one that wrote it before gets a SupersededError from now on.

        `now` is in seconds since the epoch.
        """

        def enter() -> Written:
            with self._cursor() as cursor:
                row = (self._board, self._writer, _turn(), sql_time(now))
                columns = "board, writer, turn, since"
                _upsert(cursor, "presence_boards", columns, [row], _all_columns(columns))
            self._open_connection.commit()
            return Written()

        self._retrying(enter)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.open:
            connection.close()

    def abort(self) -> None:
        """From another thread: make whatever waits for the server fail now."""
        connection = self._connection
        sock: socket.socket | None = getattr(connection, "_sock", None)
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already

    def owned_keys(self) -> list[RowKey]:
        """The keys of all claims that the database holds to be open on this board."""
        rows = self._read("SELECT session_id, resource_label FROM presence_owned WHERE board = %s", (self._board,))
        return [(str(row[0]), str(row[1])) for row in rows]

    def write(self, batch: Batch) -> Written:
        """Make the rows of the batch's keys agree with its facts, in one transaction.

        A row that the server does not take is left out and named in the result; the others are written.
        """
        try:
            return self._retrying(lambda: self._write(batch))
        except FAILURES as error:
            if not self._is_about_rows(error):
                raise
            if len(batch.keys) == 1 and reason_of(error) == "rejected":
                return Written(rejected={batch.keys[0]: error_text(error)})
            if len(batch.keys) == 1:
                raise
            written = self._write_halves(batch)
            if len(written.rejected) == len(batch.keys) and reason_of(error) != "rejected":
                raise  # whatever it is, it is not about a row
            return written

    def _write_halves(self, batch: Batch) -> Written:
        written = Written()
        for half in batch.halves():
            try:
                written.add(self._retrying(partial(self._write, half)))
            except FAILURES as error:
                if not self._is_about_rows(error):
                    raise
                if len(half.keys) == 1:
                    written.rejected[half.keys[0]] = error_text(error)
                else:
                    written.add(self._write_halves(half))
        return written

    def _is_about_rows(self, error: BaseException) -> bool:
        """True when the server answered, and may take other rows than those."""
        return reason_of(error) in ("rejected", "other") and self._open_connection.open

    def write_sessions(self, sessions: Sequence[Session], gone: Sequence[tuple[Session, float]]) -> Written:
        """Make the rows of these sessions agree; of `gone` each with the time at which its absence was seen."""
        rows = [session_row(each, self._board) for each in sessions]
        rows += [session_row(each, self._board, at) for each, at in gone]
        return self._retrying(lambda: self._write_sessions(rows))

    def close_sessions(self, alive: Iterable[str], now: float) -> Written:
        """End the rows of sessions that are open in the database but whose uids are not in `alive`."""
        living = set(alive)
        rows = self._read(
            "SELECT session_uid FROM presence_sessions WHERE board = %s AND ended_at IS NULL", (self._board,)
        )
        lost = [str(row[0]) for row in rows if row[0] not in living]

        def end() -> Written:
            with self._cursor() as cursor:
                self._fence(cursor)
                for chunk in _chunks(lost, 500):
                    cursor.execute(
                        "UPDATE presence_sessions SET phase = %s, ended_at = %s "  # noqa: S608 - placeholders only
                        f"WHERE ended_at IS NULL AND session_uid IN ({_marks(chunk)})",
                        (DELETED_PHASE, sql_time(now), *chunk),
                    )
            self._open_connection.commit()
            return Written(rows=len(lost), sessions=len(lost))

        return self._retrying(end) if lost else Written()

    def has_uncommitted_events(self) -> bool:
        """True when Dolt's history lacks events that the table has, say because an operator was killed."""
        if not self.dolt:
            return False
        rows = self._read("SELECT COUNT(*) FROM dolt_status WHERE table_name = 'presence_events'", ())
        return bool(rows[0][0])

    def commit_history(self, message: str) -> bool | None:
        """Make a Dolt commit of the mirror's tables. False: there was nothing to commit.

        None: not now, because somebody else has other tables staged, which the commit would take along.
        """
        if self._read(
            f"SELECT table_name FROM dolt_status WHERE staged AND table_name NOT IN ({_marks(TABLES)}) LIMIT 1",  # noqa: S608
            TABLES,
        ):
            return None
        try:
            with self._cursor() as cursor:
                cursor.execute(f"CALL DOLT_ADD({_marks(TABLES)})", TABLES)
                cursor.execute("CALL DOLT_COMMIT('-m', %s, '--author', %s)", (message, AUTHOR))
            self._open_connection.commit()
        except pymysql.err.Error as error:
            self._roll_back()
            if "nothing to commit" in str(error).lower():
                return False
            raise
        return True

    @property
    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise pymysql.err.InterfaceError(0, "not connected")
        return self._connection

    def _cursor(self) -> pymysql.cursors.Cursor:
        return self._open_connection.cursor()

    def _read(self, query: str, arguments: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
        try:
            with self._cursor() as cursor:
                cursor.execute(query, arguments)
                return cursor.fetchall()
        finally:
            self._roll_back()  # ends the snapshot: the next question shall see what others wrote in between

    def _roll_back(self) -> None:
        connection = self._open_connection
        if connection.open:
            connection.rollback()

    def _retrying(self, transaction: Callable[[], Written]) -> Written:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                written = transaction()
            except pymysql.err.Error as error:
                self._roll_back()
                if attempt == _ATTEMPTS or not is_retryable(error):
                    raise
                time.sleep(random.uniform(0.5, 1.0) * 0.02 * 2**attempt)  # noqa: S311 - spreads retries, guards nothing
            else:
                return written
        raise AssertionError("unreachable")

    def _write(self, batch: Batch) -> Written:
        if not batch.keys:
            return Written()
        with self._cursor() as cursor:
            self._fence(cursor)
            claims = _select_keys(cursor, _CLAIM_COLUMNS, "presence_claims", batch.keys)
            table = {row.key: row for row in (ClaimRow(*each) for each in claims)}
            found = _select_keys(cursor, _OWNED_COLUMNS, "presence_owned", batch.keys)
            # Asked for the board too, a server may prefer to read the whole board.
            owned = [row for row in (OwnedRow(*each) for each in found) if row.board == self._board]
            changes = difference(batch.claims, batch.gone, table, owned, board=self._board, now=batch.now)
            new = self._new_events(cursor, changes.events)
            _delete_claims(cursor, changes.deletes)
            _upsert(cursor, "presence_claims", _CLAIM_COLUMNS, changes.upserts, _CLAIM_UPDATE)
            if changes.owned_deletes:
                cursor.execute(
                    f"DELETE FROM presence_owned WHERE claim_uid IN ({_marks(changes.owned_deletes)})",  # noqa: S608
                    changes.owned_deletes,
                )
            _upsert(cursor, "presence_owned", _OWNED_COLUMNS, changes.owned_upserts, _all_columns(_OWNED_COLUMNS))
            _upsert(cursor, "presence_events", _EVENT_COLUMNS, new, "")
        self._open_connection.commit()
        written = Written(
            rows=changes.rows + len(new),
            foreign={row_key(each) for each in changes.foreign},
        )
        for event in new:
            written.events[event.kind] = written.events.get(event.kind, 0) + 1
        return written

    def _fence(self, cursor: pymysql.cursors.Cursor) -> None:
        """Make sure that this transaction commits only while no other operator has taken over.

        Dolt merges transactions cell by cell and locks nothing. The same cell changed to two values is what it cannot
        merge, so the later of two commits fails, also when this process was paused right here.
        """
        cursor.execute(
            "UPDATE presence_boards SET turn = %s WHERE board = %s AND writer = %s",
            (_turn(), self._board, self._writer),
        )
        if cursor.rowcount != 1:
            self._open_connection.rollback()
            raise SupersededError

    def _new_events(self, cursor: pymysql.cursors.Cursor, events: Sequence[EventRow]) -> list[EventRow]:
        """Those of `events` that are not recorded yet: reading ids costs a small part of writing them again."""
        if not events:
            return []
        cursor.execute(
            f"SELECT event_id FROM presence_events WHERE event_id IN ({_marks(events)})",  # noqa: S608
            [each.event_id for each in events],
        )
        recorded = {row[0] for row in cursor.fetchall()}
        return [each for each in events if each.event_id not in recorded]

    def _write_sessions(self, rows: Sequence[SessionRow]) -> Written:
        if not rows:
            return Written()
        with self._cursor() as cursor:
            self._fence(cursor)
            cursor.execute(
                f"SELECT {_SESSION_COLUMNS} FROM presence_sessions "  # noqa: S608 - placeholders only
                f"WHERE session_uid IN ({_marks(rows)})",
                [each.session_uid for each in rows],
            )
            known = {row.session_uid: row for row in (SessionRow(*each) for each in cursor.fetchall())}
            changed = [each for each in rows if known.get(each.session_uid) != each]
            _upsert(cursor, "presence_sessions", _SESSION_COLUMNS, changed, _all_columns(_SESSION_COLUMNS))
        self._open_connection.commit()
        turns = sum((before := known.get(each.session_uid)) is None or before.phase != each.phase for each in changed)
        return Written(rows=len(changed), sessions=turns)


def _turn() -> int:
    return random.getrandbits(62)  # unlike a count, two operators do not arrive at the same next value


def _select_keys(
    cursor: pymysql.cursors.Cursor, columns: str, table: str, keys: Sequence[RowKey]
) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for chunk in _chunks(keys, _PAIRS):
        pairs = ", ".join(["(%s, %s)"] * len(chunk))
        query = f"SELECT {columns} FROM {table} WHERE (session_id, resource_label) IN ({pairs})"  # noqa: S608
        cursor.execute(query, [part for key in chunk for part in key])
        rows += cursor.fetchall()
    return rows


def _upsert(
    cursor: pymysql.cursors.Cursor, table: str, columns: str, rows: Sequence[tuple[Any, ...]], update: str
) -> None:
    """Write all rows in one statement; without `update`, rows whose key exists are left as they are."""
    if not rows:
        return
    one = f"({', '.join(['%s'] * len(rows[0]))})"
    verb, tail = ("INSERT", f" ON DUPLICATE KEY UPDATE {update}") if update else ("INSERT IGNORE", "")
    cursor.execute(
        f"{verb} INTO {table} ({columns}) VALUES {', '.join([one] * len(rows))}{tail}",
        [value for row in rows for value in row],
    )


def _delete_claims(cursor: pymysql.cursors.Cursor, deletes: Sequence[tuple[RowKey, Any]]) -> None:
    if not deletes:
        return
    # claimed_at again: a row that somebody else put there since we looked is not the one to delete.
    marks = ", ".join(["(%s, %s, %s)"] * len(deletes))
    cursor.execute(
        f"DELETE FROM presence_claims WHERE (session_id, resource_label, claimed_at) IN ({marks})",  # noqa: S608
        [part for (session, resource), claimed_at in deletes for part in (session, resource, claimed_at)],
    )


def _all_columns(columns: str) -> str:
    return ", ".join(f"{each} = VALUES({each})" for each in columns.split(", ")[1:])


def _marks(items: Sequence[Any]) -> str:
    return ", ".join(["%s"] * len(items))


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
