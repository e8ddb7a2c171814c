"""`presence once`: one run for a key, whoever calls, however often, and whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from presence import once
from presence.board import GoneError
from presence.context import Context
from presence.keys import Keys
from presence.model.times import parse_time
from presence.parser import parse
from support.cli import Cli
from support.proxy import FaultyServer
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devcluster import Cluster
    from support.kube import Board
    from support.operator import OperatorProcess

HELPER = Path(__file__).resolve().parent.parent.parent / "examples" / "hooks" / "once.sh"


@pytest.fixture
def cli(cluster: Cluster, namespace: str, tmp_path: Path) -> Cli:
    return Cli(tmp_path, cluster.kubeconfig, namespace, "tester@here@1")


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], int]:
    """How often a command ran that appends a line to `runs`."""
    path = tmp_path / "runs"
    return lambda: len(path.read_text().splitlines()) if path.exists() else 0


def leave_a_line(then: str = "") -> list[str]:
    return ["sh", "-c", f"echo $$ >> runs; {then}"]


class Calls:
    """Calls that run at the same time."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._cli.command(*arguments),
            env=self._cli.environment(),
            cwd=self._cli.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def ends(self) -> list[tuple[int, str]]:
        """Exit code and standard error of each."""
        found = []
        for process in self.processes:
            _, err = process.communicate(timeout=120)
            assert "Traceback" not in err, err
            found.append((process.returncode, err))
        return found


@pytest.fixture
def calls(cli: Cli) -> Iterator[Calls]:
    made = Calls(cli)
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process.stderr is not None and not process.stderr.closed:
            process.communicate()


def key_on(board: Board, hook: str, context: str) -> dict[str, Any]:
    return board.get(once.name_of(once.key_of(hook, context)))


def free_at(board: Board, hook: str, context: str) -> float:
    return once.kept_until(key_on(board, hook, context))


def server_time(board: Board) -> float:
    """The API server runs on this machine."""
    return time.time()


def test_of_100_equal_calls_at_once_exactly_one_runs_and_the_others_return_its_outcome(
    calls: Calls, runs: Callable[[], int]
) -> None:
    for _ in range(100):
        calls.start(
            "once", "start", "it's", "--wait", "90s", "--timeout", "60s", "--strict", "--", *leave_a_line("exit 7")
        )
    ends = calls.ends()
    assert runs() == 1
    assert [code for code, _ in ends] == [7] * 100, ends
    assert sum("already ran on" in err and "exit 7" in err for _, err in ends) == 99


def test_after_a_crash_exactly_one_of_20_retries_runs_once_the_key_has_expired(
    calls: Calls, runs: Callable[[], int], board: Board
) -> None:
    first = calls.start("once", "start", "x", "--ttl", "5s", "--", *leave_a_line("exec sleep 60"))
    eventually(lambda: runs() == 1)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    calls.processes.clear()
    for _ in range(20):
        calls.start("once", "start", "x", "--wait", "60s", "--timeout", "30s", "--strict", "--", *leave_a_line())
    ends = calls.ends()
    assert runs() == 2
    assert [code for code, _ in ends] == [0] * 20, ends
    assert sum("already ran on" in err for _, err in ends) == 19


def test_with_an_operator_a_crashed_run_is_retried_and_an_outcome_kept_too(
    cli: Cli, calls: Calls, runs: Callable[[], int], operator: OperatorProcess, board: Board
) -> None:
    first = calls.start("once", "start", "x", "--ttl", "5s", "--", *leave_a_line("exec sleep 60"))
    eventually(lambda: runs() == 1)
    os.killpg(first.pid, signal.SIGKILL)
    eventually(lambda: key_on(board, "start", "x")["status"]["phase"] == "Expired")
    cli("once", "start", "x", "--", *leave_a_line())
    assert runs() == 2
    eventually(lambda: key_on(board, "start", "x")["status"]["phase"] == "Active")
    cli("once", "start", "x", "--", *leave_a_line())
    assert runs() == 2


def test_a_run_longer_than_the_lease_keeps_its_key(calls: Calls, runs: Callable[[], int], board: Board) -> None:
    calls.start("once", "start", "x", "--ttl", "5s", "--", *leave_a_line("sleep 8"))
    eventually(lambda: runs() == 1)
    calls.start("once", "start", "x", "--ttl", "5s", "--wait", "30s", "--", *leave_a_line())
    assert [code for code, _ in calls.ends()] == [0, 0]
    assert runs() == 1


