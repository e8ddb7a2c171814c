"""What the operator does about claims and sessions, scene by scene."""

from __future__ import annotations

import copy

import pytest

from presence.model import kinds
from presence.model.times import format_time
from presence_operator.core.actions import Failed, Verified, VerifySessions, WriteClaimStatus, WriteSessionStatus
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Claim, Session
from presence_operator.core.listing import Listing
from presence_operator.core.status import MirrorNote
from unit.operator.core.world import NAMESPACE, START, Operator, World, claim_spec, parse, seconds, session_spec


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def operator(world: World) -> Operator:
    return Operator(world)


def claim(world: World, name: str, resource: str = "stack:vault", session: str = "ann", ttl: str = "60s") -> None:
    world.create(Claim, name, claim_spec(resource, session), ttl)


def begin(world: World, session: str = "ann", ttl: str = "60s", heartbeat: int = 30) -> None:
    world.create(Session, session, session_spec(session, heartbeat), ttl)


def beat(world: World, session: str = "ann") -> None:
    world.annotate(Session, session, kinds.HEARTBEAT_ANNOTATION, str(world.revision))


def condition(status: dict[str, object], kind: str) -> dict[str, str]:
    conditions = status["conditions"]
    assert isinstance(conditions, list)
    return next((item for item in conditions if item["type"] == kind), {})


def claim_writes(world: World) -> int:
    return sum(isinstance(action, WriteClaimStatus) for action in world.writes)


def test_a_new_claim_is_active_after_one_write_that_tells_of_the_others(world: World, operator: Operator) -> None:
    claim(world, "first", session="ann")
    operator.settle_down()
    world.writes.clear()
    claim(world, "second", session="bob")
    operator.quiesce()
    assert len(world.writes) == 1
    status = operator.status("second")
    assert status["phase"] == kinds.ACTIVE
    assert [peer["session"] for peer in status["conflictsWith"]] == ["ann"]
    assert condition(status, "Granted")["status"] == "True"
    assert condition(status, "Conflicted") | {"lastTransitionTime": ""} == {
        "type": "Conflicted",
        "status": "True",
        "reason": "CoClaimed",
        "message": "also claimed by ann",
        "observedGeneration": 1,
        "lastTransitionTime": "",
    }


def test_others_learn_of_a_newcomer_a_moment_later_and_of_its_end(world: World, operator: Operator) -> None:
    claim(world, "first", session="ann")
    operator.settle_down()
    claim(world, "second", session="bob")
    operator.settle_down()
    assert [peer["session"] for peer in operator.status("first")["conflictsWith"]] == ["bob"]
    world.change_spec(Claim, "second", released=True)
    operator.settle_down()
    assert operator.status("first")["conflictsWith"] == []
    assert condition(operator.status("first"), "Conflicted")["status"] == "False"


def test_two_claims_of_one_session_are_no_conflict(world: World, operator: Operator) -> None:
    claim(world, "first", session="ann")
    claim(world, "second", session="ann")
    operator.settle_down()
    assert operator.status("first")["conflictsWith"] == operator.status("second")["conflictsWith"] == []


def test_a_hundred_on_one_resource_cost_a_few_hundred_writes(world: World, operator: Operator) -> None:
    for number in range(100):
        claim(world, f"claim-{number:03}", session=f"session-{number}", ttl="15m")
        world.now += 0.2
        operator.quiesce()
    operator.settle_down()
    assert claim_writes(world) < 250
    listed = [peer["name"] for peer in operator.status("claim-099")["conflictsWith"]]
    assert listed == [f"claim-{number:03}" for number in range(10)]


def test_a_heartbeat_costs_no_write_until_a_promise_is_at_stake(world: World, operator: Operator) -> None:
    begin(world, ttl="15m")
    for number in range(5):
        claim(world, f"claim-{number}", f"stack:s{number}", ttl="15m")
    operator.settle_down()
    world.writes.clear()
    for _ in range(9):
        operator.live_until(world.now + 30)
        beat(world)
        operator.quiesce()
    assert world.writes == []
    for _ in range(60):
        operator.live_until(world.now + 30)
        beat(world)
        operator.quiesce()
    assert 5 <= len(world.writes) <= 6 * 7


