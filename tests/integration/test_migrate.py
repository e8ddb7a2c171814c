from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pymysql
import pytest

from presence_operator.mirror.schema import PACKAGED, load_migrations, schema_hash, statements_checksum
from support.dolt import Database, Server
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PROGRAM = """
import argparse, os, sys
from presence_operator import migrate
from presence_operator.mirror.dsn import Dsn
parser = argparse.ArgumentParser()
migrate.add_arguments(parser)
dsn = os.environ.get("PRESENCE_DSN")
sys.exit(migrate.main(parser.parse_args(), Dsn.parse(dsn) if dsn else None))
"""

_LEGACY = """
CREATE TABLE presence_claims (
  session_id VARCHAR(128) NOT NULL, resource_label VARCHAR(255) NOT NULL, purpose TEXT NOT NULL,
  claimed_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3), expires_at DATETIME(3) NOT NULL,
  host VARCHAR(128) NOT NULL, `user` VARCHAR(64) NOT NULL, agent_name VARCHAR(64) DEFAULT 'claude-code',
  PRIMARY KEY (session_id, resource_label), INDEX idx_resource (resource_label), INDEX idx_expires (expires_at))
"""


_NEWEST = len(load_migrations(PACKAGED))
_NEXT = _NEWEST + 1
_FILE = f"{_NEXT:04d}_more.sql"


def _address(database: Database) -> str:
    dsn = database.dsn
    return f"mysql://{dsn.user}:{dsn.password}@{dsn.host}:{dsn.port}/{dsn.database}"


