"""What people see of their sessions while the operator runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence.model import kinds
from presence.model.times import parse_time
from support.kube import condition
from support.waiting import eventually

if TYPE_CHECKING:
    from support.kube import Board
    from support.operator import OperatorProcess


def test_a_session_is_active_and_shows_how_many_claims_it_holds(board: Board, operator: OperatorProcess) -> None:
    made = board.session("ann", ttl="15m")
    seen = board.until_session_phase("ann", kinds.ACTIVE)
    created = parse_time(made["metadata"]["creationTimestamp"])
    assert parse_time(seen["status"]["startedAt"]) == created
    assert parse_time(seen["status"]["expiresAt"]) == created + 900
    assert condition(seen, "Alive")["status"] == "True"
    for number in range(3):
        board.claim(f"stack:s{number}", "ann")
    eventually(lambda: board.get_session("ann")["status"]["activeClaims"] == 3, "three claims")


def test_a_silent_session_becomes_stale_and_a_heartbeat_heals_it(board: Board, operator: OperatorProcess) -> None:
    board.session("ann", ttl="15m", heartbeatSeconds=5)
    board.session("away", ttl="15m", heartbeatSeconds=5, state=kinds.PAUSED)
    board.until_session_phase("away", kinds.PAUSED)
    seen = board.until_session_phase("ann", kinds.STALE, timeout=25)
    assert condition(seen, "Alive")["reason"] == "MissedHeartbeats"
    assert board.get_session("away")["status"]["phase"] == kinds.PAUSED
    board.beat("ann")
    board.until_session_phase("ann", kinds.ACTIVE)


def test_a_session_expires_with_its_ttl_for_good(board: Board, operator: OperatorProcess) -> None:
    board.session("ann", ttl="2s")
    board.session("paused", ttl="2s", state=kinds.PAUSED)
    seen = board.until_session_phase("ann", kinds.EXPIRED)
    assert seen["status"]["endedAt"] == seen["status"]["expiresAt"]
    board.until_session_phase("paused", kinds.EXPIRED)
    board.beat("ann")
    probe = board.claim("stack:vault", "bob")
    board.until_phase(probe["metadata"]["name"], kinds.ACTIVE)
    assert board.get_session("ann")["status"]["phase"] == kinds.EXPIRED


def test_a_completed_session_lets_its_claims_go(board: Board, operator: OperatorProcess) -> None:
    made = board.session("ann")
    names = [board.claim(f"stack:s{number}", "ann")["metadata"]["name"] for number in range(3)]
    for name in names:
        board.until_phase(name, kinds.ACTIVE)
    board.patch(kinds.SESSION_PLURAL, made["metadata"]["name"], {"spec": {"state": kinds.COMPLETED}})
    board.until_session_phase("ann", kinds.COMPLETED)
    for name in names:
        seen = board.until_phase(name, kinds.RELEASED)
        assert condition(seen, "Granted")["reason"] == "SessionCompleted"
