"""Who else holds a resource: the live claims on one label, in order of seniority."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
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

    Each claim shows the oldest claims of *other* sessions. So a newcomer to a crowd changes nobody's list but its own,
    and a hundred co-claimants cost a hundred writes, not ten thousand.
    """

    __slots__ = ("_seats", "_sessions", "key", "stale", "wake")

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.wake = NEVER
        #: True when the lists of members other than the one that came or went may have changed.
        self.stale = False
        self._seats: list[_Seat] = []
        self._sessions: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._seats)

    def join(self, claim: Claim) -> None:
        """Seat a live claim by its seniority."""
        seat = (claim.created, claim.name, claim.session)
        insort(self._seats, seat)
        self._sessions[claim.session] += 1
        self._touched(bisect_left(self._seats, seat))

    def leave(self, claim: Claim) -> None:
        """Remove a claim that has ended or gone."""
        seat = (claim.created, claim.name, claim.session)
        index = bisect_left(self._seats, seat)
        if index < len(self._seats) and self._seats[index] == seat:
            self._touched(index)
            del self._seats[index]
            self._sessions[claim.session] -= 1
            if not self._sessions[claim.session]:
                del self._sessions[claim.session]

    def names(self) -> list[str]:
        """Object names of the members, oldest first."""
        return [name for _, name, _ in self._seats]

    def peers(self, claim: Claim) -> tuple[Peer, ...]:
        """The oldest claims of other sessions, as `status.conflictsWith` shows them to `claim`."""
        if len(self._sessions) < 2 and claim.session in self._sessions:
            return ()
        found: list[Peer] = []
        for created, name, session in self._seats:
            if session != claim.session:
                found.append(Peer(name, session, created))
                if len(found) == SHOWN:
                    break
        return tuple(found)

    def _touched(self, index: int) -> None:
        # Whoever sits behind more than SHOWN others is in nobody's list. Only a session's own claims are skipped when
        # listing, so each further claim of one session moves that border back by one at most.
        extra = len(self._seats) - len(self._sessions)
        if len(self._seats) > 1 and index <= SHOWN + extra:
            self.stale = True
