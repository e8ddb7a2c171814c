"""The rules: what follows from the facts of one claim or session at one moment.

Each rule is one return; their order is the policy. Nothing here remembers anything: what was decided before is read
from the status, so an operator that starts anew decides nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from presence.model import kinds
from presence_operator.core import status as statuses
from presence_operator.core.actions import (
    DeleteObject,
    GrantExclusive,
    Priority,
    WriteClaimStatus,
    WriteSessionStatus,
)
from presence_operator.core.queueing import FRONT
from presence_operator.core.schedule import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from presence_operator.core.facts import Claim, Peer, Session


@dataclass(frozen=True, slots=True)
class Policy:
    """How the operator was configured, in seconds."""

    retention: float = 3600.0
    """Ended objects stay visible for this long."""
    coalesce: float = 1.0
    """Changes of others' claims are shown together, this long after the first."""
    count_coalesce: float = 5.0
    """A session's number of claims is brought up to date this long after it changed."""
    mirror_coalesce: float = 5.0
    """The condition Mirrored is brought up to date this long after it changed."""
    lease_idle: float = 10.0
    """The Lease of a resource that nobody holds or waits for any more is blanked this long after."""
    mirror_board: str | None = None
    """The namespace whose claims are mirrored; None when there is no mirror."""


def as_stamped(stamp: float) -> float:
    """A time when no clock was ever set: see `ServerClock.shift`."""
    return stamp


class Decision(NamedTuple):
    """What to do now, and when to look again at the latest if nothing changes before."""

    action: WriteClaimStatus | GrantExclusive | WriteSessionStatus | DeleteObject | None = None
    look_at: float = NEVER
    priority: Priority = Priority.NORMAL
    verify: bool = False
    """True when the claim's session has to be read again before anything can be decided."""


class Turn(NamedTuple):
    """Where a claim stands in the queue for its resource."""

    admitted: bool = True
    """True when it holds the resource or its turn has come."""
    position: int = 0
    """The place to be shown of one that waits; 1 goes next."""
    ahead: tuple[Peer, ...] = ()
    """Whom it waits for."""
    holders: int = 0
    """How many hold the resource."""
    contested: bool = False
    """True when Exclusive claims on the resource exist, ended or not."""
    overlap: bool = False
    """True when an Exclusive claim is among those that hold the resource."""
    limit: str = ""
    """The limit that keeps it waiting though it is its turn, in words; `ahead` then are those that have the slots."""


class Circumstances(NamedTuple):
    """What bears on a claim besides its own facts."""

    deadline: float
    """When it ends unless it is renewed: its own or its session's latest sign of life, plus its ttl."""
    completed: bool
    """True when its session has completed."""
    verified: float
    """The session was read again, linearizably, by a request that began at this time."""
    turn: Turn
    """Its place in the queue."""
    peers: Callable[[Claim], tuple[Peer, ...]]
    """The others that hold the resource."""
    show_peers: bool
    """True when a change of the others has waited long enough to be shown."""
    mirror: statuses.MirrorNote | None
    """How far the mirror is with it; None when it has not said."""
    mirror_due: float
    """When the condition Mirrored may be written on its own."""
    shift: Callable[[float], float] = as_stamped
    """What a stamp would be had the server's clock always been as it is now."""


def margin(ttl: float) -> float:
    """Seconds before a promise passes at which it is renewed: time for the write to arrive."""
    return min(max(ttl / 6, 0.5), 10.0)


def promise_is_due(promise: float | None, deadline: float, ttl: float, now: float) -> bool:
    """True when `status.expiresAt` has to be rewritten.

    It is a promise, not a countdown: heartbeats move it only by a good part of the ttl at a time, but it never passes
    while the object lives, and it is taken back at once when the ttl is shortened.
    """
    if promise is None or deadline < promise:
        return True
    moved = deadline - promise
    return moved >= ttl / 3 or (moved > 0 and now >= promise - margin(ttl))


def _before_promise(promise: float | None, deadline: float, ttl: float, now: float) -> float:
    # Heartbeats that come until then wake nobody; whether there were any is seen just before the promise passes.
    renewal = NEVER if promise is None else promise - margin(ttl)
    return min(deadline, renewal) if now < renewal else deadline


