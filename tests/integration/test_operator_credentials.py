"""Credentials and certificates change under a running operator."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from devcluster import pki
from presence.model import kinds
from support.operator import OperatorProcess
from support.proxy import FaultyServer
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Board


def test_an_authority_that_is_replaced_blinds_the_operator_only_until_its_file_is(
    board: Board, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
        pki.make_authority(directory)
        pki.make_certificate(directory, "server", "front", "", "serverAuth", ["IP:127.0.0.1"])
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.load_cert_chain(old / "server.crt", old / "server.key")
    trusted = tmp_path / "ca.crt"
    trusted.write_text((old / "ca.crt").read_text())
    with (
        FaultyServer(cluster.server_url, cluster.token, str(cluster.ca_file), tmp_path, front) as server,
        OperatorProcess(server.kubeconfig, namespace, tmp_path / "operator") as operator,
    ):
        board.until_phase(board.claim("stack:vault", "ann")["metadata"]["name"], kinds.ACTIVE)
        front.load_cert_chain(new / "server.crt", new / "server.key")
        server.cut()
        eventually(lambda: "cannot be watched" in operator.get("/readyz")[1], "it says that it is blind", 60)
        assert operator.get("/readyz")[0] == 503
        eventually(lambda: operator.metric("presence_ready") == 0, "the metric says so too")
        assert operator.get("/healthz")[0] == 200
        trusted.write_text((new / "ca.crt").read_text())
        eventually(lambda: operator.get("/readyz")[0] == 200, "it sees again", 60)
        board.until_phase(board.claim("db:main", "bob")["metadata"]["name"], kinds.ACTIVE, 30)
        eventually(lambda: operator.metric("presence_ready") == 1, "the metric says so too")
        assert operator.stop() == 0
