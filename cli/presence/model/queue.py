"""Who goes before whom: the order of the claims on one resource, the same for the operator and for every reader.

Claims go in the order of their creation, by the API server's clock in whole seconds; ties by name. Shared claims are
held together; an Exclusive one waits for all that are before it and holds back all that come after it. When the holder
of an Exclusive claim has named a session to go next (`spec.release.to`), that session's claim goes first.
"""

from presence.model.kinds import ACTIVE, ENDED_PHASES, EXCLUSIVE, EXPIRED, ON_EXPIRY_HOLD, RELEASED, SHARED
from presence.model.times import parse_time

TYPE_CHECKING = False  # type checkers read it as true; importing typing would cost the command line 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Object = Mapping[str, Any]

#: Ranks of waiting claims: one whose grant has begun, one that the last holder named, all others.
PROMISED, NAMED, IN_TURN = 0, 1, 2
#: Places up to this one are shown exactly.
_EXACT = 3


def order_key(claim: "Object", to: str = "", until: "float | None" = None) -> "tuple[int, float, str]":
    """What to sort the claims on one resource by.

    `to` and `until` are those of `hand_over`, if there is one.
    """
    created = parse_time(claim["metadata"]["creationTimestamp"])
    return (rank(claim["spec"]["session"], created, to, until), created, claim["metadata"]["name"])


def rank(session: str, created: float, to: str = "", until: "float | None" = None) -> int:
    """NAMED for a claim that a hand-over to session `to`, made at `until`, puts first; else IN_TURN."""
    named = to != "" and session == to and (until is None or created <= until)
    return NAMED if named else IN_TURN


def shown_position(place: int) -> int:
    """The `status.queuePosition` of the claim at this place (1 goes next): never less than the place.

    Exact for the first three; beyond them the next power of four, so that few claims change theirs when one leaves.
    """
    if place <= _EXACT:
        return place
    bound = 4
    while bound < place:
        bound *= 4
    return bound


def mode_of(claim: "Object") -> str:
    """`spec.mode`, Shared when it is absent."""
    mode: str = claim["spec"].get("mode", SHARED)
    return mode


def holds_on(claim: "Object") -> bool:
    """True when `claim` has expired and keeps the resource blocked until it is released or deleted."""
    status = claim.get("status") or {}
    spec = claim["spec"]
    return bool(
        status.get("phase") == EXPIRED
        and status.get("fencingToken")
        and spec.get("mode") == EXCLUSIVE
        and spec.get("onExpiry") == ON_EXPIRY_HOLD
        and not spec.get("released")
        and not claim["metadata"].get("deletionTimestamp")
    )


def is_over(claim: "Object") -> bool:
    """True when `claim` keeps nobody waiting any more: the API shows that it was let go, has ended or is being deleted.

    This never becomes false again. A claim whose deadline has passed is not over before that is written down.
    """
    phase = (claim.get("status") or {}).get("phase")
    return bool(
        claim["spec"].get("released")
        or claim["metadata"].get("deletionTimestamp")
        or (phase in ENDED_PHASES and not holds_on(claim))
    )


def hand_over(claims: "Iterable[Object]") -> "tuple[str, float | None]":
    """The session that the latest Exclusive holder among `claims` named to go next, and when it let go; or ("", None).

    Of that session's claims, those count that were made by then. None: not written down, so all of them do.
    """
    latest: Object | None = None
    greatest = 0
    for claim in claims:
        token = (claim.get("status") or {}).get("fencingToken") or 0
        if token > greatest:
            latest, greatest = claim, token
    if latest is None or not latest["spec"].get("released"):
        return "", None
    status = latest["status"]
    # One that had expired before was released by somebody who came later than its end.
    until = parse_time(status["endedAt"]) if status.get("phase") == RELEASED and status.get("endedAt") else None
    return (latest["spec"].get("release") or {}).get("to", ""), until


def ahead_of(claim: "Object", others: "Iterable[Object]") -> "list[Object]":
    """Those of `others`, claims on the same resource, that `claim` waits for: the holders, then who is before it.

    Empty when it is its turn. `others` may hold `claim` itself, and claims that are over; the latter tell of a
    hand-over. Claims whose time has run out, but that are not over yet, count.
    """
    uid = claim["metadata"].get("uid")
    others = list(others)
    to, until = hand_over(others)
    own = order_key(claim, to, until)
    exclusive = mode_of(claim) == EXCLUSIVE
    holders: list[Object] = []
    before: list[Object] = []
    blocked = False
    for other in sorted(others, key=lambda each: order_key(each, to, until)):
        if is_over(other) or other["metadata"].get("uid") == uid:
            continue
        held = (other.get("status") or {}).get("phase") in (ACTIVE, EXPIRED)
        other_exclusive = mode_of(other) == EXCLUSIVE
        if held:
            holders.append(other)
            blocked = blocked or other_exclusive
        elif order_key(other, to, until) < own:
            before.append(other)
            blocked = blocked or other_exclusive
    # Shared claims stand in nobody's way but an exclusive one's.
    return holders + before if exclusive or blocked else []
