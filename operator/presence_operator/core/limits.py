"""Limits: how many claims of one kind may be Active at once on a board, and who of those over it goes next.

A claim takes its slots when its turn on its resource has come, and gives them back when it is over: released, expired,
deleted, or kept as a mere block of its resource (`onExpiry: Hold`). Those that find no slot wait in the order of their
priority, then their age. One that waits for one limit keeps its place in every other one that counts it, so that it
is not overtaken for ever by claims that need less.

A limit is a budget, not a lock: it is kept by one operator from what it knows, and claims that are Active already stay
so when it is lowered.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from presence.model.labels import ONCE_TYPE
from presence_operator.core.schedule import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator

_Order = tuple[int, float, str]


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `max` of the claims that it counts are Active on one board. An empty field means any."""

    name: str
    max: int
    namespaces: frozenset[str] = frozenset()
    resource_type: str = ""
    session_kind: str = ""
    exclusive_only: bool = True
    per_session: bool = False
    """True when all claims of a session share one slot, so that it is never kept from its second claim by others."""

    def counts(self, namespace: str, resource: str, kind: str, *, exclusive: bool) -> bool:
        """True when a claim on `resource` by a session of this `kind` takes one of its slots."""
        of_type = resource.partition(":")[0]
        # The keys of `presence once` are nobody's work: they stay on the board for what came of it.
        return (
            (not self.namespaces or namespace in self.namespaces)
            and (of_type == self.resource_type if self.resource_type else of_type != ONCE_TYPE)
            and (not self.session_kind or kind == self.session_kind)
            and (exclusive or not self.exclusive_only)
        )


Limits = tuple[Limit, ...]


class _Ask(NamedTuple):
    session: str
    limits: Limits
    order: _Order


class Slots:
    """The slots of one board: who has which, and who waits for one. `wake` belongs to the schedule."""

    __slots__ = ("_has", "_lines", "_used", "_waits", "dirty", "key", "wake")

    def __init__(self, namespace: str) -> None:
        self.key = (namespace, "")
        self.wake = NEVER
        #: True when somebody who waits may get a slot.
        self.dirty = False
        self._has: dict[str, tuple[str, Limits]] = {}
        # Of each limit the sessions that have slots, and by which claims.
        self._used: dict[Limit, dict[str, dict[str, None]]] = {}
        self._waits: dict[str, _Ask] = {}
        # Claims that the same limits count are served in order: only the first of each line needs a look.
        self._lines: dict[Limits, list[_Order]] = {}

    # ---- facts

    def has(self, name: str) -> bool:
        """True when this claim has its slots."""
        return name in self._has

    def waits(self, name: str) -> bool:
        """True when this claim waits for a slot."""
        return name in self._waits

    def take(self, name: str, session: str, limits: Limits) -> None:
        """This claim is Active, or about to be: it has a slot of each of these limits, also beyond their max."""
        if self._has.get(name) == (session, limits):
            return
        self.leave(name)
        if limits:
            self._has[name] = (session, limits)
            for limit in limits:
                self._used.setdefault(limit, {}).setdefault(session, {})[name] = None

    def ask(self, name: str, session: str, limits: Limits, priority: int, created: float) -> bool:
        """The turn of this claim on its resource has come; it waits for a slot of each of these limits.

        False when it did so before.
        """
        ask = _Ask(session, limits, (-priority, created, name))
        if self._waits.get(name) == ask:
            return False
        self.leave(name)
        self._waits[name] = ask
        insort(self._lines.setdefault(limits, []), ask.order)
        self.dirty = True
        return True

    def leave(self, name: str) -> bool:
        """This claim needs no slot any more; true when it had one or waited for one."""
        if (had := self._has.pop(name, None)) is not None:
            session, limits = had
            for limit in limits:
                used = self._used[limit]
                del used[session][name]
                if not used[session]:
                    del used[session]
        elif (waited := self._waits.pop(name, None)) is not None:
            self._unqueue(waited.limits, waited.order)
        else:
            return False
        self.dirty = bool(self._waits)
        return True

    # ---- decisions

    def admit(self) -> list[str]:
        """Names of the claims that have got their slots just now, the first first."""
        # What a claim that has to wait would take of its other limits: nobody behind it gets that meanwhile.
        reserved: dict[Limit, int] = {}
        heads = sorted(line[0] for line in self._lines.values())
        after: dict[Limits, int] = {}
        admitted = []
        while heads:
            name = heads.pop(0)[2]
            session, limits, _ = self._waits[name]
            full = [limit for limit in limits if self._needs(limit, session, reserved.get(limit, 0))]
            if full:
                for limit in set(limits).difference(full):
                    reserved[limit] = reserved.get(limit, 0) + 1
            else:
                self.take(name, session, limits)
                admitted.append(name)
            line = self._lines.get(limits, [])
            if full:
                after[limits] = after.get(limits, 0) + 1
                # Behind it only one whose session has its slot already can go.
                if not any(limit.per_session for limit in limits):
                    continue
            if len(line) > after.get(limits, 0):
                insort(heads, line[after.get(limits, 0)])
        self.dirty = False
        return admitted

    # ---- what is to be shown

    def place(self, name: str) -> int:
        """The place of a claim that waits among all that wait for the same slot; 1 goes next."""
        ask = self._waits[name]
        wanted = set(ask.limits)
        return 1 + sum(bisect_left(line, ask.order) for others, line in self._lines.items() if wanted & set(others))

    def full(self, name: str) -> Limit:
        """The limit that a claim waits for, the fullest of those that count it."""
        return max(self._waits[name].limits, key=lambda limit: (self.in_use(limit) - limit.max, limit.name))

    def users(self, limit: Limit) -> list[str]:
        """Names of the claims that have a slot of this limit, the oldest first; one for each session if they share."""
        used = self._used.get(limit, {})
        return [name for names in used.values() for name in (list(names)[:1] if limit.per_session else names)]

    def names(self) -> list[str]:
        """Names of all that wait."""
        return list(self._waits)

    def figures(self) -> Iterator[tuple[Limit, int, int]]:
        """Each limit that counts something here, with how many have a slot of it and how many wait for one."""
        waiting: dict[Limit, int] = {}
        for limits, line in self._lines.items():
            for limit in limits:
                waiting[limit] = waiting.get(limit, 0) + len(line)
        for limit in dict.fromkeys((*self._used, *waiting)):
            yield limit, self.in_use(limit), waiting.get(limit, 0)

    def in_use(self, limit: Limit) -> int:
        """How many of its slots are taken."""
        used = self._used.get(limit, {})
        return len(used) if limit.per_session else sum(map(len, used.values()))

    # ---- inside

    def _needs(self, limit: Limit, session: str, reserved: int) -> bool:
        """True when a claim of this session has to wait for this limit."""
        if limit.per_session and session in self._used.get(limit, {}):
            return False
        return self.in_use(limit) + reserved >= limit.max

    def _unqueue(self, limits: Limits, order: _Order) -> None:
        line = self._lines[limits]
        del line[bisect_left(line, order)]
        if not line:
            del self._lines[limits]
