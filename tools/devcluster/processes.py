"""Processes of this machine: who they are, whether they live, and how they end."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import DevclusterError
from .state import ProcessRecord

MARKER = "PRESENCE_DEVCLUSTER_ID"
"""Environment variable that every process of a cluster carries, with the cluster's id."""


def boot_id() -> str:
    """Changes with every boot: process numbers mean nothing across one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When a process started (clock ticks since boot), or None when there is none or only its corpse."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    # The first thread can be a corpse while others of a killed process still hold its ports.
    return None if fields[0] in "ZX" and _threads(pid) <= 1 else int(fields[19])


def _threads(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0


def stopped(pid: int) -> bool:
    """Whether every thread of a process stands still by a signal."""
    try:
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False
    return all(stat[stat.rindex(")") + 2] in "tTZX" for stat in states)


def alive(record: ProcessRecord) -> bool:
    """Whether exactly the recorded process still runs (or is stopped by a signal)."""
    if record.pid is None or record.start_ticks is None:
        return False
    _reap(record.pid)
    return start_ticks(record.pid) == record.start_ticks


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)


def spawn(record: ProcessRecord) -> None:
    """Start the process in a session of its own, output appended to its log; fills in pid and start_ticks."""
    log = Path(record.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        try:
            child = subprocess.Popen(
                record.argv,
                env=record.env,
                cwd=record.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        except OSError as error:
            raise DevclusterError(f"cannot start {record.argv[0]}: {error}") from error
    record.pid = child.pid
    record.start_ticks = start_ticks(child.pid)
    child.returncode = 0  # it outlives this object; reaped by `alive`


def signal_group(record: ProcessRecord, number: signal.Signals) -> None:
    """Signal the process and its group, if it is still the recorded one."""
    if record.pid is not None and alive(record):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, number)


def marked(cluster_id: str) -> dict[int, int]:
    """The processes (pid to start_ticks) that carry the cluster's mark in their environment."""
    needle = f"{MARKER}={cluster_id}".encode()
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        ticks = start_ticks(int(entry.name))
        try:
            if ticks is not None and needle in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = ticks
        except OSError:
            continue
    return found


def kill_exact(pids: dict[int, int]) -> None:
    """SIGKILL each pid that is still the process that started at the given ticks."""
    for pid, ticks in pids.items():
        if start_ticks(pid) == ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap(pid)


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.02) -> bool:
    """Ask until the condition holds, ever less often (up to 0.25 s apart); False when it did not in `timeout` s."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
    return True


def gone(records: Iterable[ProcessRecord]) -> bool:
    return not any(alive(record) for record in list(records))


def tail(path: str | Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    try:
        text = Path(path).read_bytes()[-20_000:].decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(line[:400] for line in text.splitlines()[-lines:]) or "(the log is empty)"
