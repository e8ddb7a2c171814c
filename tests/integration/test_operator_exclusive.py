"""Exclusive claims on a real API server: one holder at a time, a fair queue, whatever happens to the operators."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from presence.model import kinds
from presence.model.names import lease_name
from presence.model.times import parse_time
from support.kube import ApiError, condition, phase_of
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devcluster import Cluster
    from support.kube import Board
    from support.operator import OperatorProcess

Body = dict[str, Any]
LEASES = "/apis/coordination.k8s.io/v1/namespaces"


def exclusive(board: Board, who: str, resource: str = "stack:vault", ttl: str = "60s", **spec: Any) -> Body:
    return board.claim(resource, f"{who}@host", name=who, mode=kinds.EXCLUSIVE, ttl=ttl, **spec)


def shared(board: Board, who: str, resource: str = "stack:vault", ttl: str = "60s") -> Body:
    return board.claim(resource, f"{who}@host", name=who, ttl=ttl)


def token(body: Body) -> int:
    number: int = body["status"]["fencingToken"]
    return number


def lease_path(board: Board, resource: str = "stack:vault") -> str:
    return f"{LEASES}/{board.namespace}/leases/{lease_name(resource)}"


def lease(board: Board, resource: str = "stack:vault") -> Body:
    return board.kube.request("GET", lease_path(board, resource))


def waiting_for(body: Body) -> list[str]:
    return [each["name"] for each in body["status"].get("waitingFor", [])]


def second_of(board: Board) -> float:
    """The API server's time in whole seconds, by an object that is not stored."""
    created = board.kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": "now"}}, dryRun="All")
    return parse_time(created["metadata"]["creationTimestamp"])


def next_second(board: Board) -> None:
    """Wait until claims made now come after those that there are: those of one second go by their names."""
    latest = max(parse_time(each["metadata"]["creationTimestamp"]) for each in board.claims())
    eventually(lambda: second_of(board) > latest, "the next second")


