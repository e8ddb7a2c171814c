"""The troublemaker: a schedule of faults that a seed determines, and the hands that carry it out."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from faults.history import Fault
from faults.watcher import now

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds of an operator's Lease in these experiments; a pause that is longer makes another operator lead.
LEASE = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """At `at` seconds do `what`; `which` picks the victim among those there are, modulo their number."""

    at: float
    what: str
    which: int = 0

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.what} {self.which}"


#: What can happen: the fault, how it is undone ("" when there is nothing to undo), its share, how long it lasts.
REPERTOIRE: tuple[tuple[str, str, int, float, float], ...] = (
    ("kill operator", "start operator", 3, 0.2, 4.0),
    ("pause operator", "resume operator", 3, LEASE + 1, 3 * LEASE),
    ("double operator", "single operator", 2, 4.0, 12.0),
    ("kill holder", "", 4, 0.0, 0.0),
    ("kill command", "", 2, 0.0, 0.0),
    ("pause holder", "resume holder", 4, 4.0, 20.0),
    ("kill keeper", "", 2, 0.0, 0.0),
    ("pause keeper", "resume keeper", 3, 4.0, 20.0),
    ("kill waiter", "", 2, 0.0, 0.0),
    ("cut wire", "", 3, 0.0, 0.0),
    ("stall wire", "resume wire", 2, 1.0, 15.0),
    ("kill API server", "start API server", 1, 0.1, 4.0),
)


def plan(seed: int, seconds: float, gap: tuple[float, float] = (1.0, 4.0)) -> list[Step]:
    """A schedule for so many seconds, the same for the same seed; every fault of the repertoire happens early on.

    Each fault that lasts is undone before the end, and is not done again before that.
    """
    dice = random.Random(seed)
    steps: list[Step] = []
    busy: dict[str, float] = {}
    # Each once, in an order of chance, so that a short run meets them all.
    deck = dice.sample(REPERTOIRE, len(REPERTOIRE))
    at = dice.uniform(*gap)
    while at < seconds:
        what, undo, _, shortest, longest = deck.pop() if deck else dice.choices(
            REPERTOIRE, [each[2] for each in REPERTOIRE]
        )[0]  # fmt: skip
        if at >= busy.get(what, 0.0):
            which = dice.randrange(1_000)
            steps.append(Step(round(at, 1), what, which))
            if undo:
                end = min(at + dice.uniform(shortest, longest), seconds)
                busy[what] = end + 0.5
                steps.append(Step(round(end, 1), undo, which))
        at += dice.uniform(*gap)
    return sorted(steps, key=lambda step: step.at)


class Hands(Protocol):
    """What the nemesis needs to do its work: each method does one kind of step, and says what it did."""

    def do(self, what: str, which: int) -> str:
        """Carry a step out; a line for the log, empty when there was nobody to do it to."""


class Nemesis:
    """Carries a schedule out in a thread of its own."""

    def __init__(self, steps: list[Step], hands: Hands, say: Callable[[str], None]) -> None:
        self.faults: list[Fault] = []
        self.error: Exception | None = None
        self._steps = steps
        self._hands = hands
        self._say = say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nemesis", daemon=True)

    def start(self) -> None:
        """Begin; the schedule counts from now."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the schedule. Raises what went wrong with the experiment itself."""
        self._thread.join()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End early; what has begun may not be undone."""
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        begin = now()
        try:
            for step in self._steps:
                if self._stop.wait(max(0.0, begin + step.at - now())):
                    return
                at = now()
                done = self._hands.do(step.what, step.which)
                if done:
                    self.faults.append(Fault(done, at))
                    self._say(f"{at - begin:7.1f} s  {done}")
        except Exception as error:  # noqa: BLE001 - raised again by join
            self.error = error