def decide_claim(claim: Claim, about: Circumstances, now: float, policy: Policy, attempt: int = 0) -> Decision:
    """What to do about `claim` at `now`."""
    old = claim.status
    if claim.deleting:
        return Decision()
    if old.ended:
        return _after_the_end(claim, about, now, policy, attempt)

    def end(phase: str, reason: str, message: str, ended_at: float) -> Decision:
        status = statuses.ended_claim(claim, phase, reason, message, ended_at, about.mirror, now)
        return Decision(WriteClaimStatus(claim, status, about.deadline, attempt), priority=Priority.URGENT)

    if claim.lapsed is not None:
        # Its holder's clock may be a fraction of a second ahead; it never ended before it was promised to.
        latest = now if old.expires_at is None else max(now, old.expires_at)
        return end(kinds.EXPIRED, "Expired", "its holder came back too late", min(claim.lapsed, latest))
    if claim.released:
        return end(kinds.RELEASED, "Released", statuses.let_go(claim), min(now, about.deadline))
    if about.completed:
        # The session was possibly begun anew under the same id, and this claim belongs to the new one.
        if about.verified < claim.created + 1:
            if now < claim.created + 1:
                return Decision(look_at=claim.created + 1, priority=Priority.URGENT)
            return Decision(verify=True, priority=Priority.URGENT)
        return end(kinds.RELEASED, "SessionCompleted", "its session has completed", min(now, about.deadline))
    if now >= about.deadline:
        if about.verified < about.deadline:
            return Decision(verify=True, priority=Priority.URGENT)
        return end(kinds.EXPIRED, "Expired", "not renewed within the ttl", about.deadline)

    if not about.turn.admitted:
        return _waiting(claim, about, now, attempt)
    if old.phase != kinds.ACTIVE:
        return _live(claim, about, now, Priority.URGENT, attempt)
    if (
        promise_is_due(old.expires_at, about.deadline, claim.ttl, now)
        or old.granted_at is None
        or old.observed_generation != claim.generation
        or not statuses.fault_shown(old.conditions, statuses.GRANTED, claim.ttl_fault)
    ):
        # A promise about to pass must be renewed before it does.
        soon = old.expires_at is not None and now >= old.expires_at - margin(claim.ttl)
        return _live(claim, about, now, Priority.URGENT if soon else Priority.NORMAL, attempt)
    if about.show_peers and old.conflicts_with != about.peers(claim):
        return _live(claim, about, now, Priority.NORMAL, attempt)
    look_at = _before_promise(old.expires_at, about.deadline, claim.ttl, now)
    if statuses.mirror_differs(claim, about.mirror):
        if now >= about.mirror_due:
            return _live(claim, about, now, Priority.LOW, attempt)
        look_at = min(look_at, about.mirror_due)
    return Decision(look_at=look_at)


def _live(claim: Claim, about: Circumstances, now: float, priority: Priority, attempt: int) -> Decision:
    turn = about.turn
    waited = claim.exclusive or turn.contested or claim.status.phase == kinds.PENDING
    status = statuses.live_claim(
        claim, about.deadline, about.peers(claim), about.mirror, now, waited=waited, overlap=turn.overlap
    )
    if claim.exclusive and not claim.held:
        return Decision(GrantExclusive(claim, status, about.deadline, attempt), priority=priority)
    return Decision(WriteClaimStatus(claim, status, about.deadline, attempt), priority=priority)


def _waiting(claim: Claim, about: Circumstances, now: float, attempt: int) -> Decision:
    old, turn = claim.status, about.turn
    moved = old.queue_position != turn.position or (turn.position <= FRONT and old.waiting_for != turn.ahead)
    shown = old.condition(statuses.GRANTED)
    moved = moved or (shown is not None and (shown.reason == statuses.LIMITED) != bool(turn.limit))
    if (
        old.phase != kinds.PENDING
        or old.queue_position is None
        or (about.show_peers and moved)
        or promise_is_due(old.expires_at, about.deadline, claim.ttl, now)
        or old.observed_generation != claim.generation
        or not statuses.fault_shown(old.conditions, statuses.GRANTED, claim.ttl_fault)
    ):
        status = statuses.waiting_claim(
            claim, about.deadline, turn.position, turn.ahead, turn.holders, about.mirror, now, limit=turn.limit
        )
        # Grants go first: with a long queue there are many of these for each.
        soon = old.expires_at is not None and now >= old.expires_at - margin(claim.ttl)
        return Decision(
            WriteClaimStatus(claim, status, about.deadline, attempt),
            priority=Priority.URGENT if soon else Priority.NORMAL,
        )
    look_at = _before_promise(old.expires_at, about.deadline, claim.ttl, now)
    if statuses.mirror_differs(claim, about.mirror):
        if now >= about.mirror_due:
            told = statuses.with_mirror(claim, about.mirror, now)
            return Decision(WriteClaimStatus(claim, told, about.deadline, attempt), priority=Priority.LOW)
        look_at = min(look_at, about.mirror_due)
    return Decision(look_at=look_at)


