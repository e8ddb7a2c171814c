"""What goes wrong with a database: each time the mirror must be right again, and say so meanwhile."""

from __future__ import annotations

import logging
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from presence.model import kinds
from presence_operator.migrate import run_migrations
from presence_operator.mirror import store
from presence_operator.mirror.connection import is_retryable
from presence_operator.mirror.projection import difference, row_key, sql_time
from presence_operator.mirror.schema import PACKAGED, load_migrations, wanted_version
from presence_operator.mirror.store import Batch, Store, SupersededError
from presence_operator.settings import SettingsError
from support.dolt import Database, Server, dump
from support.facts import NOON, a_claim, ended, renewed
from support.mirror import RunningMirror
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from presence_operator.mirror.dsn import Dsn
    from presence_operator.mirror.projection import Changes


@pytest.fixture
def own_tables(own_dolt: Server) -> Iterator[Database]:
    """A migrated database on a server that this test may kill."""
    with own_dolt.database() as database:
        yield database.migrate()


def _state(mirror: RunningMirror, name: str) -> bool:
    return mirror.figure("presence_mirror_schema_state", state=name) == 1


def test_a_server_killed_again_and_again_in_the_middle_of_writes_loses_nothing(
    own_dolt: Server, own_tables: Database
) -> None:
    claims = [a_claim(f"stack:s{number}", f"session-{number % 7}") for number in range(2500)]
    with RunningMirror(own_tables.dsn, claims[:10]) as mirror:
        mirror.settled()
        for start in (10, 900, 1700):
            mirror.offer(*claims[start : start + 800])
            eventually(lambda: mirror.pending() < 800, "some of it is on its way", every=0.002)
            own_dolt.kill()
            mirror.offer(*(ended(claim) for claim in claims[start : start + 100]))
            own_dolt.start()
        mirror.offer(*claims[2500:])
        mirror.settled(60)
        live = {claim.resource for claim in mirror.claims.values() if claim.status.phase == kinds.ACTIVE}
        assert {row[0] for row in dump(own_tables, "resource_label")} == live
        counts = dict(own_tables.rows("SELECT kind, COUNT(*) FROM presence_events GROUP BY kind"))
        assert counts == {"claimed": len(mirror.claims), "granted": len(mirror.claims), "released": 300}


