"""Fixtures for tests of every kind: one local cluster of real parts for the whole run, a namespace for each test."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.kube import Board, Kube
from support.operator import OperatorProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devcluster import Cluster

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder a test stands in is its marker; the slowest kind comes last."""
    order = {"unit": 0, "integration": 1, "e2e": 2}
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in ("integration", "e2e"):
            item.add_marker(folder)
    items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").parts[0], 3))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane and Dolt with the CRDs installed.

    PRESENCE_TEST_CLUSTER names the directory of a running cluster to use instead (it is left as it is).
    """
    from devcluster import Cluster

    given = os.environ.get("PRESENCE_TEST_CLUSTER")
    if given:
        found = Cluster(Path(given))
        _install_crds(found)
        yield found
        return
    with Cluster(ROOT / ".cache" / "cluster" / f"test-{os.getpid()}") as fresh:
        fresh.up(dolt=True)
        _install_crds(fresh)
        yield fresh


def _install_crds(cluster: Cluster) -> None:
    from devcluster.cli import run_kubectl

    run_kubectl(cluster, "apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "crds"))
    run_kubectl(
        cluster, "wait", "--for=condition=Established", "--timeout=30s", "crd", "-l", "app.kubernetes.io/name=presence"
    )


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Iterator[Kube]:
    """The API server as an administrator."""
    client = Kube(cluster.server_url, cluster.token, str(cluster.ca_file))
    yield client
    client.close()


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A fresh namespace, deleted afterwards."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    kube.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def board(kube: Kube, namespace: str) -> Board:
    """The fresh namespace as a board."""
    return Board(kube, namespace)


@pytest.fixture
def operator_process(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """Makes operators that are restricted to the fresh namespace and ended with the test."""
    made: list[OperatorProcess] = []

    def make(*arguments: str, dsn: str | None = None, env: dict[str, str] | None = None) -> OperatorProcess:
        directory = tmp_path / f"operator-{len(made)}"
        made.append(OperatorProcess(cluster.kubeconfig, namespace, directory, *arguments, dsn=dsn, env=env))
        return made[-1]

    yield make
    for process in made:
        process.__exit__(None, None, None)


@pytest.fixture
def operator(operator_process: Callable[..., OperatorProcess]) -> OperatorProcess:
    """A running operator for the fresh namespace."""
    return operator_process().start()
