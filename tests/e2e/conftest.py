"""One cluster with a node for all end-to-end tests: its pods run the operator's image and reach its Dolt."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devcluster import Cluster, image
from presence_operator.mirror.dsn import Dsn
from support.dolt import Database
from support.kube import Kube

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a node, Dolt and the operator's image, without the custom resources.

    Installing is what these tests show, so each module installs what it needs, and takes it away at its end: the custom
    resources too, because another one may bring them in another way. PRESENCE_TEST_NODE_CLUSTER names the directory of
    a running cluster with a node to use instead.
    """
    given = os.environ.get("PRESENCE_TEST_NODE_CLUSTER")
    if given:
        running = Cluster(Path(given))
        running.load_image(image.build_operator())
        yield running
        return
    with Cluster(tmp_path_factory.mktemp("e2e") / "cluster", name=f"e2e-{os.getpid()}") as fresh:
        fresh.up(node=True, dolt=True)
        fresh.load_image(image.build_operator())
        yield fresh


@pytest.fixture(scope="session")
def kube(ground: Cluster) -> Iterator[Kube]:
    """Its API server, as an administrator."""
    client = Kube(ground.server_url, ground.token, str(ground.ca_file))
    yield client
    client.close()


@dataclass(frozen=True, slots=True)
class FreshDatabase:
    """An empty database on the cluster's Dolt: `dsn` as pods reach it, `seen` for the tests."""

    dsn: str
    seen: Database


@pytest.fixture(scope="session")
def fresh_database(ground: Cluster) -> Callable[[], FreshDatabase]:
    """Makes empty databases."""

    def make() -> FreshDatabase:
        name = f"e2e_{uuid.uuid4().hex[:8]}"
        server = Dsn.parse(ground.dolt.root_dsn)
        # The pods reach Dolt under another address than the tests do.
        dsn = f"{ground.dolt.pod_dsn.rpartition('/')[0]}/{name}"
        Database(server).execute(f"CREATE DATABASE {name}", f"GRANT ALL ON {name}.* TO '{Dsn.parse(dsn).user}'@'%'")
        return FreshDatabase(dsn, Database(replace(server, database=name)))

    return make
