"""What was seen from outside while contenders fought over resources: records, and the file they are kept in.

Nothing here is the operator's word about itself. Commands report their own start and stop, a watcher reports what the
API server showed, and the launcher reports how its processes ended. Times `at` are seconds of CLOCK_BOOTTIME of the one
machine that everything runs on; `version` is the API server's resourceVersion, which orders all changes of the board
exactly; `created` is the API server's clock in whole seconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CREATED, ACTIVE, ENDED = "created", "active", "ended"


@dataclass(frozen=True, slots=True)
class Launched:
    """A contender (`presence run`) was started."""

    run: str
    resources: tuple[str, ...]
    at: float


@dataclass(frozen=True, slots=True)
class Started:
    """A command began, by its own report. `order` is the place of the report in the file that all append to."""

    run: str
    resource: str
    session: str
    token: int
    pid: int
    at: float
    order: int
    alone: bool
    """Whether the command got the kernel's lock (flock) that every process of a command before it holds until it dies.

    The kernel lets go at the moment of death, so this sees an overlap that no clock is fine enough for.
    """


@dataclass(frozen=True, slots=True)
class Stopped:
    """A command came to its own end. One that was killed reports nothing."""

    run: str
    resource: str
    at: float
    order: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A contender's process is gone."""

    run: str
    code: int
    """As a shell has it, but -n after signal n."""
    said: str
    """The last lines on standard error."""
    harmed: bool
    """Whether a fault was done to this very process or to its command."""
    at: float


@dataclass(frozen=True, slots=True)
class Change:
    """A claim became something, as a watcher of the API server was told."""

    kind: str
    """`created`, `active`, or `ended` (released, expired, or deleted)."""
    uid: str
    resource: str
    session: str
    version: int
    created: int
    """creationTimestamp, seconds since 1970."""
    at: float
    """When the watcher heard of it: no earlier than it happened."""
    token: int = 0
    exclusive: bool = True
    heir: str = ""
    """Session to which the ended claim handed over."""
    how: str = ""
    """What the end was: Released, Expired, or Deleted."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The watcher may have missed something: what it saw cannot prove the board right."""

    why: str
    at: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that the nemesis did."""

    what: str
    at: float


Record = Launched | Started | Stopped | Exited | Change | Gap | Fault
_KINDS: dict[str, type[Any]] = {
    each.__name__: each for each in (Launched, Started, Stopped, Exited, Change, Gap, Fault)
}


@dataclass(slots=True)
class History:
    """All records of one experiment, sorted by kind."""

    launched: list[Launched] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    exited: list[Exited] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Record]) -> History:
        """Sort records into a history: commands by the order of their reports, changes by resourceVersion."""
        history = cls()
        places: dict[type[Any], list[Any]] = {
            Launched: history.launched,
            Started: history.started,
            Stopped: history.stopped,
            Exited: history.exited,
            Change: history.changes,
            Gap: history.gaps,
            Fault: history.faults,
        }
        for record in records:
            places[type(record)].append(record)
        history.started.sort(key=lambda each: each.order)
        history.stopped.sort(key=lambda each: each.order)
        history.changes.sort(key=lambda each: each.version)
        return history

    def records(self) -> list[Record]:
        """Every record in the order of time."""
        found: list[Record] = [
            *self.launched, *self.started, *self.stopped, *self.exited, *self.changes, *self.gaps, *self.faults
        ]  # fmt: skip
        return sorted(found, key=lambda each: each.at)

    def save(self, path: Path) -> None:
        """Write one JSON object for each record and line."""
        with path.open("w") as file:
            for record in self.records():
                file.write(json.dumps({"record": type(record).__name__, **asdict(record)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> History:
        """The history that `save` wrote."""
        records: list[Record] = []
        for line in path.read_text().splitlines():
            data = json.loads(line)
            kind = _KINDS[data.pop("record")]
            if kind is Launched:
                data["resources"] = tuple(data["resources"])
            records.append(kind(**data))
        return cls.of(records)
