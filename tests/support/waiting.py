"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str = "", timeout: float = 20.0, every: float = 0.05) -> T:
    """The first truthy result of `look` within `timeout` seconds; an AssertionError with the last one otherwise.

    AssertionErrors and LookupErrors of `look` count as "not yet".
    """
    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            seen = look()
        except (AssertionError, LookupError) as error:
            last = error
        else:
            if seen:
                return seen
            last = seen
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or look}; last seen: {last!r}")
        time.sleep(every)
