"""`presence-operator migrate`: bring the mirror's database to the schema that the operator needs.

Each missing migration is applied in order and recorded with its checksum. It may run twice, in parallel (a lock on the
server lets one go at a time) and be killed anywhere: each statement is recorded before and after, so the next run goes
on where this one stopped.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from presence.model.durations import DurationError, parse_duration
from presence_operator.mirror.connection import (
    FAILURES,
    connect,
    error_code,
    error_text,
    is_dolt,
    reason_of,
)
from presence_operator.mirror.dsn import Dsn, DsnError
from presence_operator.mirror.schema import (
    MIGRATIONS_TABLE,
    PACKAGED,
    Applied,
    Migration,
    MigrationError,
    load_migrations,
    read_applied,
    schema_hash,
    statements_checksum,
    too_new,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from presence_operator.mirror.connection import Connection

DONE, FAILED, USAGE, UNAVAILABLE = 0, 1, 2, 69

_STATEMENT_TIMEOUT = 280.0  # altering a large table takes its time; the Job around it ends after five minutes
_LOCK_PATIENCE = 240.0
_AUTH_PATIENCE = 5.0  # a server that has just started may still be creating its users
_UNKNOWN_DATABASE = 1049
_NO_LOCK_PATIENCE = 1.0

# What a statement answers that was carried out just before its run was killed. Dolt says most of it in words only.
_ALREADY_THERE = {1007, 1050, 1060, 1061, 1062, 1068}
_ALREADY_GONE = {1051, 1054, 1091, 1146}
_IN_WORDS = 1105
_THERE_IN_WORDS = re.compile(r"already exists|duplicate key name|in use", re.IGNORECASE)
_GONE_IN_WORDS = re.compile(r"does not exist|does not have column", re.IGNORECASE)
_TAKES_AWAY = re.compile(r"\b(DROP|RENAME|CHANGE)\b", re.IGNORECASE)

_BOOTSTRAP = """
CREATE TABLE IF NOT EXISTS presence_migrations (
  version         INT          NOT NULL,
  name            VARCHAR(255) NOT NULL,
  checksum        CHAR(64)     NOT NULL,
  applied_at      DATETIME(3)  NULL,
  duration_ms     BIGINT       NOT NULL,
  statements_done INT          NOT NULL,
  done_checksum   CHAR(64)     NOT NULL,
  running         TINYINT      NOT NULL,
  serves          INT          NULL,
  PRIMARY KEY (version)
)
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A migration to apply, from its first statement that is not done."""

    migration: Migration
    first: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `migrate` that `main` reads."""
    parser.add_argument(
        "--migrations",
        metavar="DIR",
        type=Path,
        default=PACKAGED,
        help="numbered SQL files (default: the packaged ones)",
    )
    parser.add_argument(
        "--wait", metavar="TIME", default="60s", help="how long to wait for the database to answer (default: 60s)"
    )
    parser.add_argument(
        "--print-hash", action="store_true", help="print the SHA-256 of the migrations and exit; needs no database"
    )


def main(args: argparse.Namespace, dsn: Dsn | None) -> int:
    """Run `presence-operator migrate` with the options of `add_arguments`; returns the exit code.

    0: the schema is there. 1: refused, or the server rejected a statement. 2: wrong use. 69: the server did not answer
    in time or went away; another run may succeed.
    """
    try:
        migrations = load_migrations(args.migrations)
        wait = parse_duration(args.wait)
    except (MigrationError, DurationError) as error:
        return _complain(error, USAGE)
    if args.print_hash:
        print(schema_hash((each.name, each.content) for each in migrations))
        return DONE
    if dsn is None:
        return _complain(
            "no database is named: set PRESENCE_DSN=mysql://<user>:<password>@<host>:3306/<database>", USAGE
        )
    return run_migrations(dsn, migrations, wait=wait)


def run_migrations(
    dsn: Dsn, migrations: Sequence[Migration], *, wait: float, say: Callable[[str], None] | None = None
) -> int:
    """Apply what is missing in the database of `dsn`, waiting up to `wait` seconds for it to answer.

    Steps go to `say` (default: standard output), errors to standard error. Returns the exit code of `main`.
    """
    say = say or _say
    try:
        connection = _connect_patiently(dsn, wait, say)
    except DsnError as error:
        return _complain(error, USAGE)
    except FAILURES as error:
        return _complain(f"{dsn}: {error_text(error)}", _code_of(error))
    try:
        with connection:
            connection.autocommit(True)
            dolt = is_dolt(connection)
            say(f"{dsn} answers{' (Dolt)' if dolt else ''}")
            with _server_lock(connection, dsn.database, say):
                _migrate(connection, migrations, say)
                if dolt:
                    _commit_schema(connection, say)
    except MigrationError as error:
        return _complain(error, FAILED)
    except FAILURES as error:
        return _complain(f"{dsn}: {error_text(error)}", _code_of(error))
    return DONE


