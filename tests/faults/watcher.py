"""The independent witness of the board: it reads the changes of claims from etcd itself, past the API server.

So it misses nothing while the API server restarts, and needs nobody's cache. An object's `mod_revision` in etcd is the
resourceVersion that the API server shows.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from devcluster import Toolchain
from faults.history import ACTIVE, CREATED, ENDED, Change, Gap
from presence.model import kinds
from presence.model.times import parse_time

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class Watcher:
    """Notes what becomes of the Exclusive claims of one namespace. A context."""

    def __init__(self, endpoint: str, namespace: str, log: Path) -> None:
        self.changes: list[Change] = []
        self.gaps: list[Gap] = []
        self.waiting: dict[str, str] = {}
        """Sessions of claims that are neither granted nor over, by uid."""
        self.holding: dict[str, str] = {}
        """Sessions of claims that are Active, by uid."""
        self._keys: dict[str, dict[str, Any]] = {}
        self._over: set[str] = set()
        self._log = log
        self._stopping = False
        prefix = f"/registry/{kinds.GROUP}/{kinds.CLAIM_PLURAL}/{namespace}/"
        self._etcdctl = [str(Toolchain().path("etcdctl")), f"--endpoints={endpoint}", "--write-out=json"]
        self._prefix = prefix
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Self:
        # The namespace is new: what there is to see comes after this.
        asked = subprocess.run([*self._etcdctl, "get", "/"], capture_output=True, check=True, timeout=20)
        revision = int(json.loads(asked.stdout)["header"]["revision"])
        command = [*self._etcdctl, "watch", "--prefix", self._prefix, f"--rev={revision + 1}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, stdin=subprocess.DEVNULL
            )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._stopping = True
        self._process.terminate()
        self._process.wait(10)
        self._thread.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _run(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                at = now()
                answer = json.loads(line)
                if answer.get("Canceled") or answer.get("CompactRevision"):
                    self.gaps.append(Gap(f"etcd ended the watch: {line[:300]}", at))
                for event in answer.get("Events") or ():
                    self._take(event, at)
        except (ValueError, KeyError) as error:
            self.gaps.append(Gap(f"{type(error).__name__}: {error}", now()))
        if not self._stopping:
            self.gaps.append(Gap(f"etcdctl watch ended by itself; see {self._log}", now()))

    def _take(self, event: dict[str, Any], at: float) -> None:
        entry = event["kv"]
        key, version = entry["key"], int(entry["mod_revision"])
        gone = event.get("type") in (1, "DELETE")
        before = self._keys.get(key)
        if gone:
            if before is not None:
                self._end(before, version, at, "Deleted")
                del self._keys[key]
            return
        body = json.loads(base64.b64decode(entry["value"]))
        uid = body["metadata"]["uid"]
        if before is not None and before["metadata"]["uid"] != uid:
            self._end(before, version, at, "Deleted")
            before = None
        self._keys[key] = body
        if before is None:
            self.waiting[uid] = body["spec"]["session"]
            self._note(CREATED, body, version, at)
        status = body.get("status") or {}
        phase = status.get("phase", "")
        known = (before or {}).get("status") or {}
        same = known.get("phase") == kinds.ACTIVE and known.get("fencingToken") == status.get("fencingToken")
        if phase == kinds.ACTIVE and not same:
            self.waiting.pop(uid, None)
            self.holding[uid] = body["spec"]["session"]
            self._note(ACTIVE, body, version, at)
        if phase in kinds.ENDED_PHASES or body["spec"].get("released"):
            self._end(body, version, at, phase if phase in kinds.ENDED_PHASES else "Released")

    def _end(self, body: dict[str, Any], version: int, at: float, how: str) -> None:
        uid = body["metadata"]["uid"]
        if uid in self._over:
            return
        self._over.add(uid)
        self.waiting.pop(uid, None)
        self.holding.pop(uid, None)
        self._note(ENDED, body, version, at, how)

    def _note(self, kind: str, body: dict[str, Any], version: int, at: float, how: str = "") -> None:
        spec, status = body["spec"], body.get("status") or {}
        change = Change(
            kind=kind,
            uid=body["metadata"]["uid"],
            resource=spec["resource"],
            session=spec["session"],
            version=version,
            created=int(parse_time(body["metadata"]["creationTimestamp"])),
            at=at,
            token=int(status.get("fencingToken") or 0),
            exclusive=spec.get("mode") == kinds.EXCLUSIVE,
            heir=(spec.get("release") or {}).get("to", ""),
            how=how,
        )
        self.changes.append(change)


def now() -> float:
    """Seconds of CLOCK_BOOTTIME, the clock of all records."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
