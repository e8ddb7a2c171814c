"""An operator starts and finds N claims that nobody has looked after: how long until all are Active, at what cost."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.arena import load_claims
from bench.observe import Usage, Watch
from bench.report import Figure, Section
from presence.model import kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.arena import Arena
    from support.kube import Board

TITLE = "Cold start"
METHOD = """
N claims exist, each on a resource of its own, none has a status. An operator process is started; a watcher outside of
it notes when each claim becomes Active. *Wall time* runs from the start of the process (imports included) to the last
claim. *Patches/s* counts from the first Active claim to the last. CPU and peak memory are those of the process at
that moment. Peers, on equal fresh data: the naive operator (`tests/bench/naive_operator.py`: kopf with its defaults,
a create handler that writes the status, a timer for each object), and a bare kubernetes.aio client that writes the
very same status with the same concurrency and does nothing else; it is run through `CustomObjectsApi` and through the
REST client below it, and the faster of the two counts.
"""
SPEED_AIM, PATCH_AIM, MEMORY_AIM = 2.5, 0.70, 0.5
WORKERS = 16
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Start:
    """One cold start. Seconds, patches per second, MiB."""

    wall: float
    rate: float
    cpu: float
    peak: float


def run(arena: Arena, section: Section, sizes: list[int], naive_limit: int, repeat: int) -> None:
    """Measure each size `repeat` times (20,000 and more: once), peers in turn, and report the medians."""
    for size in sizes:
        rounds = repeat if size < 20_000 else 1
        runs: dict[str, list[Start]] = {"presence": [], "naive": [], "api": [], "rest": []}
        status: dict[str, Any] = {}
        for _ in range(rounds):
            for who, taken in runs.items():
                if who == "naive" and size > naive_limit:
                    continue
                with arena.board() as board:
                    load_claims(board, size)
                    taken.append(_measure(arena, board, who, size, status))
        section.raw[str(size)] = {who: [asdict(each) for each in taken] for who, taken in runs.items()}
        _report(section, size, runs)
        section.save()


def _report(section: Section, size: int, runs: dict[str, list[Start]]) -> None:
    def median(who: str, field: Callable[[Start], float]) -> float:
        return statistics.median(map(field, runs[who]))

    label = f"{size:,} claims:"
    naive = bool(runs["naive"])
    for name, unit, field in (("wall time", "s", _wall), ("CPU", "s", _cpu), ("peak memory", "MiB", _peak)):
        ours = median("presence", field)
        peer = median("naive", field) if naive else None
        ratio = None if peer is None else ours / peer
        aim, met = "", None
        if name == "wall time" and ratio is not None:
            aim, met = f"≥ {SPEED_AIM} times naive's speed", ratio <= 1 / SPEED_AIM
        if name == "peak memory" and ratio is not None:
            aim, met = f"≤ {MEMORY_AIM} of naive", ratio <= MEMORY_AIM
        section.add(Figure(f"{label} {name}", ours, unit, "naive" if naive else "", peer, ratio, aim, met))
    ours = median("presence", _rate)
    best = max(("api", "rest"), key=lambda who: median(who, _rate))
    peer = median(best, _rate)
    ratio, aim = ours / peer, f"≥ {PATCH_AIM:.0%} of bare"
    name = "CustomObjectsApi" if best == "api" else "REST client"
    section.add(Figure(f"{label} status patches/s", ours, "/s", f"bare {name}", peer, ratio, aim, ratio >= PATCH_AIM))


def _wall(start: Start) -> float:
    return start.wall


def _cpu(start: Start) -> float:
    return start.cpu


def _peak(start: Start) -> float:
    return start.peak


def _rate(start: Start) -> float:
    return start.rate


def _measure(arena: Arena, board: Board, who: str, size: int, status: dict[str, Any]) -> Start:
    limit = 60 + size / 20
    with Watch(arena.cluster, board) as watch:
        if who == "presence":
            operator = arena.operator(board, "--workers", str(WORKERS))
            begin = time.time()
            try:
                operator.start(wait_ready=False)
                assert operator.process is not None
                start = _wait(watch, operator.process, begin, size, limit)
            finally:
                operator.__exit__(None, None, None)
            # The bare client writes the very same thing.
            status.update(board.get("c-0")["status"])
            return start
        if who == "naive":
            command = [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace", board.namespace]
            begin = time.time()
            with arena.program("naive", [*command, str(_HERE / "naive_operator.py")]) as process:
                return _wait(watch, process, begin, size, limit)
        command = [sys.executable, str(_HERE / "bare_client.py"), board.namespace, str(WORKERS), who]
        names = [item["metadata"]["name"] for item in board.claims()]
        begin = time.time()
        with arena.program("bare", command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            json.dump({"names": names, "status": status}, process.stdin)
            process.stdin.close()
            return _wait(watch, process, begin, size, limit, may_end=True)


def _wait(
    watch: Watch, process: subprocess.Popen[Any], begin: float, size: int, limit: float, may_end: bool = False
) -> Start:
    usage = Usage(float("nan"), float("nan"))

    def alive() -> None:
        nonlocal usage
        code = process.poll()
        if code is None:
            with contextlib.suppress(OSError):  # it ended a moment ago
                usage = Usage.of(process.pid)
        elif code or not may_end:
            raise RuntimeError(f"the process ended with {code}; its log is in .cache/bench/logs")

    seen = watch.until(kinds.ACTIVE, size, limit, alive)
    alive()
    first, last = min(seen.values()), max(seen.values())
    return Start(last - begin, (size - 1) / (last - first), usage.cpu, usage.peak)
