"""Where measurements happen: a cluster of their own, fresh namespaces, and data made fast."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import ROOT
from devcluster import Cluster
from presence.model import kinds
from support.kube import ApiError, Board, Kube
from support.operator import OperatorProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

CREATORS = 8
_PAGE = 500
_BASE = f"/apis/{kinds.API_VERSION}"


@dataclass(frozen=True, slots=True)
class Arena:
    """A running cluster with both kinds installed."""

    cluster: Cluster
    kube: Kube
    directory: Path

    @contextmanager
    def board(self) -> Iterator[Board]:
        """A fresh namespace; it and all that is in it go at the end."""
        namespace = f"bench-{uuid.uuid4().hex[:8]}"
        self.kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        try:
            yield Board(self.kube, namespace)
        finally:
            for plural in (kinds.CLAIM_PLURAL, kinds.SESSION_PLURAL):
                self._clear(f"{_BASE}/namespaces/{namespace}/{plural}")
            self.kube.request("DELETE", f"/api/v1/namespaces/{namespace}")

    def operator(self, board: Board, *arguments: str, dsn: str | None = None) -> OperatorProcess:
        """`presence-operator run` for this board, not started yet."""
        directory = self.directory / f"operator-{board.namespace}"
        return OperatorProcess(self.cluster.kubeconfig, board.namespace, directory, *arguments, dsn=dsn)

    @contextmanager
    def program(self, name: str, command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Another program with the cluster's kubeconfig; its stderr goes to a log, and it is ended with the block."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("PRESENCE_")}
        env |= {"KUBECONFIG": str(self.cluster.kubeconfig), "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=env, stderr=log, text=True, **options)
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()

    def _clear(self, path: str) -> None:
        """Delete page by page: what a peer left with finalizers is freed of them first."""
        deadline = time.monotonic() + 600
        while items := self.kube.request("GET", path, limit=_PAGE)["items"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path}: not empty after 600 s of deleting")
            each_at_once(items, lambda item: self._delete(path, item))

    def _delete(self, path: str, item: dict[str, Any]) -> None:
        name, metadata = item["metadata"]["name"], item["metadata"]
        try:
            if metadata.get("finalizers"):
                bare = {"metadata": {"finalizers": None}}
                self.kube.request("PATCH", f"{path}/{name}", bare, "application/merge-patch+json")
            self.kube.request("DELETE", f"{path}/{name}")
        except ApiError as error:
            if error.status != 404:
                raise


def each_at_once(items: Iterable[Any], work: Callable[[Any], object], workers: int = CREATORS) -> None:
    """Do `work` for every item in several threads; the first error is raised."""
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, items):
            pass


def load_claims(
    board: Board, count: int, ttl: Callable[[int], str] | str = "2h", per_session: int = 1, prefix: str = "c"
) -> float:
    """Create `count` claims, each on a resource of its own, and return the seconds that took.

    Claim `i` has the session `s<i // per_session>` and the name `<prefix>-<i>`.
    """
    begin = time.monotonic()

    def create(i: int) -> None:
        text = ttl if isinstance(ttl, str) else ttl(i)
        board.claim(f"service:{prefix}-{i}", f"s{i // per_session}", ttl=text, name=f"{prefix}-{i}")

    each_at_once(range(count), create)
    return time.monotonic() - begin


def load_sessions(board: Board, count: int, ttl: str, **spec: Any) -> None:
    """Create the sessions `s0` and so on."""
    each_at_once(range(count), lambda i: board.session(f"s{i}", ttl=ttl, **spec))


@contextmanager
def arena(given: Path | None) -> Iterator[Arena]:
    """A cluster for the run, or the running one in the directory `given`, which is left as it is."""
    with _cluster(given) as cluster:
        plurals = (kinds.CLAIM_PLURAL, kinds.SESSION_PLURAL)
        for arguments in (
            ("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "crds")),
            (
                "wait",
                "--for=condition=Established",
                "--timeout=30s",
                *(f"crd/{each}.{kinds.GROUP}" for each in plurals),
            ),
        ):
            env = {**os.environ, **cluster.env()}
            subprocess.run([str(cluster.kubectl), *arguments], env=env, check=True, stdout=subprocess.DEVNULL)
        directory = ROOT / ".cache" / "bench" / "logs"
        directory.mkdir(parents=True, exist_ok=True)
        yield Arena(cluster, Kube(cluster.server_url, cluster.token, str(cluster.ca_file)), directory)


@contextmanager
def _cluster(given: Path | None) -> Iterator[Cluster]:
    if given is not None:
        yield Cluster(given)
        return
    with Cluster(ROOT / ".cache" / "cluster" / f"bench-{os.getpid()}") as cluster:
        print(f"bench: starting a cluster in {cluster.directory}", flush=True)
        cluster.up(node=False, dolt=True)
        yield cluster