@pytest.mark.parametrize("gap", [1, 7, 29, 40, 55])
def test_a_promise_is_renewed_before_it_passes(world: World, operator: Operator, gap: int) -> None:
    begin(world, ttl="60s")
    claim(world, "claim", ttl="60s")
    operator.quiesce()
    ends = world.now + 400
    next_beat = world.now + gap
    while world.now < ends:
        operator.live_until(min(next_beat, world.now + 0.4))
        if world.now >= next_beat:
            beat(world)
            operator.hear()
            next_beat += gap
        assert seconds(operator.status("claim")["expiresAt"]) > world.now
        assert seconds(operator.session_status("ann")["expiresAt"]) > world.now


def test_a_shorter_ttl_counts_at_once(world: World, operator: Operator) -> None:
    claim(world, "claim", ttl="2h")
    operator.settle_down()
    world.annotate(Claim, "claim", kinds.TTL_ANNOTATION, "60s")
    operator.quiesce()
    assert seconds(operator.status("claim")["expiresAt"]) == START + 60


def test_a_claim_expires_at_its_deadline_and_stays_expired(world: World, operator: Operator) -> None:
    claim(world, "claim", ttl="60s")
    operator.live_until(START + 59.9)
    assert operator.status("claim")["phase"] == kinds.ACTIVE
    operator.live_until(START + 60)
    status = operator.status("claim")
    assert (status["phase"], seconds(status["endedAt"])) == (kinds.EXPIRED, START + 60)
    world.annotate(Claim, "claim", kinds.HEARTBEAT_ANNOTATION, "late")
    operator.settle_down()
    assert operator.status("claim")["phase"] == kinds.EXPIRED
    assert [event.reason for event in operator.events] == ["Claimed", "Expired"]


def test_a_heartbeat_that_the_watch_has_not_told_yet_keeps_the_claim(world: World, operator: Operator) -> None:
    begin(world)
    claim(world, "claim")
    operator.settle_down()
    world.now = START + 50
    beat(world)
    world.now = START + 60
    operator.decide()
    assert any(isinstance(action, VerifySessions) for action in operator.flying)
    while operator.flying:
        operator.act()
        operator.decide()
    assert operator.status("claim")["phase"] == kinds.ACTIVE


def test_a_session_that_the_watch_has_not_told_of_keeps_the_claim(world: World, operator: Operator) -> None:
    claim(world, "claim")
    operator.settle_down()
    world.now = START + 50
    world.create(Session, "ann-ebcc8b0f", session_spec("ann"), "60s")
    operator.hear(0)
    world.now = START + 60
    operator.decide()
    (verify,) = operator.flying
    assert isinstance(verify, VerifySessions)
    session = world.objects.pop((Session, (NAMESPACE, "ann-ebcc8b0f")))
    world.objects[Session, (NAMESPACE, verify.names[0])] = session
    session["metadata"]["name"] = verify.names[0]
    while operator.flying:
        operator.act()
        operator.decide()
    assert operator.status("claim")["phase"] == kinds.ACTIVE


def test_deleting_a_session_takes_back_no_heartbeat(world: World, operator: Operator) -> None:
    begin(world)
    claim(world, "claim")
    operator.settle_down()
    operator.live_until(START + 40)
    beat(world)
    operator.quiesce()
    world.delete(Session, "ann")
    operator.live_until(START + 99)
    assert operator.status("claim")["phase"] == kinds.ACTIVE
    operator.live_until(START + 100)
    assert operator.status("claim")["phase"] == kinds.EXPIRED


