"""Exclusive claims as locks: how fast they pass from one to the next, beside `etcdctl lock` on the same etcd."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from bench.arena import each_at_once
from bench.observe import Usage, Watch
from bench.report import Figure, Section, percentile
from devcluster import Toolchain
from presence.model import kinds
from presence.model.names import claim_name
from support.etcd import etcd_endpoint
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.arena import Arena
    from support.kube import Board
    from support.operator import OperatorProcess

TITLE = "Exclusive claims"
AIM_MS, AIM_RATIO = 25.0, 4.0
#: How much longer than with ten waiters a grant's writes may be in a queue of thousands before they count as growing.
AIM_WRITES = 1.5
METHOD = """
*Hand-over*: contenders are started and all of them wait; then the holder lets go, and every next one runs a small
command in its turn (a shell script that notes the clock as its first and its last act). The time from the end of one
command to the beginning of the next is the whole way: the release, the grant, the news of it, and starting the command.
Once with commands of 0.1 s, where nothing is left to do from the hand-over before, and once with commands of no length,
back to back, for the throughput. Peer: `etcdctl lock NAME command` with the same command on the same etcd, in turn with
ours. etcd runs without fsync, for both. *Alone* is a whole process, from fork to exit, without contenders. *Granted* is
the time from sending the POST of an Exclusive claim on a free resource until a watcher has read that it is Active.
*Writes per grant* are all writes of the operator, of every kind, for one hand-over in queues of different length.
"""
_MARK = Path(__file__).with_name("mark.sh")
_RESOURCE = "stack:vault"


def run(arena: Arena, section: Section, sizes: list[int], least: int, waiters: int) -> None:
    """Measure with each number of contenders (at least `least` hand-overs), and with a queue of `waiters`."""
    _alone(arena, section, least)
    for size in sizes:
        _contended(arena, section, size, least)
    _granted(arena, section, least)
    _writes(arena, section, waiters)


def _alone(arena: Arena, section: Section, count: int) -> None:
    with arena.board() as board, _operator(arena, board):
        ours: list[float] = []
        theirs: list[float] = []
        marks = arena.directory / "marks"
        for _ in range(count):
            for times, command in (
                (ours, _our_command(marks, 0)),
                (theirs, _their_command(arena, uuid.uuid4().hex, marks, 0)),
            ):
                begin = time.monotonic()
                subprocess.run(command, env=_env(arena, board, uuid.uuid4().hex), check=True, stderr=subprocess.DEVNULL)
                times.append(1000 * (time.monotonic() - begin))
    section.raw["alone_ms"] = {"presence": ours, "etcdctl": theirs}
    mine, peer = percentile(ours, 0.5), percentile(theirs, 0.5)
    section.add(Figure("alone: `presence run` of a small command, p50", mine, "ms", "etcdctl lock", peer, mine / peer))


def _contended(arena: Arena, section: Section, size: int, least: int) -> None:
    gaps: dict[str, list[float]] = {"presence": [], "etcdctl": []}
    rates: dict[str, list[float]] = {"presence": [], "etcdctl": []}
    rounds = max(1, -(-least // (size - 1)))
    for _ in range(rounds):
        for name, contend in (("presence", _ours), ("etcdctl", _theirs)):
            marks = contend(arena, size, 0.1)
            gaps[name] += [1000 * (start - stop) for (_, stop), (start, _) in itertools.pairwise(marks)]
            marks = contend(arena, size, 0)
            rates[name].append((len(marks) - 1) / (marks[-1][0] - marks[0][0]))
    section.raw[f"contenders_{size}"] = {"hand_over_ms": gaps, "per_second": rates}
    mine, peer = (percentile(gaps[name], 0.5) for name in ("presence", "etcdctl"))
    ratio = mine / peer
    met = mine <= AIM_MS and ratio <= AIM_RATIO
    aim = f"≤ {AIM_MS:g} ms, ≤ {AIM_RATIO:g} times the peer"
    section.add(Figure(f"{size} contenders: hand-over p50", mine, "ms", "etcdctl lock", peer, ratio, aim, met))
    mine, peer = (percentile(gaps[name], 0.99) for name in ("presence", "etcdctl"))
    section.add(Figure(f"{size} contenders: hand-over p99", mine, "ms", "etcdctl lock", peer, mine / peer))
    mine, peer = (percentile(rates[name], 0.5) for name in ("presence", "etcdctl"))
    section.add(Figure(f"{size} contenders: throughput", mine, "/s", "etcdctl lock", peer, mine / peer))


def _ours(arena: Arena, size: int, seconds: float) -> list[tuple[float, float]]:
    with arena.board() as board, _operator(arena, board), Watch(arena.cluster, board) as watch:
        holder = claim_name("holder", _RESOURCE)
        board.claim(_RESOURCE, "holder", ttl="1h", mode=kinds.EXCLUSIVE)
        watch.until(kinds.ACTIVE, 1, 30)
        marks = arena.directory / f"marks-{board.namespace}"

        def start(number: int) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                _our_command(marks, seconds),
                env=_env(arena, board, f"c{number}"), stderr=subprocess.DEVNULL,
            )  # fmt: skip

        with _contenders(start, size) as processes:
            watch.until(kinds.PENDING, size, 60 + size)
            watch.quiet(2.0, 60)
            board.release(holder)
            _wait(processes)
    return _read(marks)


def _theirs(arena: Arena, size: int, seconds: float) -> list[tuple[float, float]]:
    name = f"bench-{uuid.uuid4().hex}"
    marks = arena.directory / f"marks-{name}"
    etcdctl = [str(Toolchain().path("etcdctl")), f"--endpoints={etcd_endpoint(arena.cluster)}"]

    def waiting() -> int:
        done = subprocess.run(
            [*etcdctl, "get", "--prefix", f"{name}/", "--keys-only"], capture_output=True, text=True, check=True
        )
        return len(done.stdout.split())

    def start(_: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(_their_command(arena, name, marks, seconds), stderr=subprocess.DEVNULL)

    # etcdctl gives its command no standard input to wait for.
    gate = arena.directory / f"gate-{name}"
    os.mkfifo(gate)
    with subprocess.Popen([*etcdctl, "lock", name, "cat", str(gate)]):
        eventually(lambda: waiting() == 1, "etcdctl holds the lock")
        with _contenders(start, size) as processes:
            eventually(lambda: waiting() == size + 1, "all wait for etcdctl's lock", timeout=60, every=0.5)
            time.sleep(2)  # as quiet as ours
            gate.write_bytes(b"")
            _wait(processes)
    gate.unlink()
    return _read(marks)


@contextlib.contextmanager
def _contenders(start: Callable[[int], subprocess.Popen[bytes]], size: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = []
    try:
        for number in range(size):
            processes.append(start(number))
            time.sleep(0.02)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait(10)


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        code = process.wait(120)
        if code != 0:
            raise RuntimeError(f"{process.args!r} ended with {code}")


def _read(marks: Path) -> list[tuple[float, float]]:
    rows = [tuple(map(float, line.split())) for line in marks.read_text().splitlines()]
    marks.unlink()
    return sorted((begin, end) for begin, end in rows)


def _our_command(marks: Path, seconds: float) -> list[str]:
    return [
        sys.executable, "-m", "presence", "run", _RESOURCE, "--purpose", "measure", "--wait", "10m", "--",
        "bash", str(_MARK), str(marks), f"{seconds:g}",
    ]  # fmt: skip


def _their_command(arena: Arena, name: str, marks: Path, seconds: float) -> list[str]:
    return [
        str(Toolchain().path("etcdctl")), f"--endpoints={etcd_endpoint(arena.cluster)}", "lock", name,
        "bash", str(_MARK), str(marks), f"{seconds:g}",
    ]  # fmt: skip


def _env(arena: Arena, board: Board, session: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(arena.directory),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(map(str, sys.path)),
        "KUBECONFIG": str(arena.cluster.kubeconfig),
        "PRESENCE_NAMESPACE": board.namespace,
        "PRESENCE_SESSION": session,
    }


@contextlib.contextmanager
def _operator(arena: Arena, board: Board) -> Iterator[int]:
    operator = arena.operator(board)
    try:
        operator.start()
        assert operator.process is not None
        yield operator.process.pid
    finally:
        operator.__exit__(None, None, None)


def _granted(arena: Arena, section: Section, count: int) -> None:
    with arena.board() as board, _operator(arena, board), Watch(arena.cluster, board) as watch:
        times = []
        for number in range(count):
            name = claim_name("me", f"stack:free-{number}")
            begin = time.time()
            board.claim(f"stack:free-{number}", "me", ttl="1h", mode=kinds.EXCLUSIVE)
            watch.until(kinds.ACTIVE, number + 1, 30)
            times.append(1000 * (watch.phases[kinds.ACTIVE][name] - begin))
    section.raw["granted_ms"] = times
    section.add(Figure("a free resource: from POST to granted p50", percentile(times, 0.5), "ms"))
    section.add(Figure("a free resource: from POST to granted p99", percentile(times, 0.99), "ms"))


def _writes(arena: Arena, section: Section, waiters: int) -> None:
    costs = {}
    for size in (10, waiters):
        costs[size], seconds, cpu = _writes_with(arena, size)
        section.raw[f"waiters_{size}"] = {
            "writes_per_grant": costs[size],
            "hand_over_s": seconds,
            "operator_cpu_s": cpu,
        }
        section.add(
            Figure(f"{size:,} waiters: from the release to the next Active p50", 1000 * percentile(seconds, 0.5), "ms")
        )
        section.add(Figure(f"{size:,} waiters: the operator's CPU for a grant", 1000 * cpu / len(seconds), "ms"))
    met = costs[waiters] <= AIM_WRITES * costs[10]
    section.add(
        Figure(
            f"{waiters:,} waiters: writes per grant",
            costs[waiters],
            "",
            "10 waiters",
            costs[10],
            costs[waiters] / costs[10],
            f"a constant number: ≤ {AIM_WRITES:g} times those of 10",
            met,
        )
    )


def _writes_with(arena: Arena, size: int, grants: int = 60) -> tuple[float, list[float], float]:
    """The operator's writes for a hand-over, how long each took to be seen, and CPU seconds for all of them."""
    with arena.board() as board:
        operator = arena.operator(board)
        try:
            operator.start()
            assert operator.process is not None
            with Watch(arena.cluster, board) as watch:
                grants = min(grants, size // 2)
                each_at_once(
                    range(size + 1),
                    lambda number: board.claim(_RESOURCE, f"s{number}", ttl="6h", mode=kinds.EXCLUSIVE),
                )
                watch.until(kinds.PENDING, size, 120 + size / 50)
                watch.until(kinds.ACTIVE, 1, 60)
                watch.quiet(3.0, 120)
                before, usage = _written(operator), Usage.of(operator.process.pid)
                seconds = []
                for number in range(grants):
                    [holder] = watch.phases[kinds.ACTIVE].keys() - watch.phases[kinds.RELEASED].keys()
                    begin = time.time()
                    board.release(holder)
                    seen = watch.until(kinds.ACTIVE, number + 2, 60)
                    watch.until(kinds.RELEASED, number + 1, 60)
                    seconds.append(max(seen.values()) - begin)
                watch.quiet(3.0, 120)
                used = Usage.of(operator.process.pid)
                return (_written(operator) - before) / grants, seconds, used.cpu - usage.cpu
        finally:
            operator.__exit__(None, None, None)


def _written(operator: OperatorProcess) -> float:
    return sum(
        operator.metric("presence_api_request_duration_seconds_count", verb=verb)
        for verb in ("create", "patch", "update", "delete")
    )
