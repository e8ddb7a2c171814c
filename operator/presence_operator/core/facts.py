"""What the board knows of each object: small frozen records parsed from the API's bodies.

Every time is in seconds since the epoch by the API server's clock. Facts compare by value, so "has anything changed?"
is one comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from presence.model import kinds
from presence.model.deadlines import last_sign_of_life
from presence.model.durations import DurationError, clamp, format_duration, parse_duration
from presence.model.times import parse_time, readable_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    Body = Mapping[str, Any]

#: Identifies an object on all boards: (namespace, name).
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The shortest and longest ttl this operator grants, in seconds."""

    lowest: float = kinds.MIN_TTL
    highest: float = kinds.MAX_TTL


@dataclass(frozen=True, slots=True)
class Condition:
    """A Kubernetes condition without its times of no interest; `since` is lastTransitionTime."""

    type: str
    status: str
    reason: str
    message: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another claim on the same resource, as `status.conflictsWith` and `status.waitingFor` show it."""

    name: str
    session: str
    since: float


@dataclass(frozen=True, slots=True)
class Release:
    """What `spec.release` says of who let go, and why, and who is to go next."""

    by: str = ""
    user: str = ""
    reason: str = ""
    forced: bool = False
    to: str = ""


@dataclass(frozen=True, slots=True)
class ClaimStatus:
    """What the operator has written of a claim. The empty phase means that it has written nothing yet."""

    phase: str = ""
    granted_at: float | None = None
    expires_at: float | None = None
    ended_at: float | None = None
    conflicts_with: tuple[Peer, ...] = ()
    conditions: tuple[Condition, ...] = ()
    observed_generation: int = 0
    queue_position: int | None = None
    waiting_for: tuple[Peer, ...] = ()
    fencing_token: int | None = None

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if it has been written."""
        return next((item for item in self.conditions if item.type == kind), None)

    @property
    def ended(self) -> bool:
        """True for a phase that is final."""
        return self.phase in kinds.ENDED_PHASES


@dataclass(frozen=True, slots=True)
class Claim:
    """One PresenceClaim."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    created: float
    alive: float
    """Creation or own latest heartbeat."""
    ttl: float
    """Effective ttl in seconds, within the bounds."""
    ttl_fault: str
    """Why the annotation could not be followed to the letter; empty when it was."""
    lapsed: float | None
    """The deadline that the holder admits to have missed, if it does."""
    resource: str
    session: str
    purpose: str
    user: str
    host: str
    agent: str
    url: str
    released: bool
    deleting: bool
    status: ClaimStatus
    mode: str = kinds.SHARED
    on_expiry: str = kinds.ON_EXPIRY_RELEASE
    release: Release | None = None
    priority: int = 0

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return (self.namespace, self.name)

    @property
    def exclusive(self) -> bool:
        """True for a claim that is held alone."""
        return self.mode == kinds.EXCLUSIVE

    @property
    def held(self) -> bool:
        """True for a claim that is shown as Active."""
        return self.status.phase == kinds.ACTIVE

    @property
    def holds_on(self) -> bool:
        """True when it has expired and keeps the resource blocked until it is released or deleted."""
        return (
            self.status.phase == kinds.EXPIRED
            and self.status.fencing_token is not None
            and self.exclusive
            and self.on_expiry == kinds.ON_EXPIRY_HOLD
            and not (self.released or self.deleting)
        )

    @property
    def over(self) -> bool:
        """True when it keeps nobody waiting any more. That never becomes false again."""
        return self.released or self.deleting or (self.status.ended and not self.holds_on)


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What the operator has written of a session."""

    phase: str = ""
    started_at: float | None = None
    expires_at: float | None = None
    ended_at: float | None = None
    active_claims: int = 0
    conditions: tuple[Condition, ...] = ()
    observed_generation: int = 0

    @property
    def ended(self) -> bool:
        """True for a phase that is final."""
        return self.phase in kinds.ENDED_SESSION_PHASES


