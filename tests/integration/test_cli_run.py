"""`presence run` on a real board: a command runs only while its claims are held, whatever happens to whom."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from presence.model.names import claim_name
from support.cli import Cli
from support.kube import phase_of
from support.proxy import FaultyServer
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devcluster import Cluster
    from support.kube import Board, Body
    from support.operator import OperatorProcess

VAULT = "stack:vault"
#: Seconds. Short, so that deadlines come soon; the command line accepts no less.
TTL = "6"


class Run:
    """A `presence run` in a process of its own, and the command below it."""

    def __init__(self, cli: Cli, directory: Path, *arguments: str, env: dict[str, str | None] | None = None) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                cli.command("run", *arguments),
                env=cli.environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=directory,
            )

    @property
    def err(self) -> str:
        """What was said so far."""
        return (self.directory / "stderr").read_text()

    def started(self) -> int:
        """The process id of the command, as soon as it has written it to the file `pid`."""
        return int(self.file("pid"))

    def file(self, name: str) -> str:
        """What the command has written to this file, as soon as it is there."""
        path = self.directory / name
        return eventually(lambda: path.read_text().strip() if path.exists() else "", f"{name} of the command")

    def keeper(self) -> int:
        """The process id of the keeper: the child that has a session of its own."""

        def look() -> int:
            return next((child for child in children(self.process.pid) if stat(child)[3:4] == [str(child)]), 0)

        return eventually(look, "the keeper")

    def wait(self, seconds: float = 30) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


def stat(process: int) -> list[str]:
    """State, parent, group, session and more of a process; empty when there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children(process: int) -> list[int]:
    every = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [each for each in every if stat(each)[1:2] == [str(process)]]


def alive(process: int) -> bool:
    return stat(process)[:1] not in ([], ["Z"], ["X"])


#: Writes its process id, and works until it is stopped, in a child that ignores requests to end.
STUBBORN = 'trap "" TERM INT; echo $$ > pid.new; mv pid.new pid; while :; do sleep 0.05; touch beat; done'
#: The same, but well-behaved.
PATIENT = "echo $$ > pid.new; mv pid.new pid; while :; do sleep 0.05; touch beat; done"


@pytest.fixture
def cli(cluster: Cluster, namespace: str, operator: OperatorProcess, tmp_path: Path) -> Cli:
    return Cli(tmp_path, cluster.kubeconfig, namespace, "ci")


