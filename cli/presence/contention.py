"""Who stands in the way of a claim, in words for people and models."""

from __future__ import annotations

from presence.model.deadlines import has_ended
from presence.model.kinds import ACTIVE, ENDED_PHASES, EXPIRED, RELEASED
from presence.model.queue import ahead_of, holds_on, is_over
from presence.model.times import format_time
from presence.output import age, clean, named, quoted
from presence.view import claim_rows, ends_at

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

    from presence.board import Board

    Object = dict[str, Any]

WAITING, GRANTED, OVER = "waiting", "granted", "over"


def standing(claim: Object | None, uid: str) -> str:
    """Where the claim with this uid stands, as its object shows: WAITING, GRANTED or OVER (also when it is gone)."""
    if claim is None or claim["metadata"]["uid"] != uid or has_ended(claim):
        return OVER
    return GRANTED if (claim.get("status") or {}).get("phase") == ACTIVE else WAITING


class Blockers:
    """Who is ahead of a claim: the holders first, then those who are before it in the queue."""

    __slots__ = ("claims", "rows", "sessions")

    def __init__(self, board: Board, claim: Object) -> None:
        label = claim["spec"]["resource"]
        version = claim["metadata"]["resourceVersion"]
        self.claims: list[Object] = ahead_of(  # type: ignore[assignment]
            claim, board.claims(resource=label, ended=True, not_older_than=version)
        )
        # One answer is one line: nobody reads the details of a hundred waiters.
        shown = self.claims[:10]
        self.sessions = board.sessions_of({item["spec"]["session"] for item in shown})
        me = claim["spec"]["session"]
        self.rows = [
            row for item in shown for row in claim_rows([(item, self.sessions.get(item["spec"]["session"]))], me)
        ]

    def first(self) -> str:
        """Who holds it, why, since when and until when, in one line."""
        if not self.claims:
            return "nobody"
        claim = self.claims[0]
        return describe(claim, self.sessions.get(claim["spec"]["session"]))

    def more(self) -> str:
        """How many others are ahead: ` and 2 more are ahead`, or nothing."""
        rest = len(self.claims) - 1
        return f", and {rest} more {'is' if rest == 1 else 'are'} ahead" if rest > 0 else ""

    def next_action(self) -> str:
        """`ask` when only a person can clear the way, else `wait`."""
        return "ask" if any(holds_on(claim) for claim in self.claims[:1]) else "wait"


def describe(claim: Object, session: Object | None) -> str:
    """Session, user@host, purpose, since when and until when."""
    spec, status = claim["spec"], claim.get("status") or {}
    holder = spec.get("holder") or {}
    who = f"{named(spec['session'])} ({named(holder.get('user', ''))}@{named(holder.get('host', ''))})"
    since = status.get("grantedAt") or claim["metadata"]["creationTimestamp"]
    until = format_time(ends_at(claim, session))
    if holds_on(claim):
        tail = f"expired {until} and is held until somebody releases it: look first, then presence release --force"
    else:
        tail = f"until {until} unless renewed"
    return f"{who} {quoted(spec['purpose'])} since {since}, {tail}"


def in_the_way(board: Board, claim: Object) -> str:
    """Who holds what `claim` waits for, as its status says, in one line; empty when that is over by now.

    Unlike `Blockers` this reads one claim, however long the queue is.
    """
    first = next(iter((claim.get("status") or {}).get("waitingFor") or ()), None)
    if first is None:
        return ""
    found = board.named_claim(first["name"])
    if found is None or is_over(found):
        return ""
    return describe(found, board.session(found["spec"]["session"]))


def limited_by(claim: Object) -> str:
    """The limit that `claim` waits for though it is its turn, as its status says; empty when none keeps it."""
    for condition in (claim.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Granted" and condition["reason"] == "LimitReached":
            return clean(condition["message"])
    return ""


def obstacle(board: Board, claim: Object) -> str:
    """What `claim` waits for, as its status says, in one clause that follows its label; empty when that is over."""
    holder, limit = in_the_way(board, claim), limited_by(claim)
    if limit:
        return f"waits for a slot ({limit})" + (f"; one of them is {holder}" if holder else "")
    return f"is held by {holder}" if holder else ""


class Progress:
    """Lines about a wait: one whenever the place or the holder changed."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._shown: tuple[int, str] | None = None
        self._first: tuple[int, float] | None = None

    def line(self, board: Board, claim: Object, now: float) -> str | None:
        """The line for `claim` as it stands; None when nothing changed. `now` is any steady clock.

        Raises:
            BoardError: the holder cannot be looked up; ask again after the next change.
        """
        status = claim.get("status") or {}
        position = int(status.get("queuePosition") or 0)
        first: Object = next(iter(status.get("waitingFor") or ()), {})
        state = (position, str(first.get("name", "")))
        if not status.get("phase") or state == self._shown:
            return None
        holder, limit = in_the_way(board, claim), limited_by(claim)
        if not holder and not limit:
            return None
        self._shown = state
        place = f": position {position}" if position else ""
        why = "; ".join(
            part for part in (limit, f"held by {holder}" if not limit else f"one of them is {holder}") if part
        )
        return f"waiting for {clean(self._label)}{place}; {why}{self._expectation(position, now)}"

    def _expectation(self, position: int, now: float) -> str:
        """How long it may take, from how fast the queue moved so far; nothing before it has moved."""
        if not position:
            return ""
        if self._first is None or position > self._first[0]:
            self._first = (position, now)
            return ""
        passed = self._first[0] - position
        if passed <= 0:
            return ""
        return f"; at the pace so far, about {age((now - self._first[1]) / passed * position)} more"


def why_over(claim: Object | None, uid: str) -> str:
    """Why a claim is over, and by whom, as a phrase that follows its label."""
    if claim is None or claim["metadata"]["uid"] != uid or claim["metadata"].get("deletionTimestamp"):
        return "was deleted from the board"
    phase = (claim.get("status") or {}).get("phase")
    details = claim["spec"].get("release") or {}
    if details.get("to") and not details.get("forced"):
        return f"was handed over to {named(details['to'])}{_reason(details)}"
    if details.get("forced"):
        who = named(details.get("by") or "somebody")
        user = f" ({named(details['user'])})" if details.get("user") else ""
        return f"was taken away by {who}{user}{_reason(details)}"
    if claim["spec"].get("released") or phase == RELEASED:
        return "was released"
    if phase == EXPIRED or phase in ENDED_PHASES:
        return "expired"
    return "ended"


def _reason(details: Object) -> str:
    return f": {quoted(details['reason'])}" if details.get("reason") else ""
