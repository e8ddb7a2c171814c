"""One thread for calls that wait, awaited from the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]]

Result = TypeVar("Result")


class Worker:
    """Runs one call after the other in a thread that does not keep the process alive.

    An executor of the standard library is joined at exit, so a server that hangs would hold up the end of the process.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job | Callable[[], object]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[[], Result]) -> Result:
        """What `function()` returns or raises. Cancelling the wait does not stop a call that has begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        # Somebody always looks at the outcome, also when the waiter was cancelled.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._jobs.put((loop, future, function))
        return await asyncio.shield(future)

    def stop(self, last: Callable[[], object]) -> None:
        """End the thread after the calls that wait and `last`; nobody hears of its outcome."""
        self._jobs.put(last)

    def _run(self) -> None:
        while isinstance(job := self._jobs.get(), tuple):
            loop, future, function = job
            result, error = None, None
            try:
                result = function()
            except Exception as caught:  # noqa: BLE001 - it is raised again where the call is awaited
                error = caught
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                break  # the loop is closed: nobody waits any more
        else:
            with suppress(Exception):
                job()


def _settle(future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
