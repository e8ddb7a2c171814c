"""Facts of the board as tests write them: only what matters is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from presence.model import kinds
from presence.model.names import claim_name, session_name
from presence_operator.core.facts import Claim, ClaimStatus, Condition, Session, SessionStatus

#: A Friday morning; a whole second, as the API server's times are.
NOON = 1_795_000_000.0


def a_claim(
    resource: str = "stack:vault",
    session: str = "wizard@devvm@a1b2c3d4",
    *,
    phase: str = kinds.ACTIVE,
    created: float = NOON,
    ttl: float = 900.0,
    uid: str | None = None,
    ended: float | None = None,
    reason: str = "",
    **others: Any,
) -> Claim:
    """A claim with the status that its phase goes with."""
    granted = None if phase in ("", kinds.PENDING) else created
    if phase in kinds.ENDED_PHASES and ended is None:
        ended = created + ttl
    conditions = (Condition("Granted", "False", reason or phase),) if ended is not None else ()
    status = ClaimStatus(
        phase=phase,
        granted_at=granted,
        expires_at=None if granted is None else created + ttl,
        ended_at=ended,
        conditions=conditions,
    )
    name = others.pop("name", claim_name(session, resource))
    claim = Claim(
        namespace="presence",
        name=name,
        uid=uid or f"uid-{name}",
        resource_version="1",
        generation=1,
        created=created,
        alive=created,
        ttl=ttl,
        ttl_fault="",
        lapsed=None,
        resource=resource,
        session=session,
        purpose="roll the unseal keys",
        user="wizard",
        host="devvm",
        agent="claude-code",
        url="",
        released=False,
        deleting=False,
        status=status,
    )
    return replace(claim, **others)


def ended(claim: Claim, phase: str = kinds.RELEASED, at: float = NOON + 60, reason: str = "") -> Claim:
    """The same claim after its end."""
    conditions = (Condition("Granted", "False", reason or phase),)
    return replace(claim, status=replace(claim.status, phase=phase, ended_at=at, conditions=conditions))


def renewed(claim: Claim, expires: float) -> Claim:
    """The same claim with a later promise."""
    return replace(claim, alive=expires - claim.ttl, status=replace(claim.status, expires_at=expires))


def a_session(session: str = "wizard@devvm@a1b2c3d4", *, phase: str = kinds.ACTIVE, **others: Any) -> Session:
    """A session with the status that its phase goes with."""
    over = NOON + 600 if phase in kinds.ENDED_SESSION_PHASES else None
    status = SessionStatus(phase=phase, started_at=NOON, expires_at=NOON + 900, ended_at=over)
    name = session_name(session)
    made = Session(
        namespace="presence",
        name=name,
        uid=f"uid-{name}",
        resource_version="1",
        generation=1,
        created=NOON,
        alive=NOON,
        ttl=900.0,
        ttl_fault="",
        session_id=session,
        kind=kinds.AGENT,
        user="wizard",
        host="devvm",
        agent="claude-code",
        model="",
        project="/srv/infra",
        url="",
        heartbeat_seconds=30.0,
        state=kinds.RUNNING,
        deleting=False,
        status=status,
    )
    return replace(made, **others)