class Witness:
    """Looks at all claims again and again, and remembers whatever must not be seen."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.looks = 0
        self.faults: list[str] = []
        self.tokens: dict[str, dict[int, str]] = {}

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            try:
                claims = self._board.claims()
            except (OSError, ApiError):
                continue
            self.looks += 1
            self._judge(claims)

    def _judge(self, claims: list[Body]) -> None:
        holders: dict[str, list[str]] = {}
        for body in claims:
            spec, status = body["spec"], body.get("status") or {}
            if spec["mode"] != kinds.EXCLUSIVE:
                continue
            if status.get("fencingToken"):
                seen = self.tokens.setdefault(spec["resource"], {})
                uid = body["metadata"]["uid"]
                if seen.setdefault(status["fencingToken"], uid) != uid:
                    self.faults.append(f"token {status['fencingToken']} was given twice")
            if status.get("phase") == kinds.ACTIVE and not spec.get("released"):
                holders.setdefault(spec["resource"], []).append(body["metadata"]["name"])
        self.faults += [f"{resource} is held by {names}" for resource, names in holders.items() if len(names) > 1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


@pytest.fixture
def witness(board: Board) -> Iterator[Witness]:
    """Somebody who sees to it that nothing is ever held twice."""
    with Witness(board) as seeing:
        yield seeing
    assert seeing.looks > 0
    assert seeing.faults == []


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


def test_the_queue_is_first_come_first_served(
    board: Board, operator_process: Callable[..., OperatorProcess], witness: Witness
) -> None:
    names = ["zoe", "ann", "max", "bob", "eve"]
    exclusive(board, "first")
    operator_process().start()
    board.until_phase("first", kinds.ACTIVE)
    for name in names:
        exclusive(board, name)
        next_second(board)
    places = [board.until_phase(name, kinds.PENDING)["status"]["queuePosition"] for name in names]
    assert places == [1, 2, 3, 4, 16]

    order, holder = [], "first"
    for _ in names:
        board.release(holder)
        holder = eventually(lambda: _holder(board), "the next holder")
        order.append(holder)

    assert order == names
    tokens = [token(board.get(name)) for name in ["first", *names]]
    assert tokens == sorted(set(tokens))


def _holder(board: Board) -> str:
    """The name of the claim that holds the vault; empty when none does."""
    held = (
        each["metadata"]["name"]
        for each in board.claims()
        if each["spec"]["resource"] == "stack:vault" and phase_of(each) == kinds.ACTIVE
        if not each["spec"].get("released")
    )
    return next(held, "")


def test_shared_claims_wait_behind_an_exclusive_one_and_go_together(
    board: Board, operator: OperatorProcess, witness: Witness
) -> None:
    shared(board, "reader")
    board.until_phase("reader", kinds.ACTIVE)
    exclusive(board, "writer")
    board.until_phase("writer", kinds.PENDING)
    next_second(board)
    for name in ("late-a", "late-b"):
        shared(board, name)
    assert waiting_for(board.until_phase("late-a", kinds.PENDING)) == ["reader", "writer"]

    board.release("reader")
    board.until_phase("writer", kinds.ACTIVE)
    assert phase_of(board.until_phase("late-b", kinds.PENDING)) == kinds.PENDING
    board.release("writer")

    for name in ("late-a", "late-b"):
        assert "fencingToken" not in board.until_phase(name, kinds.ACTIVE)["status"]
    assert operator.metric("presence_overlaps_total") == 0


def test_the_first_of_those_who_wait_is_told_who_holds_it_now(board: Board, operator: OperatorProcess) -> None:
    for name in ("ann", "bob", "cyd"):
        exclusive(board, name)
        board.until(name, lambda body: phase_of(body) in (kinds.ACTIVE, kinds.PENDING))
    board.release("ann")
    board.until_phase("bob", kinds.ACTIVE)

    told = board.until("cyd", lambda body: waiting_for(body) == ["bob"], "cyd waits for bob")

    assert told["status"]["queuePosition"] == 1
    assert condition(told, "Granted")["message"] == "1 ahead: bob@host"
    assert operator.metric("presence_claims_waiting", type="stack") == 1


def test_kubectl_waits_until_the_claim_is_granted(board: Board, operator: OperatorProcess, cluster: Cluster) -> None:
    exclusive(board, "ann")
    exclusive(board, "bob")
    board.until_phase("bob", kinds.PENDING)
    waiter = subprocess.Popen(
        [str(cluster.kubectl), "-n", board.namespace, "wait", "pclaim/bob", "--for=condition=Granted", "--timeout=30s"],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        stdout=subprocess.PIPE,
        text=True,
    )
    board.release("ann")

    said, _ = waiter.communicate(timeout=40)

    assert (waiter.returncode, "condition met" in said) == (0, True)


def test_a_waiter_whose_time_runs_out_leaves_the_queue(board: Board, operator: OperatorProcess) -> None:
    exclusive(board, "ann")
    board.until_phase("ann", kinds.ACTIVE)
    exclusive(board, "bob", ttl="1s")
    exclusive(board, "cyd")

    gone = board.until_phase("bob", kinds.EXPIRED)
    assert "grantedAt" not in gone["status"]
    assert "fencingToken" not in gone["status"]
    board.until("cyd", lambda body: body["status"].get("queuePosition") == 1, "cyd goes next")
    board.release("ann")
    board.until_phase("cyd", kinds.ACTIVE)


def test_heartbeats_keep_a_waiter_in_the_queue(board: Board, operator: OperatorProcess) -> None:
    exclusive(board, "ann")
    board.until_phase("ann", kinds.ACTIVE)
    board.session("bob@host", ttl="60s")
    made = parse_time(exclusive(board, "bob", ttl="2s")["metadata"]["creationTimestamp"])
    board.until_phase("bob", kinds.PENDING)

    def beaten_past_its_first_deadline() -> bool:
        board.beat("bob@host")
        return second_of(board) > made + 4

    eventually(beaten_past_its_first_deadline, "two ttls of waiting")
    assert phase_of(board.get("bob")) == kinds.PENDING


def test_an_expired_holder_passes_the_resource_on(board: Board, operator: OperatorProcess, witness: Witness) -> None:
    exclusive(board, "ann", ttl="2s")
    board.until_phase("ann", kinds.ACTIVE)
    exclusive(board, "bob")

    granted = board.until_phase("bob", kinds.ACTIVE)

    ended = board.get("ann")
    assert phase_of(ended) == kinds.EXPIRED
    assert granted["status"]["grantedAt"] >= ended["status"]["endedAt"]


def test_a_holder_that_holds_on_blocks_the_resource_until_somebody_has_looked(
    board: Board, operator: OperatorProcess, witness: Witness
) -> None:
    exclusive(board, "ann", ttl="1s", onExpiry="Hold")
    exclusive(board, "bob")
    shared(board, "cyd")
    blocked = board.until_phase("ann", kinds.EXPIRED)
    assert "stays blocked" in condition(blocked, "Granted")["message"]
    board.until("bob", lambda body: waiting_for(body) == ["ann"])
    with pytest.raises(AssertionError):
        board.until_phase("bob", kinds.ACTIVE, timeout=2)

    release = {"by": "dan@host", "user": "dan", "reason": "looked at it", "forced": True}
    board.patch(kinds.CLAIM_PLURAL, "ann", {"spec": {"released": True, "release": release}})

    board.until_phase("bob", kinds.ACTIVE)
    assert phase_of(board.get("ann")) == kinds.EXPIRED


def test_a_hand_over_puts_the_named_session_first(board: Board, operator: OperatorProcess, witness: Witness) -> None:
    for name in ("ann", "bob", "cyd"):
        exclusive(board, name)
        board.until(name, lambda body: phase_of(body) in (kinds.ACTIVE, kinds.PENDING))

    board.patch(kinds.CLAIM_PLURAL, "ann", {"spec": {"released": True, "release": {"to": "cyd@host"}}})

    board.until_phase("cyd", kinds.ACTIVE)
    assert phase_of(board.get("bob")) == kinds.PENDING
    assert condition(board.until_phase("ann", kinds.RELEASED), "Granted")["message"] == "handed over to cyd@host"


def test_a_forced_release_is_recorded(board: Board, operator: OperatorProcess) -> None:
    exclusive(board, "ann")
    board.until_phase("ann", kinds.ACTIVE)
    release = {"by": "bob@host", "user": "bob", "reason": "ann is on holiday", "forced": True}
    board.patch(kinds.CLAIM_PLURAL, "ann", {"spec": {"released": True, "release": release}})

    ended = board.until_phase("ann", kinds.RELEASED)

    message = "taken from its holder by bob@host (bob): ann is on holiday"
    assert condition(ended, "Granted")["message"] == message
    told = eventually(lambda: [each for each in board.events() if each["reason"] == "ForceReleased"], "the Event")
    assert (told[0]["type"], message in told[0]["message"]) == ("Warning", True)


def test_a_lease_that_nobody_needs_names_nobody(board: Board, operator_process: Callable[..., OperatorProcess]) -> None:
    operator_process().start()
    exclusive(board, "ann")
    granted = board.until_phase("ann", kinds.ACTIVE)
    board.release("ann")

    eventually(lambda: not lease(board)["spec"].get("holderIdentity"), "a blank Lease", 30)

    blank = lease(board)
    assert blank["metadata"]["annotations"]["presence.dev/fencing-token"] == str(token(granted))
    assert "presence.dev/claim" not in blank["metadata"]["annotations"]


def test_tokens_grow_also_when_the_lease_is_deleted_by_hand(
    board: Board, operator: OperatorProcess, witness: Witness
) -> None:
    exclusive(board, "ann")
    held = board.until_phase("ann", kinds.ACTIVE)
    exclusive(board, "bob")
    board.until_phase("bob", kinds.PENDING)

    board.kube.request("DELETE", lease_path(board))
    exclusive(board, "cyd")
    assert phase_of(board.until_phase("cyd", kinds.PENDING)) == kinds.PENDING
    board.release("ann")

    assert token(board.until_phase("bob", kinds.ACTIVE)) > token(held)
    assert lease(board)["metadata"]["annotations"]["presence.dev/claim"] == "bob"


def test_a_grant_that_was_begun_is_completed_with_its_token(
    board: Board, operator_process: Callable[..., OperatorProcess]
) -> None:
    """As an operator leaves it that is killed between the Lease and the claim's status."""
    exclusive(board, "ann")
    late = exclusive(board, "bob")
    board.kube.request(
        "POST",
        f"{LEASES}/{board.namespace}/leases",
        {
            "metadata": {
                "name": lease_name("stack:vault"),
                "annotations": {"presence.dev/claim": "bob", "presence.dev/fencing-token": "1234567"},
            },
            "spec": {"holderIdentity": late["metadata"]["uid"]},
        },
    )

    operator_process().start()

    assert token(board.until_phase("bob", kinds.ACTIVE)) == 1234567
    assert phase_of(board.until_phase("ann", kinds.PENDING)) == kinds.PENDING


