"""What people see of their claims while the operator runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence.model import kinds
from presence.model.times import parse_time
from support.kube import condition, phase_of
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.kube import Board, Body
    from support.operator import OperatorProcess


def name_of(body: Body) -> str:
    return str(body["metadata"]["name"])


def others(body: Body) -> list[str]:
    return [peer["session"] for peer in body["status"].get("conflictsWith") or []]


def reasons(board: Board) -> list[tuple[str, str]]:
    return sorted((item["involvedObject"]["name"], item["reason"]) for item in board.events())


def test_a_claim_becomes_active_with_a_promise(board: Board, operator: OperatorProcess) -> None:
    made = board.claim("stack:vault", "ann", ttl="15m")
    seen = board.until_phase(name_of(made), kinds.ACTIVE)
    created = parse_time(made["metadata"]["creationTimestamp"])
    status = seen["status"]
    assert parse_time(status["grantedAt"]) == created
    assert parse_time(status["expiresAt"]) == created + 900
    assert condition(seen, "Granted")["status"] == "True"
    assert condition(seen, "Conflicted")["status"] == "False"
    assert "finalizers" not in seen["metadata"]
    assert set(seen["metadata"]["annotations"]) == {kinds.TTL_ANNOTATION}
    assert operator.metric("presence_claims_granted_total", type="stack") == 1


def test_two_sessions_see_each_other_until_one_ends(board: Board, operator: OperatorProcess) -> None:
    first = name_of(board.claim("stack:vault", "ann"))
    board.until_phase(first, kinds.ACTIVE)
    second = name_of(board.claim("stack:vault", "bob"))
    seen = board.until_phase(second, kinds.ACTIVE)
    assert others(seen) == ["ann"], "the newcomer is told with the very first status"
    board.until(first, lambda body: others(body) == ["bob"], "the other is told, too")
    board.release(second)
    board.until_phase(second, kinds.RELEASED)
    alone = board.until(first, lambda body: not others(body), "the conflict is over")
    assert condition(alone, "Conflicted")["status"] == "False"
    eventually(lambda: len(reasons(board)) >= 5, "events")
    assert reasons(board) == sorted(
        [(first, "Claimed"), (second, "Claimed"), (first, "Conflicted"), (second, "Conflicted"), (second, "Released")]
    )
    assert all(item["type"] == "Warning" for item in board.events() if item["reason"] == "Conflicted")


def test_a_silent_claim_expires_within_a_second_of_its_deadline(board: Board, operator: OperatorProcess) -> None:
    name = name_of(board.claim("db:main", "ann", ttl="2s"))
    board.until_phase(name, kinds.ACTIVE)
    seen = board.until_phase(name, kinds.EXPIRED)
    assert seen["status"]["endedAt"] == seen["status"]["expiresAt"]
    assert condition(seen, "Granted") | {"lastTransitionTime": ""} == {
        "type": "Granted",
        "status": "False",
        "reason": "Expired",
        "message": "not renewed within the ttl",
        "observedGeneration": 1,
        "lastTransitionTime": "",
    }
    eventually(lambda: (name, "Expired") in reasons(board), "event Expired")


def test_what_has_expired_stays_expired(board: Board, operator: OperatorProcess) -> None:
    board.session("ann", ttl="15m")
    name = name_of(board.claim("db:main", "bob", ttl="1s"))
    board.until_phase(name, kinds.EXPIRED)
    ended = board.get(name)["status"]
    board.beat_claim(name)
    later = name_of(board.claim("db:main", "cyd"))
    assert others(board.until_phase(later, kinds.ACTIVE)) == []
    assert board.get(name)["status"] == ended


def test_one_heartbeat_of_the_session_renews_all_of_its_claims(board: Board, operator: OperatorProcess) -> None:
    board.session("ann", ttl="15m")
    names = [name_of(board.claim(f"stack:s{number}", "ann", ttl="4s")) for number in range(3)]
    for name in names:
        board.until_phase(name, kinds.ACTIVE)
    promised = max(board.get(name)["status"]["expiresAt"] for name in names)

    def renewed() -> bool:
        board.beat("ann")
        return all(board.get(name)["status"]["expiresAt"] > promised for name in names)

    eventually(renewed, "all promises have moved", every=0.3)
    assert [phase_of(board.get(name)) for name in names] == [kinds.ACTIVE] * 3
    for name in names:
        board.until_phase(name, kinds.EXPIRED)


def test_a_changed_ttl_counts_for_the_claim_as_it_stands(board: Board, operator: OperatorProcess) -> None:
    made = board.claim("stack:vault", "ann", ttl="15m")
    name, created = name_of(made), parse_time(made["metadata"]["creationTimestamp"])
    board.until_phase(name, kinds.ACTIVE)
    board.set_ttl(name, "2h")
    board.until(name, lambda body: parse_time(body["status"]["expiresAt"]) == created + 7200)
    board.set_ttl(name, "60s")
    board.until(name, lambda body: parse_time(body["status"]["expiresAt"]) == created + 60)
    board.set_ttl(name, "1s")
    board.until_phase(name, kinds.EXPIRED)


def test_a_ttl_that_cannot_be_followed_is_told(board: Board, operator: OperatorProcess) -> None:
    made = board.claim("stack:vault", "ann", ttl="48h")
    seen = board.until_phase(name_of(made), kinds.ACTIVE)
    assert parse_time(seen["status"]["expiresAt"]) == parse_time(made["metadata"]["creationTimestamp"]) + 86_400
    assert "outside of the allowed" in condition(seen, "Granted")["message"]
    eventually(lambda: (name_of(made), "InvalidTTL") in reasons(board), "event InvalidTTL")


def test_a_claim_can_be_deleted_at_any_time(board: Board, operator: OperatorProcess) -> None:
    first = name_of(board.claim("stack:vault", "ann"))
    second = name_of(board.claim("stack:vault", "bob"))
    board.until(first, lambda body: phase_of(body) == kinds.ACTIVE and others(body) == ["bob"])
    board.delete(second)
    board.until(first, lambda body: others(body) == [], "the conflict is over")
    assert [name_of(body) for body in board.claims()] == [first]


def test_a_claim_that_takes_the_name_of_an_ended_one_is_a_new_one(board: Board, operator: OperatorProcess) -> None:
    name = name_of(board.claim("stack:vault", "ann", ttl="1s"))
    board.until_phase(name, kinds.EXPIRED)
    board.delete(name)
    made = board.claim("stack:vault", "ann", ttl="15m")
    seen = board.until_phase(name, kinds.ACTIVE)
    assert seen["status"]["grantedAt"] == made["metadata"]["creationTimestamp"]


def test_ended_claims_go_after_the_retention(board: Board, operator_process: Callable[..., OperatorProcess]) -> None:
    operator_process("--retention", "1s").start()
    board.session("ann")
    name = name_of(board.claim("stack:vault", "ann"))
    board.until_phase(name, kinds.ACTIVE)
    board.patch(kinds.SESSION_PLURAL, name_of(board.get_session("ann")), {"spec": {"state": kinds.COMPLETED}})
    eventually(lambda: not board.claims() and not board.sessions(), "both are gone")


def test_the_log_tells_who_got_what(board: Board, operator_process: Callable[..., OperatorProcess]) -> None:
    operator = operator_process().start()
    board.until_phase(board.claim("stack:told", "ann")["metadata"]["name"], kinds.ACTIVE)
    expected = f"claim granted namespace={board.namespace} resource=stack:told session=ann"
    eventually(lambda: expected in operator.log.read_text(), "the grant in the log")