def test_a_lapsed_claim_expires_at_the_deadline_that_its_holder_missed(world: World, operator: Operator) -> None:
    claim(world, "claim")
    operator.settle_down()
    world.now = START + 200
    world.annotate(Claim, "claim", kinds.LAPSED_ANNOTATION, format_time(START + 60))
    world.annotate(Claim, "claim", kinds.HEARTBEAT_ANNOTATION, "late")
    operator.restart()
    operator.settle_down()
    status = operator.status("claim")
    assert (status["phase"], seconds(status["endedAt"])) == (kinds.EXPIRED, START + 60)


def test_a_lapsed_claim_never_ended_before_it_was_promised_to(world: World, operator: Operator) -> None:
    claim(world, "claim")
    operator.settle_down()
    # The holder's clock is half a second ahead of the operator's.
    world.now = START + 59.5
    world.annotate(Claim, "claim", kinds.LAPSED_ANNOTATION, format_time(START + 60))
    operator.settle_down()
    status = operator.status("claim")
    assert (status["phase"], seconds(status["endedAt"])) == (kinds.EXPIRED, START + 60)


def test_a_completed_session_releases_its_claims(world: World, operator: Operator) -> None:
    begin(world)
    claim(world, "claim")
    operator.settle_down()
    world.change_spec(Session, "ann", state=kinds.COMPLETED)
    operator.settle_down()
    assert operator.session_status("ann")["phase"] == kinds.COMPLETED
    status = operator.status("claim")
    assert status["phase"] == kinds.RELEASED
    assert condition(status, "Granted")["reason"] == "SessionCompleted"
    assert [event.reason for event in operator.events] == ["Claimed", "Released"]


def test_a_session_is_stale_after_three_missed_beats_and_active_again_on_a_beat(
    world: World, operator: Operator
) -> None:
    begin(world, ttl="15m", heartbeat=10)
    operator.live_until(START + 29.9)
    assert operator.session_status("ann")["phase"] == kinds.ACTIVE
    operator.live_until(START + 30)
    assert operator.session_status("ann")["phase"] == kinds.STALE
    beat(world)
    operator.quiesce()
    assert operator.session_status("ann")["phase"] == kinds.ACTIVE
    assert condition(operator.session_status("ann"), "Alive")["status"] == "True"


def test_a_silent_session_expires_for_good(world: World, operator: Operator) -> None:
    begin(world, ttl="60s")
    operator.live_until(START + 60)
    assert operator.session_status("ann")["phase"] == kinds.EXPIRED
    beat(world)
    operator.settle_down()
    assert operator.session_status("ann")["phase"] == kinds.EXPIRED


def test_a_paused_session_is_never_stale_but_expires(world: World, operator: Operator) -> None:
    begin(world, ttl="100s", heartbeat=10)
    world.change_spec(Session, "ann", state=kinds.PAUSED)
    operator.live_until(START + 99)
    assert operator.session_status("ann")["phase"] == kinds.PAUSED
    operator.live_until(START + 100)
    assert operator.session_status("ann")["phase"] == kinds.EXPIRED


def test_the_number_of_claims_is_written_once_for_many(world: World, operator: Operator) -> None:
    begin(world, ttl="15m")
    operator.settle_down()
    world.writes.clear()
    for number in range(20):
        claim(world, f"claim-{number}", f"stack:s{number}", ttl="15m")
        operator.live_until(world.now + 0.2)
    operator.settle_down()
    assert operator.session_status("ann")["activeClaims"] == 20
    assert sum(isinstance(action, WriteSessionStatus) for action in world.writes) <= 2


def test_ended_objects_go_after_the_retention_and_a_session_after_its_claims(world: World) -> None:
    operator = Operator(world, Policy(retention=100))
    begin(world, ttl="10s")
    claim(world, "claim", ttl="60s")
    operator.live_until(START + 159)
    assert operator.status("claim")["phase"] == kinds.EXPIRED
    assert operator.session_status("ann")["phase"] == kinds.EXPIRED
    operator.live_until(START + 161)
    assert world.objects == {}


