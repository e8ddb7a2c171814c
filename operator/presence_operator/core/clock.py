"""What time it is at the API server, from the `Date` headers of its answers."""

from __future__ import annotations

#: Two crystals may run apart by this much; so an old bound is worth less than a new one.
_DRIFT = 2e-4


class ServerClock:
    """The API server's time within bounds, in seconds since the epoch.

    `Date` has whole seconds, so one answer says: when it was written, the server's time was in [date, date + 1).
    Each answer bounds the offset between the two clocks; the bounds of all of them meet in an interval that soon is
    hardly longer than a round trip. When no offset fits all of them, one of the clocks has been set: the newest
    answer is believed alone.

    `local` times come from any clock that never goes back.
    """

    def __init__(self) -> None:
        self._low = 0.0
        self._high = 0.0
        self._at: float | None = None

    @property
    def known(self) -> bool:
        """True after the first answer."""
        return self._at is not None

    def observe(self, date: float, sent: float, received: float) -> None:
        """Take in an answer whose `Date` is `date`; the request was sent and the answer came at these local times."""
        low, high = date - received, date + 1.0 - sent
        if self._at is not None:
            slack = _DRIFT * (received - self._at)
            low, high = max(low, self._low - slack), min(high, self._high + slack)
            if low > high:
                low, high = date - received, date + 1.0 - sent
        self._low, self._high, self._at = low, high, received

    def now(self, local: float) -> float:
        """The earliest that the server's time can be: what is over by this time is over.

        Raises:
            LookupError: no answer has been seen yet.
        """
        if self._at is None:
            raise LookupError("the server's time is not known before its first answer")
        return local + self._low - _DRIFT * max(0.0, local - self._at)

    def width(self, local: float) -> float:
        """Seconds between the earliest and the latest that the server's time can be."""
        if self._at is None:
            return float("inf")
        return self._high - self._low + 2 * _DRIFT * max(0.0, local - self._at)

    def next_probe(self, local: float) -> float:
        """The local time at which one more request would halve the bounds: the next turn of a second, as estimated."""
        middle = (self._low + self._high) / 2
        return -(-(local + middle) // 1) - middle
