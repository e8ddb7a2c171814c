from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from presence.model import kinds
from presence_operator.mirror.projection import sql_time
from presence_operator.mirror.statements import split_statements
from presence_operator.mirror.store import TABLES
from support.dolt import Database, dump
from support.facts import NOON, a_claim, a_session, ended, renewed
from support.mirror import RunningMirror
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mirror.md"

_LEGACY_CLAIM = (
    "REPLACE INTO presence_claims (session_id, resource_label, purpose, expires_at, host, user) "
    "VALUES ('{0}', '{1}', 'by an older tool', '2030-01-01', 'laptop', 'emo')"
)


def _events(database: Database) -> Sequence[tuple[object, ...]]:
    return database.rows("SELECT resource_label, kind FROM presence_events ORDER BY at, kind")


def test_an_active_claim_is_a_row_that_older_tools_understand(tables: Database) -> None:
    with RunningMirror(tables.dsn, [a_claim()]) as mirror:
        mirror.settled()
        assert tables.rows("SELECT * FROM presence_claims") == [
            (
                "wizard@devvm@a1b2c3d4", "stack:vault", "roll the unseal keys", sql_time(NOON), sql_time(NOON + 900),
                "devvm", "wizard", "claude-code",
            )
        ]  # fmt: skip


def test_a_renewal_moves_expires_at_only(tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled().offer(renewed(claim, NOON + 1500))
        mirror.settled()
        assert dump(tables, "claimed_at, expires_at") == [(sql_time(NOON), sql_time(NOON + 1500))]
        assert _events(tables) == [("stack:vault", "claimed"), ("stack:vault", "granted")]


def test_an_ended_claim_leaves_the_table_and_its_life_stays_as_history(tables: Database) -> None:
    one, two = a_claim("stack:one"), a_claim("stack:two")
    with RunningMirror(tables.dsn, [one, two]) as mirror:
        mirror.settled()
        mirror.offer(ended(one, kinds.RELEASED, NOON + 60), ended(two, kinds.EXPIRED, NOON + 900))
        mirror.settled()
        assert dump(tables) == []
        assert tables.rows("SELECT resource_label, kind, at, reason FROM presence_events WHERE at > %s ORDER BY at",
                           sql_time(NOON)) == [
            ("stack:one", "released", sql_time(NOON + 60), "Released"),
            ("stack:two", "expired", sql_time(NOON + 900), "Expired"),
        ]  # fmt: skip


def test_texts_of_any_language_arrive_whole(tables: Database) -> None:
    purpose = "naïve 'quotes' \"and\" \\ back; -- 日本語 🚀 %s"
    with RunningMirror(tables.dsn, [a_claim(purpose=purpose)]) as mirror:
        mirror.settled()
        assert dump(tables, "purpose") == [(purpose,)]


def test_the_board_is_told_what_is_mirrored(tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        said = mirror.wait_said(claim)
        assert (said.state.value, said.phase) == ("Mirrored", "Active")
        mirror.offer(ended(claim))
        mirror.settled()
        said = mirror.wait_said(claim)
        assert (said.state.value, said.phase) == ("Mirrored", "Released")


def test_heartbeats_alone_are_neither_written_nor_reported(tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        written = mirror.figure("presence_mirror_written_rows_total")
        for beat in range(50):
            mirror.offer(replace(claim, alive=NOON + beat, resource_version=str(beat)))
        mirror.offer(a_claim("stack:next"))
        mirror.settled()
        assert len(mirror.told) == 2
        # One claim: its row, the memory of it and two events.
        assert mirror.figure("presence_mirror_written_rows_total") == written + 4


def test_a_deleted_object_is_pruned_and_its_deletion_recorded(tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        mirror.now = NOON + 77
        mirror.gone(claim)
        mirror.settled()
        assert dump(tables) == []
        assert tables.rows("SELECT kind, at, reason FROM presence_events ORDER BY at DESC LIMIT 1") == [
            ("deleted", sql_time(NOON + 77), "Deleted")
        ]


def test_the_collection_of_an_ended_object_is_no_second_end(tables: Database) -> None:
    claim = a_claim()
    over = ended(claim)
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled().offer(over)
        mirror.settled().gone(over)
        mirror.offer(a_claim("stack:next"))
        mirror.settled()
        assert tables.rows("SELECT kind FROM presence_events WHERE resource_label = 'stack:vault' ORDER BY kind") == [
            ("claimed",), ("granted",), ("released",),
        ]  # fmt: skip


def test_objects_deleted_while_the_operator_was_away_are_pruned_when_it_returns(tables: Database) -> None:
    stays, goes = a_claim("stack:stays"), a_claim("stack:goes")
    with RunningMirror(tables.dsn, [stays, goes]) as mirror:
        mirror.settled()
    again = RunningMirror(tables.dsn, [stays])
    again.now = NOON + 500
    with again:
        again.settled()
        assert dump(tables, "resource_label") == [("stack:stays",)]
        later = "SELECT resource_label, kind, at, reason FROM presence_events WHERE at > %s"
        assert tables.rows(later, sql_time(NOON)) == [("stack:goes", "deleted", sql_time(NOON + 500), "DeletedUnseen")]


def test_a_second_operator_run_writes_nothing_twice(tables: Database) -> None:
    claims = [a_claim(f"stack:s{number}") for number in range(30)]
    claims += [ended(a_claim(f"stack:e{number}")) for number in range(30)]
    with RunningMirror(tables.dsn, claims) as mirror:
        mirror.settled()
        assert mirror.figure("presence_mirror_written_rows_total") > 0
    before = tables.rows("SELECT * FROM presence_events ORDER BY event_id")
    with RunningMirror(tables.dsn, claims) as mirror:
        mirror.settled()
        assert mirror.figure("presence_mirror_written_rows_total") == 0
        assert len(mirror.told) == 60  # the board has forgotten, so it is told anew
    assert tables.rows("SELECT * FROM presence_events ORDER BY event_id") == before


def test_thousands_of_claims_are_written_in_batches(tables: Database) -> None:
    claims = [a_claim(f"stack:s{number}", f"session-{number % 40}") for number in range(1700)]
    with RunningMirror(tables.dsn, claims) as mirror:
        mirror.settled()
        assert tables.rows("SELECT COUNT(*) FROM presence_claims") == [(1700,)]
        assert tables.rows("SELECT kind, COUNT(*) FROM presence_events GROUP BY kind ORDER BY kind") == [
            ("claimed", 1700), ("granted", 1700),
        ]  # fmt: skip


def test_another_purpose_is_written_and_remembered(tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        mirror.now = NOON + 30
        mirror.offer(replace(claim, purpose="now the backups", ttl=3600.0))
        mirror.settled()
        assert dump(tables, "purpose, claimed_at") == [("now the backups", sql_time(NOON))]
        assert tables.rows("SELECT purpose, at FROM presence_events WHERE kind = 'renewed'") == [
            ("now the backups", sql_time(NOON + 30))
        ]


def test_rows_of_an_older_tool_stay_whatever_the_board_does(tables: Database) -> None:
    tables.execute(_LEGACY_CLAIM.format("emo@laptop@aaaaaaaa", "stack:vault"))
    theirs = dump(tables, "*")
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        assert len(dump(tables)) == 2
        mirror.offer(ended(claim))
        mirror.settled()
    with RunningMirror(tables.dsn, []) as mirror:
        mirror.settled()
    assert dump(tables, "*") == theirs


def test_a_row_of_an_older_tool_under_the_key_of_a_claim_stays_and_that_is_said(tables: Database) -> None:
    claim = a_claim()
    tables.execute(_LEGACY_CLAIM.format(claim.session, claim.resource))
    theirs = dump(tables, "*")
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        said = mirror.wait_said(claim)
        assert said.state.value == "Mirrored"
        assert "somebody else" in said.message
        assert mirror.figure("presence_mirror_foreign_rows") == 1
        mirror.offer(renewed(claim, NOON + 5000))
        mirror.settled()
        mirror.offer(ended(claim))
        mirror.settled()
        assert mirror.figure("presence_mirror_foreign_rows") == 0
    assert dump(tables, "*") == theirs
    assert [kind for _, kind in _events(tables)] == ["claimed", "granted", "released"]


def test_an_older_tool_that_claims_over_our_row_takes_it_and_we_leave_it(tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        tables.execute(_LEGACY_CLAIM.format(claim.session, claim.resource))
        theirs = dump(tables, "*")
        mirror.offer(renewed(claim, NOON + 5000))
        mirror.settled()
        assert dump(tables, "*") == theirs
        mirror.offer(ended(claim))
        mirror.settled()
        assert dump(tables, "*") == theirs


def test_a_claim_gets_its_row_once_the_older_tool_has_released(tables: Database) -> None:
    claim = a_claim()
    tables.execute(_LEGACY_CLAIM.format(claim.session, claim.resource))
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled()
        tables.execute("DELETE FROM presence_claims")
        mirror.offer(renewed(claim, NOON + 2000))
        mirror.settled()
        assert dump(tables, "purpose") == [("roll the unseal keys",)]


def test_an_older_tool_that_writes_all_the_time_loses_nothing(tables: Database) -> None:
    """Both write as fast as they can, also under the same keys."""
    claims = [a_claim(f"stack:s{number}", "both") for number in range(40)]
    with RunningMirror(tables.dsn) as mirror:
        mirror.settled()
        mine = 0
        for number, claim in enumerate(claims):
            mirror.offer(claim)
            if number % 2:
                tables.execute(_LEGACY_CLAIM.format("both", claim.resource))
            tables.execute(_LEGACY_CLAIM.format("legacy", claim.resource))
            if number % 4 == 0:
                tables.execute(
                    f"DELETE FROM presence_claims WHERE session_id = 'legacy' AND resource_label = '{claim.resource}'"
                )
            else:
                mine += 1
        mirror.settled()
        assert tables.rows("SELECT COUNT(*) FROM presence_claims WHERE session_id = 'legacy'") == [(mine,)]
        for claim in claims:
            mirror.offer(ended(claim))
        mirror.settled()
        left = tables.rows("SELECT resource_label FROM presence_claims WHERE session_id = 'both'")
        assert {row[0] for row in left} == {claim.resource for claim in claims[1::2]}
        assert tables.rows("SELECT COUNT(*) FROM presence_events WHERE kind = 'released'") == [(40,)]


def test_two_boards_share_one_database_without_touching_each_other(tables: Database) -> None:
    here, there = a_claim("stack:here"), replace(a_claim("stack:there"), namespace="staging")
    with RunningMirror(tables.dsn, [here, there]) as mirror:
        mirror.settled()
        assert dump(tables, "resource_label") == [("stack:here",)]
    tables.execute("UPDATE presence_owned SET board = 'other'")
    with RunningMirror(tables.dsn, []) as mirror:
        mirror.settled()
        assert dump(tables, "resource_label") == [("stack:here",)]


def test_sessions_are_rows_from_their_start_to_their_end(tables: Database) -> None:
    lives, completes, vanishes = a_session("lives"), a_session("completes"), a_session("vanishes")
    with RunningMirror(tables.dsn, sessions=[lives, completes, vanishes]) as mirror:
        mirror.settled()
        mirror.now = NOON + 40
        mirror.offer_session(a_session("completes", phase=kinds.COMPLETED))
        mirror.gone_session(vanishes)
        mirror.settled()
        assert tables.rows("SELECT session_id, phase, ended_at FROM presence_sessions ORDER BY session_id") == [
            ("completes", "Completed", sql_time(NOON + 600)),
            ("lives", "Active", None),
            ("vanishes", "Deleted", sql_time(NOON + 40)),
        ]
    again = RunningMirror(tables.dsn)
    again.now = NOON + 90
    with again:
        again.settled()
        assert tables.rows("SELECT phase, ended_at FROM presence_sessions WHERE session_id = 'lives'") == [
            ("Deleted", sql_time(NOON + 90))
        ]


def test_the_mirror_flushes_when_it_ends(tables: Database) -> None:
    with RunningMirror(tables.dsn) as mirror:
        mirror.settled()
        mirror.offer(*(a_claim(f"stack:s{number}") for number in range(20)))
    assert len(dump(tables)) == 20


def _on_page(section: str) -> list[list[str]]:
    """The statements of each SQL block of a section of docs/mirror.md."""
    text = PAGE.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [list(split_statements(block)) for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL)]


def test_the_rights_that_the_page_names_are_enough(tables: Database) -> None:
    name, user = tables.dsn.database, f"m_{tables.dsn.database}"
    everywhere, on_dolt = _on_page("Rights")
    is_dolt = tables.rows("SELECT @@version_comment") == [("Dolt",)]
    for statement in everywhere + (on_dolt if is_dolt else []):
        tables.execute(statement.replace("beads.", f"{name}.").replace("'mirror'", f"'{user}'"))
    claim = a_claim()
    with RunningMirror(replace(tables.dsn, user=user, password="choose one"), [claim], [a_session()]) as mirror:
        mirror.settled()
        mirror.offer(ended(claim))
        mirror.settled()
    assert [kind for _, kind in _events(tables)] == ["claimed", "granted", "released"]
    assert mirror.figure("presence_mirror_errors_total", reason="auth") == 0
    if is_dolt:
        assert "released" in tables.rows("SELECT message FROM dolt_log LIMIT 1")[0][0]


def test_the_events_answer_the_questions_of_the_page(tables: Database) -> None:
    claim = a_claim("stack:vault", "wizard")
    with RunningMirror(tables.dsn, [claim]) as mirror:
        mirror.settled().offer(ended(claim, kinds.EXPIRED, NOON + 900))
        mirror.settled()
    held, happened, ran_out = _on_page("History")[0]
    during = held.replace("2026-11-20 14:03:00", str(sql_time(NOON + 60)))
    assert [(row[0], row[3], row[4], row[5]) for row in tables.rows(during)] == [
        ("wizard", sql_time(NOON), sql_time(NOON + 900), "expired")
    ]
    assert tables.rows(held.replace("2026-11-20 14:03:00", str(sql_time(NOON + 901)))) == []
    assert [row[1] for row in tables.rows(happened)] == ["claimed", "granted", "expired"]
    assert tables.rows(ran_out) == [("wizard", 1)]


# Dolt alone


def _log(database: Database) -> list[str]:
    return [row[0] for row in database.rows("SELECT message FROM dolt_log") if row[0].startswith("presence: ")][::-1]


def test_many_changes_of_holders_share_one_dolt_commit(dolt_tables: Database) -> None:
    claims = [a_claim(f"stack:s{number}") for number in range(30)]
    with RunningMirror(dolt_tables.dsn) as mirror:
        mirror.settled()
        for claim in claims:
            mirror.offer(claim)
        mirror.settled()
        eventually(lambda: len(_log(dolt_tables)) == 2, "the claims are committed")
    assert _log(dolt_tables) == ["presence: schema migration", "presence: 30 claimed, 30 granted"]
    assert mirror.figure("presence_mirror_commits_total") == 1
    ((committer, email),) = dolt_tables.rows("SELECT committer, email FROM dolt_log LIMIT 1")
    assert (committer, email) == ("presence-operator", "operator@presence.dev")


def test_steady_change_is_committed_every_five_seconds_at_most(dolt_tables: Database) -> None:
    fresh = count()
    with RunningMirror(dolt_tables.dsn) as mirror:
        mirror.settled()

        def committed_twice() -> bool:
            mirror.offer(a_claim(f"stack:s{next(fresh)}"))
            return len(_log(dolt_tables)) >= 3

        eventually(committed_twice, "two commits of steady change", every=0.3)
        (apart,) = dolt_tables.rows(
            "SELECT TIMESTAMPDIFF(MICROSECOND, MIN(date), MAX(date)) FROM dolt_log WHERE message LIKE '%granted%'"
        )
        assert apart[0] > 4_900_000


def test_what_changed_last_is_committed_at_the_end(dolt_tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(dolt_tables.dsn, [claim]) as mirror:
        mirror.settled().offer(ended(claim))
        mirror.settled()
    assert "released" in _log(dolt_tables)[-1]
    assert dolt_tables.rows("SELECT * FROM dolt_status") == []


def test_renewals_make_no_dolt_commits(dolt_tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(dolt_tables.dsn, [claim]) as mirror:
        mirror.settled()
    before = _log(dolt_tables)
    with RunningMirror(dolt_tables.dsn, [claim]) as mirror:
        mirror.settled()
        for number in range(1, 6):
            mirror.offer(renewed(claim, NOON + 900 + 300 * number))
            mirror.settled()
    assert dump(dolt_tables, "expires_at") == [(sql_time(NOON + 2400),)]
    assert _log(dolt_tables) == before


def test_as_of_tells_who_held_what_at_a_time(dolt_tables: Database) -> None:
    first, second = a_claim("db:pg", "first"), a_claim("db:pg", "second")

    def committed(claims: int) -> datetime:
        with RunningMirror(dolt_tables.dsn, mirror_claims) as mirror:
            mirror.settled()
        assert len(dump(dolt_tables)) == claims
        at: datetime = dolt_tables.rows("SELECT date FROM dolt_log LIMIT 1")[0][0]
        return at

    mirror_claims = [first]
    early = committed(1)
    mirror_claims = [ended(first), second]
    late = committed(1)
    mirror_claims = [ended(first), ended(second)]
    committed(0)
    whole, commits, rows = _on_page("History")[1]
    for moment, holder in ((early, "first"), (late, "second")):
        assert [row[0] for row in dolt_tables.rows(whole.replace("2026-11-20 14:03:00", str(moment)))] == [holder]
    assert dump(dolt_tables) == []
    assert [row[1] for row in dolt_tables.rows(commits)][::-1][1:] == [
        "presence: 1 claimed, 1 granted",
        "presence: 1 claimed, 1 granted, 1 released",
        "presence: 1 released",
    ]
    later = dolt_tables.rows(rows.replace("2026-11-20 14:03:00", str(early)))
    assert {row[0] for row in later} == {"added", "removed"}


def test_commits_take_only_the_tables_of_the_mirror(dolt_tables: Database) -> None:
    dolt_tables.execute("CREATE TABLE issues (id INT PRIMARY KEY)", "INSERT INTO issues VALUES (1)")
    with RunningMirror(dolt_tables.dsn, [a_claim()]) as mirror:
        mirror.settled()
    assert dolt_tables.rows("SELECT table_name, staged FROM dolt_status") == [("issues", 0)]
    assert "claimed" in _log(dolt_tables)[-1]


def test_what_somebody_else_has_staged_is_left_for_their_commit(dolt_tables: Database) -> None:
    dolt_tables.execute("CREATE TABLE issues (id INT PRIMARY KEY)", "CALL DOLT_ADD('issues')")
    before = _log(dolt_tables)
    with RunningMirror(dolt_tables.dsn, [a_claim()]) as mirror:
        mirror.settled()
    assert len(dump(dolt_tables)) == 1
    assert _log(dolt_tables) == before
    assert ("issues", 1) in dolt_tables.rows("SELECT table_name, staged FROM dolt_status")
    dolt_tables.execute("CALL DOLT_COMMIT('-m', 'their work')")
    # What was written meanwhile enters the history with the next start, as after a kill.
    with RunningMirror(dolt_tables.dsn, [a_claim()]) as mirror:
        mirror.settled()
    assert _log(dolt_tables)[-1] == "presence: earlier changes"


def test_a_commit_of_everything_by_somebody_else_is_no_error(dolt_tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(dolt_tables.dsn, [claim]) as mirror:
        mirror.settled()
        dolt_tables.execute("CALL DOLT_COMMIT('-Am', 'all of it')")
        mirror.offer(ended(claim))
        mirror.settled()
    assert mirror.figure("presence_mirror_errors_total", reason="other") == 0
    assert dolt_tables.rows("SELECT * FROM dolt_status") == []


def test_garbage_collection_in_dolt_costs_a_reconnect_and_nothing_else(dolt_tables: Database) -> None:
    claim = a_claim()
    with RunningMirror(dolt_tables.dsn, [claim]) as mirror:
        mirror.settled()
        dolt_tables.execute("CALL DOLT_GC()")
        mirror.offer(ended(claim), a_claim("stack:next"))
        mirror.settled()
        assert dump(dolt_tables, "resource_label") == [("stack:next",)]


def test_a_user_who_may_not_commit_still_mirrors_every_row(dolt_tables: Database) -> None:
    name = dolt_tables.dsn.database
    user = f"'n_{name}'@'%'"
    dolt_tables.execute(
        f"CREATE USER {user} IDENTIFIED BY 'pw'",
        *(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.{table} TO {user}" for table in TABLES),
        f"GRANT SELECT ON {name}.presence_migrations TO {user}",
    )
    before = _log(dolt_tables)
    with RunningMirror(replace(dolt_tables.dsn, user=f"n_{name}", password="pw"), [a_claim()]) as mirror:
        mirror.settled()
    assert len(dump(dolt_tables)) == 1
    assert mirror.figure("presence_mirror_errors_total", reason="auth") >= 1
    assert _log(dolt_tables) == before
