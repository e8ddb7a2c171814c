"""One time limit for the whole call, so that an agent's hook never waits longer than it was promised."""

from time import monotonic

from presence.errors import UnreachableError
from presence.model.durations import DurationError, parse_duration

#: Seconds for everything that talks to the board. Agents kill their hooks after 3 s; start-up and output take the rest.
DEFAULT_SECONDS = 2.5


class Deadline:
    """A point in monotonic time that every wait of one call respects."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float = DEFAULT_SECONDS) -> None:
        self.seconds = seconds
        self._end = monotonic() + seconds

    def left(self) -> float:
        """Seconds left; zero or less when it has passed."""
        return self._end - monotonic()

    def remaining(self, doing: str) -> float:
        """Seconds left, always more than zero.

        Raises:
            UnreachableError: none are left; the message names what was being done.
        """
        left = self.left()
        if left <= 0:
            raise self.passed(doing)
        return left

    def passed(self, doing: str) -> UnreachableError:
        """The error that says that this deadline passed while `doing` something."""
        return UnreachableError(
            f"no answer within {self.seconds:g} s while {doing}; check the network, or give it longer with --timeout"
        )


def parse_limit(text: str) -> float:
    """Seconds of a limit such as `2.5s`, `10` or `1m`.

    Raises:
        DurationError: the text is no duration.
    """
    plain = text.strip().removesuffix("s")
    whole, dot, part = plain.partition(".")
    if dot and whole.isdecimal() and part.isdecimal() and plain.isascii() and float(plain) > 0:
        return float(plain)
    try:
        return parse_duration(text)
    except DurationError as error:
        raise DurationError(f"{error}, or 2.5s") from None
