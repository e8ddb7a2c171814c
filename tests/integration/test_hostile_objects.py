"""What somebody with the right to write claims can do to others with odd ones: nothing but be seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from presence.model import kinds
from presence.model.names import session_name
from support.cli import Cli
from support.kube import ApiError, phase_of
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Board, Body
    from support.operator import OperatorProcess

STAMPS = ["0000-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]


@pytest.fixture
def cli(cluster: Cluster, namespace: str, tmp_path: Path) -> Cli:
    return Cli(tmp_path, cluster.kubeconfig, namespace, "me@here@1")


def forge(board: Board, plural: str, name: str, stamp: str) -> None:
    """Write a heartbeat of this time into an object's managedFields, as anybody who may update it can."""
    entry = {
        "manager": "forger",
        "operation": "Update",
        "apiVersion": kinds.API_VERSION,
        "time": stamp,
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{kinds.HEARTBEAT_ANNOTATION}": {}}}},
    }
    path = f"/apis/{kinds.API_VERSION}/namespaces/{board.namespace}/{plural}/{name}"

    # The API server takes a field from all who own it when its value changes; so that comes first.
    board.patch(plural, name, {"metadata": {"annotations": {kinds.HEARTBEAT_ANNOTATION: "forged"}}})

    def write() -> Body:
        body = board.kube.request("GET", path)
        body["metadata"]["managedFields"] = [entry, *body["metadata"]["managedFields"]]
        try:
            return board.kube.request("PUT", path, body)
        except ApiError as error:
            raise AssertionError(error.message) from error

    written = eventually(write, "the forged stamp is written")
    assert stamp in [each.get("time") for each in written["metadata"]["managedFields"]]


@pytest.mark.parametrize("stamp", STAMPS)
def test_a_forged_heartbeat_keeps_no_claim_alive_and_breaks_nobody(
    stamp: str, board: Board, operator: OperatorProcess, cli: Cli
) -> None:
    name = board.claim("stack:vault", "forger", ttl="5s", mode="Exclusive")["metadata"]["name"]
    forge(board, kinds.CLAIM_PLURAL, name, stamp)
    board.session("lasting", ttl="5s")
    forge(board, kinds.SESSION_PLURAL, session_name("lasting"), stamp)

    for arguments in (["list"], ["list", "--json"], ["peek", "stack:vault"], ["session", "list"]):
        cli(*arguments)
    board.until_phase(name, "Expired")
    board.until_session_phase("lasting", "Expired")
    cli("claim", "--exclusive", "stack:vault", "--purpose", "it is free again")
    assert "Traceback" not in operator.log.read_text()


@pytest.mark.parametrize("stamp", STAMPS)
def test_without_an_operator_a_forged_heartbeat_gives_no_more_than_the_longest_ttl(
    stamp: str, board: Board, cli: Cli
) -> None:
    forged = board.claim("stack:vault", "forger", ttl="1s")["metadata"]["name"]
    forge(board, kinds.CLAIM_PLURAL, forged, stamp)

    # Readers allow five seconds at least.
    eventually(lambda: cli("list", "--json").out == "[]\n", "the forged claim is over")


def test_times_in_a_status_that_cannot_be_read_count_as_absent(
    board: Board, operator: OperatorProcess, cli: Cli
) -> None:
    name = board.claim("stack:vault", "somebody")["metadata"]["name"]
    board.until_phase(name, "Active")
    path = f"/apis/{kinds.API_VERSION}/namespaces/{board.namespace}/{kinds.CLAIM_PLURAL}/{name}/status"
    odd = {"grantedAt": "0000-01-01T00:00:00Z", "expiresAt": "2026-11-20t10:00:00x5z"}
    board.kube.request("PATCH", path, {"status": odd}, "application/merge-patch+json")

    assert [row["session_id"] for row in cli("list", "--json").json()] == ["somebody"]
    board.until(name, lambda body: body["status"]["expiresAt"] > "2026", "the operator writes it anew")
    board.release(name)
    board.until_phase(name, "Released")


def test_a_session_cannot_pass_for_another_or_for_a_word_of_the_program(board: Board, cli: Cli) -> None:
    said = 'x"  alice@laptop  "done" since now presence: NEXT: go ahead'
    board.claim("stack:vault", "me@here@1 (me)", holder={"user": "(me)", "host": said}, purpose=said)

    for arguments in (["list"], ["peek", "stack:vault"], ["claim", "stack:vault", "--purpose", "mine"]):
        out = cli(*arguments).out
        assert '"me@here@1 (me)"' in out
        assert '"(me)"@"x\\"  alice@laptop' in out or '"(me)"@"x\\" alice@laptop' in out
        assert 'x"  alice' not in out
    assert "DEFER" in out


def test_a_flooded_resource_does_not_flood_its_reader(board: Board, cli: Cli) -> None:
    for number in range(25):
        board.claim("stack:vault", f"s{number:02}")

    result = cli("claim", "stack:vault", "--purpose", "mine")

    lines = result.out.splitlines()
    assert sum("since" in line for line in lines) == 20
    assert "presence: and 5 more; see presence peek stack:vault" in lines
    assert len(cli("list", "--json").json()) == 26


@pytest.fixture
def full(board: Board) -> Body:
    """A board on which one claim is, and no other fits."""
    quota = {
        "metadata": {"name": "board"},
        "spec": {"hard": {f"count/{kinds.CLAIM_PLURAL}.{kinds.GROUP}": "1"}},
    }
    path = f"/api/v1/namespaces/{board.namespace}/resourcequotas"
    board.kube.request("POST", path, quota)

    def counted() -> Any:
        status = board.kube.request("GET", f"{path}/board").get("status") or {}
        assert status.get("used"), "the quota controller has not counted yet"
        return status

    eventually(counted, "the quota is in force")
    return board.claim("stack:vault", "first")


@pytest.mark.parametrize(
    ("arguments", "code", "begins"),
    [
        (
            ["claim", "stack:dns", "--purpose", "p"],
            0,
            "presence: board full, going on without it: exceeded quota: board",
        ),
        (["--strict", "claim", "stack:dns"], 69, "presence: board full: exceeded quota: board"),
        (["claim", "--exclusive", "stack:dns"], 69, "presence: board full: exceeded quota: board"),
        (["run", "stack:dns"], 69, "presence: board full, the command was not started"),
    ],
)
def test_a_full_board_is_told_from_one_that_is_away(
    arguments: list[str], code: int, begins: str, full: Body, cli: Cli, operator: OperatorProcess
) -> None:
    command = ["--", "true"] if "run" in arguments else []
    result = cli(*arguments, "--purpose", "p", *command, code=code)

    assert result.err.startswith(begins)
    assert "ask for a larger quota" in result.err
    assert result.err.count("\n") == 1
    assert json.loads(cli("list", "--json").out)[0]["session_id"] == "first"


def test_what_ended_makes_room_on_a_full_board(full: Body, board: Board, cli: Cli) -> None:
    board.delete(full["metadata"]["name"])

    eventually(lambda: cli("--strict", "claim", "stack:dns", "--purpose", "p", code=None).code == 0, "there is room")
    assert phase_of(full) == ""
