"""The operator comes back from whatever befalls it, and decides nothing twice."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from devcluster import Cluster
from devcluster.cli import run_kubectl
from presence.model import kinds
from presence.model.names import claim_name
from presence.model.times import format_time, parse_time
from support.kube import Board, Kube, phase_of
from support.operator import OperatorProcess
from support.proxy import FaultyServer
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.kube import Body


def name_of(body: Body) -> str:
    return str(body["metadata"]["name"])


def versions(board: Board) -> dict[str, str]:
    return {name_of(body): body["metadata"]["resourceVersion"] for body in [*board.claims(), *board.sessions()]}


def test_a_new_operator_writes_nothing_again(board: Board, operator_process: Callable[..., OperatorProcess]) -> None:
    operator = operator_process().start()
    board.session("ann", ttl="15m")
    live = name_of(board.claim("stack:vault", "ann", ttl="15m"))
    other = name_of(board.claim("stack:vault", "bob", ttl="15m"))
    gone = name_of(board.claim("db:main", "cyd", ttl="1s"))
    board.until(live, lambda body: len(body.get("status", {}).get("conflictsWith", [])) == 1)
    board.until_phase(other, kinds.ACTIVE)
    board.until_phase(gone, kinds.EXPIRED)
    eventually(lambda: board.get_session("ann")["status"]["activeClaims"] == 1, "the session's count")
    eventually(lambda: len(board.events()) >= 6, "events")
    before, told = versions(board), len(board.events())
    operator.kill()
    operator.start()
    probe = name_of(board.claim("stack:probe", "dot", ttl="15m"))
    board.until_phase(probe, kinds.ACTIVE)
    eventually(lambda: len(board.events()) == told + 1, "the event of the new claim")
    after = versions(board)
    after.pop(probe)
    assert after == before


def test_a_claim_that_ran_out_while_no_operator_was_there(
    board: Board, operator_process: Callable[..., OperatorProcess]
) -> None:
    operator = operator_process().start()
    seen = name_of(board.claim("db:main", "ann", ttl="2s"))
    board.until_phase(seen, kinds.ACTIVE)
    operator.kill()
    unseen = board.claim("db:other", "ann", ttl="1s")
    _let_pass(board, parse_time(board.get(seen)["status"]["expiresAt"]))
    operator.start()
    assert board.until_phase(seen, kinds.EXPIRED)["status"]["endedAt"] == board.get(seen)["status"]["expiresAt"]
    ended = board.until_phase(name_of(unseen), kinds.EXPIRED)["status"]
    assert parse_time(ended["endedAt"]) == parse_time(unseen["metadata"]["creationTimestamp"]) + 1


def test_a_holder_that_came_back_too_late_stays_expired_without_an_operator_to_see_it(
    board: Board, operator_process: Callable[..., OperatorProcess]
) -> None:
    operator = operator_process().start()
    board.session("ann", ttl="15m")
    name = name_of(board.claim("db:main", "ann", ttl="2s"))
    promise = board.until_phase(name, kinds.ACTIVE)["status"]["expiresAt"]
    operator.kill()
    _let_pass(board, parse_time(promise))
    # What a renewing client does when it finds its claim lapsed.
    board.patch(kinds.CLAIM_PLURAL, name, {"metadata": {"annotations": {kinds.LAPSED_ANNOTATION: promise}}})
    board.beat("ann")
    operator.start()
    seen = board.until_phase(name, kinds.EXPIRED)
    assert seen["status"]["endedAt"] == promise


def test_an_operator_that_was_paused_expires_nobody_who_renewed(board: Board, operator: OperatorProcess) -> None:
    board.session("ann", ttl="15m")
    kept = name_of(board.claim("stack:kept", "ann", ttl="3s"))
    lost = name_of(board.claim("stack:lost", "bob", ttl="3s"))
    board.until_phase(kept, kinds.ACTIVE)
    board.until_phase(lost, kinds.ACTIVE)
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(0.5):
            board.beat("ann")

    beats = threading.Thread(target=keep_beating)
    beats.start()
    try:
        operator.pause()
        _let_pass(board, parse_time(board.get(lost)["status"]["expiresAt"]) + 2)
        operator.resume()
        board.until_phase(lost, kinds.EXPIRED)
        seen = board.until(kept, lambda body: body["status"]["expiresAt"] > board.get(lost)["status"]["endedAt"])
        assert phase_of(seen) == kinds.ACTIVE
    finally:
        operator.resume()
        stop.set()
        beats.join()


def test_deletions_that_nobody_told_of_are_found(
    board: Board, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with (
        FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path) as server,
        OperatorProcess(server.kubeconfig, namespace, tmp_path / "operator") as operator,
    ):
        first = name_of(board.claim("stack:vault", "ann"))
        second = name_of(board.claim("stack:vault", "bob"))
        board.until(first, lambda body: len(body.get("status", {}).get("conflictsWith", [])) == 1)
        # The watch is gone, and when it is back, its place in history is lost (410): it begins with a new list.
        server.fail(410, "watch=true")
        server.fail(0, "limit=")
        server.cut()
        eventually(lambda: server.refused >= 2, "the watch is refused")
        board.delete(second)
        server.heal()
        board.until(first, lambda body: not body["status"].get("conflictsWith"), "the deletion is noticed")
        assert operator.metric("presence_claims", phase=kinds.ACTIVE) == 1


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_an_api_server_in_trouble_costs_only_time(
    board: Board, cluster: Cluster, namespace: str, tmp_path: Path, status: int
) -> None:
    with (
        FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path) as server,
        OperatorProcess(server.kubeconfig, namespace, tmp_path / "operator") as operator,
    ):
        short = name_of(board.claim("db:main", "ann", ttl="2s"))
        board.until_phase(short, kinds.ACTIVE)
        server.fail(status)
        server.cut()
        made = name_of(board.claim("stack:vault", "bob"))
        _let_pass(board, parse_time(board.get(short)["status"]["expiresAt"]))
        eventually(lambda: server.refused >= 10, "the operator tries again and again")
        assert operator.get("/healthz")[0] == 200
        server.heal()
        board.until_phase(short, kinds.EXPIRED)
        board.until_phase(made, kinds.ACTIVE)


def test_answers_that_are_lost_after_the_write_change_nothing(
    board: Board, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with (
        FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path) as server,
        OperatorProcess(server.kubeconfig, namespace, tmp_path / "operator"),
    ):
        server.lose_answers("PATCH")
        name = claim_name("ann", "stack:vault")
        board.claim("stack:vault", "ann", ttl="15m")
        seen = board.until_phase(name, kinds.ACTIVE)
        server.heal()
        board.set_ttl(name, "2h")
        later = board.until(name, lambda body: body["status"]["expiresAt"] > seen["status"]["expiresAt"])
        assert later["status"]["grantedAt"] == seen["status"]["grantedAt"]
        assert [item["reason"] for item in board.events()].count("Claimed") <= 1


def test_of_two_operators_one_acts_and_the_other_takes_over(
    board: Board, operator_process: Callable[..., OperatorProcess]
) -> None:
    election = ("--leader-elect", "--lease-duration", "3s", "--renew-deadline", "2s", "--retry-period", "0.5s")
    first = operator_process(*election).start()
    eventually(lambda: first.metric("presence_leader") == 1, "the first leads")
    second = operator_process(*election).start()
    kept = name_of(board.claim("stack:vault", "ann", ttl="15m"))
    short = name_of(board.claim("db:main", "ann", ttl="3s"))
    board.until_phase(kept, kinds.ACTIVE)
    board.until_phase(short, kinds.ACTIVE)
    assert (first.metric("presence_leader"), second.metric("presence_leader")) == (1, 0)
    assert second.metric("presence_claims_granted_total") == 0
    first.kill()
    board.until_phase(short, kinds.EXPIRED)
    made = name_of(board.claim("stack:vault", "bob"))
    board.until_phase(made, kinds.ACTIVE)
    assert second.metric("presence_claims_granted_total") == 1
    assert second.stop() == 0


def test_sigterm_ends_it_cleanly(board: Board, operator: OperatorProcess) -> None:
    name = name_of(board.claim("stack:vault", "ann"))
    board.until_phase(name, kinds.ACTIVE)
    assert operator.stop(timeout=5) == 0
    log = operator.log.read_text()
    assert "Traceback" not in log
    assert "never awaited" not in log


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose parts may be killed."""
    with Cluster(str(tmp_path_factory.mktemp("own") / "c")) as fresh:
        fresh.up(node=False, dolt=False)
        yield fresh


