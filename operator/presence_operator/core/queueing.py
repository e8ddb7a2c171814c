"""Who may hold a resource, and who waits: one fair first-come queue per resource, for Shared and Exclusive claims.

Shared claims hold it together; an Exclusive one waits for all that are before it and holds back all that come after it.
The order is that of `presence.model.queue`. A claim that was admitted stays so until it is over: whether its grant has
reached the API may be unknown for a while.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from presence.model import kinds
from presence.model.queue import IN_TURN, PROMISED, rank
from presence_operator.core.facts import Peer
from presence_operator.core.schedule import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from presence_operator.core.facts import Claim

#: At most this many others are listed on each waiting claim; the schema states the same.
SHOWN = 10
#: Waiting claims up to this place see a change of who is before them; those behind see it when their place changes.
FRONT = 3

_Order = tuple[int, float, str]


def _anybody(name: str) -> bool:  # noqa: ARG001 - without limits nobody is kept
    return True


class _Seat:
    __slots__ = ("admitted", "created", "exclusive", "name", "order", "session")

    def __init__(self, claim: Claim, order: _Order) -> None:
        self.name = claim.name
        self.session = claim.session
        self.created = claim.created
        self.exclusive = claim.exclusive
        self.order = order
        self.admitted = False


class ResourceQueue:
    """The claims on one resource of one board that are not over.

    Every operation takes O(log n) steps (and moves pointers in a list), `admit` as many as it admits. `wake` belongs
    to the schedule.
    """

    __slots__ = (
        "_crossed",
        "_exclusives",
        "_front_changed",
        "_giver",
        "_heir",
        "_held",
        "_held_exclusively",
        "_known",
        "_of_session",
        "_seats",
        "_token",
        "_waiting",
        "dirty",
        "key",
        "wake",
    )

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.wake = NEVER
        #: True when somebody may have to be admitted.
        self.dirty = False
        self._known: set[str] = set()
        self._seats: dict[str, _Seat] = {}
        self._of_session: dict[str, set[str]] = {}
        self._waiting: list[_Order] = []
        self._held: list[_Order] = []
        self._held_exclusively: set[str] = set()
        self._exclusives: set[str] = set()
        self._crossed: set[str] = set()
        self._front_changed = False
        # The latest Exclusive holder, and whom it named to go next: session, and until when its claims were made.
        self._token = 0
        self._giver = ""
        self._heir: tuple[str, float | None] = ("", None)

    # ---- facts

    def take(self, claim: Claim) -> None:
        """Take in the state of a claim."""
        self._known.add(claim.name)
        if claim.exclusive:
            self._exclusives.add(claim.name)
        self._note_token(claim)
        seat = self._seats.get(claim.name)
        if claim.over:
            if seat is not None:
                self._leave(seat)
            return
        if seat is None:
            seat = self._seats[claim.name] = _Seat(claim, self._order(claim.session, claim.created, claim.name))
            self._of_session.setdefault(claim.session, set()).add(claim.name)
            self._queue(seat)
        if (claim.held or claim.holds_on) and not seat.admitted:
            self._admit(seat)

    def drop(self, claim: Claim) -> None:
        """The object of a claim does not exist any more."""
        self._known.discard(claim.name)
        self._exclusives.discard(claim.name)
        if claim.name == self._giver:
            # A hand-over is read from the claim; without it there is none, for other readers neither.
            self._name_heir("", None)
        seat = self._seats.get(claim.name)
        if seat is not None:
            self._leave(seat)

    # ---- decisions

    def admit(self, may: Callable[[str], bool] = _anybody) -> list[str]:
        """Names of claims whose turn has come just now. They stay admitted until they are over or step back.

        `may` is asked of each whether anything else keeps it waiting; shared claims pass those whom it does.
        """
        self.dirty = False
        admitted: list[str] = []
        kept = 0
        while len(self._waiting) > kept and not self._held_exclusively:
            seat = self._seats[self._waiting[kept][2]]
            if seat.exclusive and (self._held or kept):
                break
            if may(seat.name):
                self._admit(seat)
                admitted.append(seat.name)
            else:
                kept += 1
                if seat.exclusive:
                    break
        return admitted

    def step_back(self, name: str) -> None:
        """An admitted claim has to wait on: somebody else holds the resource, or was promised it."""
        seat = self._seats.get(name)
        if seat is not None and seat.admitted:
            self._unhold(seat)
            self._queue(seat)

    def promise(self, name: str) -> None:
        """The grant of this claim has begun; if it waits it goes before all others."""
        seat = self._seats.get(name)
        if seat is not None and not seat.admitted:
            self._reorder(seat, (PROMISED, seat.created, seat.name))

    # ---- what is to be shown

    def admitted(self, name: str) -> bool:
        """True when it is this claim's turn, or it holds the resource."""
        seat = self._seats.get(name)
        return seat is not None and seat.admitted

    def alone(self, name: str) -> bool:
        """True when nobody else holds the resource or is admitted to it."""
        return len(self._held) == (1 if self.admitted(name) else 0)

    @property
    def exclusive(self) -> bool:
        """True when an Exclusive claim holds the resource, is admitted to it, or keeps it blocked."""
        return bool(self._held_exclusively)

    @property
    def contested(self) -> bool:
        """True when Exclusive claims on the resource exist, ended or not."""
        return bool(self._exclusives)

    def __contains__(self, name: str) -> bool:
        return name in self._seats

    @property
    def claims(self) -> int:
        """How many claims on the resource are known, ended or not."""
        return len(self._known)

    @property
    def idle(self) -> bool:
        """True when nobody holds the resource and nobody waits."""
        return not self._seats

    def place(self, name: str) -> int:
        """The place in the queue of a waiting claim; 1 goes next."""
        return bisect_left(self._waiting, self._seats[name].order) + 1

    def ahead(self, name: str) -> tuple[Peer, ...]:
        """Whom a waiting claim waits for, as `status.waitingFor` shows it: the holders, then who is ahead."""
        found = [self._peer(order) for order in self._held[:SHOWN]]
        ahead = bisect_left(self._waiting, self._seats[name].order)
        found += [self._peer(order) for order in self._waiting[: min(ahead, SHOWN - len(found))]]
        return tuple(found)

    def holders(self) -> int:
        """How many claims hold the resource or are admitted to it."""
        return len(self._held)

    @property
    def stale(self) -> bool:
        """True when what is shown of waiting claims may be out of date."""
        return bool(self._crossed) or (self._front_changed and bool(self._waiting))

    def refreshed(self) -> list[str]:
        """Names of the waiting claims to be shown anew since the last call."""
        names = self._crossed
        if self._front_changed:
            names.update(order[2] for order in self._waiting[:FRONT])
        self._crossed, self._front_changed = set(), False
        return [name for name in names if name in self._seats]

    # ---- inside

    def _order(self, session: str, created: float, name: str) -> _Order:
        to, until = self._heir
        return (rank(session, created, to, until), created, name)

    def _peer(self, order: _Order) -> Peer:
        seat = self._seats[order[2]]
        return Peer(seat.name, seat.session, seat.created)

    def _queue(self, seat: _Seat) -> None:
        insort(self._waiting, seat.order)
        self._moved(bisect_left(self._waiting, seat.order), entered=True)
        self.dirty = True

    def _unqueue(self, seat: _Seat) -> None:
        index = bisect_left(self._waiting, seat.order)
        del self._waiting[index]
        self._moved(index, entered=False)

    def _admit(self, seat: _Seat) -> None:
        self._unqueue(seat)
        self._crossed.discard(seat.name)
        seat.admitted = True
        seat.order = (IN_TURN, seat.created, seat.name)
        insort(self._held, seat.order)
        if seat.exclusive:
            self._held_exclusively.add(seat.name)
        self._front_changed = self._front_changed or bool(self._waiting)

    def _unhold(self, seat: _Seat) -> None:
        del self._held[bisect_left(self._held, seat.order)]
        self._held_exclusively.discard(seat.name)
        seat.admitted = False
        seat.order = self._order(seat.session, seat.created, seat.name)
        self._front_changed = self._front_changed or bool(self._waiting)

    def _leave(self, seat: _Seat) -> None:
        if seat.admitted:
            self._unhold(seat)
        else:
            self._unqueue(seat)
        del self._seats[seat.name]
        self._crossed.discard(seat.name)
        mates = self._of_session[seat.session]
        mates.discard(seat.name)
        if not mates:
            del self._of_session[seat.session]
        self.dirty = bool(self._waiting)

    def _reorder(self, seat: _Seat, order: _Order) -> None:
        if seat.order != order:
            self._unqueue(seat)
            seat.order = order
            self._queue(seat)

    def _moved(self, index: int, *, entered: bool) -> None:
        """Everybody behind `index` is one place further back or ahead; one for each power of four shows another one."""
        if index < FRONT:
            self._front_changed = True
        first = index + 2 if entered else index + 1
        bound = FRONT
        # Whoever has come to `bound`, or was pushed beyond it; places begin with 1.
        while (place := bound + 1 if entered else bound) <= len(self._waiting):
            if place >= first:
                self._crossed.add(self._waiting[place - 1][2])
            bound = 4 if bound == FRONT else bound * 4

    def _note_token(self, claim: Claim) -> None:
        token = claim.status.fencing_token
        if token is None or token < self._token:
            return
        self._token, self._giver = token, claim.name
        said = claim.release if claim.released else None
        if said is None or not said.to:
            self._name_heir("", None)
        else:
            # One that had expired before was released by somebody who came later than its end.
            self._name_heir(said.to, claim.status.ended_at if claim.status.phase == kinds.RELEASED else None)

    def _name_heir(self, session: str, until: float | None) -> None:
        before = self._heir
        self._heir = (session, until)
        if before == self._heir:
            return
        for concerned in {before[0], session}:
            for name in list(self._of_session.get(concerned, ())):
                seat = self._seats[name]
                if not seat.admitted and seat.order[0] != PROMISED:
                    self._reorder(seat, self._order(seat.session, seat.created, seat.name))