def plan(migrations: Sequence[Migration], applied: Sequence[Applied]) -> tuple[Step, ...]:
    """What to apply to a database that has `applied`. Migrations that are newer than the files are left alone.

    Raises:
        MigrationError: an applied migration is not what its file says now, the database has gaps, or a newer migration
            does not serve the operators that these files belong to.
    """
    recorded = {each.version: each for each in applied}
    if sorted(recorded) != list(range(1, len(recorded) + 1)):
        raise MigrationError(
            f"{MIGRATIONS_TABLE} has gaps: it names the versions {', '.join(map(str, sorted(recorded)))}; "
            "restore the missing rows before migrating"
        )
    newest = migrations[-1].version
    newer = too_new(applied, newest)
    if newer is not None:
        state = "applied" if newer.finished else "begun"
        since = "" if newer.serves is None else f" and serves operators of schema {newer.serves} and newer"
        raise MigrationError(
            f"the database is too new: {newer.name} has been {state}{since}, these files end with {newest:04d}; "
            "nothing was changed. Go on with the version that brought it, or restore the database from before it"
        )
    steps = []
    for migration in migrations:
        known = recorded.get(migration.version)
        if known is None:
            steps.append(Step(migration, 0))
        elif known.finished and known.checksum != migration.checksum:
            raise MigrationError(
                f"{migration.name} was changed after it had been applied (as {known.name}, checksum "
                f"{known.checksum[:8]}, now {migration.checksum[:8]}): restore its text and put the change into a new "
                f"file with the number {len(migrations) + 1:04d}"
            )
        elif not known.finished:
            done = known.statements_done
            if statements_checksum(migration.statements[:done]) != known.done_checksum:
                raise MigrationError(
                    f"{migration.name} stopped after its statement {done}, and its first {done} statements have "
                    "changed since: restore them, the rest may be corrected"
                )
            steps.append(Step(migration, done))
    return tuple(steps)


def _code_of(error: BaseException) -> int:
    """A server that went away is worth another run; one that answered no is not."""
    return UNAVAILABLE if reason_of(error) in ("connect", "timeout") else FAILED


def _migrate(connection: Connection, migrations: Sequence[Migration], say: Callable[[str], None]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_BOOTSTRAP)
        # An older version made the table without it.
        cursor.execute("SHOW COLUMNS FROM presence_migrations LIKE 'serves'")
        if cursor.fetchone() is None:
            cursor.execute("ALTER TABLE presence_migrations ADD COLUMN serves INT NULL")
    applied = read_applied(connection)
    steps = plan(migrations, applied)
    newest = migrations[-1].version
    for step in steps:
        _apply(connection, step, say)
    if not steps:
        say(f"nothing to do: the schema is at version {newest}")
    else:
        say(f"the schema is at version {newest}")
    if applied and applied[-1].version > newest:
        print(
            f"presence-operator migrate: note: the database is at version {applied[-1].version}, newer than these "
            f"files ({newest}); it serves operators of this version too, so it is left as it is",
            file=sys.stderr,
            flush=True,
        )


def _apply(connection: Connection, step: Step, say: Callable[[str], None]) -> None:
    migration = step.migration
    began = time.monotonic()
    interrupted = _begin(connection, step)
    if step.first or interrupted:
        say(f"{migration.name}: going on with statement {step.first + 1} of {len(migration.statements)}")
    with connection.cursor() as cursor:
        for index in range(step.first, len(migration.statements)):
            statement = migration.statements[index]
            cursor.execute("UPDATE presence_migrations SET running = 1 WHERE version = %s", (migration.version,))
            try:
                cursor.execute(statement)
            except FAILURES as error:
                if _code_of(error) == UNAVAILABLE:
                    raise
                if not (interrupted and index == step.first and _is_done(statement, error)):
                    _note_failure(connection, migration)
                    raise MigrationError(
                        f"{migration.name}, statement {index + 1} of {len(migration.statements)}: {error_text(error)}\n"
                        f"  in: {_excerpt(statement)}"
                    ) from None
                say(f"{migration.name}: statement {index + 1} had been carried out before the interruption")
            cursor.execute(
                "UPDATE presence_migrations SET statements_done = %s, done_checksum = %s, running = 0 "
                "WHERE version = %s",
                (index + 1, statements_checksum(migration.statements[: index + 1]), migration.version),
            )
        took = round((time.monotonic() - began) * 1000)
        cursor.execute(
            "UPDATE presence_migrations SET checksum = %s, applied_at = %s, duration_ms = %s, serves = %s "
            "WHERE version = %s",
            (migration.checksum, _now(), took, migration.serves, migration.version),
        )
    say(f"{migration.name}: applied ({len(migration.statements)} statement(s), {took} ms)")


