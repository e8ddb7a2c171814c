"""A Mirror on an event loop of its own, for tests that look at the database from outside."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self, TypeVar

from prometheus_client import CollectorRegistry

from presence_operator.metrics import Metrics
from presence_operator.mirror.writer import Mirror, MirrorOutcome
from support.facts import NOON
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from presence_operator.core.facts import Claim, Key, Session
    from presence_operator.mirror.dsn import Dsn

T = TypeVar("T")


class RunningMirror:
    """A mirror of the claims and sessions that tests offer. A context: entered it runs, left it is cancelled."""

    def __init__(
        self,
        dsn: Dsn,
        claims: Iterable[Claim] = (),
        sessions: Iterable[Session] = (),
        reread: Callable[[], Dsn] | None = None,
    ) -> None:
        self._reread = reread
        self.claims = {claim.key: claim for claim in claims}
        self.sessions = {session.key: session for session in sessions}
        self.told: list[tuple[Key, str, MirrorOutcome]] = []
        self.metrics = Metrics(CollectorRegistry())
        self.now = NOON
        self._dsn = dsn
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="test-mirror")
        self._mirror: Mirror
        self._task: asyncio.Task[None]
        self._ready = threading.Event()

    def offer(self, *claims: Claim) -> None:
        """The board has these claims now."""

        def tell() -> None:
            for claim in claims:
                self.claims[claim.key] = claim
                self._mirror.offer(claim)

        self.on_loop(tell)

    def gone(self, claim: Claim) -> None:
        """The board has this claim no more."""

        def tell() -> None:
            del self.claims[claim.key]
            self._mirror.gone(claim)

        self.on_loop(tell)

    def offer_session(self, session: Session) -> None:
        """The board has this session now."""

        def tell() -> None:
            self.sessions[session.key] = session
            self._mirror.offer_session(session)

        self.on_loop(tell)

    def gone_session(self, session: Session) -> None:
        """The board has this session no more."""

        def tell() -> None:
            del self.sessions[session.key]
            self._mirror.gone_session(session)

        self.on_loop(tell)

    def settled(self, timeout: float = 30.0) -> Self:
        """Wait until everything is written."""
        eventually(lambda: self.pending() == 0 and self.lag() == 0, "everything is mirrored", timeout=timeout)
        return self

    def pending(self) -> float:
        """How much waits."""
        return self.on_loop(self._mirror.pending)

    def lag(self) -> float:
        """For how long the oldest change has been waiting."""
        return self.on_loop(self._mirror.lag)

    def figure(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def said(self, claim: Claim) -> MirrorOutcome | None:
        """What the board was told last of a claim."""
        return next((outcome for key, uid, outcome in reversed(self.told) if uid == claim.uid), None)

    def wait_said(self, claim: Claim) -> MirrorOutcome:
        """The same, once there is something."""
        eventually(lambda: self.said(claim) is not None, "the board is told")
        said = self.said(claim)
        assert said is not None
        return said

    def on_loop(self, call: Callable[[], T]) -> T:
        """Run `call` on the mirror's loop; fails when the loop is held up."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=5)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the mirror does not end"

    def _run(self) -> None:
        async def main() -> None:
            self._mirror = Mirror(
                self._dsn,
                board="presence",
                snapshot=lambda: (list(self.claims.values()), list(self.sessions.values())),
                on_state=lambda key, uid, outcome: self.told.append((key, uid, outcome)),
                metrics=self.metrics,
                server_now=lambda: self.now,
                reread=self._reread,
            )
            self._task = asyncio.create_task(self._mirror.run())
            self._ready.set()
            await asyncio.wait([self._task])
            # A cancelled task is the usual end; anything else that run() raised shall be seen.
            if not self._task.cancelled():
                self._task.result()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(main())
