"""The statuses that the operator writes: made from facts, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from presence.model import kinds, times
from presence_operator.core.facts import ClaimStatus, Condition, SessionStatus

if TYPE_CHECKING:
    from presence_operator.core.facts import Claim, Peer, Session

GRANTED = "Granted"
CONFLICTED = "Conflicted"
MIRRORED = "Mirrored"
ALIVE = "Alive"

#: Many writes share a few seconds, and formatting is a good part of the cost of a status.
format_time = lru_cache(maxsize=4096)(times.format_time)

_OURS = frozenset({GRANTED, CONFLICTED, MIRRORED, ALIVE})
#: A message names this many others; the list itself holds more.
_NAMED = 3
#: Places in the queue up to this one are shown exactly.
_EXACT = 3

OVERLAP = "Overlap"
WAITING = "Waiting"
LIMITED = "LimitReached"


@dataclass(frozen=True, slots=True)
class MirrorNote:
    """How far the mirror is with a claim: a reason of the condition Mirrored, and the phase that it speaks of."""

    reason: str
    phase: str
    message: str = ""

    @property
    def mirrored(self) -> bool:
        """True when this phase has reached the mirror."""
        return self.reason == MIRRORED


def live_claim(
    claim: Claim,
    deadline: float,
    peers: tuple[Peer, ...],
    mirror: MirrorNote | None,
    now: float,
    *,
    waited: bool = False,
    overlap: bool = False,
) -> ClaimStatus:
    """The status of a claim that is held until `deadline`.

    `waited`: it may have had to wait, and so is granted now; others are held from their creation. `overlap`: the
    others should not hold the resource together with this one.
    """
    old = claim.status
    granted_at = max(claim.created, now // 1) if waited else claim.created
    return ClaimStatus(
        phase=kinds.ACTIVE,
        granted_at=granted_at if old.granted_at is None else old.granted_at,
        expires_at=deadline,
        ended_at=None,
        conflicts_with=peers,
        conditions=_claim_conditions(claim, "True", GRANTED, claim.ttl_fault, peers, mirror, now, overlap=overlap),
        observed_generation=claim.generation,
        fencing_token=old.fencing_token,
    )


def waiting_claim(
    claim: Claim,
    deadline: float,
    position: int,
    ahead: tuple[Peer, ...],
    holders: int,
    mirror: MirrorNote | None,
    now: float,
    *,
    limit: str = "",
) -> ClaimStatus:
    """The status of a claim that waits at this `position`, behind so many `holders`, with those `ahead` by name.

    `limit` says which limit it waits for, if that is what keeps it.
    """
    reason = LIMITED if limit else WAITING
    message = _joined(limit or _ahead(position, ahead, holders), claim.ttl_fault)
    return ClaimStatus(
        phase=kinds.PENDING,
        expires_at=deadline,
        conditions=_claim_conditions(claim, "False", reason, message, (), mirror, now),
        observed_generation=claim.generation,
        queue_position=position,
        waiting_for=ahead,
    )


def ended_claim(
    claim: Claim, phase: str, reason: str, message: str, ended_at: float, mirror: MirrorNote | None, now: float
) -> ClaimStatus:
    """The final status of a claim."""
    old = claim.status
    ended_at = max(ended_at, claim.created)
    # A shared claim that came and went before anybody looked was held; what waited, or had to be granted, was not.
    unseen = claim.created if not old.phase and not claim.exclusive else None
    if phase == kinds.EXPIRED and claim.exclusive and old.fencing_token and claim.on_expiry == kinds.ON_EXPIRY_HOLD:
        message = _joined(message, "the resource stays blocked until this claim is released or deleted")
    return ClaimStatus(
        phase=phase,
        granted_at=unseen if old.granted_at is None else old.granted_at,
        # A promise of a time to come would be misread where only this column is shown.
        expires_at=ended_at if old.expires_at is None else min(old.expires_at, ended_at),
        ended_at=ended_at,
        conflicts_with=(),
        conditions=_claim_conditions(claim, "False", reason, message, (), mirror, now),
        observed_generation=claim.generation,
        fencing_token=old.fencing_token,
    )


def let_go(claim: Claim) -> str:
    """Who let go and why, where the claim says more than that it was released."""
    said = claim.release
    if said is None:
        return ""
    who = " ".join(part for part in (said.by, f"({said.user})" if said.user else "") if part)
    parts = [f"{'taken from its holder' if said.forced else 'let go'} by {who}"] if who or said.forced else []
    parts += [f"handed over to {said.to}"] if said.to else []
    return ": ".join(part for part in ("; ".join(parts).removesuffix(" by "), said.reason) if part)


def with_mirror(claim: Claim, mirror: MirrorNote | None, now: float) -> ClaimStatus:
    """The status as it is, with the condition Mirrored brought up to date."""
    rest = tuple(item for item in claim.status.conditions if item.type != MIRRORED)
    return replace(claim.status, conditions=rest + _mirrored(claim.status, mirror, now))


def mirror_differs(claim: Claim, mirror: MirrorNote | None) -> bool:
    """True when the condition Mirrored says something else than `mirror`."""
    shown = claim.status.condition(MIRRORED)
    if mirror is None:
        return False
    return shown is None or (shown.reason, shown.message) != (mirror.reason, _mirror_message(mirror))


def shown_as_mirrored(claim: Claim) -> bool:
    """True when the status says that the claim's present phase is in the mirror, as after a restart of the operator."""
    shown = claim.status.condition(MIRRORED)
    return (
        shown is not None
        and shown.status == "True"
        and shown.message == _mirror_message(MirrorNote(MIRRORED, claim.status.phase))
    )


