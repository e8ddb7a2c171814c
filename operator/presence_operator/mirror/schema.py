"""The numbered migrations that make the mirror's tables, and which of them a database has."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from presence_operator.mirror.connection import error_code
from presence_operator.mirror.statements import StatementError, split_statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from presence_operator.mirror.connection import Connection

#: The migrations that belong to this version of the operator.
PACKAGED = Path(__file__).resolve().parent.parent / "migrations"
MIGRATIONS_TABLE = "presence_migrations"

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_SERVES = re.compile(r"^-- serves:(.*)$", re.MULTILINE)
_NO_SUCH_TABLE = 1146


class MigrationError(Exception):
    """The migrations cannot be applied as they are; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of numbered SQL."""

    version: int
    name: str
    content: bytes
    statements: tuple[str, ...]
    serves: int
    """The oldest schema whose operators can still work once this is applied; its own number when none older can."""

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Applied:
    """What the database says of one migration."""

    version: int
    name: str
    checksum: str
    finished: bool
    statements_done: int
    done_checksum: str
    """SHA-256 over the statements that are done; see `statements_checksum`."""
    running: bool = False
    """A run was cut off while the next statement was on the server."""
    serves: int | None = None
    """As in `Migration`; None when it was applied by a version that did not record it."""

    @property
    def touched(self) -> bool:
        """Whether it may have changed anything."""
        return self.finished or self.running or self.statements_done > 0


def load_migrations(directory: Path) -> tuple[Migration, ...]:
    """All `NNNN_name.sql` of `directory` in order; other files are ignored.

    Raises:
        MigrationError: the directory cannot be read or holds none, or names, numbers or the text of a file are wrong.
    """
    try:
        files = sorted(path for path in directory.iterdir() if path.name.endswith(".sql"))
        contents = [(path.name, path.read_bytes()) for path in files]
    except OSError as error:
        raise MigrationError(f"the migrations in {directory} cannot be read: {error.strerror}") from None
    if not contents:
        raise MigrationError(f"{directory} holds no migration: files are named like 0001_presence_claims.sql")
    migrations = [_parse(name, content) for name, content in contents]
    for expected, migration in enumerate(migrations, start=1):
        if migration.version < expected:
            first = next(each.name for each in migrations if each.version == migration.version)
            raise MigrationError(f"{first} and {migration.name} have the same number: renumber the newer one")
        if migration.version > expected:
            before = f"after {migrations[expected - 2].name}" if expected > 1 else "at the beginning"
            raise MigrationError(f"number {expected:04d} is missing: {before} comes {migration.name}")
    return tuple(migrations)


def schema_hash(files: Iterable[tuple[str, bytes]]) -> str:
    """64 hex digits: SHA-256 over all files in name order, for each its name, NUL, its content, NUL."""
    digest = hashlib.sha256()
    for name, content in sorted(files):
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


def statements_checksum(statements: Sequence[str]) -> str:
    """SHA-256 over `statements`, 64 hex digits."""
    return hashlib.sha256("\0".join(statements).encode()).hexdigest()


def wanted_version() -> int:
    """The number of the newest packaged migration: what this operator needs."""
    return load_migrations(PACKAGED)[-1].version


def read_applied(connection: Connection) -> tuple[Applied, ...]:
    """What the database has, in order; nothing when it has never been migrated.

    Raises:
        FAILURES: the database cannot be read.
    """
    with connection.cursor() as cursor:
        try:
            # All columns, because an older version made the table without the last one.
            cursor.execute("SELECT * FROM presence_migrations ORDER BY version")
        except Exception as error:
            if error_code(error) == _NO_SUCH_TABLE:
                return ()
            raise
        names = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return tuple(
        Applied(
            version=int(row["version"]),
            name=str(row["name"]),
            checksum=str(row["checksum"]),
            finished=row["applied_at"] is not None,
            statements_done=int(row["statements_done"]),
            done_checksum=str(row["done_checksum"]),
            running=bool(row["running"]),
            serves=None if row.get("serves") is None else int(row["serves"]),
        )
        for row in rows
    )


def too_new(applied: Iterable[Applied], wanted: int) -> Applied | None:
    """The first migration after which an operator that needs the schema `wanted` cannot work, if there is one."""
    for each in applied:
        if each.version > wanted and each.touched and (each.serves is None or each.serves > wanted):
            return each
    return None


def applied_version(applied: Iterable[Applied]) -> int:
    """The number up to which every migration is finished."""
    version = 0
    for each in applied:
        if not each.finished or each.version != version + 1:
            break
        version = each.version
    return version


def newest_version(applied: Iterable[Applied]) -> int:
    """The number of the newest migration that was begun, whether it is finished or not."""
    return max((each.version for each in applied), default=0)


def _parse(name: str, content: bytes) -> Migration:
    match = _NAME.fullmatch(name)
    if match is None:
        raise MigrationError(f"{name} is no name of a migration: write it like 0005_add_notes.sql (lower case)")
    try:
        statements = split_statements(content.decode())
    except UnicodeDecodeError:
        raise MigrationError(f"{name} is not UTF-8 text") from None
    except StatementError as error:
        raise MigrationError(f"{name}: {error}") from None
    if not statements:
        raise MigrationError(f"{name} holds no statement")
    version = int(match[1])
    return Migration(version, name, content, statements, _served(name, content.decode(), version))


def _served(name: str, text: str, version: int) -> int:
    said = _SERVES.findall(text)
    if not said:
        return version
    if len(said) > 1 or not re.fullmatch(r" \d{4}", said[0]) or not 1 <= int(said[0]) <= version:
        raise MigrationError(
            f"{name}: write one line '-- serves: {max(version - 1, 1):04d}' with the oldest schema whose operators go "
            f"on working after it, at most {version:04d}; or none, when no older one does"
        )
    return int(said[0])
