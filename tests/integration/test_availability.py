"""Two operators and a load: whatever befalls the one that leads, the other goes on, and nothing is done twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.checker import judge
from faults.history import ACTIVE, History
from faults.watcher import Watcher
from presence.model import kinds
from presence.model.times import parse_time
from support.etcd import etcd_endpoint
from support.kube import condition, phase_of
from support.load import DEAD_TTL, Load
from support.operator import OperatorProcess
from support.proxy import FaultyServer
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devcluster import Cluster
    from support.kube import Board

#: Leaves a busy machine time to renew, and still runs out within a test.
ELECTION = (
    "--leader-elect", "--lease-duration", "6s", "--renew-deadline", "5s", "--retry-period", "0.4s", "--event-rate", "2",
)  # fmt: skip
LEASE = "presence-operator"
RESOURCES = ("stack:vault", "db:main", "service:web")


class Replica:
    """An operator that stands for election, with a network of its own."""

    def __init__(self, name: str, cluster: Cluster, namespace: str, directory: Path) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.network = FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), self.directory)
        self._flags = (self.network.kubeconfig, namespace, self.directory, "--identity", name, *ELECTION)
        self.operator = OperatorProcess(*self._flags)

    def mirror(self, dsn: str, product: Path | None = None) -> None:
        """Let it write to this database, and be the operator in the directory `product`."""
        env = None if product is None else {"PYTHONPATH": f"{product / 'cli'}{os.pathsep}{product / 'operator'}"}
        self.operator = OperatorProcess(*self._flags, dsn=dsn, env=env)

    @property
    def leads(self) -> bool:
        return self.operator.metric("presence_leader") == 1

    def writes(self, since: float) -> list[str]:
        """What it sent to change claims, sessions and Leases of resources since then (monotonic seconds)."""
        sent = zip(list(self.network.arrivals), list(self.network.requests), strict=False)
        # Reads, Kubernetes Events, which only tell of what was done before, and the election itself change no board.
        return [
            f"{method} {path}"
            for at, (method, path) in sent
            if at >= since and method != "GET" and "/events" not in path and not _of_election(method, path)
        ]


def _of_election(method: str, path: str) -> bool:
    return path.endswith(f"/leases/{LEASE}") or (method == "POST" and path.endswith("/leases"))


@pytest.fixture
def replicas(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[list[Replica]]:
    """Three, none of them started."""
    made = [Replica(name, cluster, namespace, tmp_path) for name in ("ann", "bob", "cyd")]
    for each in made:
        each.network.__enter__()
    yield made
    for each in made:
        each.operator.__exit__(None, None, None)
        each.network.__exit__(None, None, None)


@pytest.fixture
def witness(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Watcher]:
    with Watcher(etcd_endpoint(cluster), namespace, tmp_path / "watch.log") as watcher:
        yield watcher


def holder(board: Board) -> tuple[str, int]:
    """Who holds the Lease of the election, and how often it has changed hands."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{board.namespace}/leases/{LEASE}"
    spec = board.kube.request("GET", path)["spec"]
    return spec["holderIdentity"], spec["leaseTransitions"]


def grants(witness: Watcher) -> int:
    return sum(change.kind == ACTIVE for change in witness.changes)


def granted_more(witness: Watcher, count: int = 5) -> None:
    before = grants(witness)
    eventually(lambda: grants(witness) >= before + count, f"{count} more grants", 60)


def all_is_well(board: Board, load: Load, witness: Watcher) -> None:
    """What must be so in the end, whatever happened."""
    load.end()
    for name in load.dead:
        ended = board.until_phase(name, kinds.EXPIRED, timeout=60)
        # The claim came after its session, and nobody ever beat.
        created = parse_time(ended["metadata"]["creationTimestamp"])
        assert parse_time(ended["status"]["endedAt"]) == created + DEAD_TTL
    eventually(lambda: not witness.waiting, "nobody waits", 60)
    assert judge(History.of([*witness.changes, *witness.gaps])) == []
    assert phase_of(board.get(load.living)) == kinds.ACTIVE
    expired = {change.session for change in witness.changes if change.how == "Expired"}
    assert {session.partition("-")[0] for session in expired} <= {"dead"}
    assert load.served >= 10, "too little happened to show anything"