def session_status(
    session: Session,
    phase: str,
    *,
    expires_at: float,
    ended_at: float | None,
    active_claims: int,
    now: float,
) -> SessionStatus:
    """The status of a session in `phase`."""
    old = session.status
    alive = "True" if phase in (kinds.ACTIVE, kinds.PAUSED) else "False"
    reason, message = _ALIVE_REASONS[phase]
    condition = _condition(old.conditions, ALIVE, alive, reason, _joined(message, session.ttl_fault), now)
    others = tuple(item for item in old.conditions if item.type not in _OURS)
    return SessionStatus(
        phase=phase,
        started_at=session.created if old.started_at is None else old.started_at,
        expires_at=expires_at,
        ended_at=ended_at,
        active_claims=active_claims,
        conditions=(condition, *others),
        observed_generation=session.generation,
    )


def claim_patch(claim: Claim, status: ClaimStatus) -> dict[str, Any]:
    """A JSON merge patch for the claim's /status that is refused when the claim has changed meanwhile."""
    body: dict[str, Any] = {
        "phase": status.phase,
        "grantedAt": _stamp(status.granted_at),
        "expiresAt": _stamp(status.expires_at),
        "conflictsWith": _peer_bodies(status.conflicts_with),
        "conditions": [_condition_body(item, status.observed_generation) for item in status.conditions],
        "observedGeneration": status.observed_generation,
    }
    if status.ended_at is not None:
        body["endedAt"] = format_time(status.ended_at)
    if status.fencing_token is not None:
        body["fencingToken"] = status.fencing_token
    # null takes a field away.
    if status.queue_position is not None or claim.status.queue_position is not None:
        body["queuePosition"] = status.queue_position
    if status.waiting_for or claim.status.waiting_for:
        body["waitingFor"] = _peer_bodies(status.waiting_for) or None
    return {"metadata": {"resourceVersion": claim.resource_version}, "status": body}


def touch_patch(claim: Claim, position: int) -> dict[str, Any]:
    """A JSON merge patch for /status of a waiting claim that changes it, whatever it is; refused like `claim_patch`."""
    shown = None if claim.status.queue_position is not None else position
    body = {"phase": kinds.PENDING, "queuePosition": shown}
    return {"metadata": {"resourceVersion": claim.resource_version}, "status": body}