def test_an_ended_claim_stays_until_it_is_in_the_mirror(world: World) -> None:
    operator = Operator(world, Policy(retention=100, mirror_board=NAMESPACE))
    claim(world, "claim", ttl="60s")
    operator.live_until(START + 1000)
    uid = world.objects[Claim, (NAMESPACE, "claim")]["metadata"]["uid"]
    key = (NAMESPACE, "claim")
    operator.board.mirror_says(key, uid, MirrorNote("MirrorUnavailable", "Expired", "no answer"), operator.now)
    operator.live_until(START + 1100)
    assert condition(operator.status("claim"), "Mirrored")["reason"] == "MirrorUnavailable"
    operator.board.mirror_says(key, uid, MirrorNote("Mirrored", "Expired"), operator.now)
    operator.live_until(START + 1200)
    assert world.objects == {}


def test_a_new_operator_does_nothing_again(world: World, operator: Operator) -> None:
    begin(world)
    claim(world, "claim", session="ann", ttl="15m")
    claim(world, "other", session="bob", ttl="15m")
    claim(world, "released", "db:main", "cyd", ttl="15m")
    world.change_spec(Claim, "released", released=True)
    operator.settle_down()
    told = [(event.target.uid, event.reason) for event in operator.events]
    writes = len(world.writes)
    operator.restart()
    operator.settle_down()
    assert len(world.writes) == writes
    assert [(event.target.uid, event.reason) for event in operator.events] == told


def test_old_claims_are_no_news_to_a_new_operator(world: World) -> None:
    claim(world, "claim", ttl="15m")
    world.now += 61
    operator = Operator(world)
    operator.settle_down()
    assert operator.status("claim")["phase"] == kinds.ACTIVE
    assert operator.events == []


def test_a_ttl_that_is_no_duration_is_told_once(world: World, operator: Operator) -> None:
    claim(world, "claim", ttl="soon")
    operator.settle_down()
    assert [event.reason for event in operator.events] == ["Claimed", "InvalidTTL"]
    assert "write for example 90s" in condition(operator.status("claim"), "Granted")["message"]
    operator.restart()
    operator.settle_down()
    assert len(operator.events) == 2
    world.annotate(Claim, "claim", kinds.TTL_ANNOTATION, "15m")
    operator.settle_down()
    assert condition(operator.status("claim"), "Granted")["message"] == ""


def test_failed_writes_are_tried_again_after_the_pause_that_the_shell_gives(world: World, operator: Operator) -> None:
    claim(world, "claim")
    operator.hear()
    operator.decide()
    (first,) = operator.flying
    operator.board.settle(first, Failed(3.0), operator.now)
    operator.flying.clear()
    operator.decide()
    assert operator.flying == []
    assert operator.board.next_wake() == operator.now + 3.0
    world.now += 3.0
    operator.decide()
    (second,) = operator.flying
    assert isinstance(second, WriteClaimStatus)
    assert second.attempt == 1


def test_the_most_urgent_goes_first(world: World, operator: Operator) -> None:
    for number in range(10):
        claim(world, f"claim-{number}", f"stack:s{number}", ttl="60s")
    operator.quiesce()
    for number in range(10):
        world.annotate(Claim, f"claim-{number}", kinds.HEARTBEAT_ANNOTATION, "1")
    world.now += 25
    for number in range(10):
        world.annotate(Claim, f"claim-{number}", kinds.HEARTBEAT_ANNOTATION, "2")
    claim(world, "new", "stack:new")
    operator.hear()
    operator.decide(limit=1)
    (action,) = operator.flying
    assert isinstance(action, WriteClaimStatus)
    assert action.claim.name == "new"


def test_an_event_that_is_older_than_a_list_brings_nothing_back(world: World, operator: Operator) -> None:
    claim(world, "claim")
    world.delete(Claim, "claim")
    operator.resync()
    operator.hear(1)
    assert operator.board.snapshot() == ([], [])