@pytest.fixture
def start(cli: Cli, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def make(*arguments: str, by: Cli = cli, env: dict[str, str | None] | None = None) -> Run:
        made.append(Run(by, tmp_path / f"run-{len(made)}", *arguments, env=env))
        return made[-1]

    yield make
    for run in made:
        run.close()


def holder(board: Board, label: str = VAULT) -> Body | None:
    held = [body for body in board.claims() if body["spec"]["resource"] == label and phase_of(body) == "Active"]
    assert len(held) <= 1, held
    return held[0] if held else None


def ended_well_before(run: Run, moment: float) -> bool:
    """The command's last sign of life came before `moment`, in seconds since the epoch."""
    return (run.directory / "beat").stat().st_mtime < moment


# Running


def test_the_command_runs_under_its_claim_and_its_exit_code_is_runs(cli: Cli, board: Board) -> None:
    result = cli("run", VAULT, "--purpose", "apply #812", "--", "sh", "-c", "env; exit 7", code=7)
    env = dict(line.split("=", 1) for line in result.out.splitlines() if "=" in line)
    (claim,) = board.claims()
    assert env["PRESENCE_RESOURCE"] == VAULT
    assert env["PRESENCE_CLAIM"] == claim["metadata"]["name"]
    assert env["PRESENCE_FENCING_TOKEN"] == str(claim["status"]["fencingToken"])
    assert env["PRESENCE_SESSION"] == claim["spec"]["session"]
    assert env["PRESENCE_DEADLINE"].endswith("Z")
    assert claim["spec"]["purpose"] == "apply #812"
    assert claim["spec"]["released"] is True
    assert result.err == ""
    board.until_phase(claim["metadata"]["name"], "Released")
    board.until_session_phase(claim["spec"]["session"], "Completed")


def test_output_and_input_pass_untouched(cli: Cli, tmp_path: Path) -> None:
    noise = bytes(range(256)) * 500
    done = subprocess.run(
        cli.command("run", VAULT, "--", "cat"),
        input=noise,
        capture_output=True,
        env=cli.environment(),
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, noise, b"")


def test_a_command_that_dies_of_a_signal_exits_like_in_a_shell(cli: Cli) -> None:
    cli("run", VAULT, "--", "sh", "-c", "kill -KILL $$", code=137)


def test_what_cannot_be_run_claims_nothing(cli: Cli, board: Board, tmp_path: Path) -> None:
    assert "there is no command 'no-such'" in cli("run", VAULT, "--", "no-such", code=127).err
    plain = tmp_path / "plain"
    plain.write_text("text")
    assert "not executable" in cli("run", VAULT, "--", str(plain), code=126).err
    assert board.claims() == []


def test_a_run_inside_of_a_run_does_not_wait_for_itself(cli: Cli) -> None:
    inner = " ".join(cli.command("run", VAULT, "--", "true"))
    result = cli("run", VAULT, "--", "sh", "-c", inner, code=2)
    assert "already runs while holding stack:vault" in result.err


def test_the_purpose_does_not_repeat_the_command_line(cli: Cli, board: Board) -> None:
    cli("run", VAULT, "--", "true", "-var", "password=hunter2")
    (claim,) = board.claims()
    assert claim["spec"]["purpose"] == "runs true"
    assert "hunter2" not in json.dumps(board.claims() + board.sessions() + board.events())


def test_what_the_command_left_behind_in_its_group_ends_before_the_claim(cli: Cli, tmp_path: Path) -> None:
    result = cli("run", VAULT, "--", "sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!")
    assert not alive(int(result.out))


# Waiting


def test_runs_take_turns_in_the_order_they_came(start: Callable[..., Run], board: Board, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = start(VAULT, "--", "sh", "-c", PATIENT)
    first.started()
    others = []
    for number in range(3):
        script = f"echo {number} in >> {log}; sleep 0.1; echo {number} out >> {log}"
        others.append(start(VAULT, "--", "sh", "-c", script))
        eventually(lambda: len(board.claims()) == len(others) + 1)
        time.sleep(1.1)  # creation is stamped in whole seconds; ties go by name
    eventually(lambda: "waiting for stack:vault: position 1; held by ci/run-" in others[0].err)
    first.process.terminate()
    assert first.wait() == 143
    assert [other.wait() for other in others] == [0, 0, 0]
    assert log.read_text().split("\n")[:-1] == [f"{n} {what}" for n in range(3) for what in ("in", "out")]


def test_a_wait_that_times_out_leaves_nothing_and_says_who_holds_it(
    cli: Cli, start: Callable[..., Run], board: Board
) -> None:
    first = start(VAULT, "--purpose", "big apply", "--", "sh", "-c", PATIENT)
    first.started()
    late = cli("run", VAULT, "--wait", "2s", "--", "true", code=4)
    assert "not run: waited 2s, and stack:vault is held by ci/run-" in late.err
    assert '"big apply"' in late.err
    at_once = cli("run", VAULT, "--wait", "0", "--", "true", code=3)
    assert "not run: stack:vault is held by ci/run-" in at_once.err
    eventually(lambda: len([body for body in board.claims() if phase_of(body) in ("Active", "Pending")]) == 1)


def test_an_interrupted_wait_withdraws(start: Callable[..., Run], board: Board) -> None:
    first = start(VAULT, "--", "sh", "-c", PATIENT)
    first.started()
    second = start(VAULT, "--", "true")
    eventually(lambda: "waiting for" in second.err)
    second.process.send_signal(signal.SIGINT)
    assert second.wait() == 130
    eventually(lambda: [phase_of(body) for body in board.claims()].count("Released") == 1)


def test_opposite_orders_do_not_deadlock(start: Callable[..., Run]) -> None:
    runs = [
        start("stack:a", "stack:b", "--", "sleep", "0.2"),
        start("stack:b", "stack:a", "--", "sleep", "0.2"),
        start("stack:a", "stack:b", "--", "sleep", "0.2"),
    ]
    assert [run.wait(60) for run in runs] == [0, 0, 0]


def test_an_own_advisory_claim_passes_on_to_the_run(cli: Cli, board: Board) -> None:
    cli("claim", VAULT, "--purpose", "looking at it")
    result = cli("run", VAULT, "--wait", "10s", "--", "true")
    assert "your own claim on stack:vault passes on to this run" in result.err


# Whatever happens


def test_killed_run_takes_its_command_along_and_the_next_goes_at_once(start: Callable[..., Run], board: Board) -> None:
    first = start(VAULT, "--ttl", "1h", "--", "sh", "-c", STUBBORN)
    command = first.started()
    second = start(VAULT, "--", "sh", "-c", "date +%s.%N > began")
    eventually(lambda: "waiting for" in second.err)
    first.process.kill()
    assert second.wait() == 0
    assert not alive(command)
    assert ended_well_before(first, float((second.directory / "began").read_text()))


def test_killed_keeper_stops_the_command(start: Callable[..., Run]) -> None:
    run = start(VAULT, "--ttl", "20", "--", "sh", "-c", STUBBORN)
    command = run.started()
    os.kill(run.keeper(), signal.SIGKILL)
    assert run.wait() == 5
    assert not alive(command)
    assert "the process that renews the claims has died" in run.err


def test_stopped_run_loses_its_claim_and_its_command_first(start: Callable[..., Run], board: Board) -> None:
    first = start(VAULT, "--ttl", TTL, "--", "sh", "-c", STUBBORN)
    command = first.started()
    second = start(VAULT, "--", "sh", "-c", "date +%s.%N > began")
    eventually(lambda: "waiting for" in second.err)
    first.process.send_signal(signal.SIGSTOP)
    assert second.wait() == 0
    assert not alive(command)
    assert ended_well_before(first, float((second.directory / "began").read_text()))
    first.process.send_signal(signal.SIGCONT)
    assert first.wait() == 5
    assert "does not answer" in first.err


def test_stopped_keeper_loses_the_claim_and_the_command_first(start: Callable[..., Run]) -> None:
    first = start(VAULT, "--ttl", TTL, "--", "sh", "-c", STUBBORN)
    command = first.started()
    keeper = first.keeper()
    second = start(VAULT, "--", "sh", "-c", "date +%s.%N > began")
    eventually(lambda: "waiting for" in second.err)
    os.kill(keeper, signal.SIGSTOP)
    assert second.wait() == 0
    assert not alive(command)
    assert ended_well_before(first, float((second.directory / "began").read_text()))
    assert first.wait() == 5
    assert "not renewed in time" in first.err


def test_cut_from_the_board_the_command_ends_before_the_claim(
    cluster: Cluster, cli: Cli, start: Callable[..., Run], tmp_path: Path
) -> None:
    with FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path) as server:
        far = Cli(tmp_path, server.kubeconfig, cli.env["PRESENCE_NAMESPACE"], "far")
        first = start(VAULT, "--ttl", TTL, "--", "sh", "-c", STUBBORN, by=far)
        command = first.started()
        second = start(VAULT, "--", "sh", "-c", "date +%s.%N > began")
        eventually(lambda: "waiting for" in second.err)
        server.fail(0)
        server.cut()
        assert second.wait() == 0
        assert not alive(command)
        assert ended_well_before(first, float((second.directory / "began").read_text()))
        assert first.wait(40) == 5
    assert "lost: the claims could not be renewed in time" in first.err


def test_a_short_cut_is_survived(cluster: Cluster, cli: Cli, start: Callable[..., Run], tmp_path: Path) -> None:
    with FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path) as server:
        far = Cli(tmp_path, server.kubeconfig, cli.env["PRESENCE_NAMESPACE"], "far")
        run = start(VAULT, "--ttl", "12", "--", "sh", "-c", "echo $$ > pid.new; mv pid.new pid; sleep 14", by=far)
        run.started()
        server.fail(0)
        server.cut()
        time.sleep(5)
        server.heal()
        assert run.wait() == 0
        assert "lost" not in run.err