def session_patch(session: Session, status: SessionStatus) -> dict[str, Any]:
    """A JSON merge patch for the session's /status that is refused when the session has changed meanwhile."""
    body: dict[str, Any] = {
        "phase": status.phase,
        "startedAt": _stamp(status.started_at),
        "expiresAt": _stamp(status.expires_at),
        "activeClaims": status.active_claims,
        "conditions": [_condition_body(item, status.observed_generation) for item in status.conditions],
        "observedGeneration": status.observed_generation,
    }
    if status.ended_at is not None:
        body["endedAt"] = format_time(status.ended_at)
    return {"metadata": {"resourceVersion": session.resource_version}, "status": body}


_ALIVE_REASONS = {
    kinds.ACTIVE: ("Beating", ""),
    kinds.PAUSED: ("Paused", ""),
    kinds.STALE: ("MissedHeartbeats", f"{kinds.MISSED_BEATS} heartbeats are missing"),
    kinds.COMPLETED: ("Completed", ""),
    kinds.EXPIRED: ("Expired", "no heartbeat came within the ttl"),
}


def fault_shown(conditions: tuple[Condition, ...], kind: str, fault: str) -> bool:
    """True when the condition of this type tells of `fault`, or of no fault when there is none."""
    shown = next((item for item in conditions if item.type == kind), None)
    if fault:
        return shown is not None and shown.message.endswith(fault)
    return shown is None or f"annotation {kinds.TTL_ANNOTATION}:" not in shown.message


def _claim_conditions(
    claim: Claim,
    granted: str,
    reason: str,
    message: str,
    peers: tuple[Peer, ...],
    mirror: MirrorNote | None,
    now: float,
    *,
    overlap: bool = False,
) -> tuple[Condition, ...]:
    old = claim.status.conditions
    ours = [_condition(old, GRANTED, granted, reason, message, now)]
    if peers:
        ours.append(_condition(old, CONFLICTED, "True", OVERLAP if overlap else "CoClaimed", _also(peers), now))
    else:
        ours.append(_condition(old, CONFLICTED, "False", "NoConflict", "", now))
    if len(old) > 2:
        ours.extend(item for item in old if item.type not in _OURS)
    return (*ours, *_mirrored(claim.status, mirror, now))


def _mirrored(status: ClaimStatus, mirror: MirrorNote | None, now: float) -> tuple[Condition, ...]:
    if mirror is None:
        shown = status.condition(MIRRORED)
        return () if shown is None else (shown,)
    state = "True" if mirror.mirrored else "False"
    return (_condition(status.conditions, MIRRORED, state, mirror.reason, _mirror_message(mirror), now),)


def _mirror_message(mirror: MirrorNote) -> str:
    return f"{mirror.phase} is in the mirror" if mirror.mirrored else mirror.message


def _also(peers: tuple[Peer, ...]) -> str:
    named = ", ".join(peer.session for peer in peers[:_NAMED])
    return f"also claimed by {named}" + (" and others" if len(peers) > _NAMED else "")


def _ahead(position: int, ahead: tuple[Peer, ...], holders: int) -> str:
    count = holders + position - 1
    named = ", ".join(peer.session for peer in ahead[:_NAMED])
    others = " and others" if count > min(len(ahead), _NAMED) else ""
    return f"{'' if position <= _EXACT else 'at most '}{count} ahead: {named}{others}"


def _peer_bodies(peers: tuple[Peer, ...]) -> list[dict[str, Any]]:
    return [{"name": peer.name, "session": peer.session, "since": format_time(peer.since)} for peer in peers]


def _condition(old: tuple[Condition, ...], kind: str, status: str, reason: str, message: str, now: float) -> Condition:
    for item in old:
        if item.type == kind and item.status == status:
            return Condition(kind, status, reason, message, item.since)
    return Condition(kind, status, reason, message, now // 1)


def _condition_body(item: Condition, generation: int) -> dict[str, Any]:
    return {
        "type": item.type,
        "status": item.status,
        "reason": item.reason,
        "message": item.message,
        "lastTransitionTime": format_time(item.since),
        "observedGeneration": generation,
    }


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _stamp(seconds: float | None) -> str | None:
    return None if seconds is None else format_time(seconds)