def test_a_list_that_is_older_than_events_takes_nothing_back(world: World, operator: Operator) -> None:
    claim(world, "kept")
    claim(world, "deleted")
    bodies = [dict(body) for body in world.claims()]
    listing = Listing(operator.board, Claim, None, str(world.revision))
    claim(world, "new")
    world.delete(Claim, "deleted")
    world.annotate(Claim, "kept", kinds.TTL_ANNOTATION, "15m")
    operator.hear()
    listing.put([parse(Claim, body) for body in bodies])
    listing.finish()
    claims, _ = operator.board.snapshot()
    assert {(fact.name, fact.ttl) for fact in claims} == {("kept", 900.0), ("new", 60.0)}


def test_a_list_finds_what_the_watch_has_missed(world: World, operator: Operator) -> None:
    claim(world, "deleted")
    begin(world, "ann")
    operator.settle_down()
    world.delete(Claim, "deleted")
    world.delete(Session, "ann")
    claim(world, "new", session="bob")
    world.watch.clear()
    operator.resync()
    claims, sessions = operator.board.snapshot()
    assert [fact.name for fact in claims] == ["new"]
    assert sessions == []


def test_a_server_restored_from_a_backup_is_believed(world: World, operator: Operator) -> None:
    claim(world, "old")
    claim(world, "lost")
    operator.settle_down()
    world.delete(Claim, "lost")
    world.watch.clear()
    world.revision = 50
    world.annotate(Claim, "old", kinds.TTL_ANNOTATION, "15m")
    world.watch.clear()
    operator.resync()
    claims, _ = operator.board.snapshot()
    assert [(fact.name, fact.ttl) for fact in claims] == [("old", 900.0)]


def test_a_claim_that_takes_the_name_of_an_ended_one_is_a_new_claim(world: World, operator: Operator) -> None:
    claim(world, "claim")
    operator.live_until(START + 60)
    world.delete(Claim, "claim")
    claim(world, "claim")
    operator.settle_down()
    status = operator.status("claim")
    assert (status["phase"], seconds(status["grantedAt"])) == (kinds.ACTIVE, START + 60)
    assert "endedAt" not in status


def test_a_session_that_was_begun_anew_does_not_lose_its_claims_to_the_completed_one(
    world: World, operator: Operator
) -> None:
    begin(world, ttl="15m")
    world.change_spec(Session, "ann", state=kinds.COMPLETED)
    operator.settle_down()
    world.delete(Session, "ann")
    begin(world, ttl="15m")
    claim(world, "claim", ttl="15m")
    # The two kinds are watched apart: the claim may be told of before the sessions are.
    world.watch.sort(key=lambda event: event[0] is Session)
    operator.hear(1)
    sessions, world.watch[:] = world.watch[:], []
    for _ in range(3):
        operator.decide()
        while operator.flying:
            operator.act()
        world.now += 1
    world.watch[:] = sessions
    operator.settle_down()
    assert operator.status("claim")["phase"] == kinds.ACTIVE


def test_a_completed_session_takes_no_claim_of_a_newer_one_with_the_same_id(world: World, operator: Operator) -> None:
    world.create(Session, "before", session_spec("ann"), "15m")
    operator.settle_down()
    begin(world, ttl="15m")
    claim(world, "claim", ttl="15m")
    world.change_spec(Session, "before", state=kinds.COMPLETED)
    operator.settle_down()
    assert operator.status("claim")["phase"] == kinds.ACTIVE
    world.change_spec(Session, "ann", state=kinds.COMPLETED)
    operator.settle_down()
    assert operator.status("claim")["phase"] == kinds.RELEASED