def test_a_claim_taken_away_stops_the_command_and_says_by_whom_and_why(
    cli: Cli, start: Callable[..., Run], board: Board
) -> None:
    run = start(VAULT, "--", "sh", "-c", PATIENT)
    command = run.started()
    claim = holder(board)
    assert claim is not None
    release = {"by": "alice@laptop", "user": "alice", "reason": "the wrong stack", "forced": True}
    board.patch("presenceclaims", claim["metadata"]["name"], {"spec": {"released": True, "release": release}})
    assert run.wait() == 5
    assert not alive(command)
    assert 'stack:vault was taken away by alice@laptop (alice): "the wrong stack"' in run.err


def test_a_deleted_claim_stops_the_command(start: Callable[..., Run], board: Board) -> None:
    run = start(VAULT, "--", "sh", "-c", PATIENT)
    run.started()
    claim = holder(board)
    assert claim is not None
    board.delete(claim["metadata"]["name"])
    assert run.wait() == 5
    assert "stack:vault was deleted from the board" in run.err


def test_a_shorter_ttl_counts_at_once(start: Callable[..., Run], board: Board) -> None:
    run = start(VAULT, "--ttl", "1h", "--", "sh", "-c", PATIENT)
    command = run.started()
    claim = holder(board)
    assert claim is not None
    board.set_ttl(claim["metadata"]["name"], "5s")
    assert run.wait() == 5
    assert not alive(command)


