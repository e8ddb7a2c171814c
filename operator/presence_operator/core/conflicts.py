"""Who else holds a resource: the live claims on one label, in order of seniority."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from presence_operator.core.facts import Peer
from presence_operator.core.schedule import NEVER

if TYPE_CHECKING:
    from presence_operator.core.facts import Claim

#: At most this many others are listed on each claim; the schema states the same.
SHOWN = 10

_Seat = tuple[float, str, str]


class ResourceGroup:
    """The live claims on one resource of one board.

    Each claim shows the oldest claim of each of the oldest *other* sessions. So a newcomer to a crowd changes nobody's
    list but its own, a hundred co-claimants cost a hundred writes, not ten thousand, and one session's thousands of
    claims cost the others nothing.
    """

    __slots__ = ("_firsts", "_seats", "_sessions", "key", "stale", "wake")

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.wake = NEVER
        #: True when the lists of members other than the one that came or went may have changed.
        self.stale = False
        self._seats: list[_Seat] = []
        self._sessions: dict[str, list[_Seat]] = {}
        #: The oldest seat of each session.
        self._firsts: list[_Seat] = []

    def __len__(self) -> int:
        return len(self._seats)

    def join(self, claim: Claim) -> None:
        """Seat a live claim by its seniority."""
        seat = (claim.created, claim.name, claim.session)
        insort(self._seats, seat)
        own = self._sessions.setdefault(claim.session, [])
        first = own[0] if own else None
        insort(own, seat)
        self._lead(first, own[0])

    def leave(self, claim: Claim) -> None:
        """Remove a claim that has ended or gone."""
        seat = (claim.created, claim.name, claim.session)
        if not _take(self._seats, seat):
            return
        own = self._sessions[claim.session]
        first = own[0]
        _take(own, seat)
        self._lead(first, own[0] if own else None)
        if not own:
            del self._sessions[claim.session]

    def names(self) -> list[str]:
        """Object names of the members, oldest first."""
        return [name for _, name, _ in self._seats]

    def peers(self, claim: Claim) -> tuple[Peer, ...]:
        """The oldest claims of other sessions, one of each, as `status.conflictsWith` shows them to `claim`."""
        others = [seat for seat in self._firsts[: SHOWN + 1] if seat[2] != claim.session]
        return tuple(Peer(name, session, created) for created, name, session in others[:SHOWN])

    def _lead(self, before: _Seat | None, after: _Seat | None) -> None:
        """A session's oldest seat is another one than before."""
        if before == after:
            return
        # Whoever sits behind these is in nobody's list, and somebody alone is shown to nobody.
        head = self._firsts[: SHOWN + 1]
        if before is not None:
            _take(self._firsts, before)
        if after is not None:
            insort(self._firsts, after)
        now = self._firsts[: SHOWN + 1]
        if now != head and max(len(now), len(head)) > 1:
            self.stale = True


def _take(seats: list[_Seat], seat: _Seat) -> bool:
    index = bisect_left(seats, seat)
    if index == len(seats) or seats[index] != seat:
        return False
    del seats[index]
    return True
