"""A managed process: a handle that starts, stops and disturbs it, and keeps the state on disk true."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from . import processes
from .errors import DevclusterError
from .state import ProcessRecord
from .store import Store

#: Seconds in which a stop signal reaches every thread, also on a busy machine.
_STOP_SIGNAL_TIMEOUT = 2.0


class Process:
    """One process of a cluster, known by name. It keeps its arguments, ports and log over restarts."""

    def __init__(
        self,
        store: Store,
        name: str,
        ready: Callable[[], bool] | None = None,
        ready_timeout: float = 60,
        stop_timeout: float = 20,
    ) -> None:
        self.name = name
        self._store = store
        self._ready = ready
        self._ready_timeout = ready_timeout
        self._stop_timeout = stop_timeout

    @property
    def record(self) -> ProcessRecord:
        """What is on disk about it. Raises DevclusterError when it was never defined."""
        record = self._store.read().processes.get(self.name)
        if record is None:
            raise DevclusterError(f"the cluster has no process {self.name!r}; start it with `up` or `spawn` first")
        return record

    @property
    def log(self) -> Path:
        return self._store.directory / "logs" / f"{self.name}.log"

    @property
    def running(self) -> bool:
        """Alive, also while paused."""
        record = self._store.read().processes.get(self.name)
        return record is not None and processes.alive(record)

    @property
    def pid(self) -> int:
        """Its process number. Raises DevclusterError when it does not run."""
        record = self.record
        if record.pid is None or not processes.alive(record):
            raise DevclusterError(f"{self.name} does not run; see {self.log}")
        return record.pid

    def define(self, argv: list[str], env: dict[str, str], cwd: Path | None = None) -> None:
        """Set how it is started; takes effect at the next start."""
        with self._store.change() as state:
            known = state.processes.get(self.name)
            marked = {**env, processes.MARKER: state.id}
            record = ProcessRecord(argv, marked, str(cwd or self._store.directory), str(self.log))
            if known is not None:
                record.pid, record.start_ticks = known.pid, known.start_ticks
            state.processes[self.name] = record

    def start(self, wait: bool = True) -> None:
        """Start it unless it runs, and wait until it is ready."""
        with self._store.change() as state:
            record = state.processes.get(self.name)
            if record is None:
                raise DevclusterError(f"the cluster has no process {self.name!r}")
            if not processes.alive(record):
                processes.spawn(record)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until it answers. Raises DevclusterError with the end of its log when it died or took too long."""
        if self._ready is None:
            return
        ready = self._ready
        limit = timeout or self._ready_timeout
        answered = processes.wait_until(lambda: ready() or not self.running, limit)
        if not self.running:
            raise DevclusterError(f"{self.name} ended before it was ready; {self.log}:\n{processes.tail(self.log)}")
        if not answered:
            raise DevclusterError(
                f"{self.name} was not ready after {limit:.0f} s; {self.log}:\n{processes.tail(self.log)}"
            )

    def stop(self, timeout: float | None = None) -> None:
        """SIGTERM to its process group; SIGKILL when that has not helped within `timeout` seconds."""
        record = self._store.read().processes.get(self.name)
        if record is None or not processes.alive(record):
            return
        processes.signal_group(record, signal.SIGTERM)
        processes.signal_group(record, signal.SIGCONT)
        limit = self._stop_timeout if timeout is None else timeout
        if not processes.wait_until(lambda: not processes.alive(record), limit):
            self.kill()

    def kill(self) -> None:
        """SIGKILL to its process group, as a crash would end it; returns when it is gone."""
        record = self._store.read().processes.get(self.name)
        if record is None:
            return
        processes.signal_group(record, signal.SIGKILL)
        if not processes.wait_until(lambda: not processes.alive(record), 20):
            raise DevclusterError(f"{self.name} (pid {record.pid}) survived SIGKILL for 20 s")

    kill9 = kill

    def restart(self) -> None:
        """Stop, start, and wait until it is ready again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing. Returns when the last of its threads has stopped."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + _STOP_SIGNAL_TIMEOUT
        while not processes.stopped(pid) and time.monotonic() < deadline:
            time.sleep(0.002)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
