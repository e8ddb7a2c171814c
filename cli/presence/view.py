"""What readers see of a claim or a session: rows with fixed keys, and the phase that holds now."""

from __future__ import annotations

from presence.model.deadlines import (
    claim_deadline,
    has_ended,
    is_live,
    last_sign_of_life,
    session_deadline,
    session_stale_at,
)
from presence.model.kinds import (
    ACTIVE,
    AGENT,
    COMPLETED,
    ENDED_PHASES,
    ENDED_SESSION_PHASES,
    EXPIRED,
    PAUSED,
    PENDING,
    RELEASED,
    STALE,
)
from presence.model.times import format_time, parse_time

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Object = dict[str, Any]
    Row = dict[str, Any]


def claim_row(claim: Object, session: Object | None, me: str) -> Row:
    """A claim with exactly the keys that `--json` promises. Texts are as they were written, times in RFC 3339."""
    spec, status = claim["spec"], claim.get("status") or {}
    holder = spec.get("holder") or {}
    return {
        "session_id": spec["session"],
        "resource_label": spec["resource"],
        "purpose": spec["purpose"],
        "claimed_at": _normal(status.get("grantedAt") or claim["metadata"]["creationTimestamp"]),
        "expires_at": format_time(ends_at(claim, session)),
        "user": holder.get("user", ""),
        "host": holder.get("host", ""),
        "is_me": spec["session"] == me,
    }


def claim_rows(claims: Iterable[tuple[Object, Object | None]], me: str) -> list[Row]:
    """Rows of claims and their sessions, the oldest first."""
    rows = [claim_row(claim, session, me) for claim, session in claims]
    rows.sort(key=lambda row: (row["claimed_at"], row["resource_label"], row["session_id"]))
    return rows


def ends_at(claim: Object, session: Object | None = None) -> float:
    """When the claim ended; for a live one, until when it lives at least."""
    status = claim.get("status") or {}
    if status.get("endedAt"):
        return parse_time(status["endedAt"])
    deadline = claim_deadline(claim, session)
    promise = status.get("expiresAt")
    return max(deadline, parse_time(promise)) if promise else deadline


def claim_phase(claim: Object, session: Object | None, now: float) -> str:
    """The phase at `now`, whether or not an operator was there to write it down."""
    phase = (claim.get("status") or {}).get("phase")
    if phase in ENDED_PHASES:
        return str(phase)
    if claim["spec"].get("released"):
        return RELEASED
    if has_ended(claim) or not is_live(claim, now, session):
        return EXPIRED
    return PENDING if phase == PENDING else ACTIVE


def session_phase(session: Object, now: float) -> str:
    """The phase at `now`, whether or not an operator was there to write it down."""
    phase = (session.get("status") or {}).get("phase")
    if phase in ENDED_SESSION_PHASES:
        return str(phase)
    state = session["spec"].get("state")
    if state == COMPLETED:
        return COMPLETED
    if session_deadline(session) <= now:
        return EXPIRED
    if state == PAUSED:
        return PAUSED
    return STALE if session_stale_at(session) <= now else ACTIVE


def session_row(session: Object, now: float, me: str, active_claims: int) -> Row:
    """A session with the keys that `session list --json` promises; `active_claims` are those it holds now."""
    spec, status = session["spec"], session.get("status") or {}
    return {
        "session_id": spec["sessionId"],
        "kind": spec.get("kind", AGENT),
        "phase": session_phase(session, now),
        "user": spec.get("user", ""),
        "host": spec.get("host", ""),
        "agent": spec.get("agent", ""),
        "model": spec.get("model", ""),
        "project": spec.get("project", ""),
        "url": spec.get("url", ""),
        "started_at": _normal(session["metadata"]["creationTimestamp"]),
        "last_heartbeat_at": format_time(last_sign_of_life(session)),
        "expires_at": format_time(
            parse_time(status["endedAt"]) if status.get("endedAt") else session_deadline(session)
        ),
        "active_claims": active_claims,
        "is_me": spec["sessionId"] == me,
    }


def _normal(text: str) -> str:
    return format_time(parse_time(text))
