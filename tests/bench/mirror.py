"""The mirror: how far it is behind while the board changes, and how quickly it catches up after an outage."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import pymysql

from bench.arena import load_claims
from bench.observe import Watch
from bench.report import Figure, Section, percentile
from presence.model import kinds
from presence_operator.mirror.dsn import Dsn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.arena import Arena
    from support.kube import Board

    Connection = pymysql.connections.Connection[Any]

TITLE = "Mirror"
LAG_AIM, CATCH_UP_AIM = 1.0, 1.2
METHOD = """
*Lag*: claims are created and released in turn at the given rate; a poller (every 20 ms, its own connection to Dolt)
notes when the row of a created claim is there and that of a released one is gone. Lag is that moment minus the moment
at which the API server had answered the change. Its floor is the peer: rows written one by one with autocommit at the
same rate, seen by the same poller. *Catch-up*: Dolt is stopped, claims are created and become Active, Dolt is
started; the time runs from Dolt's first greeting (so the operator's reconnect is included) until all rows are there.
Peer: the very rows that the mirror wrote, in all of its tables, written into fresh tables of the same schema by raw
multi-value inserts, 500 claims in a transaction, with one Dolt commit at the end.
"""
_POLL = 0.02
_TABLES = ("presence_claims", "presence_owned", "presence_events")
_BATCH = 500
_RAW_DATABASE = "bench_raw"
_ALIVE = 3.0
"""Seconds between a claim's creation and its release."""


def run(arena: Arena, section: Section, rate: float, seconds: float, rows: int) -> None:
    """Measure lag at `rate` changes/s, then the catch-up of `rows` claims."""
    _migrate(arena.cluster.dolt.dsn)
    _lag(arena, section, rate, seconds)
    _catch_up(arena, section, rows)


class _Poller:
    """Notes when keys appear in and vanish from presence_claims."""

    def __init__(self, dsn: str, where: str = "") -> None:
        self.appeared: dict[str, float] = {}
        self.vanished: dict[str, float] = {}
        self._query = f"SELECT session_id FROM presence_claims {where}"
        self._dsn = dsn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            with _connected(self._dsn) as connection, connection.cursor() as cursor:
                present: set[str] = set()
                while not self._stop.wait(_POLL):
                    cursor.execute(self._query)
                    found = {row[0] for row in cursor.fetchall()}
                    seen = time.monotonic()
                    self.appeared.update((key, seen) for key in found - present if key not in self.appeared)
                    self.vanished.update((key, seen) for key in present - found)
                    present = found
        except Exception as error:  # noqa: BLE001 - shown to whoever waits
            self.error = error

    def until(self, appeared: int, vanished: int, timeout: float) -> None:
        """Wait until that many keys have come and gone."""
        deadline = time.monotonic() + timeout
        while len(self.appeared) < appeared or len(self.vanished) < vanished:
            if self.error is not None:
                raise self.error
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(self.appeared)} of {appeared} rows came, {len(self.vanished)} of {vanished} went"
                )
            time.sleep(0.05)


def _lag(arena: Arena, section: Section, rate: float, seconds: float) -> None:
    changes = int(rate * seconds) // 2
    behind = round(_ALIVE * rate / 2)
    created: dict[str, float] = {}
    released: dict[str, float] = {}
    with arena.board() as board:
        operator = arena.operator(board, dsn=arena.cluster.dolt.dsn)
        try:
            operator.start()
            with _Poller(arena.cluster.dolt.dsn) as poller:
                begin = time.monotonic()
                for step in range(2 * (changes + behind)):
                    i, releasing = divmod(step, 2)
                    if releasing and 0 <= i - behind < changes:
                        board.release(f"c-{i - behind}")
                        released[_session(board, i - behind)] = time.monotonic()
                    elif not releasing and i < changes:
                        board.claim(f"service:app-{i}", _session(board, i), ttl="1h", name=f"c-{i}")
                        created[_session(board, i)] = time.monotonic()
                    time.sleep(max(0.0, begin + step / rate - time.monotonic()))
                poller.until(changes, changes, 60)
        finally:
            operator.__exit__(None, None, None)
    lags = [poller.appeared[key] - at for key, at in created.items()]
    lags += [poller.vanished[key] - at for key, at in released.items()]
    floor = _floor(arena, rate, min(seconds, 10))
    section.raw["lag"] = {"changes": len(lags), "rate": rate, "lags": sorted(round(each, 4) for each in lags)}
    section.raw["floor"] = sorted(round(each, 4) for each in floor)
    for share in (0.5, 0.99):
        ours, peer = percentile(lags, share), percentile(floor, share)
        name = f"lag at {rate:g} changes/s, p{share * 100:g}"
        aim, met = (f"≤ {LAG_AIM:g} s", ours <= LAG_AIM) if share > 0.5 else ("", None)
        section.add(Figure(name, ours, "s", "single-row SQL", peer, ours / peer, aim, met))


def _session(board: Board, i: int) -> str:
    return f"{board.namespace}-s{i}"