def test_what_moved_to_a_session_of_its_own_ends_with_a_lost_claim(start: Callable[..., Run], board: Board) -> None:
    run = start(VAULT, "--", "sh", "-c", f"setsid sh -c 'echo $$ > far; exec sleep 300' & {PATIENT}")
    run.started()
    far = int(run.file("far"))
    claim = holder(board)
    assert claim is not None
    board.delete(claim["metadata"]["name"])
    assert run.wait() == 5
    assert not alive(far)


def test_without_a_board_nothing_runs(cli: Cli, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    missing = tmp_path / "missing"
    result = cli("run", VAULT, "--", "touch", str(witness), env={"KUBECONFIG": str(missing)}, code=69)
    assert "the command was not started" in result.err
    assert not witness.exists()


def test_a_command_outlives_its_ttl_because_it_is_renewed(start: Callable[..., Run]) -> None:
    assert start(VAULT, "--ttl", TTL, "--", "sleep", "9").wait() == 0


# Signals and terminals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_signals_reach_the_command(start: Callable[..., Run], number: signal.Signals) -> None:
    script = f"trap 'exit 33' {number.name[3:]}; echo $$ > pid.new; mv pid.new pid; while :; do sleep 0.05; done"
    run = start(VAULT, "--", "sh", "-c", script)
    run.started()
    run.process.send_signal(number)
    assert run.wait() == 33


class OnTerminal:
    """A shell with job control on a terminal of its own."""

    def __init__(self, cli: Cli, directory: Path) -> None:
        self.process, self.file = pty.fork()
        if self.process == 0:
            os.chdir(directory)
            os.execve("/bin/bash", ["bash", "--norc", "-i"], {**cli.environment(), "PS1": "$ ", "TERM": "dumb"})  # noqa: S606
        self.seen = ""
        os.set_blocking(self.file, False)

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def until(self, text: str) -> None:
        def look() -> bool:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.file, 65536).decode(errors="replace")
            return text in self.seen

        try:
            eventually(look)
        except AssertionError:
            raise AssertionError(f"{text!r} did not appear in:\n{self.seen}") from None
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.close(self.file)
        os.waitpid(self.process, 0)


@pytest.fixture
def terminal(cli: Cli, tmp_path: Path) -> Iterator[OnTerminal]:
    shell = OnTerminal(cli, tmp_path)
    shell.until("$ ")
    yield shell
    shell.close()


def run_line(cli: Cli, script: str) -> str:
    return " ".join(cli.command("run", VAULT, "--", "sh", "-c")) + f" '{script}'"


def test_a_command_can_ask_questions_on_the_terminal(cli: Cli, terminal: OnTerminal) -> None:
    terminal.type(run_line(cli, 'read -p "Sure? " answer </dev/tty; echo "so $answer"') + "\n")
    terminal.until("\r\nSure? ")
    terminal.type("yes\n")
    terminal.until("\nso yes")
    terminal.until("$ ")
    terminal.type("echo code $?\n")
    terminal.until("code 0")


def test_control_c_ends_the_command_and_the_claim(cli: Cli, terminal: OnTerminal, board: Board) -> None:
    terminal.type(run_line(cli, 'echo star""ted; sleep 100') + "\n")
    terminal.until("started")
    terminal.type("\x03")
    terminal.until("$ ")
    terminal.type("echo code $?\n")
    terminal.until("code 130")
    eventually(lambda: [phase_of(body) for body in board.claims()] == ["Released"])


def test_control_z_gives_the_shell_back_and_the_claim_is_kept(cli: Cli, terminal: OnTerminal, board: Board) -> None:
    line = run_line(cli, 'echo star""ted; sleep 1; read answer; echo "so $answer"').replace("--", "--ttl 6 --", 1)
    terminal.type(line + "\n")
    terminal.until("started")
    terminal.type("\x1a")
    terminal.until("Stopped")
    time.sleep(8)
    assert holder(board) is not None
    terminal.type("fg\n")
    terminal.until("sleep 1")
    time.sleep(1.5)
    terminal.type("yes\n")
    terminal.until("\nso yes")


def test_in_a_pipe_the_command_gets_the_terminal_when_it_wants_it(cli: Cli, terminal: OnTerminal) -> None:
    terminal.type(run_line(cli, 'read answer; echo "so $answer"') + " | cat\n")
    time.sleep(1)
    terminal.type("yes\n")
    terminal.until("\nso yes")


def test_claim_names_are_those_of_the_runs_session(cli: Cli, board: Board) -> None:
    cli("run", VAULT, "--", "true")
    (claim,) = board.claims()
    assert claim["metadata"]["name"] == claim_name(claim["spec"]["session"], VAULT)
