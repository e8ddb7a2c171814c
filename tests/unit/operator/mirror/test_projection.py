from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence.model import kinds
from presence_operator.mirror.projection import (
    Changes,
    ClaimRow,
    Gone,
    OwnedRow,
    RowKey,
    claim_row,
    content,
    difference,
    fit,
    fit_bytes,
    overlong,
    row_key,
    session_row,
    sql_time,
)
from support.facts import NOON, a_claim, a_session, ended, renewed

if TYPE_CHECKING:
    from presence_operator.core.facts import Claim

Table = dict[RowKey, ClaimRow]
Owned = dict[str, OwnedRow]


def _apply(changes: Changes, table: Table, owned: Owned) -> None:
    """What the SQL of the store does, on dictionaries."""
    for key, claimed_at in changes.deletes:
        if key in table and table[key].claimed_at == claimed_at:
            del table[key]
    for row in changes.upserts:
        if row.key not in table or table[row.key].claimed_at == row.claimed_at:
            table[row.key] = row
    for uid in changes.owned_deletes:
        del owned[uid]
    owned.update({row.claim_uid: row for row in changes.owned_upserts})


def _foreign(session: str = "wizard@devvm@a1b2c3d4", resource: str = "stack:vault") -> ClaimRow:
    at = sql_time(NOON - 86_400.877)
    return ClaimRow(session, resource, "by hand", at, at, "laptop", "emo", None)


def _kinds(changes: Changes) -> list[str]:
    return [event.kind for event in changes.events]


def test_an_active_claim_has_a_row_and_two_events() -> None:
    claim = a_claim()
    changes = difference([claim], [], {}, [], board="presence", now=NOON)
    assert changes.upserts == [
        ClaimRow(
            "wizard@devvm@a1b2c3d4", "stack:vault", "roll the unseal keys", sql_time(NOON), sql_time(NOON + 900),
            "devvm", "wizard", "claude-code",
        )
    ]  # fmt: skip
    assert _kinds(changes) == ["claimed", "granted"]


@pytest.mark.parametrize("phase", ["", kinds.PENDING])
def test_a_claim_that_waits_is_history_but_not_in_the_table_of_holders(phase: str) -> None:
    changes = difference([a_claim(phase=phase)], [], {}, [], board="presence", now=NOON)
    assert changes.upserts == []
    assert _kinds(changes) == ["claimed"]


def test_a_renewal_moves_expires_at_keeps_claimed_at_and_makes_no_history() -> None:
    claim, table, owned = a_claim(), Table(), Owned()
    _apply(difference([claim], [], table, owned.values(), board="presence", now=NOON), table, owned)
    later = renewed(claim, NOON + 1200)
    changes = difference([later], [], table, owned.values(), board="presence", now=NOON + 300)
    assert [(row.claimed_at, row.expires_at) for row in changes.upserts] == [(sql_time(NOON), sql_time(NOON + 1200))]
    assert changes.events == []


@pytest.mark.parametrize(
    ("change", "reason"), [({"purpose": "now the backups"}, "PurposeChanged"), ({"ttl": 3600.0}, "TtlChanged")]
)
def test_another_purpose_or_ttl_is_history(change: dict[str, object], reason: str) -> None:
    claim, table, owned = a_claim(), Table(), Owned()
    _apply(difference([claim], [], table, owned.values(), board="presence", now=NOON), table, owned)
    changes = difference([replace(claim, **change)], [], table, owned.values(), board="presence", now=NOON + 5)  # type: ignore[arg-type]
    assert [(event.kind, event.reason, event.at) for event in changes.events] == [
        ("renewed", reason, sql_time(NOON + 5))
    ]


@pytest.mark.parametrize(
    ("phase", "reason", "kind"),
    [
        (kinds.RELEASED, "Released", "released"),
        (kinds.RELEASED, "SessionCompleted", "released"),
        (kinds.EXPIRED, "Expired", "expired"),
    ],
)
def test_an_ended_claim_loses_its_row_and_its_end_is_history(phase: str, reason: str, kind: str) -> None:
    claim, table, owned = a_claim(), Table(), Owned()
    _apply(difference([claim], [], table, owned.values(), board="presence", now=NOON), table, owned)
    over = ended(claim, phase, NOON + 60, reason)
    changes = difference([over], [], table, owned.values(), board="presence", now=NOON + 61)
    _apply(changes, table, owned)
    assert (table, owned) == ({}, {})
    assert [(event.kind, event.reason, event.at) for event in changes.events] == [(kind, reason, sql_time(NOON + 60))]


