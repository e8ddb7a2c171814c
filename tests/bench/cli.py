"""The command line as a whole process, beside kubectl doing the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from bench.arena import load_claims
from bench.observe import Watch
from bench.report import Figure, Section, percentile
from presence.model import kinds
from support.kube import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.arena import Arena
    from support.kube import Board

TITLE = "Command line"
LIST_AIM = 1.3
METHOD = """
Wall time of whole processes, from fork to exit, run in turn (ours, kubectl, ours, …) with an operator at work and
kubectl's discovery cache warm. `presence claim` (which registers the session, writes the claim and reads the others
on the resource back) beside `kubectl create -f` and then `kubectl get` of the claims on that resource; `list` beside
`kubectl get presenceclaims`; `peek` beside `kubectl get` with a field selector. New claims are deleted after each
run, so the board keeps its size.
"""


class _Programs:
    """Both programs, in one environment, on one board."""

    def __init__(self, arena: Arena, board: Board) -> None:
        self._directory = arena.directory / "cli"
        self._directory.mkdir(exist_ok=True)
        self._env = {key: value for key, value in os.environ.items() if not key.startswith(("PRESENCE_", "CLAUDE_"))}
        self._env |= {
            "KUBECONFIG": str(arena.cluster.kubeconfig),
            "HOME": str(self._directory),
            "PRESENCE_SESSION": "bench-session",
            "PRESENCE_NAMESPACE": board.namespace,
        }
        self._presence = str(Path(sys.executable).with_name("presence"))
        self._kubectl = [str(arena.cluster.kubectl), "-n", board.namespace]
        self._board = board

    def presence(self, *arguments: str) -> float:
        """Seconds that `presence` took."""
        return self._time([self._presence, *arguments])

    def kubectl(self, *arguments: str) -> float:
        """Seconds that `kubectl` took."""
        return self._time([*self._kubectl, *arguments])

    def manifest(self, name: str, resource: str) -> Path:
        """A file for `kubectl create -f`."""
        body = {
            "apiVersion": kinds.API_VERSION,
            "kind": kinds.CLAIM_KIND,
            "metadata": {"name": name},
            "spec": {
                "resource": resource,
                "session": "bench-kubectl",
                "purpose": "measure",
                "holder": {"user": "bench", "host": "bench"},
            },
        }
        path = self._directory / "claim.yaml"
        path.write_text(yaml.safe_dump(body))
        return path

    def _time(self, command: list[str]) -> float:
        begin = time.perf_counter()
        answer = subprocess.run(command, env=self._env, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        took = time.perf_counter() - begin
        # Our program fails open, so an unreachable board would look fast: it must have said nothing on stderr.
        if answer.returncode != 0 or answer.stderr:
            raise RuntimeError(f"{' '.join(command)}: exit {answer.returncode}: {answer.stderr.decode()[-500:]}")
        return took


def run(arena: Arena, section: Section, runs: int, sizes: list[int]) -> None:
    """Measure each verb `runs` times beside its peer, on an empty board and on boards of `sizes` claims."""
    for size in (0, *sizes):
        with arena.board() as board:
            operator = arena.operator(board)
            try:
                operator.start()
                with Watch(arena.cluster, board) as watch:
                    load_claims(board, size)
                    watch.until(kinds.ACTIVE, size, 120)
                _board(arena, board, section, runs, size)
            finally:
                operator.__exit__(None, None, None)


def _board(arena: Arena, board: Board, section: Section, runs: int, size: int) -> None:
    programs = _Programs(arena, board)
    number = 0

    def claim() -> float:
        nonlocal number
        number += 1
        took = programs.presence("claim", f"service:new-{number}", "--purpose", "measure")
        _remove(board, f"service:new-{number}")
        return took

    def create_and_get() -> float:
        nonlocal number
        number += 1
        path = programs.manifest(f"new-{number}", f"service:new-{number}")
        took = programs.kubectl("create", "-f", str(path))
        took += programs.kubectl("get", kinds.CLAIM_PLURAL, "--field-selector", f"spec.resource=service:new-{number}")
        _remove(board, f"service:new-{number}")
        return took

    target = "service:c-0"
    selector = ("--field-selector", f"spec.resource={target}")
    if not size:
        # `kubectl get` says "No resources found" on stderr for an empty board: one claim stands there.
        board.claim(target, "s0", ttl="2h", name="c-0")
    pairs: list[tuple[str, str, Callable[[], float], Callable[[], float], float]] = [
        ("claim", "kubectl create + get", claim, create_and_get, 1.0),
        (
            "list",
            "kubectl get",
            lambda: programs.presence("list", "--all"),
            lambda: programs.kubectl("get", "pclaim"),
            LIST_AIM,
        ),
        (
            "peek",
            "kubectl get",
            lambda: programs.presence("peek", target),
            lambda: programs.kubectl("get", "pclaim", *selector),
            0,
        ),
    ]
    for verb, peer, ours, theirs, aim in pairs:
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(runs + 2):
            taken = (1000 * ours(), 1000 * theirs())
            if turn >= 2:  # the first two warm both programs' caches
                for each, value in zip(times, taken, strict=True):
                    each.append(value)
        section.raw[f"{verb}-{size}"] = {"presence_ms": times[0], "peer_ms": times[1]}
        where = f"{size:,} claims on the board" if size else "one claim on the board"
        for share in (0.5, 0.9):
            mine, other = percentile(times[0], share), percentile(times[1], share)
            text, met = "", None
            if share == 0.5 and aim:
                text, met = f"≤ {aim:g} of the peer", mine <= aim * other
            name = f"presence {verb}, {where}, p{share * 100:g}"
            section.add(Figure(name, mine, "ms", peer, other, mine / other, text, met))


def _remove(board: Board, resource: str) -> None:
    path = f"/apis/{kinds.API_VERSION}/namespaces/{board.namespace}/{kinds.CLAIM_PLURAL}"
    for item in board.kube.request("GET", path, fieldSelector=f"spec.resource={resource}")["items"]:
        try:
            board.delete(item["metadata"]["name"])
        except ApiError as error:
            if error.status != 404:
                raise
