"""Limits applied to the claims of all boards: who is counted by which, and what is said of those that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence.model.queue import shown_position
from presence_operator.core.decide import Turn
from presence_operator.core.facts import Peer
from presence_operator.core.limits import Slots
from presence_operator.core.queueing import SHOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from presence_operator.core.entries import ClaimEntry
    from presence_operator.core.limits import Limit, Limits


class Limiter:
    """Which claims have slots, and which wait for one. Costs nothing while no limits are set."""

    def __init__(self) -> None:
        self.limits: Limits = ()
        self._boards: dict[str, Slots] = {}
        #: Boards on which what is shown of waiting claims may be out of date.
        self.stale: dict[Slots, None] = {}

    def begin(self, limits: Limits) -> list[Slots]:
        """Forget everything and go by these limits; the boards forgotten. Then `note` every claim."""
        old = list(self._boards.values())
        self.limits = limits
        self._boards.clear()
        self.stale.clear()
        return old

    def note(self, entry: ClaimEntry) -> None:
        """Take in the state of a claim."""
        if not self.limits:
            return
        fact = entry.fact
        if fact.over or fact.holds_on:
            self.leave(entry)
        elif entry.resource.admitted(fact.name):
            limits = self._counting(entry)
            slots = self._slots(fact.namespace)
            if limits or slots.has(fact.name):
                slots.take(fact.name, fact.session, limits)
        elif (slots := self._slots(fact.namespace)).waits(fact.name):
            self._ask(slots, entry)

    def leave(self, entry: ClaimEntry) -> None:
        """The claim needs no slot any more, or not yet."""
        slots = self._boards.get(entry.fact.namespace)
        if slots is not None and slots.leave(entry.fact.name):
            self._look_again(slots)

    def may(self, entry: ClaimEntry) -> bool:
        """True when no limit keeps a claim whose turn on its resource has come; otherwise it waits for a slot."""
        if not self.limits:
            return True
        slots = self._slots(entry.fact.namespace)
        return slots.has(entry.fact.name) or self._ask(slots, entry)

    @property
    def dirty(self) -> bool:
        """True when somebody who waits may get a slot."""
        return any(slots.dirty for slots in self._boards.values())

    def admit(self) -> Iterator[tuple[str, str]]:
        """Namespace and name of each claim that has got its slots just now."""
        for namespace, slots in list(self._boards.items()):
            if slots.dirty:
                for name in slots.admit():
                    yield namespace, name
                self._look_again(slots)

    def turn(self, entry: ClaimEntry, claim: Callable[[str], ClaimEntry | None]) -> Turn | None:
        """What is shown of a claim that waits for a slot; None when it waits for none. `claim` looks one up by name."""
        slots = self._boards.get(entry.fact.namespace)
        name = entry.fact.name
        if slots is None or not slots.waits(name):
            return None
        limit = slots.full(name)
        users = (claim(each) for each in slots.users(limit)[:SHOWN])
        return Turn(
            admitted=False,
            position=shown_position(slots.place(name)),
            ahead=tuple(Peer(each.fact.name, each.fact.session, each.fact.created) for each in users if each),
            limit=_words(limit, slots.in_use(limit)),
        )

    def figures(self) -> Iterator[tuple[str, Limit, int, int]]:
        """Namespace, limit, slots in use, and claims that wait for one."""
        for namespace, slots in self._boards.items():
            for limit, used, waiting in slots.figures():
                yield namespace, limit, used, waiting

    # ---- inside

    def _slots(self, namespace: str) -> Slots:
        return self._boards.get(namespace) or self._boards.setdefault(namespace, Slots(namespace))

    def _counting(self, entry: ClaimEntry) -> Limits:
        fact = entry.fact
        kind = entry.holder.kind()
        return tuple(
            limit
            for limit in self.limits
            if limit.counts(fact.namespace, fact.resource, kind, exclusive=fact.exclusive)
        )

    def _ask(self, slots: Slots, entry: ClaimEntry) -> bool:
        """True when no limit counts the claim."""
        limits, fact = self._counting(entry), entry.fact
        if not limits:
            return True
        if slots.ask(fact.name, fact.session, limits, fact.priority, fact.created):
            self._look_again(slots)
        return False

    def _look_again(self, slots: Slots) -> None:
        self.stale[slots] = None


def _words(limit: Limit, used: int) -> str:
    what = "sessions" if limit.per_session else "claims"
    return f"limit {limit.name}: {used} of at most {limit.max} {what} are Active"
