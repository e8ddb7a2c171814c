"""Kubernetes Events: few, never twice, and never in the way of anything else."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from typing import TYPE_CHECKING

from presence.model import kinds
from presence.model.times import format_micro_time
from presence_operator.core.facts import Claim
from presence_operator.shell.connection import UnavailableError, local_time

if TYPE_CHECKING:
    from presence_operator.core.actions import EmitEvent
    from presence_operator.metrics import Metrics
    from presence_operator.shell.connection import Connection

_log = logging.getLogger(__name__)

_WAITING = 500
#: Seconds within which the same reason is not told again of the same object.
_QUIET = 60.0
_TOLD = 10_000
#: Bytes; the API's limit for a note.
_NOTE = 1024
_COMPONENT = f"{kinds.GROUP}/operator"


class Recorder:
    """Writes Events at a bounded rate. What comes too fast is dropped and counted: metrics tell that story better."""

    def __init__(self, connection: Connection, metrics: Metrics, rate: float, identity: str) -> None:
        self._connection = connection
        self._metrics = metrics
        self._rate = rate
        self._burst = max(1.0, rate * 5)
        self._tokens = self._burst
        self._filled_at = local_time()
        self._identity = identity[:128] or "operator"
        self._waiting: deque[EmitEvent] = deque()
        self._wake = asyncio.Event()
        self._told: dict[tuple[str, str], float] = {}

    def offer(self, event: EmitEvent) -> None:
        """Record an Event when there is time for it."""
        now = local_time()
        key = (event.target.uid, event.reason)
        if now - self._told.get(key, -_QUIET) < _QUIET:
            return
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1 or self._rate <= 0:
            self._metrics.event_dropped("rate_limit")
            return
        if len(self._waiting) >= _WAITING:
            self._metrics.event_dropped("queue_full")
            return
        self._tokens -= 1
        self._told[key] = now
        if len(self._told) > _TOLD:
            del self._told[next(iter(self._told))]
        self._waiting.append(event)
        self._wake.set()

    async def run(self) -> None:
        """Record what is offered, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._record(self._waiting.popleft())

    async def drain(self) -> None:
        """Record what is still waiting."""
        while self._waiting:
            await self._record(self._waiting.popleft())

    async def _record(self, event: EmitEvent) -> None:
        target = event.target
        try:
            answer = await self._connection.request(
                "create",
                "Event",
                "POST",
                f"/apis/events.k8s.io/v1/namespaces/{target.namespace}/events?fieldManager={kinds.OPERATOR_MANAGER}",
                {
                    "apiVersion": "events.k8s.io/v1",
                    "kind": "Event",
                    "metadata": {"name": f"{target.name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": target.namespace},
                    "eventTime": format_micro_time(self._connection.server_now()),
                    "reportingController": _COMPONENT,
                    "reportingInstance": self._identity,
                    "action": event.reason,
                    "reason": event.reason,
                    "type": "Warning" if event.warning else "Normal",
                    "note": event.note.encode()[:_NOTE].decode(errors="ignore"),
                    "regarding": {
                        "apiVersion": kinds.API_VERSION,
                        "kind": kinds.CLAIM_KIND if isinstance(target, Claim) else kinds.SESSION_KIND,
                        "namespace": target.namespace,
                        "name": target.name,
                        "uid": target.uid,
                        "resourceVersion": target.resource_version,
                    },
                },
                timeout=5.0,
            )
        except UnavailableError:
            self._metrics.event_dropped("error")
            return
        if answer.status >= 300:
            # In a namespace that is being deleted nothing can be created.
            self._metrics.event_dropped("error")
            _log.debug("event not recorded: %s %s", answer.status, answer.message)
