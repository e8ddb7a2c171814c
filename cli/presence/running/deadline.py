"""How long a command may run on the strength of its latest renewal. Pure arithmetic on the local clock.

A renewal that the API server acknowledged was stamped after it was sent. Stamps are whole seconds rounded down, so the
claim lives until at least (time of sending) + ttl - 1 s. No clock of the client takes part: both times of the
difference are read from the clock that runs since boot.
"""

from __future__ import annotations

from presence.model.deadlines import last_sign_of_life, session_sign_of_life, ttl_of
from presence.model.times import parse_time

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

    Object = dict[str, Any]

#: Seconds by which a stamp of the API server may lie before the moment of the change.
_ROUNDING = 1.0
#: Seconds between the last resort and the deadline: time for the kernel to end the processes.
_KILL_BEFORE = 1.0
#: Seconds that a command is given at most to end by itself.
_GRACE_MAX = 10.0


class Terms:
    """Until when the command may run: asked to end at `term_at`, killed at `kill_at`; the claim lives until `end`."""

    __slots__ = ("end", "kill_at", "term_at")

    def __init__(self, term_at: float, kill_at: float, end: float) -> None:
        self.term_at = term_at
        self.kill_at = kill_at
        self.end = end


def grace_of(ttl: float) -> float:
    """Seconds between asking a command to end and the end of its claim."""
    return min(_GRACE_MAX, ttl / 4)


def terms_of(sent: float, ttl: float) -> Terms:
    """The terms that a renewal brings, sent at `sent`, of claims that live for `ttl` seconds after it."""
    end = sent + ttl - _ROUNDING
    kill_at = end - _KILL_BEFORE
    return Terms(min(end - grace_of(ttl), kill_at), kill_at, end)


def next_renewal(sent: float, ttl: float) -> float:
    """When to renew after a renewal that was sent at `sent`."""
    return sent + ttl / 3


def retry_pause(failures: int, ttl: float) -> float:
    """Seconds to wait after so many renewals failed in a row: short at first, and never a good part of what is left."""
    return float(min(0.2 * 2 ** min(failures - 1, 10), ttl / 12, 5.0))


def attempt_limit(ttl: float) -> float:
    """Seconds that one attempt to renew may take, so that several fit before the deadline."""
    return min(10.0, max(1.0, ttl / 6))


def ttl_in_force(claim: Object, session: Object | None) -> float:
    """Seconds that `claim` lives after a renewal, as far as its status shows.

    That is its ttl, which anybody may change while it stands. An operator that allows less than the claim asks for says
    so in the condition Granted; then its own promise counts, which is never too long.
    """
    ttl = ttl_of(claim)
    status = claim.get("status") or {}
    granted: Object = next((item for item in status.get("conditions") or () if item.get("type") == "Granted"), {})
    if not granted.get("message") or not status.get("expiresAt"):
        return ttl
    alive = last_sign_of_life(claim)
    if session is not None:
        alive = max(alive, session_sign_of_life(session))
    return max(0.0, min(ttl, parse_time(status["expiresAt"]) - alive))
