"""Who goes before whom, as every reader computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence.model import kinds
from presence.model.queue import ahead_of, hand_over, holds_on, is_over, order_key, shown_position
from presence.model.times import format_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Body = dict[str, Any]
NOON = 1_795_000_000.0


def claim(name: str, mode: str = kinds.EXCLUSIVE, at: float = 0, phase: str = kinds.PENDING, **spec: Any) -> Body:
    status: Body = {"phase": phase} if phase else {}
    for field in ("fencingToken", "endedAt"):
        if field in spec:
            status[field] = spec.pop(field)
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": format_time(NOON + at)},
        "spec": {"session": f"{name}@host", "mode": mode, **spec},
        "status": status,
    }


def names(claims: Iterable[Mapping[str, Any]]) -> list[str]:
    return [each["metadata"]["name"] for each in claims]


def test_claims_go_in_the_order_of_their_creation_and_then_of_their_names() -> None:
    claims = [claim("c", at=0), claim("a", at=2), claim("b", at=0)]

    assert names(sorted(claims, key=order_key)) == ["b", "c", "a"]


def test_an_exclusive_claim_waits_for_the_holders_and_for_all_before_it() -> None:
    others = [
        claim("holder", kinds.SHARED, 5, kinds.ACTIVE),
        claim("first", at=0),
        claim("second", kinds.SHARED, 1),
        claim("later", at=9),
    ]

    assert names(ahead_of(claim("me", at=3), others)) == ["holder", "first", "second"]


def test_shared_claims_do_not_wait_for_each_other() -> None:
    others = [claim("holder", kinds.SHARED, 0, kinds.ACTIVE), claim("new", kinds.SHARED, 1, "")]

    assert ahead_of(claim("me", kinds.SHARED, 2), others) == []


def test_a_shared_claim_waits_behind_an_exclusive_one_that_waits() -> None:
    others = [claim("holder", kinds.SHARED, 0, kinds.ACTIVE), claim("writer", at=1)]

    assert names(ahead_of(claim("me", kinds.SHARED, 2), others)) == ["holder", "writer"]
    assert ahead_of(claim("me", kinds.SHARED, 0), others) == []


def test_what_is_over_is_not_waited_for() -> None:
    released = claim("released", phase=kinds.ACTIVE, released=True)
    ended = claim("ended", phase=kinds.RELEASED)
    expired = claim("expired", phase=kinds.EXPIRED, fencingToken=7)

    assert ahead_of(claim("me", at=3), [released, ended, expired]) == []


def test_an_expired_claim_that_holds_on_is_waited_for_until_it_is_released() -> None:
    held = claim("held", phase=kinds.EXPIRED, fencingToken=7, onExpiry=kinds.ON_EXPIRY_HOLD)

    assert names(ahead_of(claim("me", kinds.SHARED, at=3), [held])) == ["held"]
    held["spec"]["released"] = True
    assert ahead_of(claim("me", kinds.SHARED, at=3), [held]) == []


def test_a_waiter_that_expired_never_held_and_so_holds_nothing_up() -> None:
    assert not holds_on(claim("waited", phase=kinds.EXPIRED, onExpiry=kinds.ON_EXPIRY_HOLD))
    assert is_over(claim("waited", phase=kinds.EXPIRED, onExpiry=kinds.ON_EXPIRY_HOLD))


def test_a_hand_over_puts_the_named_session_first() -> None:
    giver = claim("giver", phase=kinds.ACTIVE, fencingToken=9, released=True, release={"to": "late@host"})
    older = claim("older", phase=kinds.RELEASED, fencingToken=8, released=True, release={"to": "first@host"})
    first, late = claim("first", at=1), claim("late", at=5)

    assert hand_over([older, giver]) == ("late@host", None)
    assert ahead_of(late, [giver, older, first, late]) == []
    assert names(ahead_of(first, [giver, older, first, late])) == ["late"]


def test_a_hand_over_is_used_up_by_the_next_grant() -> None:
    giver = claim("giver", phase=kinds.RELEASED, fencingToken=9, released=True, release={"to": "late@host"})
    heir = claim("heir", phase=kinds.ACTIVE, fencingToken=10)

    assert hand_over([giver, heir]) == ("", None)


def test_a_claim_made_after_the_hand_over_has_no_part_in_it() -> None:
    giver = claim(
        "giver",
        phase=kinds.RELEASED,
        fencingToken=9,
        endedAt=format_time(NOON + 4),
        released=True,
        release={"to": "late@host"},
    )
    first, late = claim("first", at=1), claim("late", at=5)

    assert names(ahead_of(late, [giver, first])) == ["first"]


@pytest.mark.parametrize(
    ("place", "shown"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 16), (16, 16), (17, 64), (64, 64), (10_000, 16_384)]
)
def test_places_are_exact_for_the_first_three_and_rounded_up_beyond(place: int, shown: int) -> None:
    assert shown_position(place) == shown


@given(st.integers(1, 10**9))
def test_a_shown_position_is_never_too_good(place: int) -> None:
    assert place <= shown_position(place) < 4 * place
