"""When a claim or session ends by itself: one function for the operator and for every reader.

All times are the API server's: the creation time, and the server-stamped `managedFields` time of the change that wrote
the heartbeat annotation. A client's clock decides nothing, and an operator that was away reads the same times as one
that watched. The API server stamps whole seconds; so deadlines fall on whole seconds.
"""

from presence.model.durations import DurationError, clamp, parse_duration
from presence.model.kinds import (
    COMPLETED,
    DEFAULT_HEARTBEAT_SECONDS,
    DEFAULT_TTL,
    ENDED_PHASES,
    ENDED_SESSION_PHASES,
    HEARTBEAT_ANNOTATION,
    LAPSED_ANNOTATION,
    MAX_TTL,
    MIN_TTL,
    MISSED_BEATS,
    TTL_ANNOTATION,
)
from presence.model.times import parse_time, readable_time

TYPE_CHECKING = False  # type checkers read it as true; importing typing would cost the command line 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Object = Mapping[str, Any]

_STATUS_TIMES = ("grantedAt", "startedAt", "expiresAt", "endedAt")


def ttl_of(body: "Object", lowest: float = MIN_TTL, highest: float = MAX_TTL) -> float:
    """Seconds the object lives after its last sign of life; the default when its annotation is absent or unreadable."""
    text = (body["metadata"].get("annotations") or {}).get(TTL_ANNOTATION)
    if text is None:
        return DEFAULT_TTL
    try:
        return clamp(parse_duration(text), lowest, highest)
    except DurationError:
        return DEFAULT_TTL


def last_sign_of_life(body: "Object", latest: float | None = None) -> float:
    """Seconds since the epoch of the object's creation or of its latest heartbeat, as the API server stamped them.

    Who may change an object may write its managedFields as well, and any time into them. So a stamp after `latest` does
    not count, nor does one that cannot be read. Callers put `latest` as far ahead as the longest ttl: a forged stamp
    then gives no more than an honest ttl would, and an API server's clock that is set back takes nobody's claim away.
    """
    metadata = body["metadata"]
    alive = parse_time(metadata["creationTimestamp"])
    if HEARTBEAT_ANNOTATION not in (metadata.get("annotations") or {}):
        return alive
    field = f"f:{HEARTBEAT_ANNOTATION}"
    for entry in metadata.get("managedFields") or ():
        owned = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if field in owned:
            stamp = readable_time(entry.get("time"))
            if stamp is not None and (latest is None or stamp <= latest):
                alive = max(alive, stamp)
    return alive


def make_honest(body: "dict[str, Any]", now: float) -> None:
    """Take from `body`, as it was read at `now`, the times that no API server and no operator can have written.

    Those are what cannot be read in managedFields and in the status, and stamps too far ahead: see `last_sign_of_life`.
    """
    entries = body["metadata"].get("managedFields")
    if entries:
        body["metadata"]["managedFields"] = [entry for entry in entries if _believable(entry.get("time"), now)]
    status = body.get("status") or {}
    for field in _STATUS_TIMES:
        if field in status and readable_time(status[field]) is None:
            del status[field]


def _believable(stamp: "str | None", now: float) -> bool:
    if stamp is None:
        return True
    time = readable_time(stamp)
    return time is not None and time <= now + MAX_TTL


def session_sign_of_life(session: "Object") -> float:
    """Seconds since the epoch of the session's latest heartbeat that counts: one after its end does not revive it."""
    alive = last_sign_of_life(session)
    status = session.get("status") or {}
    if status.get("phase") in ENDED_SESSION_PHASES and status.get("endedAt"):
        return min(alive, parse_time(status["endedAt"]))
    return alive


def claim_deadline(claim: "Object", session: "Object | None" = None) -> float:
    """Seconds since the epoch at which `claim` ends unless it is renewed.

    It is the latest of its creation, its own heartbeat and its session's, plus its ttl. `session` is the AgentSession
    with the claim's session id, if there is one.
    """
    alive = last_sign_of_life(claim)
    if session is not None:
        alive = max(alive, session_sign_of_life(session))
    return alive + ttl_of(claim)


def session_deadline(session: "Object") -> float:
    """Seconds since the epoch at which `session` expires unless it beats."""
    return last_sign_of_life(session) + ttl_of(session)


def session_stale_at(session: "Object") -> float:
    """Seconds since the epoch at which `session` has missed three heartbeats."""
    period = session["spec"].get("heartbeatSeconds") or DEFAULT_HEARTBEAT_SECONDS
    return last_sign_of_life(session) + MISSED_BEATS * float(period)


def has_ended(claim: "Object") -> bool:
    """True when `claim` is over for good, whatever the time is: released, ended, lapsed or being deleted."""
    metadata = claim["metadata"]
    return bool(
        (claim.get("status") or {}).get("phase") in ENDED_PHASES
        or claim["spec"].get("released")
        or LAPSED_ANNOTATION in (metadata.get("annotations") or {})
        or metadata.get("deletionTimestamp")
    )


def is_live(claim: "Object", now: float, session: "Object | None" = None) -> bool:
    """True when `claim` is held (or waited with) at `now`, with or without an operator to say so.

    `now` is the API server's time in seconds since the epoch. `status.expiresAt` is a promise: while it lies ahead the
    session need not be looked at, so readers fetch `session` only for claims whose promise has passed or is not made.
    """
    if has_ended(claim):
        return False
    if session is not None and session["spec"].get("state") == COMPLETED:
        return False
    promise = (claim.get("status") or {}).get("expiresAt")
    if promise and parse_time(promise) > now:
        return True
    return claim_deadline(claim, session) > now