def _floor(arena: Arena, rate: float, seconds: float) -> list[float]:
    written: dict[str, float] = {}
    with (
        _connected(arena.cluster.dolt.dsn) as connection,
        connection.cursor() as cursor,
        _Poller(arena.cluster.dolt.dsn, "WHERE session_id LIKE 'floor-%'") as poller,
    ):
        begin = time.monotonic()
        for i in range(int(rate * seconds)):
            at = time.monotonic()
            cursor.execute(
                "INSERT INTO presence_claims (session_id, resource_label, purpose, expires_at, host, `user`) "
                "VALUES (%s, 'service:floor', 'floor', NOW(), 'h', 'u')",
                (f"floor-{i}",),
            )
            written[f"floor-{i}"] = at
            # Rows are taken away again after a while, so that the poller reads as few as it does in the other run.
            cursor.execute("DELETE FROM presence_claims WHERE session_id = %s", (f"floor-{i - 150}",))
            time.sleep(max(0.0, begin + (i + 1) / rate - time.monotonic()))
        poller.until(len(written), 0, 30)
        cursor.execute("DELETE FROM presence_claims WHERE session_id LIKE 'floor-%%'")
    return [poller.appeared[key] - at for key, at in written.items()]


def _catch_up(arena: Arena, section: Section, rows: int) -> None:
    dolt = arena.cluster.dolt
    with arena.board() as board:
        operator = arena.operator(board, dsn=dolt.dsn)
        try:
            operator.start()
            with Watch(arena.cluster, board) as watch:
                dolt.stop()
                load_claims(board, rows)
                watch.until(kinds.ACTIVE, rows, 60 + rows / 50)
                watch.quiet(3, 120)
            dolt.start(wait=False)
            _until(dolt.answers, "Dolt to answer", 60)
            begin = time.monotonic()
            first = last = None
            with _connected(dolt.dsn) as connection, connection.cursor() as cursor:
                while last is None:
                    cursor.execute("SELECT COUNT(*) FROM presence_owned WHERE board = %s", (board.namespace,))
                    (there,) = cursor.fetchone() or (0,)
                    if there and first is None:
                        first = time.monotonic()
                    if there >= rows:
                        last = time.monotonic()
                    elif time.monotonic() - begin > 120 + rows / 50:
                        raise TimeoutError(f"{there} of {rows} rows after {time.monotonic() - begin:.0f} s")
                    time.sleep(0.2)
            assert first is not None
        finally:
            operator.__exit__(None, None, None)
        copies = _rows_of(arena, board)
    raw = _raw(arena, copies)
    ours = last - begin
    section.raw["catch_up"] = {
        "claims": rows,
        "rows": {table: len(found) for table, (_, found) in copies.items()},
        "seconds": ours,
        "first_row_after": first - begin,
        "raw_seconds": raw,
    }
    total = sum(len(found) for _, found in copies.values())
    name = f"catch-up of {rows:,} claims ({total:,} rows)"
    ratio, aim = ours / raw, f"≤ {CATCH_UP_AIM:g} of raw"
    section.add(Figure(name, ours, "s", "raw batched SQL", raw, ratio, aim, ratio <= CATCH_UP_AIM))
    section.add(Figure("of which until the first rows, so that the operator reconnected", first - begin, "s"))


def _rows_of(arena: Arena, board: Board) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    found = {}
    with _connected(arena.cluster.dolt.dsn) as connection, connection.cursor() as cursor:
        for table in _TABLES:
            where = "session_id LIKE 's%%'" if table == "presence_claims" else "board = %s"
            arguments = () if table == "presence_claims" else (board.namespace,)
            cursor.execute(f"SELECT * FROM {table} WHERE {where}", arguments)
            columns = [each[0] for each in cursor.description]
            found[table] = (columns, list(cursor.fetchall()))
    return found


def _raw(arena: Arena, copies: dict[str, tuple[list[str], list[tuple[Any, ...]]]]) -> float:
    root = arena.cluster.dolt.root_dsn
    with _connected(root) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {_RAW_DATABASE}")
        cursor.execute(f"CREATE DATABASE {_RAW_DATABASE}")
    target = root.rpartition("/")[0] + "/" + _RAW_DATABASE
    _migrate(target)
    with _connected(target, autocommit=False) as connection, connection.cursor() as cursor:
        begin = time.monotonic()
        parts = max(1, -(-len(copies["presence_claims"][1]) // _BATCH))
        for part in range(parts):
            for table, (columns, found) in copies.items():
                chunk = found[part * len(found) // parts : (part + 1) * len(found) // parts]
                if chunk:
                    one = f"({', '.join(['%s'] * len(columns))})"
                    names = ", ".join(f"`{each}`" for each in columns)
                    values = ", ".join([one] * len(chunk))
                    cursor.execute(
                        f"INSERT INTO {table} ({names}) VALUES {values}",
                        [value for row in chunk for value in row],
                    )
            connection.commit()
        cursor.execute("CALL DOLT_COMMIT('-A', '-m', 'bench')")
        connection.commit()
        took = time.monotonic() - begin
    with _connected(root) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {_RAW_DATABASE}")
    return took


@contextmanager
def _connected(text: str, autocommit: bool = True) -> Iterator[Connection]:
    dsn = Dsn.parse(text)
    connection = pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        database=dsn.database,
        autocommit=autocommit,
        connect_timeout=10,
        read_timeout=120,
    )
    try:
        yield connection
    finally:
        connection.close()


def _migrate(dsn: str) -> None:
    env = {**os.environ, "PRESENCE_DSN": dsn}
    command = [sys.executable, "-m", "presence_operator", "migrate"]
    answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode != 0:
        raise RuntimeError(f"presence-operator migrate: {answer.stdout}{answer.stderr}")


def _until(look: Any, what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.02)