@pytest.mark.parametrize("fault", ["kill", "stop", "pause", "cut", "stall"])
@pytest.mark.timeout(240)
def test_the_other_replica_goes_on_and_the_former_leader_writes_nothing(
    board: Board, replicas: list[Replica], witness: Watcher, fault: str
) -> None:
    first, second, _ = replicas
    first.operator.start()
    eventually(lambda: first.leads, "the first leads")
    second.operator.start()
    with Load(board, RESOURCES) as load:
        granted_more(witness)
        assert second.writes(0.0) == []
        match fault:
            case "kill":
                first.operator.kill()
            case "stop":
                assert first.operator.stop() == 0
            case "pause":
                first.operator.pause()
            case "cut":
                first.network.fail(0)
                first.network.cut()
            case "stall":
                first.network.stall()
        eventually(lambda: second.leads, "the second leads", 60)
        taken = time.monotonic()
        if fault == "pause":
            first.operator.resume()
        granted_more(witness)
        first.network.heal()
        if fault in ("kill", "stop"):
            first.operator.start()
        eventually(lambda: first.operator.get("/readyz")[0] == 200, "the first is back", 60)
        eventually(lambda: not first.leads, "the first knows")
        granted_more(witness)
        assert holder(board) == ("bob", 1)
        assert first.writes(taken) == []
        assert second.writes(taken)
        assert first.operator.get("/healthz")[0] == second.operator.get("/healthz")[0] == 200
        all_is_well(board, load, witness)


@pytest.mark.timeout(240)
def test_a_rolling_update_under_load_loses_nothing(board: Board, replicas: list[Replica], witness: Watcher) -> None:
    first, second, third = replicas
    first.operator.start()
    eventually(lambda: first.leads, "the first leads")
    second.operator.start()
    with Load(board, RESOURCES) as load:
        granted_more(witness)
        # As a Deployment does it: a new one is ready before an old one goes.
        third.operator.start()
        assert first.operator.stop() == 0
        granted_more(witness)
        first.operator.start()
        assert second.operator.stop() == 0
        granted_more(witness)
        assert sorted(each.leads for each in (first, third)) == [False, True]
        all_is_well(board, load, witness)


def older_version(directory: Path) -> Path:
    """The product as it was before its newest migration."""
    root = Path(__file__).resolve().parents[2]
    for name in ("cli", "operator"):
        shutil.copytree(root / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    version = directory / "cli" / "presence" / "__init__.py"
    version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.0.1"', version.read_text()))
    max((directory / "operator" / "presence_operator" / "migrations").glob("*.sql")).unlink()
    return directory


@pytest.mark.timeout(240)
def test_an_older_version_beside_a_newer_one_does_no_harm(
    board: Board, replicas: list[Replica], witness: Watcher, database: str, tmp_path: Path
) -> None:
    older, newer, _ = replicas
    older.mirror(database, older_version(tmp_path / "older"))
    newer.mirror(database)
    older.operator.start()
    eventually(lambda: older.leads, "the older one leads")
    assert json.loads(older.operator.get("/version")[1])["version"] == "0.0.1"
    newer.operator.start()
    with Load(board, RESOURCES) as load:
        granted_more(witness)
        schema = "presence_mirror_schema_state"
        eventually(lambda: older.operator.metric(schema, state="ahead") == 1, "it says that the schema is newer")
        board.until(load.living, lambda body: condition(body, "Mirrored")["status"] == "True", "the older one mirrors")
        assert older.operator.stop() == 0
        granted_more(witness)
        eventually(lambda: newer.operator.metric(schema, state="ok") == 1, "the newer one mirrors")
        # A step back, too.
        older.operator.start()
        assert newer.operator.stop() == 0
        granted_more(witness)
        all_is_well(board, load, witness)
