"""What the operator tells the outside about itself: /metrics, /healthz, /readyz and /version over plain HTTP."""

from __future__ import annotations

import gzip
import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from presence_operator.settings import split_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from presence_operator.metrics import Metrics

_log = logging.getLogger(__name__)

#: Seconds for which watching may be refused, say while certificates are replaced, until the operator is not ready.
_BLIND_AFTER = 15.0

#: What has to move for an operator to be of use.
SCHEDULER, ELECTION = "scheduler", "election"


class ListenError(Exception):
    """The address to serve on cannot be used; the message says why."""


class Health:
    """How the operator is. The shell reports, the probes ask.

    `limit` is the number of seconds without a tick after which the operator counts as stuck; `monotonic` is its clock.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        limit: float = 120.0,
        identity: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self._limit = limit
        self._identity = identity
        self._monotonic = monotonic
        # Start-up counts as a tick: it gets as much patience as any other step.
        self._ticked = {SCHEDULER: monotonic()}
        self._ready = False
        self._leading = False
        self._refused: dict[str, tuple[float, str]] = {}

    def tick(self, part: str = SCHEDULER) -> None:
        """A part moved. Call it at every turn, and at least twice per limit when there is nothing to do.

        An operator without an election never tells of that part, and is not asked for it.
        """
        self._ticked[part] = self._monotonic()
        if part == SCHEDULER:
            self.metrics.scheduler_ticked()

    def set_ready(self, ready: bool) -> None:
        """All objects are known, or not any more."""
        self._ready = ready
        self.metrics.ready(ready)

    def set_watched(self, path: str, trouble: str) -> None:
        """Watching `path` is refused because of `trouble`, or works again ("")."""
        if trouble:
            since, _ = self._refused.get(path, (self._monotonic(), ""))
            self._refused[path] = since, trouble
        elif self._refused.pop(path, None) is None:
            return
        self.metrics.ready(self.ready()[0])

    def set_leader(self, leading: bool) -> None:
        """This operator acts, or another one does."""
        self._leading = leading
        self.metrics.leader(leading)

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether all parts move, and the body that says so. It does not matter whether this operator leads."""
        now = self._monotonic()
        part = min(self._ticked, key=lambda each: self._ticked[each])
        age = max(now - self._ticked[part], 0.0)
        body: dict[str, Any] = {"secondsSinceTick": round(max(now - self._ticked[SCHEDULER], 0.0), 1)}
        if age <= self._limit:
            return True, {"status": "ok", **body}
        reason = f"the {part} has not moved for {age:.0f} s; the limit is {self._limit:.0f} s"
        return False, {"status": "stuck", "reason": reason, **body}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the lists are in, and the body that says so. One that waits its turn to lead is ready, too."""
        body: dict[str, Any] = {"status": "ready", "leading": self._leading, "identity": self._identity}
        if not self._ready:
            body |= {"status": "starting", "reason": "the claims and sessions are not listed yet"}
        elif not self._leading:
            body["message"] = "not leading: another replica acts and this one follows, ready to take over"
        blind = next((why for since, why in self._refused.values() if self._monotonic() - since > _BLIND_AFTER), None)
        if self._ready and blind is not None:
            body |= {"status": "blind", "reason": f"claims and sessions cannot be watched: {blind}"}
        return self._ready and blind is None, body


class HealthServer:
    """Serves the pages from entering the `async with` block until leaving it.

    `listen` is `host:port`; an empty host stands for all interfaces, port 0 for a free port. `address` is what was
    bound; it is logged and written to `listen_file` too.

    Raises:
        ListenError: on entering, when the address is not to be had.
    """

    def __init__(self, health: Health, metrics: Metrics, *, listen: str, listen_file: Path | None = None) -> None:
        self._health = health
        self._metrics = metrics
        self._listen = listen
        self._listen_file = listen_file
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        bound = _bind(self._listen)
        try:
            app = web.Application()
            app.router.add_get("/metrics", self._serve_metrics)
            app.router.add_get("/healthz", self._serve_live)
            app.router.add_get("/livez", self._serve_live)
            app.router.add_get("/readyz", self._serve_ready)
            app.router.add_get("/version", self._serve_version)
            app.router.add_get("/", self._serve_index)
            self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
            await self._runner.setup()
            await web.SockSite(self._runner, bound).start()
            self.address = _text_of(bound)
            if self._listen_file is not None:
                _write_whole(self._listen_file, self.address)
        except BaseException:
            await self._close()
            bound.close()
            raise
        _log.info("listening", extra={"address": self.address})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.exposition(",".join(request.headers.getall("Accept", [])))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if _accepts_gzip(",".join(request.headers.getall("Accept-Encoding", []))):
            # Level 1: a scrape is large and alike, and the event loop waits meanwhile.
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        return web.Response(body=body, headers=headers)

    async def _serve_live(self, _: web.Request) -> web.Response:
        live, body = self._health.live()
        return _answer(200 if live else 500, body)

    async def _serve_ready(self, _: web.Request) -> web.Response:
        ready, body = self._health.ready()
        return _answer(200 if ready else 503, body)

    async def _serve_version(self, _: web.Request) -> web.Response:
        return _answer(200, self._metrics.build)

    async def _serve_index(self, _: web.Request) -> web.Response:
        return web.Response(text="presence-operator: /metrics /healthz /livez /readyz /version\n")


def _answer(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(status=status, text=json.dumps(body) + "\n", content_type="application/json")


def _accepts_gzip(header: str) -> bool:
    for part in header.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        if coding in ("gzip", "*"):
            return not any(
                parameter.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters
            )
    return False


def _bind(listen: str) -> socket.socket:
    host, port = split_address(listen)
    try:
        if not host:
            # One socket for both families: with one each, port 0 would give two different ports.
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=128)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenError(f"--listen {listen}: {reason}: choose another address, or port 0 for a free one") from error


def _text_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _write_whole(path: Path, text: str) -> None:
    """A reader sees all of it or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
