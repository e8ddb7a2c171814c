"""Limits on a real API server: the claim over the limit waits, is told why, and goes when a slot falls free."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from presence.model import kinds
from presence.model.names import claim_name
from support.cli import Cli
from support.kube import condition
from support.operator import OperatorProcess
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Board

THREE = "limits: [{name: applies, max: 3, resourceType: stack}]"
A, B = "alice@laptop@a", "bob@pc@b"


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    file = tmp_path / "limits.yaml"
    file.write_text(THREE)
    return file


@pytest.fixture
def operator(cluster: Cluster, namespace: str, tmp_path: Path, limits: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(
        cluster.kubeconfig, namespace, tmp_path / "operator", "--limits-file", str(limits)
    ) as operator:
        yield operator


@pytest.fixture
def a(cluster: Cluster, namespace: str, operator: OperatorProcess, tmp_path: Path) -> Cli:
    return Cli(tmp_path, cluster.kubeconfig, namespace, A)


def exclusive(board: Board, who: str, ttl: str = "60s") -> None:
    board.claim(f"stack:{who}", f"{who}@host", name=who, mode=kinds.EXCLUSIVE, ttl=ttl)


@pytest.mark.parametrize("how", ["release", "delete", "expiry"])
def test_the_fourth_claim_goes_when_one_of_three_ends(board: Board, operator: OperatorProcess, how: str) -> None:
    for who in ("ann", "bob", "eve"):
        exclusive(board, who, ttl="3s" if how == "expiry" and who == "ann" else "60s")
        board.until(who, lambda body: body.get("status", {}).get("phase") in (kinds.ACTIVE, kinds.EXPIRED))
    if how == "expiry":
        board.until_phase("ann", kinds.ACTIVE)
    exclusive(board, "joe")
    waiting = board.until_phase("joe", kinds.PENDING)
    assert condition(waiting, "Granted")["reason"] == "LimitReached"
    assert condition(waiting, "Granted")["message"] == "limit applies: 3 of at most 3 claims are Active"
    assert operator.metric("presence_limit_waiting", limit="applies", board=board.namespace) == 1

    if how == "release":
        board.release("ann")
    elif how == "delete":
        board.delete("ann")
    board.until_phase("joe", kinds.ACTIVE)
    assert operator.metric("presence_limit_in_use", limit="applies", board=board.namespace) == 3


def test_a_limit_that_is_raised_counts_without_a_restart(board: Board, operator: OperatorProcess, limits: Path) -> None:
    for who in ("ann", "bob", "eve"):
        exclusive(board, who)
        board.until_phase(who, kinds.ACTIVE)
    exclusive(board, "joe")
    board.until_phase("joe", kinds.PENDING)
    limits.write_text("limits: [")
    eventually(lambda: "the limits stay as they were" in operator.log.read_text(), "the broken file is told of")
    board.until_phase("joe", kinds.PENDING)
    limits.write_text(THREE.replace("3", "4"))
    board.until_phase("joe", kinds.ACTIVE)


def test_another_operator_goes_on_with_the_same_count(board: Board, operator: OperatorProcess) -> None:
    for who in ("ann", "bob", "eve"):
        exclusive(board, who)
        board.until_phase(who, kinds.ACTIVE)
    exclusive(board, "joe")
    board.until_phase("joe", kinds.PENDING)
    operator.kill()
    board.release("ann")
    exclusive(board, "zoe")
    operator.start()
    board.until_phase("joe", kinds.ACTIVE)
    board.until_phase("zoe", kinds.PENDING)


def test_a_command_line_is_told_of_the_limit_and_waits_for_a_slot(
    a: Cli, board: Board, limits: Path, operator: OperatorProcess
) -> None:
    limits.write_text("limits: [{name: applies, max: 1, mode: Any}]")
    eventually(lambda: "applies=1" in operator.log.read_text(), "the limit is read")
    exclusive(board, "ann")
    board.until_phase("ann", kinds.ACTIVE)

    refused = a("claim", "stack:net", "--exclusive", "--purpose", "x", code=3)
    assert "waits for a slot (limit applies: 1 of at most 1 claims are Active)" in refused.err
    assert "one of them is ann@host" in refused.err
    assert "WAIT with presence claim --exclusive stack:net --wait 30m" in refused.err

    for arguments in (["--exclusive"], []):
        timed_out = a("claim", "stack:net", *arguments, "--purpose", "x", "--wait", "2s", code=4)
        assert "limit applies" in timed_out.err
        assert "DEFER" in timed_out.err

    nothing = a("run", "stack:net", "--wait", "0", "--", "true", code=3)
    assert "limit applies" in nothing.err

    command = a.command("run", "stack:net", "--priority", "7", "--", "echo", "done")
    running = subprocess.Popen(command, env=a.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        waiting = eventually(
            lambda: [each for each in board.claims() if each["spec"].get("priority") == 7][0],  # noqa: RUF015
            "the claim of the run",
        )
        board.until_phase(waiting["metadata"]["name"], kinds.PENDING)
        board.release("ann")
        out, err = running.communicate(timeout=30)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, out) == (0, "done\n")
    assert "waiting for stack:net: position 1; limit applies: 1 of at most 1 claims are Active; one of them is" in err


def test_a_shared_claim_that_no_limit_keeps_is_reported_as_ever(a: Cli, board: Board) -> None:
    made = a("claim", "stack:net", "--purpose", "x", "--wait", "5s")
    assert "stack:net" in made.out
    board.until_phase(claim_name(A, "stack:net"), kinds.ACTIVE)


@pytest.mark.parametrize("priority", ["1001", "-1001", "high", "1.5"])
def test_a_priority_out_of_bounds_is_refused_with_what_to_write(a: Cli, priority: str) -> None:
    refused = a("claim", "stack:net", "--purpose", "x", f"--priority={priority}", code=2)
    assert "write a whole number within -1000 to 1000" in refused.err