def test_a_life_that_passed_during_an_outage_is_told_in_full() -> None:
    over = ended(a_claim(), kinds.EXPIRED, NOON + 900)
    changes = difference([over], [], {}, [], board="presence", now=NOON + 5000)
    assert [(event.kind, event.at) for event in changes.events] == [
        ("claimed", sql_time(NOON)), ("granted", sql_time(NOON)), ("expired", sql_time(NOON + 900)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind", "at"),
    [
        ({}, "deleted", NOON + 30),
        ({"released": True}, "released", NOON + 30),
        ({"lapsed": NOON + 10}, "expired", NOON + 10),
    ],
)
def test_a_deleted_claim_ends_as_its_last_facts_say(change: dict[str, object], kind: str, at: float) -> None:
    claim, table, owned = a_claim(), Table(), Owned()
    _apply(difference([claim], [], table, owned.values(), board="presence", now=NOON), table, owned)
    lost = Gone(replace(claim, **change), NOON + 30)  # type: ignore[arg-type]
    changes = difference([], [lost], table, owned.values(), board="presence", now=NOON + 99)
    _apply(changes, table, owned)
    assert (table, owned) == ({}, {})
    assert [(event.kind, event.at) for event in changes.events] == [(kind, sql_time(at))]


def test_a_claim_that_went_while_nobody_looked_is_pruned_and_its_deletion_is_history() -> None:
    claim, table, owned = a_claim(), Table(), Owned()
    _apply(difference([claim], [], table, owned.values(), board="presence", now=NOON), table, owned)
    changes = difference([], [], table, owned.values(), board="presence", now=NOON + 99)
    _apply(changes, table, owned)
    assert (table, owned) == ({}, {})
    (event,) = changes.events
    assert (event.kind, event.reason, event.purpose) == ("deleted", "DeletedUnseen", "roll the unseal keys")


def test_the_row_of_somebody_else_stays_also_under_the_key_of_a_claim() -> None:
    claim, table, owned = a_claim(), {_foreign().key: _foreign()}, Owned()
    changes = difference([claim], [], table, owned.values(), board="presence", now=NOON)
    _apply(changes, table, owned)
    assert table == {_foreign().key: _foreign()}
    assert changes.foreign == [claim]
    assert _kinds(changes) == ["claimed", "granted"]
    _apply(difference([ended(claim)], [], table, owned.values(), board="presence", now=NOON), table, owned)
    assert table == {_foreign().key: _foreign()}


def test_a_row_that_somebody_else_put_in_the_place_of_ours_is_theirs_from_then_on() -> None:
    claim, table, owned = a_claim(), Table(), Owned()
    _apply(difference([claim], [], table, owned.values(), board="presence", now=NOON), table, owned)
    table[row_key(claim)] = _foreign()
    _apply(difference([claim], [], table, owned.values(), board="presence", now=NOON), table, owned)
    _apply(difference([], [], table, owned.values(), board="presence", now=NOON), table, owned)
    assert table == {_foreign().key: _foreign()}


def test_of_two_objects_with_one_key_the_older_has_the_row_and_the_other_follows() -> None:
    first = a_claim(uid="u1", name="by-cli")
    second = a_claim(uid="u2", name="by-hand", created=NOON + 5)
    table, owned = Table(), Owned()
    _apply(difference([second, first], [], table, owned.values(), board="presence", now=NOON), table, owned)
    assert list(table.values()) == [claim_row(first)]
    _apply(difference([second, ended(first)], [], table, owned.values(), board="presence", now=NOON), table, owned)
    assert list(table.values()) == [claim_row(second)]


def test_rows_of_another_board_are_somebody_elses() -> None:
    claim, table, owned = a_claim(), Table(), Owned()
    _apply(difference([claim], [], table, owned.values(), board="staging", now=NOON), table, owned)
    mine = [entry for entry in owned.values() if entry.board == "presence"]
    changes = difference([], [], table, mine, board="presence", now=NOON)
    assert (changes.rows, changes.events) == (0, [])


def test_a_heartbeat_alone_is_no_content() -> None:
    claim = a_claim()
    assert content(replace(claim, alive=NOON + 30, resource_version="7")) == content(claim)
    assert content(renewed(claim, NOON + 1000)) != content(claim)


def test_texts_are_cut_between_characters() -> None:
    assert fit("ä" * 5, 3) == "äää"
    assert fit("a\ud800b", 9) == "a?b"
    assert fit_bytes("ä" * 5, 5) == "ää"
    assert overlong(a_claim()) == ()
    assert overlong(a_claim(user="u" * 65, purpose="ä" * 40_000)) == ("user", "purpose")


def test_times_are_utc_with_milliseconds() -> None:
    assert sql_time(1_795_000_000.1234) == datetime.fromisoformat("2026-11-18T11:06:40.123")


def test_a_session_shows_its_phase_and_a_deleted_one_its_end() -> None:
    assert session_row(a_session(), "presence").ended_at is None
    done = session_row(a_session(phase=kinds.COMPLETED), "presence")
    assert (done.phase, done.ended_at) == ("Completed", sql_time(NOON + 600))
    lost = session_row(a_session(), "presence", NOON + 50)
    assert (lost.phase, lost.ended_at) == ("Deleted", sql_time(NOON + 50))
    assert session_row(a_session(phase=kinds.COMPLETED), "presence", NOON + 5000) == done


# Any state a database may be in: rows of others, rows and memories of ours that are right, stale, missing or spoilt.

_SESSIONS, _RESOURCES = ("s1", "s2"), ("stack:a", "stack:b")
_PHASES = ("", kinds.PENDING, kinds.ACTIVE, kinds.ACTIVE, kinds.EXPIRED, kinds.RELEASED)


@st.composite
def _claims(draw: st.DrawFn) -> list[Claim]:
    return [
        a_claim(
            draw(st.sampled_from(_RESOURCES)),
            draw(st.sampled_from(_SESSIONS)),
            phase=draw(st.sampled_from(_PHASES)),
            created=NOON + draw(st.integers(0, 2)),
            uid=f"u{number}",
            name=f"c{number}",
            purpose=draw(st.sampled_from(("one", "two"))),
        )
        for number in range(draw(st.integers(0, 5)))
    ]


@given(data=st.data(), past=_claims(), present=_claims())
def test_from_any_state_the_table_becomes_what_the_board_holds_and_the_rows_of_others(
    data: st.DataObject, past: list[Claim], present: list[Claim]
) -> None:
    table, owned = Table(), Owned()
    _apply(difference(past, [], table, owned.values(), board="presence", now=NOON), table, owned)
    foreign = data.draw(st.sets(st.sampled_from([(s, r) for s in _SESSIONS for r in _RESOURCES])))
    for session, resource in foreign:
        table[session, resource] = _foreign(session, resource)
    for key in data.draw(st.sets(st.sampled_from(sorted(table)))) if table else ():
        if key not in foreign:
            del table[key]
    gone = [Gone(claim, NOON + 9) for claim in past if claim.uid not in {each.uid for each in present}]
    told = [each for each in gone if data.draw(st.booleans())]

    changes = difference(present, told, table, list(owned.values()), board="presence", now=NOON + 10)
    _apply(changes, table, owned)

    holders: dict[RowKey, Claim] = {}
    for claim in sorted(present, key=lambda each: (each.created, each.name), reverse=True):
        if claim.status.phase == kinds.ACTIVE:
            holders[row_key(claim)] = claim
    desired = {key: claim_row(claim) for key, claim in holders.items() if key not in foreign}
    assert table == desired | {key: _foreign(*key) for key in foreign}
    assert set(owned) == {claim.uid for claim in present if not claim.status.ended}
    assert {row_key(claim) for claim in changes.foreign} == set(holders) & foreign

    again = difference(present, [], table, list(owned.values()), board="presence", now=NOON + 11)
    assert again.rows == 0
    assert len({event.event_id for event in changes.events}) == len(changes.events)
