"""Watching from outside: when objects reach a phase, what time the server has, what a process uses."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from devcluster import DevclusterError
from presence.model import kinds

if TYPE_CHECKING:
    from types import TracebackType

    from devcluster import Cluster
    from support.kube import Board

_TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Watches one kind of a board from now on, and notes when each object was first seen in each phase.

    Times are this machine's clock (`time.time()`), taken right after the event was read.
    """

    def __init__(self, cluster: Cluster, board: Board, plural: str = kinds.CLAIM_PLURAL) -> None:
        self.phases: dict[str, dict[str, float]] = defaultdict(dict)
        self.ended_at: dict[str, str] = {}
        self.modified = 0
        self.last_event = 0.0
        self.error: Exception | None = None
        self._path = f"/apis/{kinds.API_VERSION}/namespaces/{board.namespace}/{plural}"
        self._headers = {"Authorization": f"Bearer {cluster.token}"}
        self._parts = urlsplit(cluster.server_url)
        self._tls = ssl.create_default_context(cafile=str(cluster.ca_file))
        self._version: str = board.kube.request("GET", self._path, limit=1)["metadata"]["resourceVersion"]
        self._news = threading.Condition()
        self._stop = False
        self._connection: http.client.HTTPSConnection | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {plural}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def until(self, phase: str, count: int, timeout: float, alive: Any = None) -> dict[str, float]:
        """Wait until `count` objects were seen in `phase`; when each was. `alive()` raises when waiting is in vain."""
        deadline = time.monotonic() + timeout
        with self._news:
            while len(self.phases[phase]) < count:
                if self.error is not None:
                    raise self.error
                if alive is not None:
                    alive()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(self.phases[phase])} of {count} objects {phase} after {timeout:.0f} s")
                self._news.wait(0.5)
            return dict(self.phases[phase])

    def quiet(self, seconds: float, timeout: float) -> None:
        """Wait until nothing has changed for `seconds`."""
        begin = time.monotonic()
        while time.time() - self.last_event < seconds:
            if time.monotonic() - begin > timeout:
                raise TimeoutError(f"changes still arrive after {timeout:.0f} s")
            time.sleep(0.1)

    def _run(self) -> None:
        try:
            for _ in range(20):
                self._follow()
                if self._stop:
                    return
            raise ConnectionError("the watch ended 20 times")
        except Exception as error:  # noqa: BLE001 - shown to whoever waits
            if not self._stop:
                self.error = error

    def _follow(self) -> None:
        self._connection = http.client.HTTPSConnection(
            self._parts.hostname or "", self._parts.port, context=self._tls, timeout=900
        )
        path = f"{self._path}?watch=1&timeoutSeconds=1800&resourceVersion={self._version}"
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise ConnectionError(f"watch: {answer.status} {answer.read(300)!r}")
        while line := answer.readline():
            seen = time.time()
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise ConnectionError(f"watch: {event['object']}")
            self._take(event["type"], event["object"], seen)

    def _take(self, change: str, body: dict[str, Any], seen: float) -> None:
        self._version = body["metadata"]["resourceVersion"]
        if change == "DELETED":
            return
        status = body.get("status") or {}
        name = body["metadata"]["name"]
        with self._news:
            self.last_event = seen
            self.modified += change == "MODIFIED"
            if status.get("endedAt"):
                self.ended_at[name] = status["endedAt"]
            if phase := status.get("phase"):
                self.phases[phase].setdefault(name, seen)
            self._news.notify_all()


@dataclass(frozen=True, slots=True)
class Offset:
    """How far the server's clock is ahead of ours: between `low` and `high` seconds."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The best estimate."""
        return (self.low + self.high) / 2

    @property
    def error(self) -> float:
        """How wrong it can be."""
        return (self.high - self.low) / 2


def server_offset(cluster: Cluster, seconds: float = 1.2) -> Offset:
    """Compare the server's clock with ours through the `Date` headers of many quick answers.

    An answer that says second D, asked at a and received at b, was written when the server's clock stood between D and
    D + 1, so the offset is between D - b and D + 1 - a. All answers together leave an interval as wide as the gap
    between two requests around the turn of a second: milliseconds.
    """
    parts = urlsplit(cluster.server_url)
    tls = ssl.create_default_context(cafile=str(cluster.ca_file))
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=tls, timeout=10)
    low, high = float("-inf"), float("inf")
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            asked = time.time()
            connection.request("GET", "/version", headers={"Authorization": f"Bearer {cluster.token}"})
            answer = connection.getresponse()
            received = time.time()
            answer.read()
            date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
            low, high = max(low, date - received), min(high, date + 1 - asked)
            time.sleep(0.002)
    finally:
        connection.close()
    if low > high:
        raise RuntimeError("the clock of this machine or of the server was set during the measurement: run it again")
    return Offset(low, high)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far."""

    cpu: float
    """Seconds, of all threads, in user and kernel mode."""
    peak: float
    """Largest resident memory in MiB."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Read it from /proc. Raises OSError when the process is gone."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        peak = int(match[1]) / 1024 if match else float("nan")
        return cls((int(fields[11]) + int(fields[12])) / _TICKS, peak)


class Noise:
    """How much of the machine others used: all CPU time minus that of the bench, its programs and its cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._begin = time.monotonic()
        self._before = _busy() - self._known()

    def cores(self) -> float:
        """Cores that other programs kept busy on average since the start."""
        used = _busy() - self._known() - self._before
        return max(0.0, used / (time.monotonic() - self._begin))

    def _known(self) -> float:
        times = os.times()
        used = times.user + times.system + times.children_user + times.children_system
        for name in self._cluster.processes():
            # Gone meanwhile, or not running at the moment.
            with contextlib.suppress(OSError, DevclusterError):
                used += Usage.of(self._cluster.process(name).pid).cpu
        return used


def _busy() -> float:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / _TICKS
