"""Servers and databases for tests of the mirror and the migrations, and a database on the cluster's Dolt."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from presence_operator.mirror.dsn import Dsn
from support.dolt import MARIADB, Database, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devcluster import Cluster


@pytest.fixture(scope="session")
def dolt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Dolt server for all tests that leave it alive; each uses a database of its own."""
    with Server(tmp_path_factory.mktemp("dolt")) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A MariaDB server, where it is installed."""
    if MARIADB is None:
        pytest.skip("MariaDB is not installed (Debian: mariadb-server-core and mariadb-client-core)")
    with Server(tmp_path_factory.mktemp("mariadb"), "mariadb") as server:
        yield server


@pytest.fixture(params=["dolt", "mariadb"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def empty(any_server: Server) -> Iterator[Database]:
    """An empty database on each kind of server."""
    with any_server.database() as database:
        yield database


@pytest.fixture
def tables(empty: Database) -> Database:
    """A database with the packaged schema on each kind of server."""
    return empty.migrate()


@pytest.fixture
def dolt_empty(dolt: Server) -> Iterator[Database]:
    """An empty database on Dolt."""
    with dolt.database() as database:
        yield database


@pytest.fixture
def dolt_tables(dolt_empty: Database) -> Database:
    """A database with the packaged schema on Dolt."""
    return dolt_empty.migrate()


@pytest.fixture
def own_dolt(tmp_path: Path) -> Iterator[Server]:
    """A Dolt server of this test, which may kill and pause it."""
    with Server(tmp_path / "dolt") as server:
        yield server


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The address of a fresh database with the packaged schema on the cluster's Dolt."""
    root = Dsn.parse(cluster.dolt.root_dsn)
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = Database(replace(root, database="information_schema"))
    admin.execute(f"CREATE DATABASE {name}")
    made = Database(replace(root, database=name)).migrate()
    dsn = made.dsn
    yield f"mysql://{dsn.user}:{dsn.password}@{dsn.host}:{dsn.port}/{dsn.database}"
    admin.execute(f"DROP DATABASE {name}")
