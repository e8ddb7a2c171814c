"""Exclusive claims on a real API server: one holder at a time, a fair queue, whatever happens to the operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from presence.model import kinds
from presence.model.names import lease_name
from support.kube import condition, phase_of

if TYPE_CHECKING:
    from support.kube import Board
    from support.operator import OperatorProcess

Body = dict[str, Any]


def exclusive(board: Board, who: str, resource: str = "stack:vault", ttl: str = "60s", **spec: Any) -> Body:
    return board.claim(resource, f"{who}@host", name=who, mode=kinds.EXCLUSIVE, ttl=ttl, **spec)


def token(body: Body) -> int:
    number: int = body["status"]["fencingToken"]
    return number


def lease(board: Board, resource: str = "stack:vault") -> Body:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{board.namespace}/leases/{lease_name(resource)}"
    return board.kube.request("GET", path)


def test_the_second_waits_until_the_first_lets_go(board: Board, operator: OperatorProcess) -> None:
    exclusive(board, "ann")
    held = board.until_phase("ann", kinds.ACTIVE)
    exclusive(board, "bob")
    waiting = board.until_phase("bob", kinds.PENDING)

    assert waiting["status"]["queuePosition"] == 1
    assert [each["name"] for each in waiting["status"]["waitingFor"]] == ["ann"]
    assert condition(waiting, "Granted")["reason"] == "Waiting"
    assert lease(board)["spec"]["holderIdentity"] == held["metadata"]["uid"]

    board.release("ann")
    granted = board.until_phase("bob", kinds.ACTIVE)

    assert token(granted) == token(held) + 1
    assert "queuePosition" not in granted["status"]
    assert "waitingFor" not in granted["status"]
    assert lease(board)["metadata"]["annotations"]["presence.dev/fencing-token"] == str(token(granted))
    assert phase_of(board.until_phase("ann", kinds.RELEASED)) == kinds.RELEASED
