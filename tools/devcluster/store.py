"""The state file of one cluster, shared by threads and processes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import processes
from .errors import DevclusterError
from .locks import exclusive
from .state import State, load, save


class Store:
    """Reads and changes `<directory>/state.json`, one change at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "state.json"
        self._lock = threading.RLock()

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def read(self) -> State:
        """Raises DevclusterError when there is no cluster in the directory."""
        state = load(self.path)
        if state is None:
            raise DevclusterError(f"no cluster in {self.directory}; make one with `up`")
        boot = processes.boot_id()
        if state.boot_id != boot:
            state.boot_id = boot
            for record in state.processes.values():
                record.pid = record.start_ticks = None
        return state

    def create(self, state: State) -> None:
        with self._lock, self._file_lock():
            save(self.path, state)

    @contextmanager
    def change(self) -> Iterator[State]:
        """The state, written back when the block ends, also when it fails."""
        with self._lock, self._file_lock():
            state = self.read()
            try:
                yield state
            finally:
                save(self.path, state)

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        with exclusive(self.directory / "state.lock", waiting_for="another command on this cluster", timeout=120):
            yield