def test_an_outage_is_told_once_and_its_end_too(own_dolt: Server, own_tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(own_tables.dsn, [claim]) as mirror:
        mirror.settled()
        assert mirror.lag() == 0
        own_dolt.kill()
        over = ended(claim)
        mirror.offer(over)
        eventually(lambda: (said := mirror.said(claim)) and said.state.value == "MirrorUnavailable", "it is told")
        eventually(lambda: mirror.figure("presence_mirror_errors_total", reason="connect") >= 4, "it tries again")
        assert mirror.lag() > 0
        assert mirror.pending() == 1
        assert mirror.figure("presence_mirror_up") == 0
        own_dolt.start()
        mirror.settled()
        assert [outcome.state.value for _, _, outcome in mirror.told] == ["Mirrored", "MirrorUnavailable", "Mirrored"]
        assert mirror.figure("presence_mirror_up") == 1
        assert dump(own_tables) == []


def test_claims_made_and_deleted_by_hand_during_an_outage_are_in_the_history(
    own_dolt: Server, own_tables: Database
) -> None:
    before, during = a_claim("stack:before"), a_claim("stack:during", created=NOON + 10)
    with RunningMirror(own_tables.dsn, [before]) as mirror:
        mirror.settled()
        own_dolt.kill()
        mirror.now = NOON + 20
        mirror.offer(during)
        mirror.gone(during)
        mirror.gone(before)
        own_dolt.start()
        mirror.settled()
        assert dump(own_tables) == []
        assert own_tables.rows(
            "SELECT resource_label, kind, at FROM presence_events WHERE kind = 'deleted' ORDER BY 1"
        ) == [
            ("stack:before", "deleted", sql_time(NOON + 20)),
            ("stack:during", "deleted", sql_time(NOON + 20)),
        ]
        assert own_tables.rows("SELECT COUNT(*) FROM presence_events") == [(6,)]


def test_a_server_that_hangs_holds_up_nobody_and_is_caught_up(own_dolt: Server, own_tables: Database) -> None:
    claims = [a_claim(f"stack:s{number}") for number in range(50)]
    with RunningMirror(own_tables.dsn) as mirror:
        mirror.settled()
        own_dolt.pause()
        mirror.offer(*claims)  # fails when the loop is held up
        eventually(lambda: mirror.figure("presence_mirror_errors_total", reason="timeout") >= 1, "it gives up waiting",
                   timeout=30)  # fmt: skip
        assert mirror.pending() == 50
        own_dolt.resume()
        mirror.settled()
        assert len(dump(own_tables)) == 50


def test_the_operator_ends_in_time_while_the_server_hangs(own_dolt: Server, own_tables: Database) -> None:
    with RunningMirror(own_tables.dsn) as mirror:
        mirror.settled()
        own_dolt.pause()
        mirror.offer(a_claim())
        mirror.on_loop(lambda: None)
    # RunningMirror fails when that takes too long; and what was not written is written next time:
    own_dolt.resume()
    with RunningMirror(own_tables.dsn, [a_claim()]) as mirror:
        mirror.settled()
        assert len(dump(own_tables)) == 1


def test_a_read_only_server_is_named_as_such_and_written_once_it_may_be(own_dolt: Server, own_tables: Database) -> None:
    own_dolt.kill()
    own_dolt.start(read_only=True)
    with RunningMirror(own_tables.dsn, [a_claim()]) as mirror:
        eventually(lambda: mirror.figure("presence_mirror_errors_total", reason="read_only") >= 1, "it is named")
        assert mirror.pending() == 1
        own_dolt.kill()
        own_dolt.start()
        mirror.settled(60)
        assert len(dump(own_tables)) == 1


def test_a_wrong_password_is_named_never_shown_and_mended_without_a_restart(
    tables: Database, caplog: pytest.LogCaptureFixture
) -> None:
    name = tables.dsn.database
    tables.execute(f"CREATE USER w_{name}@'%' IDENTIFIED BY 'right'", f"GRANT ALL ON {name}.* TO w_{name}@'%'")
    claim = a_claim()
    caplog.set_level(logging.DEBUG)
    with RunningMirror(replace(tables.dsn, user=f"w_{name}", password="hunter2"), [claim]) as mirror:
        eventually(lambda: mirror.figure("presence_mirror_errors_total", reason="auth") >= 2, "it is named")
        said = mirror.wait_said(claim)
        assert said.state.value == "MirrorUnavailable"
        tables.execute(f"ALTER USER w_{name}@'%' IDENTIFIED BY 'hunter2'")
        mirror.settled(60)
    assert "hunter2" not in caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "hunter2" not in str([outcome.message for _, _, outcome in mirror.told])


def test_a_schema_that_is_behind_is_waited_for_while_claims_go_on(empty: Database) -> None:
    claim = a_claim()
    with RunningMirror(empty.dsn, [claim]) as mirror:
        said = mirror.wait_said(claim)
        assert said.state.value == "SchemaBehind"
        assert "presence-operator migrate" in said.message
        assert _state(mirror, "behind")
        assert mirror.figure("presence_mirror_schema_wanted_version") == wanted_version()
        mirror.offer(a_claim("stack:meanwhile"))
        empty.migrate()
        mirror.settled()
        assert len(dump(empty)) == 2
        assert _state(mirror, "ok")
        assert mirror.figure("presence_mirror_schema_version") == wanted_version()
        said = mirror.wait_said(claim)
        assert said.state.value == "Mirrored"


def test_a_table_dropped_under_the_operator_is_a_schema_that_is_behind(tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        tables.execute("DROP TABLE presence_claims")
        mirror.offer(renewed(claim, NOON + 1234))
        eventually(lambda: _state(mirror, "behind"), "it is seen")
        tables.execute("DELETE FROM presence_migrations WHERE version = 1")
        tables.execute("DELETE FROM presence_migrations")
        tables.migrate()
        mirror.settled()
        assert dump(tables, "expires_at") == [(sql_time(NOON + 1234),)]


def _make_newer(database: Database, directory: Path, statement: str) -> int:
    """Apply a migration that this operator does not know; its number."""
    shutil.copytree(PACKAGED, directory)
    number = wanted_version() + 1
    (directory / f"{number:04d}_newer.sql").write_text(statement)
    assert run_migrations(database.dsn, load_migrations(directory), wait=10, say=lambda _: None) == 0
    return number


def test_an_older_operator_goes_on_with_a_newer_schema_and_says_so(
    tables: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    number = _make_newer(tables, tmp_path / "sql", "ALTER TABLE presence_claims ADD COLUMN note VARCHAR(20) NULL;")
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        assert mirror.wait_said(claim).state.value == "Mirrored"
        assert _state(mirror, "ahead")
        assert not _state(mirror, "ok")
        assert mirror.figure("presence_mirror_schema_version") == number
        assert mirror.figure("presence_mirror_schema_wanted_version") == wanted_version()
    assert len(dump(tables)) == 1
    assert caplog.text.count("schema is newer than this operator") == 1


def test_a_newer_schema_that_an_older_operator_cannot_write_is_named_on_the_claims(
    tables: Database, tmp_path: Path
) -> None:
    _make_newer(tables, tmp_path / "sql", "ALTER TABLE presence_claims DROP COLUMN purpose;")
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        said = mirror.wait_said(claim)
        assert said.state.value == "SchemaAhead"
        assert "run the newer operator again" in said.message
        assert _state(mirror, "ahead")
        # Put back what is needed, and nothing is lost.
        tables.execute("ALTER TABLE presence_claims ADD COLUMN purpose TEXT")
        mirror.settled()
        assert len(dump(tables)) == 1


def test_a_row_that_the_server_does_not_take_holds_up_no_other(tables: Database) -> None:
    tables.execute("ALTER TABLE presence_claims MODIFY COLUMN purpose VARCHAR(20) NOT NULL")
    bad = a_claim("stack:bad", purpose="longer than the column of an older table")
    good = [a_claim(f"stack:s{number}", purpose="short") for number in range(20)]
    with RunningMirror(tables.dsn, [*good[:10], bad, *good[10:]]) as mirror:
        mirror.settled()
        assert len(dump(tables)) == 20
        said = mirror.wait_said(bad)
        assert said.state.value == "MirrorUnavailable"
        assert "does not take" in said.message
        mirror.offer(replace(bad, purpose="short now"))
        mirror.settled()
        assert len(dump(tables)) == 21


def test_rows_of_which_the_server_takes_none_are_told_and_left_alone(tables: Database) -> None:
    tables.execute("ALTER TABLE presence_claims MODIFY COLUMN purpose VARCHAR(20) NOT NULL")
    bad = [a_claim(f"stack:bad{number}", purpose="longer than the column of an older table") for number in range(3)]
    with RunningMirror(tables.dsn, bad) as mirror:
        mirror.settled()
        for claim in bad:
            assert "does not take" in mirror.wait_said(claim).message


def test_a_password_that_was_replaced_in_its_file_is_picked_up(
    tables: Database, caplog: pytest.LogCaptureFixture
) -> None:
    name = tables.dsn.database
    tables.execute(f"CREATE USER r_{name}@'%' IDENTIFIED BY 'second'", f"GRANT ALL ON {name}.* TO r_{name}@'%'")
    dsn = replace(tables.dsn, user=f"r_{name}", password="first")
    content: list[str | None] = [None]

    def reread() -> Dsn:
        if content[0] is None:
            raise SettingsError(["the file is empty"])
        return replace(dsn, password=content[0])

    caplog.set_level(logging.DEBUG)
    with RunningMirror(dsn, [a_claim()], reread=reread) as mirror:
        eventually(lambda: "cannot be read anew" in caplog.text, "it looks")
        content[0] = "second"
        mirror.settled(60)
        assert len(dump(tables)) == 1
    assert "second" not in "".join(str(vars(record)) for record in caplog.records)


def test_an_operator_that_was_replaced_writes_nothing_any_more(tables: Database) -> None:
    """As after a pause: it does not know yet that it leads no longer, and its view of the board is old."""
    old, new = a_claim("stack:old"), a_claim("stack:new")
    with RunningMirror(tables.dsn, [old]) as paused:
        paused.settled()
        with RunningMirror(tables.dsn, [old, new]) as successor:
            successor.settled()
            paused.gone(old)
            eventually(lambda: paused.figure("presence_mirror_errors_total", reason="other") >= 1, "it is refused")
            successor.offer(renewed(new, NOON + 5000))
            successor.settled()
            assert dump(tables, "resource_label") == [("stack:new",), ("stack:old",)]
            assert tables.rows("SELECT kind FROM presence_events WHERE kind NOT IN ('claimed', 'granted')") == []
            assert successor.figure("presence_mirror_errors_total", reason="other") == 0


def test_a_transaction_begun_before_the_replacement_is_not_committed_after_it(tables: Database) -> None:
    stale, fresh = Store(tables.dsn, "presence"), Store(tables.dsn, "presence")
    stale.open()
    stale.take_over(NOON)
    with stale._cursor() as cursor:
        stale._fence(cursor)
        cursor.execute("INSERT INTO presence_owned SELECT 'u', 'b', 's', 'r', NOW(3), 'p', 1, 'p', 'u', 'h', 'a', 1")
        fresh.open()
        taking = threading.Thread(target=fresh.take_over, args=(NOON,))
        taking.start()  # on Dolt it takes over at once, elsewhere it waits for the row that the other has locked
        if tables.rows("SELECT @@version_comment") == [("Dolt",)]:
            taking.join()
            with pytest.raises(pymysql.err.Error) as error:
                stale._open_connection.commit()
            assert is_retryable(error.value)
            assert tables.rows("SELECT * FROM presence_owned") == []
        else:
            stale._open_connection.commit()
            taking.join()
    with pytest.raises(SupersededError):
        stale.write(Batch((row_key(a_claim()),), (a_claim(),), (), NOON))
    stale.close()
    fresh.close()
    assert dump(tables) == []


@pytest.mark.parametrize("ending", [False, True], ids=["we add", "we remove"])
def test_a_row_that_somebody_else_writes_in_the_very_moment_is_theirs(
    tables: Database, monkeypatch: pytest.MonkeyPatch, ending: bool
) -> None:
    """Between our look at the table and our write, an older tool claims the same key."""
    claim = a_claim()
    theirs = (
        "REPLACE INTO presence_claims (session_id, resource_label, purpose, expires_at, host, user) "
        f"VALUES ('{claim.session}', '{claim.resource}', 'by an older tool', '2030-01-01', 'laptop', 'emo')"
    )
    meetings: list[int] = []

    def meanwhile(*arguments: Any, **options: Any) -> Changes:
        if not meetings and armed.is_set():
            meetings.append(1)
            tables.execute(theirs)
        return difference(*arguments, **options)

    armed = threading.Event()
    monkeypatch.setattr(store, "difference", meanwhile)
    with RunningMirror(tables.dsn, [claim] if ending else []) as mirror:
        mirror.settled()
        armed.set()
        mirror.offer(ended(claim) if ending else claim)
        mirror.settled()
        assert meetings
        assert dump(tables, "purpose, host") == [("by an older tool", "laptop")]
        assert mirror.figure("presence_mirror_up") == 1
        mirror.offer(ended(claim))
        mirror.settled()
    assert dump(tables, "purpose, host") == [("by an older tool", "laptop")]