def _start(address: str | None, *arguments: str | Path) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PRESENCE_")}
    if address:
        environment["PRESENCE_DSN"] = address
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _migrate(database: Database | None, *arguments: str | Path) -> tuple[int, str, str]:
    process = _start(_address(database) if database else None, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def _files(directory: Path, *contents: str) -> Path:
    """The packaged migrations and more after them."""
    shutil.copytree(PACKAGED, directory, dirs_exist_ok=True)
    for number, content in enumerate(contents, start=len(load_migrations(PACKAGED)) + 1):
        (directory / f"{number:04d}_more.sql").write_text(content)
    return directory


def _describe(database: Database, table: str) -> list[tuple[str, str, str, str]]:
    return [(row[0], row[1], row[2], row[3]) for row in database.rows(f"DESCRIBE {table}")]


def _versions(database: Database) -> Sequence[tuple[object, ...]]:
    return database.rows("SELECT version, applied_at IS NOT NULL FROM presence_migrations ORDER BY version")


def _exists(database: Database, table: str, where: str) -> bool:
    if (table,) not in database.rows("SHOW TABLES"):
        return False
    return bool(database.rows(f"SELECT 1 FROM {table} WHERE {where}"))


def test_an_empty_database_gets_the_eight_columns_exactly(empty: Database) -> None:
    code, out, err = _migrate(empty)
    assert (code, err) == (0, "")
    assert "0001_presence_claims.sql: applied" in out
    assert _describe(empty, "presence_claims") == [
        ("session_id", "varchar(128)", "NO", "PRI"),
        ("resource_label", "varchar(255)", "NO", "PRI"),
        ("purpose", "text", "NO", ""),
        ("claimed_at", "datetime(3)", "NO", ""),
        ("expires_at", "datetime(3)", "NO", "MUL"),
        ("host", "varchar(128)", "NO", ""),
        ("user", "varchar(64)", "NO", ""),
        ("agent_name", "varchar(64)", "YES", ""),
    ]
    indexes = {(row[2], row[4]) for row in empty.rows("SHOW INDEX FROM presence_claims")}
    assert indexes == {
        ("PRIMARY", "session_id"), ("PRIMARY", "resource_label"),
        ("idx_resource", "resource_label"), ("idx_expires", "expires_at"),
    }  # fmt: skip


def test_an_older_tool_can_claim_with_the_defaults_of_the_table(empty: Database) -> None:
    assert _migrate(empty)[0] == 0
    empty.execute(
        "INSERT INTO presence_claims (session_id, resource_label, purpose, expires_at, host, user) "
        "VALUES ('s', 'node:n', 'p', '2030-01-01', 'h', 'u')"
    )
    ((agent, claimed_at),) = empty.rows("SELECT agent_name, claimed_at FROM presence_claims")
    assert agent == "claude-code"
    assert isinstance(claimed_at, datetime)


def test_labels_and_sessions_that_differ_in_case_are_different(empty: Database) -> None:
    assert _migrate(empty)[0] == 0
    for session in ("s", "S"):
        empty.execute(
            "INSERT INTO presence_claims (session_id, resource_label, purpose, expires_at, host, user) "
            f"VALUES ('{session}', 'node:n', 'p', '2030-01-01', 'h', 'u')"
        )
    assert empty.rows("SELECT COUNT(*) FROM presence_claims") == [(2,)]


def test_a_table_of_an_older_tool_is_accepted_with_its_rows(empty: Database) -> None:
    empty.execute(
        _LEGACY,
        "INSERT INTO presence_claims (session_id, resource_label, purpose, expires_at, host, user) "
        "VALUES ('s', 'node:n', 'p', '2030-01-01', 'h', 'u')",
    )
    assert _migrate(empty)[0] == 0
    assert empty.rows("SELECT session_id FROM presence_claims") == [("s",)]
    assert len(_describe(empty, "presence_claims")) == 8


def test_the_second_run_does_nothing(empty: Database) -> None:
    assert _migrate(empty)[0] == 0
    before = empty.rows("SELECT * FROM presence_migrations")
    code, out, _ = _migrate(empty)
    assert code == 0
    assert "nothing to do" in out
    assert empty.rows("SELECT * FROM presence_migrations") == before


def test_a_new_migration_really_adds_its_column(empty: Database, tmp_path: Path) -> None:
    assert _migrate(empty)[0] == 0
    files = _files(tmp_path / "sql", "ALTER TABLE presence_sessions ADD COLUMN note VARCHAR(64) NULL;")
    code, out, _ = _migrate(empty, "--migrations", files)
    assert code == 0
    assert "0001" not in out
    assert ("note", "varchar(64)", "YES", "") in _describe(empty, "presence_sessions")


def test_a_statement_that_the_server_rejects_is_named_with_file_number_and_reason(
    empty: Database, tmp_path: Path
) -> None:
    files = _files(tmp_path / "sql", "CREATE TABLE presence_a (b INT);\nCREATE TABEL presence_c (d INT);")
    code, _, err = _migrate(empty, "--migrations", files)
    assert code == 1
    assert f"{_FILE}, statement 2 of 2:" in err
    assert "syntax" in err.lower()
    assert "in: CREATE TABEL presence_c" in err
    # Not even a second run takes the failure for success.
    assert _migrate(empty, "--migrations", files)[0] == 1
    # Corrected, it goes on with the statement that failed.
    (files / _FILE).write_text("CREATE TABLE presence_a (b INT);\nCREATE TABLE presence_c (d INT);")
    code, out, _ = _migrate(empty, "--migrations", files)
    assert code == 0
    assert "going on with statement 2 of 2" in out
    assert _versions(empty)[-1] == (_NEXT, 1)


def test_a_table_that_is_in_the_way_is_an_error_every_time(empty: Database, tmp_path: Path) -> None:
    empty.execute("CREATE TABLE presence_a (other INT)")
    files = _files(tmp_path / "sql", "CREATE TABLE presence_a (b INT);")
    for _ in range(2):
        code, _out, err = _migrate(empty, "--migrations", files)
        assert code == 1
        assert f"{_FILE}, statement 1 of 1:" in err


def test_a_migration_changed_after_it_was_applied_is_refused(empty: Database, tmp_path: Path) -> None:
    files = _files(tmp_path / "sql", "CREATE TABLE presence_a (b INT);")
    assert _migrate(empty, "--migrations", files)[0] == 0
    (files / _FILE).write_text("CREATE TABLE presence_a (b INT, c INT);")
    code, _, err = _migrate(empty, "--migrations", files)
    assert code == 1
    assert f"{_FILE} was changed after it had been applied" in err
    assert [row[0] for row in _describe(empty, "presence_a")] == ["b"]


def test_a_newer_database_that_serves_this_version_is_left_alone_and_that_is_said(
    empty: Database, tmp_path: Path
) -> None:
    files = _files(tmp_path / "sql", f"-- serves: {_NEWEST:04d}\nCREATE TABLE presence_a (b INT);")
    assert _migrate(empty, "--migrations", files)[0] == 0
    code, out, err = _migrate(empty)
    assert code == 0
    assert "nothing to do" in out
    assert f"version {_NEXT}, newer than these files ({_NEWEST})" in err


def test_a_newer_database_refuses_an_older_version(empty: Database, tmp_path: Path) -> None:
    files = _files(tmp_path / "sql", "ALTER TABLE presence_sessions DROP COLUMN model;")
    assert _migrate(empty, "--migrations", files)[0] == 0
    before = empty.rows("SELECT * FROM presence_migrations")

    code, _, err = _migrate(empty)

    assert code == 1
    assert err.count("\n") == 1
    assert f"the database is too new: {_FILE} has been applied and serves operators of schema {_NEXT} and newer" in err
    assert f"these files end with {_NEWEST:04d}; nothing was changed" in err
    assert empty.rows("SELECT * FROM presence_migrations") == before


def test_a_newer_migration_that_failed_at_once_keeps_nobody_from_the_older_version(
    empty: Database, tmp_path: Path
) -> None:
    files = _files(tmp_path / "sql", "ALTER TABLE presence_sessions ADD COLUMN colour NOSUCHTYPE;")
    assert _migrate(empty, "--migrations", files)[0] == 1
    assert _migrate(empty)[0] == 0


def test_a_database_that_an_older_version_migrated_is_taken_over(empty: Database) -> None:
    assert _migrate(empty)[0] == 0
    empty.execute("ALTER TABLE presence_migrations DROP COLUMN serves")
    code, out, _ = _migrate(empty)
    assert (code, "nothing to do" in out) == (0, True)
    assert "serves" in [row[0] for row in _describe(empty, "presence_migrations")]


def test_many_migrators_at_once_apply_everything_once(empty: Database, tmp_path: Path) -> None:
    files = _files(
        tmp_path / "sql", "CREATE TABLE presence_a (b INT);", "SELECT SLEEP(1);\nINSERT INTO presence_a VALUES (1);"
    )
    running = [_start(_address(empty), "--migrations", files) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    assert sum(f"{_NEXT + 1:04d}_more.sql: applied" in out for out, _ in outputs) == 1
    assert empty.rows("SELECT b FROM presence_a") == [(1,)]


def test_a_migrator_killed_in_the_middle_is_continued(empty: Database, tmp_path: Path) -> None:
    slow = (
        "CREATE TABLE presence_a (b INT);\nINSERT INTO presence_a VALUES (1);\n"
        "SELECT SLEEP(5);\nINSERT INTO presence_a VALUES (2);"
    )
    files = _files(tmp_path / "sql", slow)
    process = _start(_address(empty), "--migrations", files, "--wait", "10s")
    where = f"version = {_NEXT} AND statements_done = 2 AND running = 1"
    eventually(lambda: _exists(empty, "presence_migrations", where), "it sleeps in its third statement")
    process.kill()
    process.communicate(timeout=10)
    (files / _FILE).write_text(slow.replace("SLEEP(5)", "SLEEP(0)"))
    code, out, err = _migrate(empty, "--migrations", files)
    assert (code, err) == (0, "")
    assert "going on with statement 3 of 4" in out
    assert empty.rows("SELECT b FROM presence_a ORDER BY b") == [(1,), (2,)]


def test_a_statement_carried_out_just_before_the_kill_is_not_an_error(empty: Database, tmp_path: Path) -> None:
    """The column is there, but its migrator was killed before it could write that down."""
    more = (
        "CREATE TABLE presence_a (b INT, old INT);\nALTER TABLE presence_a ADD COLUMN c INT;\n"
        "ALTER TABLE presence_a ADD INDEX i (c);\nALTER TABLE presence_a DROP COLUMN old;"
    )
    files = _files(tmp_path / "sql", more)
    assert _migrate(empty, "--migrations", files)[0] == 0
    statements = more.rstrip(";").split(";\n")
    for done in range(4):
        empty.execute(
            f"UPDATE presence_migrations SET applied_at = NULL, running = 1, statements_done = {done}, "
            f"done_checksum = '{statements_checksum(statements[:done])}' WHERE version = {_NEXT}"
        )
        undo = ("DROP COLUMN c", "DROP INDEX i", "ADD COLUMN old INT")[done:]  # later statements had not been reached
        if done < 2:
            empty.execute("ALTER TABLE presence_a DROP INDEX i")
        empty.execute(*(f"ALTER TABLE presence_a {each}" for each in undo if each != "DROP INDEX i"))
        code, out, err = _migrate(empty, "--migrations", files)
        assert (code, err) == (0, "")
        assert f"statement {done + 1} had been carried out before the interruption" in out
        assert _versions(empty)[-1] == (_NEXT, 1)
    assert [row[0] for row in _describe(empty, "presence_a")] == ["b", "c"]


def test_it_waits_for_a_server_that_is_still_starting(own_dolt: Server) -> None:
    with own_dolt.database() as database:
        own_dolt.kill()
        process = _start(_address(database), "--wait", "60s")
        assert process.stdout is not None
        assert process.stdout.readline().startswith("waiting for mysql://root@127.0.0.1")
        own_dolt.start()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert f"the schema is at version {_NEWEST}" in out


def test_a_server_that_never_answers_is_an_error_within_the_wait(own_dolt: Server) -> None:
    own_dolt.kill()
    began = time.monotonic()
    code, _, err = _migrate(Database(own_dolt.root), "--wait", "1s")
    assert code == 69
    assert "127.0.0.1" in err
    assert time.monotonic() - began < 30


def test_a_server_that_goes_away_in_the_middle_is_worth_another_run(own_dolt: Server, tmp_path: Path) -> None:
    files = _files(tmp_path / "sql", "SELECT SLEEP(60);")
    with own_dolt.database() as database:
        process = _start(_address(database), "--migrations", files)
        eventually(lambda: _exists(database, "presence_migrations", f"version = {_NEXT} AND running = 1"), "it sleeps")
        own_dolt.kill()
        _, err = process.communicate(timeout=30)
        assert process.returncode == 69
        assert "Lost connection" in err
        own_dolt.start()
        (files / _FILE).write_text("SELECT 1;")
        assert _migrate(database, "--migrations", files)[0] == 0


def test_a_wrong_password_is_told_without_the_password(dolt: Server, dolt_empty: Database) -> None:
    process = _start(f"mysql://root:hunter2@127.0.0.1:{dolt.port}/{dolt_empty.dsn.database}", "--wait", "1s")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "denied" in err.lower()
    assert "hunter2" not in out + err


def test_a_database_that_is_missing_is_created(any_server: Server) -> None:
    with any_server.database() as database:
        database.execute(f"DROP DATABASE {database.dsn.database}")
        code, out, _ = _migrate(database)
        assert code == 0
        assert f"database {database.dsn.database} created" in out
        assert len(_describe(database, "presence_claims")) == 8


def test_the_schema_enters_dolts_history_and_leaves_the_work_of_others_out(dolt_empty: Database) -> None:
    dolt_empty.execute("CREATE TABLE issues (id INT PRIMARY KEY)")
    assert _migrate(dolt_empty)[0] == 0
    assert dolt_empty.rows("SELECT table_name, staged FROM dolt_status") == [("issues", 0)]
    assert dolt_empty.rows("SELECT message FROM dolt_log LIMIT 1") == [("presence: schema migration",)]


def test_what_others_have_staged_is_not_committed_with_the_schema(dolt_empty: Database) -> None:
    dolt_empty.execute("CREATE TABLE issues (id INT PRIMARY KEY)", "CALL DOLT_ADD('issues')")
    code, out, _ = _migrate(dolt_empty)
    assert code == 0
    assert "not committed to Dolt's history" in out
    assert ("issues", 1) in dolt_empty.rows("SELECT table_name, staged FROM dolt_status")


def test_the_hash_can_be_printed_without_a_database() -> None:
    code, out, err = _migrate(None, "--print-hash")
    assert (code, err) == (0, "")
    assert out.strip() == schema_hash((each.name, each.content) for each in load_migrations(PACKAGED))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--wait", "soon"), "is no duration"),
        (("--migrations", "/nowhere"), "cannot be read"),
        ((), "PRESENCE_DSN=mysql://"),
    ],
)
def test_wrong_use_is_explained(arguments: tuple[str, ...], says: str) -> None:
    code, _, err = _migrate(None, *arguments)
    assert code == 2
    assert says in err


def test_a_user_with_rights_on_the_tables_only_can_neither_migrate_nor_hide_it(any_server: Server) -> None:
    with any_server.database() as database:
        name = database.dsn.database
        database.execute(f"CREATE USER r_{name}@'%' IDENTIFIED BY 'pw'", f"GRANT SELECT ON {name}.* TO r_{name}@'%'")
        process = _start(f"mysql://r_{name}:pw@127.0.0.1:{any_server.port}/{name}", "--wait", "1s")
        _, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "denied" in err.lower()
        with pytest.raises(pymysql.err.Error):
            database.rows("SELECT 1 FROM presence_migrations")