def test_what_a_backup_brings_back_is_seen_again(world: World, operator: Operator) -> None:
    claim(world, "claim", ttl="15m")
    begin(world, ttl="15m")
    operator.settle_down()
    backup = copy.deepcopy((world.objects, world.revision))
    world.delete(Claim, "claim")
    world.delete(Session, "ann")
    operator.settle_down()
    operator.resync()
    world.objects, world.revision = backup
    operator.resync()
    claims, sessions = operator.board.snapshot()
    assert ([fact.name for fact in claims], [fact.name for fact in sessions]) == (["claim"], ["ann"])


def test_a_session_that_is_there_but_not_understood_is_not_taken_for_gone(world: World, operator: Operator) -> None:
    begin(world)
    claim(world, "claim")
    operator.settle_down()
    world.now = START + 60
    operator.decide()
    verification = next(action for action in operator.flying if isinstance(action, VerifySessions))
    operator.board.settle(verification, Verified(operator.now, (), frozenset({"ann"})), operator.now)
    _, sessions = operator.board.snapshot()
    assert [fact.name for fact in sessions] == ["ann"]


def test_a_crowd_that_loses_its_oldest_delays_neither_grants_nor_ends(world: World, operator: Operator) -> None:
    for number in range(40):
        claim(world, f"claim-{number:02}", session=f"s-{number:02}", ttl="15m")
    claim(world, "silent", resource="db:main")
    operator.settle_down()
    world.change_spec(Claim, "claim-00", released=True)
    operator.live_until(world.now + 0.5)
    world.now = START + 61
    claim(world, "new", resource="node:one")
    operator.hear()
    actions = operator.board.decide(operator.now, 5)
    grant, verification = actions[0], actions[-1]
    assert isinstance(grant, WriteClaimStatus)
    assert grant.claim.name == "new"
    assert isinstance(verification, VerifySessions)
    operator.board.settle(verification, world.perform(verification, operator.now), operator.now)
    end, *rest = operator.board.decide(operator.now, 5)
    assert isinstance(end, WriteClaimStatus)
    assert end.claim.name == "silent"
    assert all(isinstance(action, WriteClaimStatus) and action.claim.resource == "stack:vault" for action in rest)
    assert len(rest) == 4


def test_a_clock_that_is_set_forward_ends_nothing(world: World, operator: Operator) -> None:
    begin(world, ttl="60s")
    claim(world, "claim", ttl="60s")
    operator.live_until(START + 20)
    operator.board.shift = lambda stamp: stamp + 3600 if stamp <= START + 20 else stamp
    world.now += 3600
    world.must_live_until = {uid: until + 3600 for uid, until in world.must_live_until.items()}
    operator.quiesce()
    assert operator.status("claim")["phase"] == kinds.ACTIVE
    assert seconds(operator.status("claim")["expiresAt"]) == START + 3660
    assert seconds(operator.session_status("ann")["expiresAt"]) == START + 3660
    operator.live_until(START + 3660)
    assert operator.status("claim")["phase"] == kinds.EXPIRED
    assert operator.session_status("ann")["phase"] == kinds.EXPIRED


def test_a_reading_of_a_time_to_come_does_not_count_after_the_clock_was_set_back(
    world: World, operator: Operator
) -> None:
    begin(world, ttl="15m")
    claim(world, "early")
    operator.live_until(START + 60)
    assert operator.status("early")["phase"] == kinds.EXPIRED
    world.now = START + 30
    claim(world, "late", resource="db:main", ttl="10s")
    operator.quiesce()
    world.now = START + 35
    beat(world)
    world.watch.clear()
    world.now = START + 41
    operator.quiesce()
    assert operator.status("late")["phase"] == kinds.ACTIVE


def test_after_the_clock_was_set_back_everything_is_looked_at_in_time(world: World, operator: Operator) -> None:
    claim(world, "early", ttl="15m")
    operator.live_until(START + 700)
    operator.board.shift = lambda stamp: stamp + 3600
    world.now += 3600
    operator.quiesce()
    operator.board.shift = lambda stamp: stamp
    world.now -= 3600
    operator.live_until(START + 720)
    assert seconds(operator.status("early")["expiresAt"]) == START + 900
