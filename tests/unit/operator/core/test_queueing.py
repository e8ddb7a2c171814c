"""The queue for one resource: who is admitted, who waits at which place, and how little changes at each grant."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from presence.model import kinds
from presence.model.queue import shown_position
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Claim, Release
from presence_operator.core.queueing import ResourceQueue
from support.facts import NOON, a_claim
from unit.operator.core.rivals import Rival, Store, settle
from unit.operator.core.world import claim_spec

KEY = ("presence", "stack:vault")


def waiter(number: int, mode: str = kinds.EXCLUSIVE) -> Claim:
    name = f"c{number:05}"
    return a_claim(session=f"{name}@host", name=name, created=NOON + number, phase=kinds.PENDING, mode=mode)


def over(claim: Claim) -> Claim:
    return replace(claim, released=True)


def queue_of(*claims: Claim) -> ResourceQueue:
    queue = ResourceQueue(KEY)
    for claim in claims:
        queue.take(claim)
    return queue


def test_shared_claims_are_admitted_together_up_to_the_first_exclusive_one() -> None:
    a, b, x, c = (waiter(1, kinds.SHARED), waiter(2, kinds.SHARED), waiter(3), waiter(4, kinds.SHARED))
    queue = queue_of(c, x, b, a)

    assert queue.admit() == [a.name, b.name]
    queue.take(over(a))
    assert queue.admit() == []
    queue.take(over(b))
    assert queue.admit() == [x.name]
    queue.take(over(x))
    assert queue.admit() == [c.name]


def test_what_was_admitted_stays_so_when_somebody_older_turns_up() -> None:
    younger, older = waiter(2), waiter(1)
    queue = queue_of(younger)
    assert queue.admit() == [younger.name]

    queue.take(older)

    assert queue.admit() == []
    assert queue.admitted(younger.name)
    assert queue.place(older.name) == 1


def test_an_expired_claim_that_holds_on_blocks_until_it_is_released() -> None:
    held = a_claim(name="held", phase=kinds.EXPIRED, mode=kinds.EXCLUSIVE, on_expiry=kinds.ON_EXPIRY_HOLD)
    held = replace(held, status=replace(held.status, fencing_token=7))
    queue = queue_of(held, waiter(1), waiter(2, kinds.SHARED))

    assert queue.admit() == []
    queue.take(over(held))
    assert queue.admit() == ["c00001"]


def test_a_hand_over_lasts_until_the_next_grant() -> None:
    giver = replace(waiter(0), status=replace(waiter(0).status, phase=kinds.ACTIVE, fencing_token=5))
    queue = queue_of(giver, waiter(1), waiter(2), waiter(3))
    queue.take(replace(over(giver), release=Release(to="c00003@host")))
    assert queue.admit() == ["c00003"]

    heir = replace(waiter(3), status=replace(waiter(3).status, phase=kinds.ACTIVE, fencing_token=6))
    queue.take(heir)
    queue.take(over(heir))

    assert queue.admit() == ["c00001"]


def test_a_claim_whose_grant_has_begun_goes_before_all_others() -> None:
    queue = queue_of(waiter(1), waiter(2), waiter(3))
    assert queue.admit() == ["c00001"]

    queue.promise("c00003")
    queue.step_back("c00001")

    assert queue.admit() == ["c00003"]
    assert [queue.place(name) for name in ("c00001", "c00002")] == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["come", "go", "admit"])), max_size=80))
def test_whoever_shows_another_place_is_named_for_being_shown_anew(steps: list[tuple[int, str]]) -> None:
    queue = ResourceQueue(KEY)
    shown: dict[str, int] = {}
    for number, step in steps:
        claim = waiter(number)
        if step == "come" and not queue.admitted(claim.name):
            queue.take(claim)
        elif step == "go":
            queue.take(over(claim))
        else:
            queue.admit()
        waiting = [
            name for name in (waiter(each).name for each in range(41)) if name in queue and not queue.admitted(name)
        ]
        stale = set(queue.refreshed())
        now = {name: shown_position(queue.place(name)) for name in waiting}
        assert {name for name in waiting if name in shown and shown[name] != now[name]} <= stale
        shown = now


def test_a_grant_before_ten_thousand_waiters_changes_a_dozen_of_them() -> None:
    claims = [waiter(number) for number in range(10_000)]
    queue = queue_of(*claims)
    queue.admit()
    queue.refreshed()

    changed = 0
    for number in range(100):
        queue.take(over(claims[number]))
        assert queue.admit() == [claims[number + 1].name]
        changed += len(queue.refreshed())

    assert changed <= 100 * 12


def test_a_grant_costs_the_same_few_writes_whatever_waits_behind() -> None:
    costs = {}
    for waiters in (20, 200):
        store = Store()
        rival = Rival(store, Policy(retention=300.0))
        for number in range(waiters):
            store.create(
                Claim, f"c{number:04}", {**claim_spec("stack:vault", f"s{number}"), "mode": kinds.EXCLUSIVE}, "15m"
            )
            store.now += 0.1
        settle(store, [rival])
        before = len(store.writes)
        for number in range(8):
            store.change_spec(Claim, f"c{number:04}", released=True)
            settle(store, [rival])
        costs[waiters] = (len(store.writes) - before) / 8

    assert costs[200] <= costs[20] + 2
