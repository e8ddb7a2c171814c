"""Removing what a cluster has made on the machine, from its state alone."""

import contextlib
import subprocess
from pathlib import Path

from . import cgroups, processes
from .errors import DevclusterError
from .state import State


def remove_everything(directory: Path, state: State) -> None:
    """Kill its processes and those of its pods, then remove its links, control groups and mounts."""
    if not processes.wait_until(lambda: not _kill_round(state), 30, pause=0.05):
        left = ", ".join(str(pid) for pid in _survivors(state))
        raise DevclusterError(
            f"processes {left} of cluster {state.name} survived SIGKILL for 30 s; nothing was removed"
        )
    for link in state.links:
        remove_link(link)
    if state.cgroup:
        cgroups.remove(state.cgroup)
    for mount in mounts_under(directory):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, timeout=30, check=False)


def mounts_under(directory: Path) -> list[str]:
    """Mount points inside `directory`, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point.startswith(f"{directory}/"):
            found.append(point)
    return sorted(found, key=len, reverse=True)


def link_exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def remove_link(name: str) -> None:
    """A veth goes with its namespace, but only some time after the last process in it."""
    if link_exists(name):
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["ip", "link", "delete", name], capture_output=True, timeout=30, check=False)
    if not processes.wait_until(lambda: not link_exists(name), 20):
        raise DevclusterError(f"the network interface {name} could not be removed; try: ip link delete {name}")


def _survivors(state: State) -> dict[int, int]:
    found = processes.marked(state.id)
    for record in state.processes.values():
        if record.pid is not None and record.start_ticks is not None and processes.alive(record):
            found[record.pid] = record.start_ticks
    if state.cgroup:
        for pid in cgroups.members(state.cgroup):
            ticks = processes.start_ticks(pid)
            if ticks is not None:
                found[pid] = ticks
    return found


def _kill_round(state: State) -> bool:
    """Kill all that still lives; True when there was something."""
    found = _survivors(state)
    processes.kill_exact(found)
    return bool(found)
