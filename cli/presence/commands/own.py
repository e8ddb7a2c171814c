"""What a session's own claims need before and after it shows a sign of life: an ended claim must not come back.

A heartbeat of the session moves the deadline of all of its claims. One whose deadline had passed already stays ended;
where no operator was there to write that down, the holder does it itself, before it renews.
"""

from __future__ import annotations

from presence.board import CACHED, session_name
from presence.model.deadlines import claim_deadline, has_ended, last_sign_of_life, ttl_of
from presence.model.kinds import EXPIRED, LAPSED_ANNOTATION
from presence.model.times import format_time, parse_time

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

    from presence.board import Board

    Object = dict[str, Any]

#: Seconds within which a deadline counts as near: the session is looked at before the claim is renewed.
_NEAR = 5.0


class Own:
    """The claims of one session on the way through a heartbeat."""

    def __init__(self, board: Board, session: str) -> None:
        self._board = board
        self._session = session
        #: Ended ones included.
        self.claims: list[Object] = []
        #: Claims that this call found to have run out.
        self.lost: list[Object] = []
        self._deadlines: dict[str, float] = {}

    def settle(self, *, cached: bool) -> None:
        """Read the claims, and write down which of them have run out. Comes before the heartbeat.

        `cached` reads what the API server has at hand, which is quicker. Claims of the last moments may be missing, but
        those have not run out; and a claim that has changed since is not written to.

        Raises:
            GoneError: one of them changed meanwhile.
        """
        self.reload(cached=cached)
        now = self._board.now
        near = [claim for claim in self.claims if not has_ended(claim) and _sure_until(claim) <= now + _NEAR]
        if not near:
            return
        session = self._board.session(self._session)
        for claim in near:
            deadline = max(_promise(claim), claim_deadline(claim, session))
            self._deadlines[claim["metadata"]["uid"]] = deadline
            if deadline <= now:
                self._lapse(claim, deadline)

    def settle_late(self, session: Object) -> None:
        """End the claims whose deadline passed while the heartbeat was under way.

        `session` is the session as the heartbeat left it, with the API server's time of that heartbeat.

        Raises:
            GoneError: one of them changed meanwhile.
        """
        beaten = last_sign_of_life(session)
        for claim in self.claims:
            deadline = max(self._deadlines.get(claim["metadata"]["uid"], 0.0), _sure_until(claim))
            if not has_ended(claim) and deadline <= beaten:
                self._lapse(claim, deadline)

    def reload(self, *, cached: bool = False) -> None:
        """Read the claims again."""
        version = CACHED if cached else None
        self.claims = self._board.claims(session=self._session, ended=True, not_older_than=version)

    def on(self, resource: str) -> Object | None:
        """The claim on this resource, ended or not."""
        return next((claim for claim in self.claims if claim["spec"]["resource"] == resource), None)

    def expired_since(self, moment: float | None) -> list[Object]:
        """The claims that an operator ended after this moment, the session's heartbeat before (None: there was none).

        What a call wrote down itself is not among them: it was in that call's `lost`.
        """
        if moment is None:
            return []
        return [claim for claim in self.claims if _expired_at(claim) > moment]

    def in_usual_session(self) -> bool:
        """True when a claim belongs to the AgentSession of the usual name: there is no need to look for another."""
        name = session_name(self._session)
        owners = [owner for claim in self.claims for owner in claim["metadata"].get("ownerReferences") or ()]
        return any(owner.get("name") == name for owner in owners)

    def standing(self) -> list[Object]:
        """The claims that have not ended."""
        return [claim for claim in self.claims if not has_ended(claim)]

    def longest(self) -> float:
        """The longest ttl of the claims that have not ended, in seconds; 0 without any."""
        return max((ttl_of(claim) for claim in self.standing()), default=0.0)

    def _lapse(self, claim: Object, deadline: float) -> None:
        change = {"metadata": {"annotations": {LAPSED_ANNOTATION: format_time(deadline)}}}
        claim.update(self._board.patch_claim(claim, change, unchanged=True))
        self.lost.append(claim)


def _sure_until(claim: Object) -> float:
    """Until when the claim lives for sure, without looking at its session."""
    return max(_promise(claim), claim_deadline(claim))


def _promise(claim: Object) -> float:
    text = (claim.get("status") or {}).get("expiresAt")
    return parse_time(text) if text else 0.0


def _expired_at(claim: Object) -> float:
    status = claim.get("status") or {}
    if status.get("phase") != EXPIRED or LAPSED_ANNOTATION in (claim["metadata"].get("annotations") or {}):
        return 0.0
    return parse_time(status["endedAt"]) if status.get("endedAt") else 0.0
