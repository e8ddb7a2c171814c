"""The command line beside a running operator: both see the same board, and each does without the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from presence.model.names import claim_name
from presence.model.times import parse_time
from support.cli import Cli
from support.kube import phase_of
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Board
    from support.operator import OperatorProcess

A = "wizard@devvm@a"


@pytest.fixture
def a(cluster: Cluster, namespace: str, tmp_path: Path) -> Cli:
    return Cli(tmp_path, cluster.kubeconfig, namespace, A)


def test_claims_made_here_become_active_and_conflict(a: Cli, board: Board, operator: OperatorProcess) -> None:
    a("claim", "stack:vault", "--purpose", "x")
    a.as_session("other")("claim", "stack:vault", "--purpose", "y")

    mine = board.until_phase(claim_name(A, "stack:vault"), "Active")
    board.until(mine["metadata"]["name"], lambda body: body["status"].get("conflictsWith"))
    board.until_session_phase(A, "Active")

    (row,) = a("list", "--mine", "--json").json()
    assert row["claimed_at"] == mine["status"]["grantedAt"]
    a("release", "stack:vault")
    board.until_phase(mine["metadata"]["name"], "Released")
    assert [row["session_id"] for row in a("list", "--json").json()] == ["other"]


def test_heartbeats_keep_a_short_claim_alive_and_silence_ends_it(
    a: Cli, board: Board, operator: OperatorProcess
) -> None:
    a("claim", "node:n1", "--purpose", "x", "--ttl", "3")
    claim = board.until_phase(claim_name(A, "node:n1"), "Active")
    first = parse_time(claim["status"]["expiresAt"])

    def renewed() -> bool:
        a("--strict", "heartbeat")
        return parse_time(board.get(claim_name(A, "node:n1"))["status"]["expiresAt"]) > first + 2

    eventually(renewed, "the promise to move while the session beats", every=0.5)
    board.until_phase(claim_name(A, "node:n1"), "Expired")
    assert a("list", "--json").json() == []

    a("heartbeat")
    assert phase_of(board.get(claim_name(A, "node:n1"))) == "Expired"
    assert a("list", "--json").json() == []
    assert a("claim", "node:n1", "--purpose", "anew").out == "presence: claimed node:n1\n"
    board.until_phase(claim_name(A, "node:n1"), "Active")


def test_a_heartbeat_says_once_which_claims_the_operator_let_expire(
    a: Cli, board: Board, operator: OperatorProcess
) -> None:
    a("claim", "node:kept", "--purpose", "x")
    for number, strict in enumerate((["--strict"], [])):
        label = f"node:n{number}"
        a("claim", label, "--purpose", "x", "--ttl", "2")
        board.until_phase(claim_name(A, label), "Expired")

        beat = a(*strict, "heartbeat", "--json", code=5 if strict else 0)

        assert beat.err == f"presence: these claims ran out before this heartbeat: {label}; stop, and claim them anew\n"
        assert [row["resource_label"] for row in beat.json()] == ["node:kept"]
        assert a("--strict", "heartbeat").err == ""


def test_what_ran_out_while_the_operator_was_away_stays_ended(a: Cli, board: Board, operator: OperatorProcess) -> None:
    a("claim", "node:short", "--purpose", "x", "--ttl", "5")
    a("claim", "node:long", "--purpose", "x")
    short = board.until_phase(claim_name(A, "node:short"), "Active")
    operator.pause()
    deadline = parse_time(short["status"]["expiresAt"])
    eventually(lambda: len(a("list", "--json").json()) == 1, "node:short to run out", every=0.5)

    assert "node:short" in a("heartbeat").err
    assert [row["resource_label"] for row in a("list", "--json").json()] == ["node:long"]
    operator.resume()

    ended = board.until_phase(claim_name(A, "node:short"), "Expired")
    assert parse_time(ended["status"]["endedAt"]) >= deadline
    assert phase_of(board.get(claim_name(A, "node:long"))) == "Active"
    assert a("--strict", "heartbeat").err == ""


def test_a_session_that_expired_comes_back_with_its_next_heartbeat(
    a: Cli, board: Board, operator: OperatorProcess
) -> None:
    a("claim", "node:n1", "--purpose", "x", "--ttl", "1h")
    session = board.get_session(A)
    name = session["metadata"]["name"]
    board.patch("agentsessions", name, {"metadata": {"annotations": {"presence.dev/ttl": "1s"}}})
    board.until_session_phase(A, "Expired")
    claim = board.get(claim_name(A, "node:n1"))
    assert phase_of(claim) == "Active"

    a("heartbeat")

    board.until_session_phase(A, "Active")
    assert board.get_session(A)["metadata"]["uid"] != session["metadata"]["uid"]
    assert board.get(claim_name(A, "node:n1"))["metadata"]["uid"] == claim["metadata"]["uid"]
    assert [row["resource_label"] for row in a("list", "--json").json()] == ["node:n1"]
