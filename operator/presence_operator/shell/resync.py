"""Full comparisons with the API server: at the start, every few minutes, and whenever something may have been missed.

kopf tells nothing of objects that were deleted while its watch was broken; these lists do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING
from urllib.parse import quote

from presence_operator.core.facts import Claim, Session
from presence_operator.core.listing import Listing
from presence_operator.logs import fields
from presence_operator.shell.connection import UnavailableError, local_time
from presence_operator.shell.effects import backoff
from presence_operator.shell.paths import PAGE, kind_name, list_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from presence_operator.core.board import Board
    from presence_operator.metrics import Metrics
    from presence_operator.shell.connection import Connection
    from presence_operator.shell.intake import Intake

_log = logging.getLogger(__name__)

#: Seconds between two comparisons that were asked for, so that a watch in trouble does not cause lists without end.
_LEAST_PAUSE = 2.0
_LONGEST_BACKOFF = 10.0
#: Seconds that the first comparison waits for the watches to have listed.
_PATIENCE = 5.0


class ListError(Exception):
    """A list could not be read to its end; the message says why."""


class Resync:
    """Runs the comparisons. `done` is called after each complete one with the local time at which it began.

    `namespaces` are those served; empty means all.
    """

    def __init__(
        self,
        board: Board,
        connection: Connection,
        intake: Intake,
        metrics: Metrics,
        namespaces: Sequence[str],
        interval: float,
        done: Callable[[float], None],
    ) -> None:
        self._board = board
        self._connection = connection
        self._intake = intake
        self._metrics = metrics
        self._scopes: list[str | None] = list(namespaces) or [None]
        self._interval = interval
        self._done = done
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._reason = "start"

    def want(self, reason: str, *, at_once: bool = False) -> None:
        """Ask for a comparison soon, or without any pause before it; `reason` goes to the log."""
        if at_once or not self._wanted.is_set():
            self._reason = reason
            self._wanted.set()
        if at_once:
            self._urgent.set()

    async def run(self) -> None:
        """Compare at the start, at every interval and when asked, for ever."""
        failures = 0
        # What is deleted between this list and the watch's own would be missed: let the watch list first.
        await _asked(self._wanted, _PATIENCE)
        while True:
            if self._urgent.is_set():
                failures = 0
            self._wanted.clear()
            self._urgent.clear()
            reason, begun = self._reason, local_time()
            try:
                added, changed, removed = await self._compare()
            except (ListError, UnavailableError) as error:
                failures += 1
                self._metrics.resync_failed()
                _log.warning("lists not read", extra=fields(reason=reason, error=str(error)))
                await _asked(self._urgent, backoff(failures, _LONGEST_BACKOFF))
                continue
            failures = 0
            took = local_time() - begun
            self._metrics.resync_succeeded(took, added=added, changed=changed, removed=removed)
            level = logging.DEBUG if reason == "interval" and not removed else logging.INFO
            counts = fields(reason=reason, seconds=round(took, 3), added=added, changed=changed, removed=removed)
            _log.log(level, "lists compared", extra=counts)
            if not self._wanted.is_set():
                self._reason = "interval"
            self._done(begun)
            await _asked(self._urgent, _LEAST_PAUSE)
            pause = max(0.0, self._interval * random.uniform(0.9, 1.1) - _LEAST_PAUSE)  # noqa: S311
            await _asked(self._wanted, pause)

    async def _compare(self) -> tuple[int, int, int]:
        added = changed = removed = 0
        # Sessions first: claims take their deadlines from them.
        for kind in (Session, Claim):
            for namespace in self._scopes:
                listing = await self._list(kind, namespace)
                added += listing.added
                changed += listing.changed
                removed += listing.removed
        return added, changed, removed

    async def _list(self, kind: type[Claim | Session], namespace: str | None) -> Listing:
        path = f"{list_path(kind, namespace)}?limit={PAGE}"
        token = ""
        listing: Listing | None = None
        restarts = 0
        try:
            while True:
                answer = await self._connection.request(
                    "list", kind_name(kind), "GET", path + (f"&continue={quote(token)}" if token else ""), timeout=30.0
                )
                if answer.status == 410 and token and restarts < 3:
                    # The picture that the pages belong to is too old by now: take a new one.
                    restarts += 1
                    token = ""
                    if listing is not None:
                        listing.abandon()
                        listing = None
                    continue
                if answer.status != 200:
                    raise ListError(_explain(kind, namespace, answer.status, answer.message))
                page = answer.body()
                if not isinstance(page.get("items"), list) or "resourceVersion" not in (page.get("metadata") or {}):
                    raise ListError(_explain(kind, namespace, answer.status, "the answer is no list"))
                if listing is None:
                    listing = Listing(self._board, kind, namespace, page["metadata"]["resourceVersion"])
                news = []
                for item in page["items"]:
                    metadata = item["metadata"]
                    key = (metadata["namespace"], metadata["name"])
                    if not listing.known(key, metadata["uid"], metadata["resourceVersion"]):
                        fact = self._intake.parse(kind, item)
                        if fact is not None:
                            news.append(fact)
                listing.put(news)
                token = page["metadata"].get("continue") or ""
                if not token:
                    listing.finish()
                    finished, listing = listing, None
                    return finished
        finally:
            if listing is not None:
                listing.abandon()


async def _asked(event: asyncio.Event, patience: float) -> None:
    """Wait for `event`, so many seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await event.wait()


def _explain(kind: type[Claim | Session], namespace: str | None, status: int, message: str) -> str:
    where = "all namespaces" if namespace is None else f"namespace {namespace}"
    text = f"cannot list {kind_name(kind)}s in {where}: {status} {message}"
    if status == 404:
        text += " (install the CRDs: kubectl apply -k crds/)"
    elif status == 403:
        text += " (grant list and watch on presence.dev; with --namespace only some namespaces are needed)"
    return text
