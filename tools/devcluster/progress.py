"""How long the rest will take, and saying so."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO


def remaining_seconds(
    done: Sequence[tuple[float, float]], current_reference: float, current_elapsed: float, pending: Sequence[float]
) -> float:
    """Seconds left, from reference durations scaled by how this machine did so far.

    `done` holds (reference, measured) pairs. A step that outlasts its scaled reference is counted as about to end:
    the figure then stays at what is pending instead of turning negative.
    """
    scale = speed(done)
    return max(0.0, current_reference * scale - current_elapsed) + scale * sum(pending)


def speed(done: Sequence[tuple[float, float]]) -> float:
    """How long this machine takes for what takes the reference machine a second.

    Not below a quarter: one step that a warm compiler cache made quick says little about the next.
    """
    reference = sum(pair[0] for pair in done)
    measured = sum(pair[1] for pair in done)
    return max(0.25, measured / reference) if reference >= 10 else 1.0


def human(seconds: float) -> str:
    """`45 s`, `3 min 20 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


@dataclass
class Progress:
    """Reports the steps of one build, in place on a terminal, else a line now and then."""

    steps: Sequence[tuple[str, float]]
    out: TextIO = field(default_factory=lambda: sys.stderr)
    line_every: float = 20.0
    _done: list[tuple[float, float]] = field(default_factory=list)
    _started: float = 0.0
    _last_line: float = 0.0

    def start(self) -> None:
        self._started = self._last_line = time.monotonic()
        self._say("building", force=True)

    def tick(self) -> None:
        self._say("building")

    def finish(self, note: str = "built") -> None:
        name, reference = self.steps[len(self._done)]
        elapsed = time.monotonic() - self._started
        number = len(self._done) + 1
        self._done.append((reference, elapsed))
        end = "\n"
        self._write(f"[{number}/{len(self.steps)}] {name}: {note} in {human(elapsed)}", end)

    def skip(self, note: str) -> None:
        """The step turned out to be done already (by another builder)."""
        number = len(self._done) + 1
        self._write(f"[{number}/{len(self.steps)}] {self.steps[number - 1][0]}: {note}", "\n")
        self._done.append((0.0, 0.0))

    def _say(self, verb: str, force: bool = False) -> None:
        now = time.monotonic()
        terminal = self.out.isatty()
        if not (force or terminal or now - self._last_line >= self.line_every):
            return
        self._last_line = now
        number = len(self._done)
        name, reference = self.steps[number]
        elapsed = now - self._started
        pending = [step[1] for step in self.steps[number + 1 :]]
        left = remaining_seconds(self._done, reference, elapsed, pending)
        text = f"[{number + 1}/{len(self.steps)}] {name}: {verb}, {human(elapsed)}"
        expected = reference * speed(self._done)
        if elapsed > expected:
            text += f", longer than the expected {human(expected)}"
            text += f"; then about {human(left)} more" if pending else ""
        else:
            text += f", about {human(left)} left in all"
        self._write(text, "" if terminal else "\n")

    def _write(self, text: str, end: str) -> None:
        prefix = "\r\x1b[K" if self.out.isatty() else ""
        print(f"{prefix}{text}", end=end, file=self.out, flush=True)
