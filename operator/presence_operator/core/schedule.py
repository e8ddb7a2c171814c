"""Deadlines: what is to be looked at when."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Generic, Protocol, TypeVar

NEVER = float("inf")


class Timed(Protocol):
    """Something to look at later. `wake` belongs to the schedule; it starts as NEVER."""

    wake: float


T = TypeVar("T", bound=Timed)


class Schedule(Generic[T]):
    """A heap of deadlines with one entry for each item; replacing or forgetting one is cheap (lazy deletion)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()
        self._live = 0

    def at(self, item: T, when: float) -> None:
        """Wake `item` at `when` instead of any earlier wish; NEVER forgets it."""
        if item.wake == when:
            return
        if item.wake != NEVER:
            self._live -= 1
        item.wake = when
        if when == NEVER:
            return
        self._live += 1
        heapq.heappush(self._heap, (when, next(self._order), item))
        if len(self._heap) > 4 * self._live + 1024:
            self._heap = list({id(e[2]): e for e in self._heap if e[2].wake == e[0]}.values())
            heapq.heapify(self._heap)

    def due(self, now: float) -> list[T]:
        """Take all items whose time has come, earliest first."""
        items: list[T] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _, item = heapq.heappop(heap)
            if item.wake == when:
                item.wake = NEVER
                self._live -= 1
                items.append(item)
        return items

    def next(self) -> float:
        """When the earliest item is due; NEVER when nothing is."""
        heap = self._heap
        while heap and heap[0][2].wake != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def __len__(self) -> int:
        return self._live