def test_the_crds_and_the_api_server_come_and_go(own_cluster: Cluster, tmp_path: Path) -> None:
    kube = Kube(own_cluster.server_url, own_cluster.token, str(own_cluster.ca_file))
    kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": "board"}})
    board = Board(kube, "board")
    operator = OperatorProcess(own_cluster.kubeconfig, "board", tmp_path / "operator")
    try:
        operator.start(wait_ready=False)
        eventually(lambda: "kubectl apply -k crds/" in operator.tail(), "it says what to install")
        assert operator.get("/readyz")[0] == 503
        crds = __file__.rpartition("/tests/")[0] + "/crds"
        run_kubectl(own_cluster, "apply", "--server-side", "-k", crds)
        operator.wait_ready()
        first = name_of(board.claim("db:main", "ann", ttl="4s"))
        board.until_phase(first, kinds.ACTIVE)
        own_cluster.apiserver.kill()
        own_cluster.apiserver.start()
        own_cluster.apiserver.wait_ready()
        board.until_phase(first, kinds.EXPIRED)
        second = name_of(board.claim("stack:vault", "bob"))
        board.until_phase(second, kinds.ACTIVE)
        assert operator.stop(timeout=6) == 0
    finally:
        operator.__exit__(None, None, None)
        kube.close()


def _let_pass(board: Board, moment: float) -> None:
    """Wait until the API server's clock is past `moment`."""

    def look() -> bool:
        probe = board.kube.request(
            "POST",
            f"/api/v1/namespaces/{board.namespace}/configmaps",
            {"metadata": {"generateName": "clock-"}},
            dryRun="All",
        )
        return parse_time(probe["metadata"]["creationTimestamp"]) > moment

    eventually(look, f"the server's time is past {format_time(moment)}", every=0.2)
