from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from presence_operator.migrate import plan
from presence_operator.mirror.schema import (
    PACKAGED,
    Applied,
    Migration,
    MigrationError,
    applied_version,
    load_migrations,
    schema_hash,
    statements_checksum,
)

if TYPE_CHECKING:
    from pathlib import Path


def _write(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).write_text(f"-- {name}\nSELECT 1;\n")
    return directory


def _applied(migration: Migration, **changes: object) -> Applied:
    values: dict[str, object] = {
        "version": migration.version,
        "name": migration.name,
        "checksum": migration.checksum,
        "finished": True,
        "statements_done": len(migration.statements),
        "done_checksum": statements_checksum(migration.statements),
    }
    return Applied(**{**values, **changes})  # type: ignore[arg-type]


def test_the_packaged_migrations_are_in_order_and_plain_ascii() -> None:
    migrations = load_migrations(PACKAGED)
    assert [each.version for each in migrations] == list(range(1, len(migrations) + 1))
    # Terraform normalises other characters when it reads a file, and its hash would differ from ours.
    assert all(each.content.isascii() for each in migrations)


def test_files_that_are_no_migrations_are_ignored(tmp_path: Path) -> None:
    _write(tmp_path, "0001_a.sql", "README.md")
    (tmp_path / "..data").mkdir()
    assert [each.name for each in load_migrations(tmp_path)] == ["0001_a.sql"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "holds no migration"),
        (("0001_a.sql", "0003_c.sql"), "number 0002 is missing: after 0001_a.sql comes 0003_c.sql"),
        (("0002_a.sql",), "number 0001 is missing: at the beginning comes 0002_a.sql"),
        (("0001_a.sql", "0001_b.sql"), "0001_a.sql and 0001_b.sql have the same number"),
        (("0001_a.sql", "2_b.sql"), "2_b.sql is no name of a migration"),
    ],
)
def test_gaps_duplicates_and_odd_names_are_refused(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(MigrationError, match=says):
        load_migrations(_write(tmp_path, *names))


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"SELECT 'a;", "never closed"), (b"-- nothing\n", "holds no statement"), (b"SELECT '\xff'", "not UTF-8")],
)
def test_a_file_that_cannot_be_read_as_sql_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "0001_a.sql").write_bytes(content)
    with pytest.raises(MigrationError, match=f"0001_a.sql.*{says}"):
        load_migrations(tmp_path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=r"nowhere cannot be read"):
        load_migrations(tmp_path / "nowhere")


def test_the_hash_covers_names_and_contents_in_name_order() -> None:
    expected = hashlib.sha256(b"0001_a.sql\0SELECT 1;\n\x000002_b.sql\0SELECT 2;\n\0").hexdigest()
    files = [("0002_b.sql", b"SELECT 2;\n"), ("0001_a.sql", b"SELECT 1;\n")]
    assert schema_hash(files) == expected
    assert schema_hash([("0001_a.sql", b"SELECT 1;\n"), ("0002_c.sql", b"SELECT 2;\n")]) != expected


def test_only_what_is_missing_is_applied() -> None:
    migrations = load_migrations(PACKAGED)
    assert [step.migration for step in plan(migrations, ())] == list(migrations)
    assert [step.migration for step in plan(migrations, [_applied(migrations[0])])] == list(migrations[1:])
    assert plan(migrations, [_applied(each) for each in migrations]) == ()


def test_a_changed_migration_is_refused_and_the_way_out_named() -> None:
    migrations = load_migrations(PACKAGED)
    with pytest.raises(
        MigrationError, match=f"0001_presence_claims.sql was changed after .* new file .* {len(migrations) + 1:04d}"
    ):
        plan(migrations, [_applied(migrations[0], checksum="0" * 64)])


@pytest.mark.parametrize(
    ("serves", "state", "fine"),
    [
        (-1, {}, True),  # it says that older operators go on working
        (0, {}, True),
        (1, {}, False),  # it says that they do not
        (None, {}, False),  # nobody said anything
        (None, {"finished": False, "statements_done": 1}, False),
        (None, {"finished": False, "statements_done": 0, "running": True}, False),
        (None, {"finished": False, "statements_done": 0}, True),  # it failed at its first statement, so nothing changed
    ],
)
def test_a_database_that_is_newer_serves_an_older_version_only_if_its_migrations_say_so(
    serves: int | None, state: dict[str, object], fine: bool
) -> None:
    migrations = load_migrations(PACKAGED)
    newest = len(migrations)
    newer = _applied(
        migrations[-1],
        version=newest + 1,
        name="later.sql",
        checksum="0" * 64,
        serves=None if serves is None else newest + serves,
        **state,
    )
    applied = [*map(_applied, migrations), newer]
    if fine:
        assert plan(migrations, applied) == ()
    else:
        with pytest.raises(MigrationError, match=r"too new: later\.sql has been (applied|begun).*nothing was changed"):
            plan(migrations, applied)


def test_a_migration_says_which_older_operators_go_on_working(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1;\n")
    (tmp_path / "0002_b.sql").write_text("-- A column with a default.\n-- serves: 0001\nSELECT 1;\n")
    assert [each.serves for each in load_migrations(tmp_path)] == [1, 1]
    for wrong in ("-- serves: 0003", "-- serves: all", "-- serves: 1", "-- serves: 0001\n-- serves: 0002"):
        (tmp_path / "0002_b.sql").write_text(f"{wrong}\nSELECT 1;\n")
        with pytest.raises(MigrationError, match=r"0002_b\.sql: write one line '-- serves: 0001'"):
            load_migrations(tmp_path)


def test_a_table_of_migrations_with_gaps_is_refused() -> None:
    migrations = load_migrations(PACKAGED)
    with pytest.raises(MigrationError, match="gaps: it names the versions 1, 3"):
        plan(migrations, [_applied(migrations[0]), _applied(migrations[2])])


def test_an_interrupted_migration_goes_on_where_it_stopped_even_with_its_rest_corrected() -> None:
    done, rest = "SELECT 1", "SELECT 2"
    corrected = Migration(1, "0001_a.sql", b"", (done, rest), 1)
    stopped = _applied(corrected, checksum="0" * 64, finished=False, statements_done=1,
                       done_checksum=statements_checksum((done,)))  # fmt: skip
    (step,) = plan([corrected], [stopped])
    assert step.first == 1
    rewritten = Migration(1, "0001_a.sql", b"", ("SELECT 7", rest), 1)
    with pytest.raises(MigrationError, match="stopped after its statement 1"):
        plan([rewritten], [stopped])


def test_the_version_counts_finished_migrations_only() -> None:
    migrations = load_migrations(PACKAGED)
    applied = [_applied(migrations[0]), _applied(migrations[1], finished=False), _applied(migrations[2])]
    assert applied_version(applied) == 1
    assert applied_version(()) == 0
