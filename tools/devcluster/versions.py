"""Version numbers: finding one in a tool's output, and deciding whether it fits."""

import re
from collections.abc import Callable

Version = tuple[int, int, int]
Rule = Callable[[Version], bool]

_PATTERN = re.compile(r"(?<![\d.])v?(\d+)\.(\d+)(?:\.(\d+))?")


def parse(text: str) -> Version | None:
    """The first version number in `text` (`go1.26.8`, `v1.36.3`, `2.1.4`), or None."""
    found = _PATTERN.search(text)
    if found is None:
        return None
    return int(found[1]), int(found[2]), int(found[3] or 0)


def at_least(major: int, minor: int, patch: int = 0) -> Rule:
    """Any version from this one on, also of a later major."""
    return lambda version: version >= (major, minor, patch)


def same_minor(pinned: Version) -> Rule:
    """Any patch of the pinned minor: all Kubernetes components of a cluster share one."""
    return lambda version: version[:2] == pinned[:2]


def within_one_minor(pinned: Version) -> Rule:
    """The skew that Kubernetes supports for kubectl: one minor older or newer than the API server."""
    return lambda version: version[0] == pinned[0] and abs(version[1] - pinned[1]) <= 1
