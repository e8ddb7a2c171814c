"""What time it is at the API server, from the `Date` headers of its answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor

#: Two crystals may run apart by this much; so an old bound is worth less than a new one.
_DRIFT = 2e-4
#: Seconds by which one answer may contradict all before it and be believed nevertheless.
_ODD = 2.0
#: So many answers have to agree that the clock was set by more, and the last has to come this many seconds after the
#: first: one of several API servers may be wrong, and answers of the same moment may all be its.
_WITNESSES = 3
_APART = 2.0
#: So many steps are told apart; older ones are merged.
_STEPS = 16


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Bounds of the offset that contradict those believed, and the local times of the first and last such answer."""

    low: float
    high: float
    since: float
    at: float
    answers: int = 1


@dataclass(frozen=True, slots=True)
class _Step:
    """The clock was set forward: times until `until` were stamped when it was `seconds` behind."""

    until: float
    seconds: int


class ServerClock:
    """The API server's time within bounds, in seconds since the epoch.

    `Date` has whole seconds, so one answer says: when it was written, the server's time was in [date, date + 1).
    Each answer bounds the offset between the two clocks; the bounds of all of them meet in an interval that soon is
    hardly longer than a round trip. When no offset fits all of them, one of the clocks has been set: the newest
    answer is believed alone. Should that move the time by more than two seconds, others have to confirm it first.

    `local` times come from any clock that never goes back.
    """

    def __init__(self) -> None:
        self._low = 0.0
        self._high = 0.0
        self._at: float | None = None
        self._doubt: _Doubt | None = None
        self._steps: list[_Step] = []
        # The latest time that was set back.
        self._peak = float("-inf")

    @property
    def known(self) -> bool:
        """True after the first answer."""
        return self._at is not None

    @property
    def doubtful(self) -> bool:
        """True while answers that contradict the time believed are neither confirmed nor refuted: ask again."""
        return self._doubt is not None

    def observe(self, date: float, sent: float, received: float) -> None:
        """Take in an answer whose `Date` is `date`; the request was sent and the answer came at these local times."""
        low, high = date - received, date + 1.0 - sent
        if self._at is not None:
            slack = _DRIFT * (received - self._at)
            low, high = max(low, self._low - slack), min(high, self._high + slack)
            contradiction = low - high
            if contradiction > 0:
                low, high = date - received, date + 1.0 - sent
            if contradiction > _ODD:
                doubt = self._doubt = _doubted(self._doubt, low, high, received)
                if doubt.answers < _WITNESSES or received - doubt.since < _APART:
                    return
                low, high = doubt.low, doubt.high
                self._set(doubt, self._low - slack, self._high + slack)
        self._doubt = None
        self._low, self._high, self._at = low, high, received

    def shift(self, stamp: float) -> float:
        """The time at which something happened that was stamped `stamp`, as the server's clock tells times now.

        It differs when the clock has been set forward since: what was to come within a minute still is to come within
        a minute. Never earlier than `stamp`, and the same fraction of a second.
        """
        if not self._steps:
            return stamp
        return stamp + sum(step.seconds for step in self._steps if stamp <= step.until)

    def now(self, local: float) -> float:
        """The earliest that the server's time can be: what is over by this time is over.

        Raises:
            LookupError: no answer has been seen yet.
        """
        if self._at is None:
            raise LookupError("the server's time is not known before its first answer")
        earliest = local + self._low - _DRIFT * max(0.0, local - self._at)
        if self._doubt is not None:
            # Should the clock have been set back, times stamped since are not as long ago as they look.
            earliest = min(earliest, local + self._doubt.low - _DRIFT * max(0.0, local - self._doubt.at))
        return earliest

    def width(self, local: float) -> float:
        """Seconds between the earliest and the latest that the server's time can be."""
        if self._at is None:
            return float("inf")
        return self._high - self._low + 2 * _DRIFT * max(0.0, local - self._at)

    def next_probe(self, local: float) -> float:
        """The local time at which one more request would halve the bounds: the next turn of a second, as estimated."""
        middle = (self._low + self._high) / 2
        return -(-(local + middle) // 1) - middle

    def _set(self, doubt: _Doubt, low: float, high: float) -> None:
        """The clock has been set; the offset was within `low` and `high` before. Rounded for claims to live longer."""
        if doubt.low > high:
            self._steps.append(_Step(max(self._peak, doubt.since + high), ceil(doubt.high - low)))
            if len(self._steps) > _STEPS:
                first, second, *rest = self._steps
                self._steps = [_Step(max(first.until, second.until), first.seconds + second.seconds), *rest]
            return
        self._peak = max(self._peak, doubt.since + high)
        back = floor(low - doubt.high)
        kept: list[_Step] = []
        for step in reversed(self._steps):
            # What was set forward by mistake is set back.
            undone = min(back, step.seconds)
            back -= undone
            if undone < step.seconds:
                kept.insert(0, replace(step, seconds=step.seconds - undone))
        self._steps = kept


def _doubted(doubt: _Doubt | None, low: float, high: float, received: float) -> _Doubt:
    """The doubt after a further contradicting answer, which may agree with those before or not."""
    if doubt is not None:
        slack = _DRIFT * (received - doubt.at)
        joint_low, joint_high = max(low, doubt.low - slack), min(high, doubt.high + slack)
        if joint_low <= joint_high:
            return _Doubt(joint_low, joint_high, doubt.since, received, doubt.answers + 1)
    return _Doubt(low, high, received, received)