def test_duplicates_do_not_extend_the_ttl_and_after_it_the_command_runs_again(
    cli: Cli, runs: Callable[[], int], board: Board
) -> None:
    call = ["once", "start", "x", "--ttl", "6s", "--", *leave_a_line()]
    cli(*call)
    end = free_at(board, "start", "x")
    assert end == parse_time(key_on(board, "start", "x")["metadata"]["creationTimestamp"]) + 6

    def again() -> bool:
        before = server_time(board)
        cli(*call)
        if runs() == 1:
            assert free_at(board, "start", "x") == end
        else:
            assert server_time(board) >= end
        assert runs() == 1 or before < end + 20
        return runs() == 2

    eventually(again, every=0.3)


def test_a_failure_is_returned_to_duplicates_and_run_again_on_request_only(cli: Cli, runs: Callable[[], int]) -> None:
    cli("once", "start", "x", "--", *leave_a_line("exit 9"), code=9)
    again = cli("once", "start", "x", "--json", "--", *leave_a_line("exit 0"), code=9)
    assert runs() == 1
    assert again.err.startswith("presence: start: x already ran on ")
    assert again.err.rstrip().endswith("exit 9")
    assert again.json()["outcome"]["exit"] == 9
    cli("once", "start", "x", "--retry-failed", "--", *leave_a_line("exit 0"))
    assert runs() == 2
    cli("once", "start", "x", "--retry-failed", "--", *leave_a_line("exit 0"))
    assert runs() == 2


def test_a_command_that_a_signal_ended_may_run_again_at_once(cli: Cli, runs: Callable[[], int]) -> None:
    cli("once", "start", "x", "--", *leave_a_line("kill -9 $$"), code=137)
    cli("once", "start", "x", "--", *leave_a_line())
    assert runs() == 2


def test_a_signal_to_presence_reaches_the_command(calls: Calls, cli: Cli, runs: Callable[[], int]) -> None:
    process = calls.start("once", "start", "x", "--", *leave_a_line("trap 'exit 4' TERM; while :; do sleep 0.1; done"))
    eventually(lambda: runs() == 1)
    process.terminate()
    assert calls.ends()[0][0] == 4
    cli("once", "start", "x", "--", *leave_a_line(), code=4)


def test_while_the_first_still_runs_a_duplicate_says_so_and_waits_only_when_told(
    calls: Calls, cli: Cli, runs: Callable[[], int]
) -> None:
    process = calls.start("once", "start", "x", "--", *leave_a_line("exec sleep 60"))
    eventually(lambda: runs() == 1)
    assert "still running for" in cli("once", "start", "x", "--", "true", code=3).err
    assert "after 1s of waiting" in cli("once", "start", "x", "--wait", "1s", "--", "true", code=4).err
    process.terminate()
    assert calls.ends()[0][0] == 143
    assert runs() == 1


@pytest.mark.parametrize("strict", [False, True])
def test_without_a_board_the_command_runs_unless_strict_forbids_it(
    cli: Cli, tmp_path: Path, runs: Callable[[], int], strict: bool
) -> None:
    config = tmp_path / "nowhere"
    config.write_text(
        '{"clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:9"}}], "users": [{"name": "x"}],'
        ' "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}], "current-context": "x"}'
    )
    call = ["once", "--kubeconfig", str(config), "start", "x", *(["--strict"] if strict else [])]
    for times in (1, 2):
        found = cli(*call, "--", *leave_a_line("exit 5"), code=69 if strict else 5)
        assert runs() == (0 if strict else times)
        assert "board unreachable" in found.err


def test_a_board_that_goes_away_meanwhile_changes_nothing_for_the_command(
    cluster: Cluster, cli: Cli, calls: Calls, tmp_path: Path, runs: Callable[[], int]
) -> None:
    with FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path) as server:
        cli.env["KUBECONFIG"] = str(server.kubeconfig)
        calls.start("once", "start", "x", "--ttl", "5s", "--", *leave_a_line("while [ ! -e go ]; do sleep 0.1; done"))
        eventually(lambda: runs() == 1)
        server.fail(0)
        eventually(lambda: server.refused > 0)
        (tmp_path / "go").touch()
        ((code, err),) = calls.ends()
    assert code == 0
    assert "could not be recorded" in err


def test_an_answer_that_is_lost_makes_no_duplicate_of_the_caller(
    cluster: Cluster, cli: Cli, tmp_path: Path, runs: Callable[[], int], calls: Calls
) -> None:
    with FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path) as server:
        cli.env["KUBECONFIG"] = str(server.kubeconfig)
        server.lose_answers("POST")
        calls.start("once", "start", "x", "--strict", "--timeout", "15s", "--", *leave_a_line())
        eventually(lambda: [method for method, _ in server.requests].count("POST") >= 2)
        server.heal()
        assert calls.ends()[0][0] == 0
    assert runs() == 1


