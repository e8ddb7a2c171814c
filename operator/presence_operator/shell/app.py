"""The operator, put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, TypeVar

from presence import __version__
from presence_operator.core.board import Board
from presence_operator.core.clock import ServerClock
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Bounds, Claim, Session
from presence_operator.core.status import MirrorNote
from presence_operator.logs import fields
from presence_operator.metrics import Metrics
from presence_operator.settings import load_dsn
from presence_operator.shell.connection import Connection, keep_time, load_configuration, local_time
from presence_operator.shell.effects import Effects, backoff
from presence_operator.shell.events import Recorder
from presence_operator.shell.health import Health, HealthServer
from presence_operator.shell.intake import Intake
from presence_operator.shell.leader import make_elector
from presence_operator.shell.limiting import LimitsFile
from presence_operator.shell.resync import Resync
from presence_operator.shell.runtime import Runtime
from presence_operator.shell.watching import Watches, mark_tasks

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from presence_operator.core.facts import Fact, Key
    from presence_operator.core.limits import Limits
    from presence_operator.mirror.dsn import Dsn
    from presence_operator.mirror.writer import Mirror, MirrorOutcome
    from presence_operator.settings import Settings
    from presence_operator.shell.leader import Leadership

_log = logging.getLogger(__name__)

T = TypeVar("T")


async def run(settings: Settings) -> int:
    """Look after the boards until SIGTERM or SIGINT; the exit code.

    Raises:
        ListenError: the address for metrics and probes is not to be had.
    """
    loop = asyncio.get_running_loop()
    mark_tasks(loop)
    stop = asyncio.Event()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

    take_signals()
    _log.info(
        "starting",
        extra=fields(
            version=__version__,
            namespaces=",".join(settings.namespaces) or "all",
            leader_election=settings.leader_elect,
            mirror=settings.mirror_dsn is not None,
        ),
    )
    metrics = Metrics()
    health = Health(metrics, limit=settings.liveness_limit, identity=settings.identity)
    configuration = await _unless(stop, load_configuration(settings))
    if configuration is None:
        return 0
    connection = Connection(configuration, settings, metrics, ServerClock())
    try:
        async with HealthServer(health, metrics, listen=settings.listen, listen_file=settings.listen_file):
            await _Operator(settings, connection, metrics, health, take_signals).run(stop)
    finally:
        await connection.close()
    return 0


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None when `stop` came first, and `work` is cancelled."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait([working, stopping])


class _Operator:
    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        metrics: Metrics,
        health: Health,
        take_signals: Any,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._metrics = metrics
        self._health = health
        self._take_signals = take_signals
        self._listed = False
        self._led = False
        self._led_since = 0.0
        self._elector: Leadership | None = None
        self._mirror: Mirror | None = None
        self._mirror_task: asyncio.Task[None] | None = None
        self._mirrored = settings.mirror_namespace if settings.mirror_dsn else None
        policy = Policy(retention=settings.retention, coalesce=settings.coalesce, mirror_board=self._mirrored)
        self._board = Board(policy, observer=self, shift=connection.clock.shift)
        metrics.observe_board(self._board.snapshot, connection.server_now)
        metrics.observe_limits(self._board.limiter.figures)
        bounds = Bounds(settings.min_ttl, settings.max_ttl)
        self._intake = Intake(self._board, bounds, metrics, self._wake, connection.server_now)
        self._effects = Effects(connection, self._intake, metrics, self._leading, self._board.is_over)
        self._recorder = Recorder(connection, metrics, settings.event_rate, settings.identity)
        self._runtime = Runtime(
            self._board,
            connection.clock,
            self._effects.perform,
            self._recorder.offer,
            metrics,
            health,
            settings.workers,
            lambda: self._resync.want("this process was stopped"),
        )
        self._resync = Resync(
            self._board,
            connection,
            self._intake,
            metrics,
            settings.namespaces,
            settings.resync_interval,
            self._lists_in,
        )
        self._watches = Watches(
            connection,
            self._intake,
            settings.namespaces,
            lambda: self._resync.want("the watches began anew"),
            take_signals,
            health.set_watched,
        )

    async def run(self, stop: asyncio.Event) -> None:
        forever = [
            self._start(self._watches.run(), "watches", stop),
            self._start(self._resync.run(), "resync", stop),
            self._start(self._runtime.run(), "runtime", stop),
            self._start(self._recorder.run(), "events", stop),
            self._start(keep_time(self._connection), "clock", stop),
        ]
        if self._settings.limits_file is not None:
            limits = LimitsFile(self._settings.limits_file, self._limit)
            limits.look()
            forever.append(self._start(limits.run(), "limits", stop))
        self._elector = make_elector(
            self._connection.client,
            self._settings,
            self._health,
            self._lead,
            self._follow,
            self._connection.reload,
        )
        async with self._elector:
            election = [self._mind(self._elector.task, stop)] if self._elector.task else []
            await stop.wait()
            _log.info("shutting down")
            self._health.set_ready(False)
            try:
                async with asyncio.timeout(self._settings.shutdown_timeout):
                    await self._end(forever)
            except TimeoutError:
                _log.warning("shut down before everything had ended")
        for task in [*forever, *election]:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise RuntimeError(f"{task.get_name()} ended unexpectedly") from task.exception()

    async def _end(self, forever: list[asyncio.Task[None]]) -> None:
        watches, resync, runtime, events, *others = forever
        for task in (watches, resync, *others):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.shutdown_timeout / 2):
                if not runtime.done():
                    await self._runtime.drain()
        for task in (runtime, events):
            task.cancel()
        # The mirror hears of the last writes before it flushes.
        mirror = [self._mirror_task] if self._mirror_task else []
        for task in mirror:
            task.cancel()
        await asyncio.wait([*forever, *mirror])

    def _start(self, work: Coroutine[Any, Any, None], name: str, stop: asyncio.Event) -> asyncio.Task[None]:
        return self._mind(asyncio.create_task(work, name=name), stop)

    def _mind(self, task: asyncio.Task[None], stop: asyncio.Event) -> asyncio.Task[None]:
        def ended(task: asyncio.Task[None]) -> None:
            # None of them ever ends by itself. Rather a new process than half an operator.
            if not task.cancelled():
                about = fields(part=task.get_name())
                _log.critical("a part of the operator ended", exc_info=task.exception(), extra=about)
                stop.set()

        task.add_done_callback(ended)
        return task

    # ---- leadership

    def _leading(self) -> bool:
        return self._led and self._elector is not None and self._elector.leading

    def _lead(self) -> None:
        self._led = True
        self._led_since = local_time()
        if self._listed:
            self._list_first()

    def _list_first(self) -> None:
        """Begin from what is there now, not from what a follower has heard or read so far."""
        self._resync.want("this operator leads now", at_once=True)

    def _follow(self) -> None:
        self._led = False
        self._runtime.act(False)
        if self._mirror_task is not None:
            self._mirror_task.cancel()
            self._mirror_task = self._mirror = None

    def _lists_in(self, begun: float) -> None:
        self._health.set_ready(True)
        self._listed = True
        if not self._led:
            return
        if begun >= self._led_since:
            self._begin()
        else:
            # A predecessor may have written after these lists were begun.
            self._list_first()

    def _begin(self) -> None:
        if self._mirrored is not None and self._mirror is None:
            self._mirror = self._make_mirror()
            self._mirror_task = asyncio.create_task(self._keep_mirroring(self._mirror), name="mirror")
        self._runtime.act(True)

    async def _keep_mirroring(self, mirror: Mirror) -> None:
        """Mirror until cancelled. A mirror that fails as a whole is made anew: claims are served without, too."""
        failures = 0
        while True:
            begun = local_time()
            try:
                await mirror.run()
                _log.error("the mirror ended and is begun anew")
            except Exception:  # noqa: BLE001 - nobody else would hear of it
                _log.exception("the mirror failed and is begun anew")
            self._metrics.mirror_error("other")
            failures = 0 if local_time() - begun > 60 else failures + 1
            await asyncio.sleep(backoff(failures + 2, 60.0))
            mirror = self._mirror = self._make_mirror()

    # ---- the board

    def _wake(self) -> None:
        self._runtime.wake()

    def _limit(self, limits: Limits) -> None:
        self._board.set_limits(limits)
        self._runtime.wake()

    def changed(self, fact: Fact, before: Fact | None) -> None:
        """Tell the figures and the mirror."""
        if before is not None and fact.alive > before.alive:
            self._metrics.heartbeat("claim" if isinstance(fact, Claim) else "session")
        if self._mirror is not None and fact.namespace == self._mirrored:
            if isinstance(fact, Claim):
                self._mirror.offer(fact)
            else:
                self._mirror.offer_session(fact)

    def gone(self, fact: Fact) -> None:
        """Tell the figures and the mirror."""
        mirrored = self._mirror is not None and fact.namespace == self._mirrored
        if isinstance(fact, Session):
            if self._mirror is not None and mirrored:
                self._mirror.gone_session(fact)
            return
        if self._led and not fact.status.ended and fact.status.granted_at is not None:
            held = self._connection.server_now() - fact.status.granted_at
            self._metrics.claim_released(fact.resource, "Deleted", held=max(0.0, held))
        if self._mirror is not None and mirrored:
            self._mirror.gone(fact)

    def _make_mirror(self) -> Mirror:
        from presence_operator.mirror.writer import Mirror  # loads the database driver, which most tests do without

        assert self._settings.mirror_dsn is not None
        assert self._mirrored is not None
        return Mirror(
            self._settings.mirror_dsn,
            board=self._mirrored,
            snapshot=self._board.snapshot,
            on_state=self._mirror_says,
            metrics=self._metrics,
            server_now=self._connection.server_now,
            reread=self._reread_dsn if self._settings.mirror_dsn_file else None,
        )

    def _reread_dsn(self) -> Dsn:
        dsn = load_dsn(self._settings.mirror_dsn_file, {})
        assert dsn is not None
        return dsn

    def _mirror_says(self, key: Key, uid: str, outcome: MirrorOutcome) -> None:
        note = MirrorNote(outcome.state.value, outcome.phase, outcome.message)
        self._board.mirror_says(key, uid, note, self._connection.server_now())
        self._runtime.wake()
