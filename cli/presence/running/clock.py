"""The one clock that decides under `presence run`: seconds since boot, suspension included. Nobody can set it."""

import time


def now() -> float:
    """Seconds on CLOCK_BOOTTIME, or on the monotonic clock where there is none."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
