"""Times on the wire: RFC 3339 in UTC, as seconds since the epoch in memory."""

from datetime import UTC, datetime


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time such as `2026-11-20T10:00:00Z`.

    Raises:
        ValueError: the text is no RFC 3339 time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write for example 2026-11-20T10:00:00Z")
    return moment.timestamp()


def format_time(seconds: float) -> str:
    """`seconds` as RFC 3339 in UTC with whole seconds, rounded down."""
    return datetime.fromtimestamp(int(seconds // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(seconds: float) -> str:
    """`seconds` as RFC 3339 in UTC with microseconds (the MicroTime of Kubernetes)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
