from __future__ import annotations

from dataclasses import replace

from presence.model import kinds
from presence_operator.mirror.backlog import Backlog
from presence_operator.mirror.projection import row_key
from support.facts import NOON, a_claim, a_session, ended, renewed


def test_a_claim_that_changes_a_thousand_times_waits_once_with_its_oldest_change() -> None:
    backlog, claim = Backlog(), a_claim()
    for number in range(1000):
        backlog.offer(renewed(claim, NOON + number), since=float(number), seen=NOON)
    assert (len(backlog), backlog.oldest) == (1, 0.0)
    batch, since = backlog.take(500, NOON)
    assert batch.claims == (renewed(claim, NOON + 999),)
    assert list(since.values()) == [0.0]


def test_a_heartbeat_alone_is_nothing_to_write() -> None:
    backlog, claim = Backlog(), a_claim()
    assert backlog.offer(claim, 0, NOON)
    batch, _ = backlog.take(500, NOON)
    backlog.written(batch)
    assert not backlog.offer(replace(claim, alive=NOON + 30, resource_version="2"), 1, NOON)
    assert len(backlog) == 0


def test_what_is_on_its_way_still_counts_as_unwritten() -> None:
    backlog = Backlog()
    backlog.offer(a_claim(), 3.0, NOON)
    batch, _ = backlog.take(500, NOON)
    assert (len(backlog), backlog.oldest) == (1, 3.0)
    backlog.written(batch)
    assert (len(backlog), backlog.oldest) == (0, None)


def test_a_batch_that_failed_waits_again_with_its_age() -> None:
    backlog, claim = Backlog(), a_claim()
    backlog.offer(claim, 1.0, NOON)
    batch, since = backlog.take(500, NOON)
    backlog.offer(ended(claim), 9.0, NOON)
    backlog.put_back(batch, since)
    assert backlog.oldest == 1.0
    assert backlog.take(500, NOON)[0].claims == (ended(claim),)


def test_changes_go_before_comparisons() -> None:
    backlog = Backlog()
    for number in range(5):
        backlog.offer(a_claim(f"stack:s{number}"), 0, NOON)
    batch, _ = backlog.take(500, NOON)
    backlog.written(batch)
    backlog.verify_all([("gone-session", "stack:gone")])
    changed = ended(a_claim("stack:s3"))
    backlog.offer(changed, 1, NOON)
    first, since = backlog.take(2, NOON)
    assert first.keys[0] == row_key(changed)
    assert list(since) == [row_key(changed)]
    rest, _ = backlog.take(500, NOON)
    assert len(first.keys) + len(rest.keys) == 6
    assert ("gone-session", "stack:gone") in rest.keys


def test_an_object_made_anew_under_the_same_name_ends_the_one_before() -> None:
    backlog, old = Backlog(), a_claim(uid="old")
    backlog.offer(old, 0, NOON)
    backlog.offer(a_claim(uid="new"), 1, NOON + 5)
    batch, _ = backlog.take(500, NOON)
    assert [gone.claim.uid for gone in batch.gone] == ["old"]
    assert [claim.uid for claim in batch.claims] == ["new"]


def test_a_late_word_of_a_deletion_does_not_remove_the_successor() -> None:
    backlog = Backlog()
    backlog.offer(a_claim(uid="new"), 0, NOON)
    backlog.gone(a_claim(uid="old"), 1, NOON)
    assert [claim.uid for claim in backlog.claims.values()] == ["new"]


def test_the_memory_of_claims_that_came_and_went_is_bounded() -> None:
    backlog = Backlog(gone_limit=10)
    for number in range(25):
        claim = a_claim(f"stack:s{number}")
        backlog.offer(claim, 0, NOON)
        backlog.gone(claim, 0, NOON)
    batch, _ = backlog.take(500, NOON)
    assert [gone.claim.resource for gone in batch.gone] == [f"stack:s{number}" for number in range(15, 25)]
    assert backlog.forgotten == 15
    backlog.written(batch)
    assert backlog.take(500, NOON)[0].gone == ()


def test_adopting_the_board_finds_what_was_not_told() -> None:
    backlog, lost, stays = Backlog(), a_claim("stack:lost"), a_claim("stack:stays")
    for claim in (lost, stays):
        backlog.offer(claim, 0, NOON)
    batch, _ = backlog.take(500, NOON)
    backlog.written(batch)
    added = a_claim("stack:added")
    backlog.adopt([stays, added], [], 1, NOON)
    batch, _ = backlog.take(500, NOON)
    assert ([gone.claim for gone in batch.gone], batch.claims) == ([lost], (added,))


def test_the_collection_of_a_session_that_ended_long_ago_is_nothing_to_write() -> None:
    backlog, over = Backlog(), a_session(phase=kinds.COMPLETED)
    backlog.offer_session(over, 0, NOON)
    batch, _ = backlog.take_sessions(500)
    backlog.written_sessions(batch)
    backlog.gone_session(over, 1, NOON)
    assert len(backlog) == 0


def test_a_session_deleted_while_it_lived_is_written_with_its_end() -> None:
    backlog, session = Backlog(), a_session()
    backlog.offer_session(session, 0, NOON)
    backlog.gone_session(session, 1, NOON + 5)
    batch, since = backlog.take_sessions(500)
    assert (batch.sessions, batch.gone) == ((), ((session, NOON + 5),))
    backlog.put_back_sessions(batch, since)
    batch, _ = backlog.take_sessions(500)
    assert batch.gone == ((session, NOON + 5),)
    backlog.written_sessions(batch)
    assert len(backlog) == 0


def test_half_a_batch_holds_exactly_its_own_keys() -> None:
    backlog = Backlog()
    for number in range(7):
        backlog.offer(a_claim(f"stack:s{number}"), 0, NOON)
    batch, _ = backlog.take(500, NOON)
    left, right = batch.halves()
    assert (len(left.keys), len(right.keys)) == (3, 4)
    assert {*left.claims, *right.claims} == set(batch.claims)
    assert {row_key(claim) for claim in left.claims} == set(left.keys)