def _after_the_end(claim: Claim, about: Circumstances, now: float, policy: Policy, attempt: int) -> Decision:
    look_at = NEVER
    if statuses.mirror_differs(claim, about.mirror):
        if now >= about.mirror_due:
            shown = statuses.with_mirror(claim, about.mirror, now)
            return Decision(WriteClaimStatus(claim, shown, about.deadline, attempt), priority=Priority.LOW)
        look_at = about.mirror_due
    if policy.mirror_board == claim.namespace:
        told = about.mirror is not None and about.mirror.mirrored and about.mirror.phase == claim.status.phase
        if not told and not (about.mirror is None and statuses.shown_as_mirrored(claim)):
            return Decision(look_at=look_at)
    if claim.holds_on:
        return Decision(look_at=look_at)
    ended_at = claim.created if claim.status.ended_at is None else claim.status.ended_at
    kept_until = about.shift(ended_at) + policy.retention
    if now >= kept_until:
        return Decision(DeleteObject(claim, attempt), priority=Priority.LOW)
    return Decision(look_at=min(look_at, kept_until))


def decide_session(
    session: Session,
    *,
    active_claims: int,
    claims: int,
    count_due: float,
    now: float,
    policy: Policy,
    attempt: int = 0,
    shift: Callable[[float], float] = as_stamped,
) -> Decision:
    """What to do about `session` at `now`.

    `claims` is the number of objects that name it, ended or not; `active_claims` of those that live. `count_due` is
    when a changed number may be written on its own. `shift` is as in Circumstances.
    """
    old = session.status
    if session.deleting:
        return Decision()
    alive = shift(session.alive)
    deadline = alive + session.ttl
    stale_at = alive + kinds.MISSED_BEATS * session.heartbeat_seconds

    def write(phase: str, expires_at: float, ended_at: float | None, priority: Priority) -> Decision:
        status = statuses.session_status(
            session, phase, expires_at=expires_at, ended_at=ended_at, active_claims=active_claims, now=now
        )
        return Decision(WriteSessionStatus(session, status, attempt), priority=priority)

    if old.ended:
        if active_claims != old.active_claims and now >= count_due:
            kept = deadline if old.expires_at is None else old.expires_at
            return write(old.phase, kept, old.ended_at, Priority.LOW)
        look_at = count_due if active_claims != old.active_claims else NEVER
        if claims:
            # Deleting it would take its claims along, live ones as well as history that is still to be shown.
            return Decision(look_at=look_at)
        kept_until = shift(session.created if old.ended_at is None else old.ended_at) + policy.retention
        if now >= kept_until:
            return Decision(DeleteObject(session, attempt), priority=Priority.LOW)
        return Decision(look_at=min(look_at, kept_until))

    promised = deadline if old.expires_at is None else old.expires_at
    if session.state == kinds.COMPLETED:
        return write(kinds.COMPLETED, promised, max(session.created, min(now, deadline)), Priority.URGENT)
    if now >= deadline:
        return write(kinds.EXPIRED, promised, deadline, Priority.URGENT)
    if session.state == kinds.PAUSED:
        phase = kinds.PAUSED
    elif now >= stale_at:
        phase = kinds.STALE
    else:
        phase = kinds.ACTIVE
    if phase != old.phase or old.started_at is None:
        return write(phase, deadline, None, Priority.NORMAL)
    if (
        promise_is_due(old.expires_at, deadline, session.ttl, now)
        or old.observed_generation != session.generation
        or not statuses.fault_shown(old.conditions, statuses.ALIVE, session.ttl_fault)
        or (active_claims != old.active_claims and now >= count_due)
    ):
        return write(phase, deadline, None, Priority.LOW if old.expires_at == deadline else Priority.NORMAL)
    look_at = _before_promise(old.expires_at, deadline, session.ttl, now)
    if phase == kinds.ACTIVE:
        look_at = min(look_at, stale_at)
    if active_claims != old.active_claims:
        look_at = min(look_at, count_due)
    return Decision(look_at=look_at)
