"""Control groups: one of the cluster's own for all its pods, in every hierarchy, on cgroup v1 and v2."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from . import processes
from .errors import DevclusterError

_ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The mounted hierarchies: one on v2, one per controller on v1, both kinds on a hybrid."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return sorted(found)


def make(name: str) -> None:
    """Make the group; on v2 with the controllers that a kubelet wants."""
    for root in hierarchies():
        group = root / name
        controllers = root / "cgroup.controllers"
        if controllers.exists():
            for controller in controllers.read_text().split():
                with contextlib.suppress(OSError):
                    (root / "cgroup.subtree_control").write_text(f"+{controller}")
        group.mkdir(exist_ok=True)
        if root.name == "cpuset":
            for setting in ("cpuset.cpus", "cpuset.mems"):
                with contextlib.suppress(OSError):
                    if not (group / setting).read_text().strip():
                        (group / setting).write_text((root / setting).read_text())


def members(name: str) -> set[int]:
    """Every process in the group and below it."""
    found: set[int] = set()
    for group in _groups(name):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in (group / "cgroup.procs").read_text().split())
    return found


def remove(name: str) -> None:
    """Remove the emptied group with all below it."""

    def emptied() -> bool:
        for group in _groups(name):
            with contextlib.suppress(OSError):
                group.rmdir()
        return not any(_groups(name))

    if not processes.wait_until(emptied, 20):
        raise DevclusterError(f"the control group {name} could not be removed; processes: {sorted(members(name))}")


def _groups(name: str) -> Iterator[Path]:
    """Innermost first."""
    for root in hierarchies():
        top = root / name
        if top.is_dir():
            below = [path for path in top.rglob("*") if path.is_dir()]
            yield from sorted(below, key=lambda path: len(path.parts), reverse=True)
            yield top
