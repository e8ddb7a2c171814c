"""Watches whose end hangs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import kopf
import pytest

from presence_operator.shell import watching
from presence_operator.shell.watching import StuckError, Watches, mark_tasks

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def _deaf(times: int, end: asyncio.Event) -> None:
    """Goes on when cancelled, so many times, until `end` is set."""
    while times >= 0 and not end.is_set():
        times -= 1
        with contextlib.suppress(asyncio.CancelledError):
            await end.wait()


def _run(work: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        mark_tasks(asyncio.get_running_loop())
        async with asyncio.timeout(20):
            await work

    asyncio.run(limited())


class _Kopf:
    """Its first part ends with an error, its second one is deaf, and it waits for that one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deaf: int) -> None:
        self.begun = 0
        self.end = asyncio.Event()
        self._deaf = deaf
        monkeypatch.setattr(watching, "_TEARDOWN", 0.2)
        monkeypatch.setattr(kopf, "spawn_tasks", self._spawn)
        monkeypatch.setattr(kopf, "run_tasks", self._wait)

    async def _spawn(self, **_: Any) -> list[asyncio.Task[None]]:
        self.begun += 1
        return [asyncio.create_task(self._fail()), asyncio.create_task(_deaf(self._deaf, self.end), name="deaf")]

    async def _fail(self) -> None:
        raise RuntimeError("410 Gone")

    async def _wait(self, tasks: list[asyncio.Task[None]], **_: Any) -> None:
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])


def _watches() -> Watches:
    unused: Any = None
    return Watches(unused, unused, [], lambda: None, lambda: None, lambda _path, _trouble: None)


def test_the_watches_begin_anew_when_a_part_of_them_misses_the_word_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging = _Kopf(monkeypatch, deaf=2)

    async def twice() -> None:
        watches = _watches()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="410 Gone"):
                await watches._watch()

    _run(twice())
    assert hanging.begun == 2


def test_an_operator_whose_watches_cannot_be_ended_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = _Kopf(monkeypatch, deaf=1000)

    async def once() -> None:
        with pytest.raises(StuckError, match="deaf"):
            await _watches()._watch()
        hanging.end.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    _run(once())