def _begin(connection: Connection, step: Step) -> bool:
    """Record that the migration begins; true when a run was killed while its next statement was on the server."""
    migration = step.migration
    with connection.cursor() as cursor:
        cursor.execute("SELECT running FROM presence_migrations WHERE version = %s", (migration.version,))
        row = cursor.fetchone()
        if row is not None:
            return bool(row[0])
        cursor.execute(
            "INSERT INTO presence_migrations "
            "(version, name, checksum, applied_at, duration_ms, statements_done, done_checksum, running, serves) "
            "VALUES (%s, %s, %s, NULL, 0, 0, %s, 0, %s)",
            (migration.version, migration.name, migration.checksum, statements_checksum(()), migration.serves),
        )
    return False


def _is_done(statement: str, error: BaseException) -> bool:
    """True when the error says that what the statement wants is so already."""
    code, text = error_code(error), error_text(error)
    if code in _ALREADY_THERE or (code == _IN_WORDS and _THERE_IN_WORDS.search(text)):
        return True
    gone = code in _ALREADY_GONE or (code == _IN_WORDS and _GONE_IN_WORDS.search(text) is not None)
    return gone and _TAKES_AWAY.search(statement) is not None


def _note_failure(connection: Connection, migration: Migration) -> None:
    """The server said no, so the statement did nothing: the next run must not take its error for success."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE presence_migrations SET running = 0 WHERE version = %s", (migration.version,))


def _connect_patiently(dsn: Dsn, wait: float, say: Callable[[str], None]) -> Connection:
    began, pause, told = time.monotonic(), 0.2, ""
    while True:
        try:
            return _connect_or_create(dsn, say)
        except FAILURES as error:
            waited = time.monotonic() - began
            reason = reason_of(error)
            patience = min(wait, _AUTH_PATIENCE) if reason in ("auth", "schema", "read_only") else wait
            if waited + pause > patience:
                raise
            if error_text(error) != told:
                told = error_text(error)
                say(f"waiting for {dsn}: {told}")
        time.sleep(pause)
        pause = min(pause * 1.6, 2.0)


def _connect_or_create(dsn: Dsn, say: Callable[[str], None]) -> Connection:
    try:
        return connect(dsn, timeout=_STATEMENT_TIMEOUT)
    except FAILURES as error:
        # A name with a slash is a branch of a Dolt database, which is nothing to create in passing.
        if error_code(error) != _UNKNOWN_DATABASE or not re.fullmatch(r"[A-Za-z0-9_$-]+", dsn.database):
            raise
    with connect(dsn, database=False, timeout=_STATEMENT_TIMEOUT) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{dsn.database}`")
    say(f"database {dsn.database} created")
    return connect(dsn, timeout=_STATEMENT_TIMEOUT)


@contextmanager
def _server_lock(connection: Connection, database: str, say: Callable[[str], None]) -> Iterator[None]:
    """One migration at a time. The server frees the lock when its connection ends, however it ends."""
    name = f"presence-migrate-{hashlib.sha256(database.encode()).hexdigest()[:16]}"
    deadline = time.monotonic() + _LOCK_PATIENCE
    told = False
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT GET_LOCK(%s, %s)", (name, _NO_LOCK_PATIENCE))
            row = cursor.fetchone()
            if row is not None and row[0] == 1:
                break
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"another migration has held the lock {name} for {_LOCK_PATIENCE:.0f} s: see why it hangs"
                )
            if not told:
                say("waiting for another migration to end")
                told = True
    yield
    with connection.cursor() as cursor:
        cursor.execute("SELECT RELEASE_LOCK(%s)", (name,))
        cursor.fetchone()


def _commit_schema(connection: Connection, say: Callable[[str], None]) -> None:
    """Make the new tables part of Dolt's history; tables of others are left as they are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM dolt_status WHERE table_name LIKE 'presence\\_%'")
        tables = sorted({str(row[0]).rpartition(".")[2] for row in cursor.fetchall()})
        if not tables:
            return
        cursor.execute("SELECT COUNT(*) FROM dolt_status WHERE staged AND table_name NOT LIKE 'presence\\_%'")
        row = cursor.fetchone()
        if row is not None and row[0]:
            say("not committed to Dolt's history: other tables are staged, and a commit would take them along")
            return
        cursor.execute(f"CALL DOLT_ADD({', '.join(['%s'] * len(tables))})", tables)
        try:
            cursor.execute(
                "CALL DOLT_COMMIT('-m', %s, '--author', %s)",
                ("presence: schema migration", "presence-operator <operator@presence.dev>"),
            )
        except FAILURES as error:
            if "nothing to commit" not in str(error).lower():
                raise
            return
    say("committed to Dolt's history")


def _excerpt(statement: str) -> str:
    line = re.sub(r"\s+", " ", statement)
    return line if len(line) <= 200 else f"{line[:200]} ..."


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(error: object, code: int) -> int:
    print(f"presence-operator migrate: {error}", file=sys.stderr, flush=True)
    return code