@dataclass(frozen=True, slots=True)
class Session:
    """One AgentSession."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    created: float
    alive: float
    ttl: float
    ttl_fault: str
    session_id: str
    kind: str
    user: str
    host: str
    agent: str
    model: str
    project: str
    url: str
    heartbeat_seconds: float
    state: str
    deleting: bool
    status: SessionStatus

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return (self.namespace, self.name)


Fact = Claim | Session


def version_number(resource_version: str) -> int | None:
    """The order of a resourceVersion; None when it has none."""
    return int(resource_version) if resource_version.isdecimal() else None


def is_newer(candidate: str, known: str) -> bool:
    """True when the first resourceVersion is later than the second, or when that cannot be told and they differ."""
    first, second = version_number(candidate), version_number(known)
    if first is None or second is None:
        return candidate != known
    return first > second


def parse_claim(body: Body, bounds: Bounds, latest: float | None = None) -> Claim:
    """The facts of a PresenceClaim as the API server returned it. Heartbeats stamped after `latest` do not count.

    Raises:
        KeyError, ValueError, TypeError: the body is no PresenceClaim that the schema admits.
    """
    metadata, spec = body["metadata"], body["spec"]
    holder = spec.get("holder") or {}
    annotations = metadata.get("annotations") or {}
    ttl, fault = _ttl(annotations.get(kinds.TTL_ANNOTATION), bounds)
    return Claim(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        created=parse_time(metadata["creationTimestamp"]),
        alive=last_sign_of_life(body, latest),
        ttl=ttl,
        ttl_fault=fault,
        lapsed=_lapsed(annotations.get(kinds.LAPSED_ANNOTATION), metadata["creationTimestamp"]),
        resource=spec["resource"],
        session=spec["session"],
        purpose=spec["purpose"],
        user=holder.get("user", ""),
        host=holder.get("host", ""),
        agent=holder.get("agent", kinds.DEFAULT_AGENT),
        url=holder.get("url", ""),
        released=bool(spec.get("released")),
        deleting="deletionTimestamp" in metadata,
        status=_claim_status(body.get("status") or {}),
        mode=spec.get("mode", kinds.SHARED),
        on_expiry=spec.get("onExpiry", kinds.ON_EXPIRY_RELEASE),
        release=_release(spec.get("release")),
        priority=int(spec.get("priority") or 0),
    )


def parse_session(body: Body, bounds: Bounds, latest: float | None = None) -> Session:
    """The facts of an AgentSession as the API server returned it. Heartbeats stamped after `latest` do not count.

    Raises:
        KeyError, ValueError, TypeError: the body is no AgentSession that the schema admits.
    """
    metadata, spec = body["metadata"], body["spec"]
    ttl, fault = _ttl((metadata.get("annotations") or {}).get(kinds.TTL_ANNOTATION), bounds)
    return Session(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        created=parse_time(metadata["creationTimestamp"]),
        alive=last_sign_of_life(body, latest),
        ttl=ttl,
        ttl_fault=fault,
        session_id=spec["sessionId"],
        kind=spec.get("kind", kinds.AGENT),
        user=spec.get("user", ""),
        host=spec.get("host", ""),
        agent=spec.get("agent", ""),
        model=spec.get("model", ""),
        project=spec.get("project", ""),
        url=spec.get("url", ""),
        heartbeat_seconds=float(spec.get("heartbeatSeconds") or kinds.DEFAULT_HEARTBEAT_SECONDS),
        state=spec.get("state", kinds.RUNNING),
        deleting="deletionTimestamp" in metadata,
        status=_session_status(body.get("status") or {}),
    )


def _ttl(text: str | None, bounds: Bounds) -> tuple[float, str]:
    default = clamp(kinds.DEFAULT_TTL, bounds.lowest, bounds.highest)
    if text is None:
        return default, ""
    try:
        wanted = parse_duration(text)
    except DurationError as error:
        return default, f"annotation {kinds.TTL_ANNOTATION}: {error}; until then {format_duration(default)} applies"
    granted = clamp(wanted, bounds.lowest, bounds.highest)
    if granted != wanted:
        return granted, (
            f"annotation {kinds.TTL_ANNOTATION}: {format_duration(wanted)} is outside of the allowed "
            f"{format_duration(bounds.lowest)} to {format_duration(bounds.highest)}; {format_duration(granted)} applies"
        )
    return granted, ""


def _lapsed(text: str | None, created: str) -> float | None:
    if text is None:
        return None
    lapsed = readable_time(text)
    # The holder gave the claim up; at which second it ended is all that may be unknown.
    return parse_time(created) if lapsed is None else lapsed


def _conditions(items: Any) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            type=item["type"],
            status=item["status"],
            reason=item.get("reason", ""),
            message=item.get("message", ""),
            since=readable_time(item.get("lastTransitionTime")) or 0.0,
        )
        for item in items or ()
    )


def _release(said: Body | None) -> Release | None:
    if said is None:
        return None
    return Release(
        by=said.get("by", ""),
        user=said.get("user", ""),
        reason=said.get("reason", ""),
        forced=bool(said.get("forced")),
        to=said.get("to", ""),
    )


def _peers(items: Any) -> tuple[Peer, ...]:
    return tuple(Peer(item["name"], item["session"], readable_time(item["since"]) or 0.0) for item in items or ())


def _claim_status(status: Body) -> ClaimStatus:
    return ClaimStatus(
        phase=status.get("phase", ""),
        granted_at=readable_time(status.get("grantedAt")),
        expires_at=readable_time(status.get("expiresAt")),
        ended_at=readable_time(status.get("endedAt")),
        conflicts_with=_peers(status.get("conflictsWith")),
        conditions=_conditions(status.get("conditions")),
        observed_generation=status.get("observedGeneration", 0),
        queue_position=status.get("queuePosition"),
        waiting_for=_peers(status.get("waitingFor")),
        fencing_token=status.get("fencingToken"),
    )


def _session_status(status: Body) -> SessionStatus:
    return SessionStatus(
        phase=status.get("phase", ""),
        started_at=readable_time(status.get("startedAt")),
        expires_at=readable_time(status.get("expiresAt")),
        ended_at=readable_time(status.get("endedAt")),
        active_claims=status.get("activeClaims", 0),
        conditions=_conditions(status.get("conditions")),
        observed_generation=status.get("observedGeneration", 0),
    )
