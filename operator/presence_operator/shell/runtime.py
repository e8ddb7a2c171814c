"""The scheduler and its workers: asks the Board what is due, has it done, tells the Board what came of it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from presence.model import kinds
from presence_operator.core.actions import Done, GrantExclusive, WriteClaimStatus
from presence_operator.core.status import CONFLICTED, GRANTED, OVERLAP
from presence_operator.logs import fields
from presence_operator.shell.connection import local_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from presence_operator.core.actions import Action, EmitEvent, Outcome
    from presence_operator.core.board import Board
    from presence_operator.core.clock import ServerClock
    from presence_operator.metrics import Metrics
    from presence_operator.shell.health import Health

_log = logging.getLogger(__name__)

#: Seconds after which the scheduler moves even when nothing is due, so that others see that it lives.
_TICK = 1.0
#: A gap of so many seconds means that this process was stopped: what happened meanwhile has to be looked up.
_STALL = 2.0
#: Age in seconds up to which the grant of a claim is told in the log.
_NEWS = 60.0


class Runtime:
    """One scheduler task, a bounded number of workers.

    It decides only while `acting`. `stalled` is called when the process was stopped for a while; `record` takes Events.
    """

    def __init__(
        self,
        board: Board,
        clock: ServerClock,
        perform: Callable[[Action], Awaitable[Outcome]],
        record: Callable[[EmitEvent], None],
        metrics: Metrics,
        health: Health,
        workers: int,
        stalled: Callable[[], None],
    ) -> None:
        self._board = board
        self._clock = clock
        self._perform = perform
        self._record = record
        self._metrics = metrics
        self._health = health
        self._workers = workers
        self._stalled = stalled
        self._acting = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._ready: asyncio.Queue[Action] = asyncio.Queue()
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.observe_queue(self._lengths)

    def wake(self) -> None:
        """There may be something new to decide."""
        self._wake.set()

    def act(self, acting: bool) -> None:
        """Begin or cease to decide. What is already being written is not called back."""
        self._acting = acting
        self._wake.set()

    async def run(self) -> None:
        """Schedule and work, for ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"worker {number}")
            group.create_task(self._schedule(), name="scheduler")

    async def drain(self) -> None:
        """Decide nothing more, and wait until what is being written has been written."""
        self._stopping = True
        await self._idle.wait()

    async def _schedule(self) -> None:
        moved = local_time()
        while True:
            self._health.tick()
            self._wake.clear()
            wait = _TICK
            if self._acting and not self._stopping and self._clock.known:
                now = self._clock.now(local_time())
                # A worker that ends finds its next action waiting, so none is ever idle while there is work.
                capacity = 2 * self._workers - self._outstanding
                if capacity > 0:
                    for action in self._board.decide(now, capacity):
                        self._outstanding += 1
                        self._ready.put_nowait(action)
                    self._idle.clear() if self._outstanding else self._idle.set()
                    wait = min(_TICK, self._board.next_wake() - now)
                    if self._outstanding >= 2 * self._workers:
                        wait = _TICK
            if wait <= 0:
                await asyncio.sleep(0)
            elif not self._wake.is_set():
                handle = asyncio.get_running_loop().call_later(wait, self._wake.set)
                await self._wake.wait()
                handle.cancel()
            else:
                await asyncio.sleep(0)
            now_local = local_time()
            if now_local - moved > _TICK + _STALL:
                _log.warning("this process was stopped for a while", extra=fields(seconds=round(now_local - moved, 1)))
                self._stalled()
            moved = now_local

    async def _work(self) -> None:
        while True:
            action = await self._ready.get()
            try:
                outcome = await self._perform(action)
            finally:
                self._outstanding -= 1
            now = self._clock.now(local_time())
            if isinstance(outcome, Done) and isinstance(action, WriteClaimStatus | GrantExclusive):
                self._count(action, now)
            for event in self._board.settle(action, outcome, now):
                self._record(event)
            if not self._outstanding:
                self._idle.set()
            self._wake.set()

    def _count(self, action: WriteClaimStatus | GrantExclusive, now: float) -> None:
        claim, status = action.claim, action.status
        kind = self._board.session_kind(claim)
        if action.began and not status.ended:
            self._metrics.claim_granted(claim.resource, kind)
            if claim.exclusive or claim.status.phase == kinds.PENDING:
                self._metrics.claim_waited(claim.resource, now - claim.created, kind)
            if not claim.status.phase:
                self._metrics.grant_delayed(now - claim.created)
            # A new operator shows old claims as granted, too: that is no news.
            if now - claim.created < _NEWS:
                granted_to = fields(namespace=claim.namespace, resource=claim.resource, session=claim.session)
                _log.info("claim granted", extra=granted_to)
        conflict, before = status.condition(CONFLICTED), claim.status.condition(CONFLICTED)
        if conflict and conflict.status == "True" and (before is None or before.status != "True"):
            self._metrics.conflict_started(claim.resource)
            if conflict.reason == OVERLAP:
                self._metrics.overlap_started(claim.resource)
        if not action.ended:
            return
        assert status.ended_at is not None
        held = None if status.granted_at is None else max(0.0, status.ended_at - status.granted_at)
        if status.phase == kinds.EXPIRED:
            self._metrics.claim_expired(claim.resource, kind, lag=max(0.0, now - status.ended_at), held=held)
        else:
            granted = status.condition(GRANTED)
            self._metrics.claim_released(claim.resource, granted.reason if granted else "Released", held=held)
        _log.info(
            "claim ended",
            extra=fields(
                namespace=claim.namespace,
                resource=claim.resource,
                session=claim.session,
                phase=status.phase,
                held=None if held is None else round(held),
            ),
        )

    def _lengths(self) -> dict[str, int]:
        lengths = self._board.backlog()
        lengths["urgent"] += self._ready.qsize()
        return lengths