def test_operators_killed_between_grants_lose_and_double_nothing(
    board: Board, operator_process: Callable[..., OperatorProcess], witness: Witness
) -> None:
    operator = operator_process().start()
    names = [f"c{number}" for number in range(8)]
    for name in names:
        exclusive(board, name)
    for number, _ in enumerate(names):
        holder = eventually(lambda: _holder(board), "a holder", 30)
        if number % 2:
            board.release(holder)
            operator.kill()
        else:
            operator.kill()
            board.release(holder)
        operator.start(wait_ready=False)

    for name in names:
        assert token(board.until_phase(name, kinds.RELEASED, 30)) > 0


def test_two_operators_at_once_never_grant_twice_also_when_one_was_stopped_for_long(
    board: Board, operator_process: Callable[..., OperatorProcess], witness: Witness
) -> None:
    one, two = operator_process().start(), operator_process().start()
    names = [f"c{number:02}" for number in range(12)]
    for name in names:
        exclusive(board, name)

    def pass_on(count: int) -> None:
        for _ in range(count):
            board.release(eventually(lambda: _holder(board), "a holder", 30))

    pass_on(3)
    one.pause()
    board.session("beating@host", ttl="2s")
    beating = board.claim("db:main", "beating@host", name="beating", ttl="2s")
    made = parse_time(beating["metadata"]["creationTimestamp"])

    def beaten_past_its_first_deadline() -> bool:
        board.beat("beating@host")
        return second_of(board) > made + 6

    pass_on(2)
    eventually(beaten_past_its_first_deadline, "a pause longer than everything")
    one.resume()
    pass_on(2)
    two.pause()
    pass_on(2)
    two.resume()
    pass_on(3)

    for name in names:
        board.until_phase(name, kinds.RELEASED, 30)
    tokens = [token(board.get(name)) for name in names]
    assert len(set(tokens)) == len(names)
    # What was renewed in time ended at the deadline that the renewals gave it, not at the one that was known before.
    ended = board.until_phase("beating", kinds.EXPIRED)
    assert parse_time(ended["status"]["endedAt"]) >= made + 6 + 2
