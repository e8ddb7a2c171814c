"""Durations as people write them: `90s`, `15m`, `2h`, `1h30m`, `1d`, or bare seconds."""

import re

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHAPE = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)


class DurationError(ValueError):
    """A text that is no duration; the message says what to write instead."""


def parse_duration(text: str) -> float:
    """Seconds in `text`, always more than zero.

    Raises:
        DurationError: the text has another shape or means nothing at all.
    """
    wanted = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", wanted):
        seconds = int(wanted)
    else:
        if wanted.startswith("-"):
            raise DurationError(f"{text[:40]!r} is not more than zero: write for example 90s, 15m or 2h")
        match = _SHAPE.fullmatch(wanted) if wanted else None
        if match is None:
            raise DurationError(f"{text[:40]!r} is no duration: write for example 90s, 15m, 2h or 1h30m")
        seconds = sum(int(part) * size for part, size in zip(match.groups(), _UNITS.values(), strict=True) if part)
    if seconds <= 0:
        raise DurationError(f"{text[:40]!r} is no time at all: write for example 90s, 15m or 2h")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """The shortest exact text for whole `seconds`: 900 is `15m`, 5400 is `1h30m`."""
    rest = max(0, round(seconds))
    parts = []
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def clamp(seconds: float, lowest: float, highest: float) -> float:
    """`seconds` moved into the bounds."""
    return min(max(seconds, lowest), highest)
