"""Exclusive claims from the command line: who gets them, who is told what, and how they change hands."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from presence.model.names import claim_name
from support.cli import Cli
from support.kube import phase_of
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Board
    from support.operator import OperatorProcess

VAULT = "stack:vault"
A, B, C = "alice@laptop@a", "bob@pc@b", "carol@vm@c"


@pytest.fixture
def a(cluster: Cluster, namespace: str, operator: OperatorProcess, tmp_path: Path) -> Cli:
    return Cli(tmp_path, cluster.kubeconfig, namespace, A)


@pytest.fixture
def b(a: Cli) -> Cli:
    return a.as_session(B)


@pytest.fixture
def c(a: Cli) -> Cli:
    return a.as_session(C)


class Waiting:
    """A call that goes on in the background."""

    def __init__(self, cli: Cli, directory: Path, *arguments: str) -> None:
        self._err = directory / "stderr"
        self._out = directory / "stdout"
        directory.mkdir()
        with self._err.open("wb") as err, self._out.open("wb") as out:
            self.process = subprocess.Popen(
                cli.command(*arguments),
                env=cli.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=directory,
            )

    @property
    def err(self) -> str:
        return self._err.read_text()

    def ends(self, code: int = 0) -> str:
        """Its output, once it has ended with this code."""
        assert self.process.wait(30) == code, self.err
        return self._out.read_text()


@pytest.fixture
def later(tmp_path: Path) -> Iterator[Callable[..., Waiting]]:
    made: list[Waiting] = []

    def make(cli: Cli, *arguments: str) -> Waiting:
        made.append(Waiting(cli, tmp_path / f"call-{len(made)}", *arguments))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait(10)


def exclusive(cli: Cli, *more: str, label: str = VAULT, code: int = 0) -> str:
    result = cli("claim", "--exclusive", label, "--purpose", "rotate the keys", *more, code=code)
    return result.out if code == 0 else result.err


def test_one_gets_it_and_the_other_is_told_who_has_it_and_what_to_do(a: Cli, b: Cli, board: Board) -> None:
    out = exclusive(a)
    claim = board.until_phase(claim_name(A, VAULT), "Active")
    assert out == f"presence: claimed {VAULT}, exclusively (fencing token {claim['status']['fencingToken']})\n"

    err = exclusive(b, code=3)
    assert err.count("\n") == 1
    assert err.startswith(f"presence: not claimed: {VAULT} is held by {A} (")
    assert '"rotate the keys" since ' in err
    assert f"WAIT with presence claim --exclusive {VAULT} --wait 30m" in err
    board.until_phase(claim_name(B, VAULT), "Released")


def test_in_json_the_refusal_says_what_to_do_next(a: Cli, b: Cli) -> None:
    exclusive(a)
    refused = b("--json", "claim", "--exclusive", VAULT, "--purpose", "x", code=3).json()
    assert (refused["claimed"], refused["next_action"]) == (None, "wait")
    assert [row["session_id"] for row in refused["conflicts"]] == [A]
    again = a("--json", "claim", "--exclusive", VAULT, "--purpose", "x").json()
    assert again["next_action"] == "proceed"
    assert again["fencing_token"] > 0


def test_a_shared_claim_behind_an_exclusive_one_is_refused_too(a: Cli, b: Cli, board: Board) -> None:
    exclusive(a)
    result = b("claim", VAULT, "--purpose", "looking", code=3)
    assert f"{VAULT} is held by {A}" in result.err
    board.until_phase(claim_name(B, VAULT), "Released")


def test_shared_claims_stay_advisory(a: Cli, b: Cli) -> None:
    a("claim", VAULT, "--purpose", "x")
    assert "ALSO CLAIMED BY" in b("claim", VAULT, "--purpose", "y").out


def test_waiting_shows_the_place_and_ends_with_the_grant(
    a: Cli, b: Cli, board: Board, later: Callable[..., Waiting]
) -> None:
    exclusive(a)
    waiting = later(b, "claim", "--exclusive", VAULT, "--purpose", "next", "--wait", "1m")
    eventually(lambda: f"presence: waiting for {VAULT}: position 1; held by {A}" in waiting.err)
    a("release", VAULT)
    assert waiting.ends().startswith(f"presence: claimed {VAULT}, exclusively")
    assert waiting.err.count("\n") == 1
    board.until_phase(claim_name(B, VAULT), "Active")


def test_a_wait_keeps_its_place_alive_beyond_its_ttl(
    a: Cli, b: Cli, board: Board, later: Callable[..., Waiting]
) -> None:
    exclusive(a)
    waiting = later(b, "claim", "--exclusive", VAULT, "--purpose", "next", "--wait", "1m", "--ttl", "3s")
    eventually(lambda: "waiting" in waiting.err)
    time.sleep(7)
    a("release", VAULT)
    waiting.ends()


def test_a_wait_that_times_out_withdraws(a: Cli, b: Cli, board: Board) -> None:
    exclusive(a)
    err = exclusive(b, "--wait", "2s", code=4)
    assert f"not claimed: waited 2s, and {VAULT} is held by {A}" in err
    assert "DEFER" in err
    board.until_phase(claim_name(B, VAULT), "Released")


def test_a_wait_that_is_terminated_withdraws(a: Cli, b: Cli, board: Board, later: Callable[..., Waiting]) -> None:
    exclusive(a)
    waiting = later(b, "claim", "--exclusive", VAULT, "--purpose", "next", "--wait", "1m")
    eventually(lambda: "waiting" in waiting.err)
    waiting.process.terminate()
    waiting.ends(143)
    board.until_phase(claim_name(B, VAULT), "Released")


def test_all_labels_or_none(a: Cli, b: Cli, board: Board) -> None:
    exclusive(a, label="stack:b")
    b("claim", "--exclusive", "stack:c", "stack:b", "stack:a", "--purpose", "x", code=3)
    board.until_phase(claim_name(B, "stack:a"), "Released")
    assert [row["session_id"] for row in a("list", "--json").json()] == [A]


def test_claiming_again_renews_and_keeps_the_token(a: Cli) -> None:
    assert exclusive(a) == exclusive(a)


def test_a_shared_claim_of_ones_own_is_in_the_way_of_an_exclusive_one(a: Cli) -> None:
    a("claim", VAULT, "--purpose", "x")
    assert "let go of it first" in exclusive(a, code=2)


def test_without_an_operator_nothing_is_granted(a: Cli, operator: OperatorProcess, board: Board) -> None:
    operator.stop()
    assert "need a running operator" in exclusive(a, code=69)


def test_without_a_board_an_exclusive_claim_fails(a: Cli) -> None:
    a("claim", "--exclusive", VAULT, "--purpose", "x", env={"KUBECONFIG": "/no/such/file"}, code=69)


# Waiting for others


def test_wait_ends_when_the_resource_is_free(a: Cli, b: Cli, later: Callable[..., Waiting]) -> None:
    assert b("wait", VAULT).out == f"presence: {VAULT} is free\n"
    a("claim", VAULT, "--purpose", "x")
    waiting = later(b, "wait", VAULT, "--timeout", "1m")
    eventually(lambda: f"waiting: {VAULT} is held by {A}" in waiting.err)
    a("release", VAULT)
    assert waiting.ends() == f"presence: {VAULT} is free\n"


def test_wait_times_out(a: Cli, b: Cli) -> None:
    a("claim", VAULT, "--purpose", "x")
    assert f"waited 1s, and {VAULT} is held by {A}" in b("wait", VAULT, "--timeout", "1s", code=4).err


def test_wait_for_a_claim_of_ones_own(a: Cli, b: Cli, board: Board, later: Callable[..., Waiting]) -> None:
    exclusive(a)
    board.claim(VAULT, B, mode="Exclusive")
    board.until_phase(claim_name(B, VAULT), "Pending")
    waiting = later(b, "wait", VAULT)
    eventually(lambda: "waiting for" in waiting.err)
    a("release", VAULT)
    assert waiting.ends() == f"presence: your claim on {VAULT} is granted\n"


# Changing hands


def test_taking_away_is_recorded_and_the_holder_is_told_once(a: Cli, b: Cli, board: Board) -> None:
    exclusive(a)
    out = b("release", "--force", VAULT, "--reason", "the laptop is gone").out
    assert out == f"presence: took {VAULT} away from {A}\n"
    claim = board.until_phase(claim_name(A, VAULT), "Released")
    assert claim["spec"]["release"]["by"] == B
    assert claim["spec"]["release"]["reason"] == "the laptop is gone"
    assert claim["spec"]["release"]["forced"] is True

    told = a("list").err
    assert told.startswith(f"presence: you lost {VAULT}: {B} (")
    assert 'took it away, reason "the laptop is gone"; do not touch it' in told
    assert a("list").err == ""
    exclusive(b)


@pytest.mark.parametrize(
    "call", [["heartbeat"], ["peek", VAULT], ["claim", "stack:x", "--purpose", "x"], ["release", "stack:x"]]
)
def test_any_next_call_tells_the_holder(a: Cli, b: Cli, call: list[str]) -> None:
    exclusive(a)
    b("release", "--force", VAULT, "--reason", "gone")
    assert f"you lost {VAULT}" in a(*call).err
    assert a(*call).err == ""


def test_taking_away_needs_a_reason_and_one_holder(a: Cli, b: Cli, c: Cli) -> None:
    assert "--force needs --reason" in b("release", "--force", VAULT, code=2).err
    assert "nobody to take it away from" in b("release", "--force", VAULT, "--reason", "x").out
    a("claim", VAULT, "--purpose", "x")
    b("claim", VAULT, "--purpose", "x")
    assert f"several sessions hold {VAULT}: {A}, {B}" in c("release", "--force", VAULT, "--reason", "x", code=2).err
    assert f"away from {A}" in c("release", "--force", VAULT, "--session", A, "--reason", "x").out


def test_the_holder_can_name_who_goes_next(a: Cli, b: Cli, c: Cli, board: Board, later: Callable[..., Waiting]) -> None:
    exclusive(a)
    first = later(b, "claim", "--exclusive", VAULT, "--purpose", "first", "--wait", "1m")
    eventually(lambda: "position 1" in first.err)
    time.sleep(1.1)  # creation is stamped in whole seconds
    second = later(c, "claim", "--exclusive", VAULT, "--purpose", "second", "--wait", "1m")
    eventually(lambda: "position 2" in second.err)
    a("handoff", VAULT, "--to", C, "--reason", "yours")
    second.ends()
    assert first.process.poll() is None
    c("release", VAULT, "--to", B)
    first.ends()


def test_an_expired_claim_can_block_until_a_person_has_looked(a: Cli, b: Cli, board: Board) -> None:
    exclusive(a, "--ttl", "2s", "--on-expiry", "hold")
    board.until_phase(claim_name(A, VAULT), "Expired")
    err = exclusive(b, code=3)
    assert "ASK the user" in err
    assert "is held until somebody releases it" in err
    assert b("--json", "claim", VAULT, "--purpose", "x", code=3).json()["next_action"] == "ask"
    b("release", "--force", VAULT, "--reason", "looked at it: half applied, fixed by hand")
    exclusive(b)
    assert phase_of(board.get(claim_name(B, VAULT))) == "Active"
