"""Parts of the operator that fail while the others go on."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from presence_operator.metrics import Metrics
from presence_operator.shell.app import _Operator

if TYPE_CHECKING:
    import pytest


class Broken:
    async def run(self) -> None:
        raise RuntimeError("broken as a whole")


class Running:
    def __init__(self) -> None:
        self.started = asyncio.Event()

    async def run(self) -> None:
        self.started.set()
        await asyncio.Event().wait()


def test_a_mirror_that_fails_as_a_whole_is_told_and_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        second = Running()
        operator: Any = SimpleNamespace(_metrics=Metrics(), _mirror=None, _make_mirror=lambda: second)
        task = asyncio.create_task(_Operator._keep_mirroring(operator, Broken()))  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            await second.started.wait()
        assert operator._mirror is second
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(go())
    assert "the mirror failed and is begun anew" in caplog.text
    assert "broken as a whole" in caplog.text
