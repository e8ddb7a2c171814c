"""Sessions are read again before a claim ends for their silence; what cannot be understood still is there."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from presence_operator.core.actions import Verified, VerifySessions
from presence_operator.core.board import Board
from presence_operator.core.facts import Bounds
from presence_operator.metrics import Metrics
from presence_operator.shell.connection import Answer
from presence_operator.shell.effects import Effects
from presence_operator.shell.intake import Intake

if TYPE_CHECKING:
    from presence_operator.shell.connection import Connection

NAMES = ("clear", "odd", "gone", "gone-2", "gone-3")


def body(name: str) -> dict[str, Any]:
    created = "2026-11-20T10:00:00Z" if name == "clear" else "some day"
    metadata = {"namespace": "board", "name": name, "uid": name, "resourceVersion": "7", "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"sessionId": name}}


class Answers:
    """Two sessions are there, and one of them says what no API server would store."""

    def server_now(self) -> float:
        return 1000.0

    async def request(self, verb: str, _kind: str, _method: str, path: str) -> Answer:
        name = path.rpartition("/")[2]
        if verb == "list":
            return self._answer(200, {"metadata": {}, "items": [body("clear"), body("odd")]})
        if name in ("clear", "odd"):
            return self._answer(200, body(name))
        return self._answer(404, {"reason": "NotFound", "details": {"name": name}})

    def _answer(self, status: int, data: dict[str, Any]) -> Answer:
        return Answer(status, json.dumps(data).encode(), None)


@pytest.mark.parametrize("names", [NAMES[:3], NAMES], ids=["one by one", "by a list"])
def test_a_session_that_cannot_be_understood_is_told_from_one_that_is_gone(names: tuple[str, ...]) -> None:
    metrics = Metrics()
    intake = Intake(Board(cast("Any", None)), Bounds(), metrics, lambda: None, lambda: 0.0)
    effects = Effects(cast("Connection", Answers()), intake, metrics, lambda: True, lambda *_: False)
    outcome = asyncio.run(effects.perform(VerifySessions("board", names, frozenset(), (), 2)))
    assert isinstance(outcome, Verified)
    assert [fact.name for fact in outcome.found] == ["clear"]
    assert outcome.unparsable == {"odd"}
