"""A small continuous load on a board: contenders for Exclusive claims, sessions that die, and one that lives on."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Self

from presence.model import kinds
from presence.model.names import claim_name
from support.kube import phase_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from support.kube import Board

#: ttl of the sessions that die, and of their claims.
DEAD_TTL = 2
#: ttl of the one that lives on; it beats every half second.
LIVING_TTL = 8
LIVING = "living"


class Load:
    """Runs from entering the `with` block until `end` or leaving it.

    `each` contenders take turns on every one of `resources`. A claim of a session that dies is made every second.
    """

    def __init__(self, board: Board, resources: Sequence[str], each: int = 3, hold: float = 0.3) -> None:
        self.board = board
        self.served = 0
        """Contenders that were granted their claim and let it go."""
        self.dead: list[str] = []
        """Names of the claims whose session died."""
        self.living = claim_name(LIVING, "stack:living")
        self._hold = hold
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._errors: list[Exception] = []
        count = each * len(resources)
        contenders = [self._contender(number, resources[number % len(resources)]) for number in range(count)]
        work: list[Callable[[], None]] = [self._die, self._live, *contenders]
        self._threads = [threading.Thread(target=self._guarded, args=(each,), daemon=True) for each in work]

    def __enter__(self) -> Self:
        self.board.session(LIVING, ttl="15m")
        self.board.claim("stack:living", LIVING, ttl=f"{LIVING_TTL}s", mode=kinds.EXCLUSIVE)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if kind is None:
            self.end()

    def end(self, timeout: float = 90.0) -> None:
        """Make no new claims, and wait until those that wait are served. Raises what went wrong in a thread."""
        self._ending.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._errors:
            raise self._errors[0]
        left = sum(thread.is_alive() for thread in self._threads)
        assert not left, f"{left} contenders were not served within {timeout:g} s"

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again by end
            self._errors.append(error)

    def _contender(self, number: int, resource: str) -> Callable[[], None]:
        dice = random.Random(number)

        def contend() -> None:
            turn = 0
            while not self._ending.is_set():
                turn += 1
                body = self.board.claim(resource, f"contender-{number}-{turn}", ttl="5m", mode=kinds.EXCLUSIVE)
                name = body["metadata"]["name"]
                while phase_of(self.board.get(name)) != kinds.ACTIVE:
                    time.sleep(0.1)
                time.sleep(dice.uniform(0.2, 1.0) * self._hold)
                self.board.release(name)
                with self._lock:
                    self.served += 1

        return contend

    def _die(self) -> None:
        turn = 0
        while not self._ending.is_set():
            turn += 1
            session, resource = f"dead-{turn}", f"host:dead-{turn}"
            self.board.session(session, ttl=f"{DEAD_TTL}s")
            body = self.board.claim(resource, session, ttl=f"{DEAD_TTL}s", mode=kinds.EXCLUSIVE)
            self.dead.append(body["metadata"]["name"])
            self._ending.wait(1.0)

    def _live(self) -> None:
        while not self._ending.is_set():
            self.board.beat(LIVING)
            self._ending.wait(0.5)
