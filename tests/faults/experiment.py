"""One experiment: contenders on a real board, a nemesis, and the history of what could be seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from devcluster import Cluster, debian
from devcluster.cli import run_kubectl
from faults.history import Exited, History, Launched, Started, Stopped
from faults.nemesis import LEASE, REPERTOIRE, Nemesis, Step, plan
from faults.watcher import Watcher, now
from support.etcd import etcd_endpoint
from support.kube import Kube
from support.operator import OperatorProcess
from support.waiting import eventually

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from faults.history import Record

ROOT = Path(__file__).resolve().parents[2]
#: Seconds by which what the double of an operator hears is old, and what it says comes late.
_LATE = 0.15
_COMMAND = Path(__file__).with_name("command.sh")


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many contenders at a time for one of these resources each."""

    name: str
    resources: tuple[str, ...]
    contenders: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What is done in an experiment; the seed determines everything that is up to chance."""

    seed: int
    seconds: float
    crowds: tuple[Crowd, ...]
    ttl: str = "6s"
    wait: str = "15m"
    gap: tuple[float, float] = (1.0, 4.0)
    drain: float = 180.0
    """How long the contenders that are left when the nemesis stops may take to be served."""
    doubled: bool = False
    """Whether a second operator acts all the time, without asking, on news that are old."""
    breakage: Path | None = None
    """A patch to break the product with, to see that the judge notices."""

    @property
    def steps(self) -> list[Step]:
        """The schedule of the nemesis."""
        return plan(self.seed, self.seconds, self.gap)


def one_and_ten(each: int) -> tuple[Crowd, ...]:
    """`each` contenders on one resource, and as many on ten."""
    ten = tuple(f"service:app-{number}" for number in range(10))
    return Crowd("one", ("stack:vault",), each), Crowd("ten", ten, each)


@dataclass(slots=True)
class _Contender:
    run: str
    process: Process
    wired: bool
    harmed: bool = False


@dataclass(slots=True)
class _State:
    alive: dict[str, _Contender] = field(default_factory=dict)
    staying: list[tuple[str, str]] = field(default_factory=list)
    paused: dict[str, list[int]] = field(default_factory=lambda: {"holder": [], "keeper": []})


class Experiment:
    """Runs one setting in a directory and returns its history. A context: it ends whatever it has started."""

    def __init__(self, setting: Setting, cluster: Cluster, directory: Path, say: Callable[[str], None] = print) -> None:
        self.setting = setting
        self.cluster = cluster
        self.directory = directory
        self.say = say
        self.namespace = f"faults-{setting.seed}-{os.urandom(3).hex()}"
        self.operators: list[OperatorProcess] = []
        self._extra: OperatorProcess | None = None
        self._wires: list[subprocess.Popen[bytes]] = []
        self._wire: subprocess.Popen[bytes] | None = None
        self._state = _State()
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._watcher: Watcher | None = None
        self._product = ROOT

    def __enter__(self) -> Self:
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("locks", "said", "home"):
            (self.directory / name).mkdir(parents=True)
        self._log.touch()
        if self.setting.breakage is not None:
            self._product = broken_copy(self.setting.breakage, self.directory / "broken")
        # In front of a client of its own: the API server restarts.
        kube = Kube(self.cluster.server_url, self.cluster.token, str(self.cluster.ca_file))
        kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        kube.close()
        source, library = Path(__file__).with_name("wrong_clock.c"), self.directory / "wrong_clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
        self._kubeconfig("direct", self.cluster.server_url)
        self._wire = self._start_wire("wired", 0)
        self._start_wire("late", _LATE)
        # The certificates are younger than an hour: to clocks that go slow they are not valid yet.
        self._kubeconfig("unchecked", self.cluster.server_url, insecure=True)
        election = (
            "--leader-elect", "--lease-namespace", self.namespace, "--lease-duration", f"{LEASE:g}s",
            "--renew-deadline", f"{LEASE * 2 / 3:g}s", "--retry-period", "0.5s",
        )  # fmt: skip
        self.operators = [self._operator("a", "direct", *election), self._operator("b", "wired", *election)]
        for each in self.operators:
            each.start(wait_ready=False)
        for each in self.operators:
            each.wait_ready(60)
        if self.setting.doubled:
            self.do("double operator", 0)
            assert self._extra is not None
            self._extra.wait_ready(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for left in self._state.alive.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.process.pid, signal.SIGKILL)
        for whom in self._state.paused:
            self._resume(whom)
        for each in (*self.operators, *([self._extra] if self._extra else [])):
            each.__exit__(None, None, None)
        for wire in self._wires:
            wire.kill()
            wire.wait(10)

    @property
    def _log(self) -> Path:
        return self.directory / "commands.log"

    def _operator(self, name: str, network: str, *flags: str) -> OperatorProcess:
        where = self.directory / f"{network}.kubeconfig"
        return OperatorProcess(
            where, self.namespace, self.directory / f"operator-{name}", "--retention", "20s", "--event-rate", "2",
            "--resync-interval", "30s", *flags, env=self._paths(),
        )  # fmt: skip

    def _paths(self) -> dict[str, str]:
        return {"PYTHONPATH": os.pathsep.join(str(self._product / name) for name in ("cli", "operator"))}

    def _start_wire(self, name: str, delay: float) -> subprocess.Popen[bytes]:
        file = self.directory / f"{name}.port"
        host, _, port = self.cluster.server_url.removeprefix("https://").partition(":")
        env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
        words = [sys.executable, "-m", "faults.wire", host, port, str(file), str(delay)]
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL)
        self._wires.append(process)
        eventually(file.exists, "the wire is there")
        self._kubeconfig(name, f"https://127.0.0.1:{file.read_text()}")
        return process

    def _kubeconfig(self, name: str, server: str, insecure: bool = False) -> None:
        trust = {"insecure-skip-tls-verify": True} if insecure else {"certificate-authority": str(self.cluster.ca_file)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, **trust}}],
            "users": [{"name": "u", "user": {"token": self.cluster.token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (self.directory / f"{name}.kubeconfig").write_text(json.dumps(config))

    def run(self) -> History:
        """Let the contenders fight until the schedule is over and all of them are served; the history."""
        with Watcher(etcd_endpoint(self.cluster), self.namespace, self.directory / "watch.log") as watcher:
            self._watcher = watcher
            nemesis = Nemesis(self.setting.steps, self, self.say)
            asyncio.run(self._fight(nemesis))
            with contextlib.suppress(AssertionError):  # the judge tells whose claim is left
                eventually(lambda: not watcher.waiting, "no claim waits", timeout=30)
        self._records += [*watcher.changes, *watcher.gaps, *nemesis.faults, *self._commands()]
        history = History.of(self._records)
        history.save(self.directory / "history.jsonl")
        return history

    async def _fight(self, nemesis: Nemesis) -> None:
        end = now() + self.setting.seconds
        crowds = [
            asyncio.create_task(self._contend(crowd, number, end))
            for crowd in self.setting.crowds
            for number in range(crowd.contenders)
        ]
        nemesis.start()
        try:
            await asyncio.to_thread(nemesis.join)
            for _, undo, *_ in REPERTOIRE:
                if undo:
                    await asyncio.to_thread(self.do, undo, 0)
            for cause in ("command", "waiter", "wire"):
                self._let_go(cause)
            self.say(f"{self.setting.seconds:7.1f} s  faults are over; {len(self._state.alive)} contenders are left")
            await asyncio.wait(crowds, timeout=self.setting.drain)
        finally:
            nemesis.stop()
            for task in crowds:
                if task.done() and task.exception() is not None:
                    self.say(f"a contender's keeper failed: {task.exception()!r}")
                task.cancel()

    async def _contend(self, crowd: Crowd, number: int, end: float) -> None:
        dice = random.Random(f"{self.setting.seed} {crowd.name} {number}")
        # Not all at once: a hundred interpreters that start at the same moment are no fault of the product.
        await asyncio.sleep(dice.uniform(0, 0.08 * sum(each.contenders for each in self.setting.crowds)))
        turn = 0
        while now() < end:
            turn += 1
            await self._one_run(f"{crowd.name}-{number}-{turn}", dice.choice(crowd.resources), dice)
            await asyncio.sleep(dice.uniform(0, 0.5))

    async def _one_run(self, run: str, resource: str, dice: random.Random) -> None:
        seconds = dice.choices([dice.uniform(0.02, 0.3), dice.uniform(1, 3), dice.uniform(4, 9)], [90, 8, 2])[0]
        network, clock = dice.choices(["direct", "wired"], [2, 1])[0], dice.choices([0, 1, -1], [4, 1, 1])[0]
        if clock < 0:
            network = "unchecked"
        env = {
            **self._paths(),
            **(_wrong_clock(self.directory / "wrong_clock.so", clock) if clock else {}),
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory / "home"),
            "LANG": "C.UTF-8",
            "KUBECONFIG": str(self.directory / f"{network}.kubeconfig"),
            "PRESENCE_NAMESPACE": self.namespace,
            "PRESENCE_SESSION": run,
        }
        words = [
            sys.executable, "-m", "presence", "run", "--purpose", "contend", "--wait", self.setting.wait,
            "--ttl", self.setting.ttl, resource, "--", "sh", str(_COMMAND), str(self._log),
            str(self.directory / "locks"), run, f"{seconds:.2f}",
        ]  # fmt: skip
        said = self.directory / "said" / run
        self._records.append(Launched(run, (resource,), now()))
        with said.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, cwd=self.directory,
                start_new_session=True,
            )  # fmt: skip
        contender = _Contender(run, process, network == "wired")
        with self._lock:
            self._state.alive[run] = contender
        code = await process.wait()
        with self._lock:
            del self._state.alive[run]
        last = said.read_text(errors="replace").splitlines()[-3:]
        self._records.append(Exited(run, code, " | ".join(last)[-600:], contender.harmed, now()))

    def do(self, what: str, which: int) -> str:
        """Carry out one step of the nemesis."""
        verb, _, whom = what.partition(" ")
        if whom == "operator":
            return self._trouble_operator(verb, which)
        if whom == "wire":
            assert self._wire is not None
            number = {"cut": signal.SIGUSR1, "stall": signal.SIGSTOP, "resume": signal.SIGCONT}[verb]
            if verb == "stall":
                with self._lock:
                    for each in self._state.alive.values():
                        if each.wired:
                            self._stay(each.run, "wire")
            self._wire.send_signal(number)
            if verb == "resume":
                self._let_go("wire")
            return what
        if whom == "API server":
            if verb == "kill":
                self.cluster.apiserver.kill()
            else:
                self.cluster.apiserver.start(wait=False)
            return what
        if verb == "resume":
            return self._resume(whom)
        return self._trouble_contender(verb, whom, which)

    def _trouble_operator(self, verb: str, which: int) -> str:
        victim = self.operators[which % 2]
        assert victim.process is not None
        running = victim.process.poll() is None
        if verb == "kill" and running:
            victim.resume()
            victim.kill()
        elif verb == "start":
            started = [each for each in self.operators if each.process is None or each.process.poll() is not None]
            for each in started:
                each.start(wait_ready=False)
        elif verb == "pause" and running:
            victim.pause()
        elif verb == "resume":
            for each in self.operators:
                assert each.process is not None
                if each.process.poll() is None:
                    each.resume()
        elif verb == "double":
            # One that asks nobody whether it may act, and hears and says everything late.
            if self._extra is None:
                self._extra = self._operator("extra", "late").start(wait_ready=False)
        elif verb == "single":
            if self._extra is not None and not self.setting.doubled:
                self._extra.__exit__(None, None, None)
                self._extra = None
        else:
            return ""
        return f"{verb} operator {'ab'[which % 2]}"

    def _trouble_contender(self, verb: str, whom: str, which: int) -> str:
        assert self._watcher is not None
        with self._lock:
            alive = dict(self._state.alive)
        # Sessions begin with the name of the run.
        holding = list(self._watcher.holding.values())
        waiting = list(self._watcher.waiting.values())
        running = {each.run: each for each in self._running()}
        if whom == "command":
            found = [each for run, each in alive.items() if run in running]
        elif whom == "waiter":
            found = [each for run, each in alive.items() if any(session.startswith(run) for session in waiting)]
        else:
            found = [
                each
                for run, each in alive.items()
                if run in running or any(session.startswith(run) for session in holding)
            ]
        # Two halves of one run that are stopped at once are more than is promised.
        found = [each for each in found if not each.harmed]
        if not found:
            return ""
        victim = sorted(found, key=lambda each: each.run)[which % len(found)]
        command = running[victim.run].pid if victim.run in running else 0
        try:
            if whom == "command":
                pid = command
            elif whom == "keeper":
                # The supervisor's other child, which talks to the board.
                pid = next(each for each in _children(victim.process.pid) if each != command)
            else:
                pid = victim.process.pid
            victim.harmed = True
            self._stay(victim.run, whom)
            os.kill(pid, signal.SIGSTOP if verb == "pause" else signal.SIGKILL)
        except (OSError, StopIteration):
            return ""
        if verb == "pause":
            self._state.paused[whom].append(pid)
        return f"{verb} {whom} of {victim.run}"

    def _stay(self, run: str, cause: str) -> None:
        """The command of this run goes on until `_let_go`, or until it is stopped."""
        self._state.staying.append((cause, run))
        (self.directory / "locks" / f"stay-{run}").touch()

    def _let_go(self, cause: str) -> None:
        for each in [each for each in self._state.staying if each[0] == cause]:
            self._state.staying.remove(each)
            (self.directory / "locks" / f"stay-{each[1]}").unlink(missing_ok=True)

    def _resume(self, whom: str) -> str:
        self._let_go(whom)
        resumed = 0
        while self._state.paused[whom]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._state.paused[whom].pop(), signal.SIGCONT)
                resumed += 1
        return f"resume {whom}" if resumed else ""

    def _running(self) -> list[Started]:
        records = self._commands()
        over = {(each.run, each.resource) for each in records if isinstance(each, Stopped)}
        return [each for each in records if isinstance(each, Started) and (each.run, each.resource) not in over]

    def _commands(self) -> list[Started | Stopped]:
        records: list[Started | Stopped] = []
        for order, line in enumerate(self._log.read_text().splitlines()):
            match line.split():
                case ["start", run, resource, session, token, pid, at, alone]:
                    records.append(
                        Started(run, resource, session, int(token), int(pid), float(at), order, alone == "1")
                    )
                case ["stop", run, resource, at]:
                    records.append(Stopped(run, resource, float(at), order))
                case _:
                    raise ValueError(f"{self._log}: line {order + 1} is no report of a command: {line!r}")
        return records


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wrong_clock(library: Path, hours: int) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(3600 * hours)}


def broken_copy(patch: Path, directory: Path) -> Path:
    """A copy of the product with `patch` applied. Raises RuntimeError when it does not fit any more."""
    for name in ("cli", "operator"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        ["patch", "--strip=1", "--batch", "--input", str(patch.resolve())],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{patch} does not fit the product any more; make it anew:\n{done.stdout}{done.stderr}")
    return directory


@contextlib.contextmanager
def arena(given: Path | None, directory: Path) -> Iterator[Cluster]:
    """A cluster of the experiment's own, whose parts may be killed, or the running one in the directory `given`."""
    debian.ensure_programs({"cc": "g++"})
    with contextlib.ExitStack() as stack:
        cluster = Cluster(given) if given else stack.enter_context(Cluster(directory))
        if not given:
            cluster.up(node=False, dolt=False)
        run_kubectl(cluster, "apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "crds"))
        run_kubectl(
            cluster, "wait", "--for=condition=Established", "--timeout=30s", "crd",
            "-l", "app.kubernetes.io/name=presence",
        )  # fmt: skip
        yield cluster