def test_a_board_keeps_so_many_keys_and_never_loses_a_running_one(
    cli: Cli, calls: Calls, board: Board, runs: Callable[[], int]
) -> None:
    calls.start("once", "long", "x", "--most-keys", "5", "--", *leave_a_line("while [ ! -e go ]; do sleep 0.1; done"))
    eventually(lambda: runs() == 1)
    for number in range(8):
        cli("once", "short", str(number), "--most-keys", "5", "--", "true")
    kept = {claim["spec"]["purpose"] for claim in board.claims()}
    assert len(kept) == 5
    assert {"long: x", "short: 7"} <= kept
    (cli.home / "go").touch()
    calls.ends()
    for number in range(20, 40):
        calls.start("once", "many", str(number), "--most-keys", "5", "--timeout", "60s", "--", "true")
    assert {code for code, _ in calls.ends()} == {0}
    assert len(board.claims()) <= 5


def test_who_decided_on_an_older_state_of_a_key_deletes_nothing(cli: Cli, board: Board) -> None:
    board_of_caller = Context(parse(["list"], "presence"), cli.environment(), "presence").board()
    keys = Keys(board_of_caller)
    holder = {"user": "u", "host": "h"}
    body = once.body_of("0" * 16, "a", "b", execution="1" * 8, holder=holder, lease=5.0)
    seen = keys.create(body)
    assert seen is not None
    assert keys.create(body) is None
    renewed = keys.renew_claim(seen, {})
    with pytest.raises(GoneError):
        keys.discard(seen, unchanged=True)
    keys.discard(renewed, unchanged=True)
    taken_over = keys.create(body)
    assert taken_over is not None
    with pytest.raises(GoneError):
        keys.discard(renewed, unchanged=True)
    keys.discard(renewed, unchanged=False)
    board_of_caller._connection.close()
    assert [claim["metadata"]["uid"] for claim in board.claims()] == [taken_over["metadata"]["uid"]]


def test_keys_are_not_in_the_way_of_who_works_on_what(cli: Cli) -> None:
    cli("claim", "node:n1", "--purpose", "work")
    cli("once", "start", "x", "--", "true")
    assert [row["resource_label"] for row in cli("list", "--json").json()] == ["node:n1"]
    assert [row["purpose"] for row in cli("list", "--json", "--type", "once").json()] == ["start: x"]


@pytest.mark.parametrize("texts", [("it's", '"$(touch no)"'), ("-x", "--"), ("", ""), ("a\nb", "ü `id`")])
def test_the_shell_helper_passes_any_text_and_any_argument_on(
    cli: Cli, tmp_path: Path, runs: Callable[[], int], texts: tuple[str, str]
) -> None:
    program = tmp_path / "presence"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m presence "$@"\n')
    program.chmod(0o755)
    script = f'set -u; . {HELPER}; presence_once "$1" "$2" sh -c \'echo >> runs; printf %s "$1"; exit 6\' - "it\'s  --"'
    call = ["bash", "-c", script, "-", *texts]
    env = cli.environment()
    for path, expected in ((f"{tmp_path}:{env['PATH']}", 1), (f"{tmp_path}:{env['PATH']}", 1), (env["PATH"], 2)):
        done = subprocess.run(
            call, env={**env, "PATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 6, done
        assert runs() == expected
        assert done.stdout == ("" if "already ran" in done.stderr else "it's  --")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["once", "a", "b"], "needs a command after --"),
        (["once", "a", "--", "true"], "CONTEXT is missing"),
        (["once", "a", "b", "--hook=c", "--", "true"], "given twice"),
        (["once", "a", "b", "--ttl", "1s", "--", "true"], "5s to 1d"),
        (["once", "a", "b", "--wait", "soon", "--", "true"], "--wait"),
    ],
)
def test_a_wrong_call_says_what_to_write_instead(cli: Cli, arguments: list[str], says: str) -> None:
    assert says in cli(*arguments, code=2).err


def test_a_command_that_cannot_run_takes_no_key(cli: Cli, board: Board, tmp_path: Path) -> None:
    cli("once", "a", "b", "--", "no-such-program", code=127)
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    cli("once", "a", "b", "--", str(broken), code=126)
    assert board.claims() == []
