"""Limits: at most so many claims are Active at once, and who goes next when a slot falls free."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presence.model import kinds
from presence.model.times import format_time
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Claim, Session
from presence_operator.core.limits import Limit, Slots
from unit.operator.core.world import START, Operator, World, claim_spec, session_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

THREE = Limit("applies", 3, resource_type="stack", exclusive_only=False)


class Limited(Operator):
    """An operator with limits."""

    limits: tuple[Limit, ...] = ()

    def restart(self) -> None:
        super().restart()
        self.board.set_limits(self.limits)

    def active(self) -> list[str]:
        return sorted(self._in(kinds.ACTIVE))

    def pending(self) -> list[str]:
        return sorted(self._in(kinds.PENDING))

    def _in(self, phase: str) -> list[str]:
        found = [(body["metadata"]["name"], body) for (kind, _), body in self.world.objects.items() if kind is Claim]
        return [name for name, body in found if body.get("status", {}).get("phase") == phase]


def operator_with(world: World, *limits: Limit) -> Limited:
    # Without Leases, which the world does not hold.
    operator = Limited(world, Policy(lease_idle=1e9))
    operator.limits = limits
    operator.board.set_limits(limits)
    return operator


@pytest.fixture
def world() -> World:
    return World()


def claim(
    world: World,
    name: str,
    resource: str = "",
    session: str = "",
    *,
    mode: str = kinds.EXCLUSIVE,
    priority: int = 0,
    ttl: str = "15m",
    **more: object,
) -> None:
    spec = claim_spec(resource or f"stack:{name}", session or name)
    spec |= {"mode": mode, **more} | ({"priority": priority} if priority else {})
    world.create(Claim, name, spec, ttl)


def names(*numbers: int) -> list[str]:
    return [f"c{number}" for number in numbers]


def test_the_fourth_claim_waits_and_says_for_what(world: World) -> None:
    operator = operator_with(world, THREE)
    for name in names(1, 2, 3, 4):
        claim(world, name)
        operator.settle_down()
    assert operator.active() == names(1, 2, 3)
    status = operator.status("c4")
    assert status["phase"] == kinds.PENDING
    assert status["queuePosition"] == 1
    assert [peer["name"] for peer in status["waitingFor"]] == names(1, 2, 3)
    granted = next(item for item in status["conditions"] if item["type"] == "Granted")
    assert (granted["reason"], granted["message"]) == (
        "LimitReached",
        "limit applies: 3 of at most 3 claims are Active",
    )


@pytest.mark.parametrize("how", ["release", "delete", "expiry"])
def test_a_slot_that_falls_free_goes_to_the_next_one(world: World, how: str) -> None:
    operator = operator_with(world, THREE)
    for name in names(1, 2, 3, 4):
        claim(world, name, ttl="60s" if name == "c2" else "15m")
    operator.settle_down()
    assert operator.active() == names(1, 2, 3)
    if how == "release":
        world.change_spec(Claim, "c2", released=True)
    elif how == "delete":
        world.delete(Claim, "c2")
    else:
        operator.live_until(START + 61)
    operator.settle_down()
    assert operator.active() == names(1, 3, 4)


def test_shared_claims_are_counted_where_the_limit_says_so(world: World) -> None:
    operator = operator_with(world, THREE)
    for name in names(1, 2, 3, 4):
        claim(world, name, mode=kinds.SHARED)
    operator.settle_down()
    assert (operator.active(), operator.pending()) == (names(1, 2, 3), names(4))


def test_the_keys_of_presence_once_are_nobodys_work(world: World) -> None:
    operator = operator_with(world, Limit("all", 1, exclusive_only=False))
    for name in names(1, 2, 3):
        claim(world, name, f"once:{name}", mode=kinds.SHARED)
    claim(world, "c4")
    operator.settle_down()
    assert operator.active() == names(1, 2, 3, 4)


def test_shared_claims_are_not_counted_otherwise(world: World) -> None:
    operator = operator_with(world, Limit("applies", 1))
    for name in names(1, 2):
        claim(world, name, mode=kinds.SHARED)
        claim(world, f"x{name}")
    operator.settle_down()
    assert operator.active() == ["c1", "c2", "xc1"]


def test_other_types_and_boards_have_slots_of_their_own(world: World) -> None:
    operator = operator_with(world, Limit("stacks", 1, resource_type="stack"), Limit("else", 1, frozenset({"other"})))
    claim(world, "c1")
    claim(world, "c2")
    claim(world, "n1", "node:n1")
    claim(world, "n2", "node:n2")
    operator.settle_down()
    assert operator.active() == ["c1", "n1", "n2"]


def test_only_sessions_of_the_kind_are_counted(world: World) -> None:
    operator = operator_with(world, Limit("agents", 1, session_kind="Agent"))
    for name, kind in (("c1", "Agent"), ("c2", "Agent"), ("c3", "Pipeline"), ("c4", "Human")):
        world.create(Session, name, session_spec(name, 30) | {"kind": kind}, "15m")
        claim(world, name)
    operator.settle_down()
    assert (operator.active(), operator.pending()) == (names(1, 3, 4), names(2))


def test_a_claim_is_counted_once_its_session_says_what_it_is(world: World) -> None:
    operator = operator_with(world, Limit("agents", 1, session_kind="Agent"))
    for name in names(1, 2):
        claim(world, name)
    operator.settle_down()
    assert operator.active() == names(1, 2)
    for name in names(1, 2, 3):
        world.create(Session, name, session_spec(name, 30) | {"kind": "Agent"}, "15m")
    claim(world, "c3")
    operator.settle_down()
    # What is Active stays so; but the third one waits until both are over.
    assert (operator.active(), operator.pending()) == (names(1, 2), names(3))
    world.change_spec(Claim, "c1", released=True)
    operator.settle_down()
    assert operator.pending() == names(3)
    world.change_spec(Claim, "c2", released=True)
    operator.settle_down()
    assert operator.active() == names(3)


def test_priority_goes_first_and_then_age(world: World) -> None:
    operator = operator_with(world, Limit("one", 1))
    claim(world, "c1")
    operator.settle_down()
    for name, priority in (("c2", 0), ("c3", 5), ("c4", 5), ("c5", -1)):
        world.now += 1
        claim(world, name, priority=priority)
    operator.settle_down()
    order = []
    for _ in range(4):
        (holder,) = operator.active()
        world.change_spec(Claim, holder, released=True)
        operator.settle_down()
        order += operator.active()
    assert order == names(3, 4, 2, 5)


def test_a_priority_that_is_raised_counts_at_once(world: World) -> None:
    operator = operator_with(world, Limit("one", 1))
    for name in names(1, 2, 3):
        claim(world, name)
        world.now += 1
        operator.settle_down()
    world.change_spec(Claim, "c3", priority=10)
    operator.settle_down()
    assert operator.status("c3")["queuePosition"] == 1
    world.change_spec(Claim, "c1", released=True)
    operator.settle_down()
    assert operator.active() == names(3)


def test_a_claim_that_waits_for_its_resource_takes_no_slot(world: World) -> None:
    operator = operator_with(world, Limit("two", 2))
    claim(world, "c1", "stack:same")
    claim(world, "c2", "stack:same")
    claim(world, "c3")
    operator.settle_down()
    assert operator.active() == ["c1", "c3"]


def test_a_dead_holder_keeps_its_resource_blocked_but_no_slot(world: World) -> None:
    operator = operator_with(world, Limit("one", 1))
    claim(world, "c1", ttl="60s", onExpiry=kinds.ON_EXPIRY_HOLD)
    operator.settle_down()
    claim(world, "c2", "stack:c1")
    claim(world, "c3")
    operator.live_until(START + 61)
    operator.settle_down()
    assert (operator.active(), operator.pending()) == (["c3"], ["c2"])


def test_several_claims_of_a_session_share_a_slot_where_the_limit_says_so(world: World) -> None:
    operator = operator_with(world, Limit("two", 2, per_session=True))
    for name, session in (("c1", "ann"), ("c2", "bob"), ("c3", "eve"), ("c4", "ann"), ("c5", "bob")):
        claim(world, name, session=session)
        world.now += 1
        operator.settle_down()
    assert (operator.active(), operator.pending()) == (names(1, 2, 4, 5), names(3))
    world.change_spec(Claim, "c1", released=True)
    operator.settle_down()
    assert operator.pending() == names(3)
    world.change_spec(Claim, "c4", released=True)
    operator.settle_down()
    assert "c3" in operator.active()


def test_an_operator_that_starts_anew_keeps_the_limit(world: World) -> None:
    operator = operator_with(world, THREE)
    for name in names(1, 2, 3, 4, 5):
        claim(world, name)
    operator.settle_down()
    for _ in range(2):
        operator.restart()
        operator.settle_down()
        assert operator.active() == names(1, 2, 3)
    world.annotate(Claim, "c1", kinds.LAPSED_ANNOTATION, format_time(world.now))
    operator.restart()
    operator.settle_down()
    assert operator.active() == names(2, 3, 4)


def test_limits_may_change_while_claims_wait(world: World) -> None:
    operator = operator_with(world, THREE)
    for name in names(1, 2, 3, 4, 5):
        claim(world, name)
        world.now += 1
        operator.settle_down()
    operator.board.set_limits((Limit("more", 4),))
    operator.settle_down()
    assert operator.active() == names(1, 2, 3, 4)
    operator.board.set_limits((Limit("less", 1),))
    world.change_spec(Claim, "c1", released=True)
    operator.settle_down()
    assert operator.active() == names(2, 3, 4)
    operator.board.set_limits(())
    operator.settle_down()
    assert operator.active() == names(2, 3, 4, 5)


def test_a_claim_that_needs_two_slots_is_not_overtaken_for_ever(world: World) -> None:
    operator = operator_with(world, Limit("stacks", 1, resource_type="stack"), Limit("all", 2))
    claim(world, "c1")
    claim(world, "n1", "node:n1")
    operator.settle_down()
    world.now += 1
    claim(world, "c2")
    operator.settle_down()
    world.now += 1
    claim(world, "n2", "node:n2")
    claim(world, "n3", "node:n3")
    operator.settle_down()
    world.change_spec(Claim, "n1", released=True)
    operator.settle_down()
    # A slot of `all` is free, and c2 keeps it until the one of `stacks` is.
    assert operator.active() == names(1)
    world.change_spec(Claim, "c1", released=True)
    operator.settle_down()
    assert operator.active() == ["c2", "n2"]


LIMITS = st.lists(
    st.builds(
        Limit,
        name=st.sampled_from(["a", "b", "c"]),
        max=st.integers(1, 3),
        resource_type=st.sampled_from(["", "stack", "node"]),
        exclusive_only=st.booleans(),
        per_session=st.booleans(),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda limit: limit.name,
)


@settings(max_examples=150, deadline=None)
@given(limits=LIMITS, seed=st.integers(0, 2**32))
def test_no_history_breaks_a_limit_or_leaves_a_slot_unused(limits: Sequence[Limit], seed: int) -> None:
    chance = random.Random(seed)
    world = World()
    operator = operator_with(world, *limits)
    count = 0
    for _ in range(chance.randrange(5, 40)):
        world.now += chance.randrange(2)
        alive = operator.active() + operator.pending()
        if alive and chance.random() < 0.4:
            name = chance.choice(alive)
            if chance.random() < 0.3:
                world.delete(Claim, name)
            else:
                world.change_spec(Claim, name, released=True)
        else:
            count += 1
            kind = chance.choice(["stack", "node"])
            claim(
                world,
                f"c{count}",
                f"{kind}:{chance.randrange(4)}",
                f"s{chance.randrange(4)}",
                mode=chance.choice([kinds.SHARED, kinds.EXCLUSIVE]),
                priority=chance.choice([0, 0, 3]),
            )
        if chance.random() < 0.1:
            operator.restart()
        if chance.random() < 0.7:
            operator.settle_down()
            _within(operator, limits)
    operator.settle_down()
    _within(operator, limits)
    # Whoever waits is served once those before it have gone: nobody is forgotten.
    for _ in range(200):
        active = operator.active()
        if not active:
            break
        world.change_spec(Claim, active[0], released=True)
        operator.settle_down()
    assert (operator.active(), operator.pending()) == ([], [])


def _within(operator: Limited, limits: Sequence[Limit]) -> None:
    specs = [operator.world.objects[Claim, ("board", name)]["spec"] for name in operator.active()]
    for limit in limits:
        counted = [
            spec["session"]
            for spec in specs
            if limit.counts("board", spec["resource"], "", exclusive=spec.get("mode") == kinds.EXCLUSIVE)
        ]
        assert (len(set(counted)) if limit.per_session else len(counted)) <= limit.max


def test_leaving_twice_and_asking_twice_change_nothing() -> None:
    slots = Slots("board")
    limits = (Limit("one", 1),)
    assert slots.ask("a", "s", limits, 0, 1.0)
    assert not slots.ask("a", "s", limits, 0, 1.0)
    assert slots.admit() == ["a"]
    assert slots.leave("a")
    assert not slots.leave("a")
    assert slots.admit() == []
