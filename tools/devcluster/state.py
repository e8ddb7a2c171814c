"""What a cluster has made on this machine, on disk before it is made, so that any later process can remove it."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import DevclusterError

FORMAT = 1


@dataclass
class ProcessRecord:
    """One managed process.

    `pid` is None until it has been started; `start_ticks` (see proc(5)) tells it from a later process of that number.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    pid: int | None = None
    start_ticks: int | None = None


@dataclass
class State:
    """The whole of `state.json`. `id` also marks the environment of every process of the cluster."""

    id: str
    name: str
    boot_id: str
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    subnet: str = ""
    parts: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    cgroup: str = ""
    processes: dict[str, ProcessRecord] = field(default_factory=dict)


def load(path: Path) -> State | None:
    """The state at `path`, or None where there is none."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DevclusterError(f"{path} is damaged ({error}); stop its processes by hand and remove it") from error
    if raw.pop("format", None) != FORMAT:
        raise DevclusterError(f"{path} was written by another version; run `down` with that one")
    raw["processes"] = {name: ProcessRecord(**record) for name, record in raw["processes"].items()}
    return State(**raw)


def save(path: Path, state: State) -> None:
    """Replace the state at `path` in one step; readable by its owner only (it holds passwords)."""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"format": FORMAT, **asdict(state)}, file, indent=1)
    fresh.replace(path)
