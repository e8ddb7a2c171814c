"""Advisory file locks: they go with their process, so a crash leaves none behind."""

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DevclusterError


@contextmanager
def exclusive(path: Path, waiting_for: str, timeout: float = 3600) -> Iterator[None]:
    """Hold the lock file `path`. Says so on stderr when it has to wait, and gives up after `timeout` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        deadline = time.monotonic() + timeout
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DevclusterError(
                        f"gave up after {timeout:.0f} s of waiting for {waiting_for} ({path})"
                    ) from None
                if not told and time.monotonic() > deadline - timeout + 2:
                    print(f"waiting for {waiting_for} …", file=sys.stderr, flush=True)
                    told = True
                time.sleep(0.05)
        yield
