"""Times on the wire: RFC 3339 in UTC, as seconds since the epoch in memory."""

from datetime import UTC, datetime

#: The first and the last second that a time in RFC 3339 can name here.
_FIRST = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_LAST = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time such as `2026-11-20T10:00:00Z`.

    Raises:
        ValueError: the text is no RFC 3339 time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write for example 2026-11-20T10:00:00Z")
    return moment.timestamp()


def readable_time(text: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for anything else.

    The API admits times that Python does not, such as the year 0. Who reads what others wrote takes them for absent.
    """
    try:
        return parse_time(text) if isinstance(text, str) else None
    except (ValueError, OverflowError):
        return None


def format_time(seconds: float) -> str:
    """`seconds` as RFC 3339 in UTC with whole seconds, rounded down; years stay within 1 and 9999."""
    within = min(max(int(seconds // 1), _FIRST), _LAST)
    # Not strftime: it writes the year 1 with one digit.
    return datetime.fromtimestamp(within, UTC).isoformat()[:19] + "Z"


def format_micro_time(seconds: float) -> str:
    """`seconds` as RFC 3339 in UTC with microseconds (the MicroTime of Kubernetes)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
