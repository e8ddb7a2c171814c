"""Every way to be let in, against the real API server with its real authentication and RBAC."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Kube

EVERYTHING = ["get", "list", "create", "patch", "delete"]


def write(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A kubeconfig with one context, as JSON."""
    body = {
        "current-context": "main",
        "clusters": [{"name": "main", "cluster": cluster}],
        "users": [{"name": "main", "user": user}],
        "contexts": [{"name": "main", "context": {"cluster": "main", "user": "main", "namespace": "elsewhere"}}],
    }
    path.write_text(json.dumps(body))
    return path


class Account:
    """A service account with a role on the board, and a token of its own."""

    def __init__(self, kube: Kube, namespace: str, verbs: list[str]) -> None:
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        core = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        name = {"metadata": {"name": "agent"}}
        kube.request("POST", core, name)
        rules = [{"apiGroups": ["presence.dev"], "resources": ["presenceclaims", "agentsessions"], "verbs": verbs}]
        kube.request("POST", f"{rbac}/roles", {**name, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": "agent", "namespace": namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "agent"}
        kube.request("POST", f"{rbac}/rolebindings", {**name, "subjects": [subject], "roleRef": role})
        self.token: str = kube.request("POST", f"{core}/agent/token", {"spec": {}})["status"]["token"]


@pytest.fixture
def server(cluster: Cluster) -> dict[str, Any]:
    return {"server": cluster.server_url, "certificate-authority": str(cluster.ca_file)}


def round_trip(cli: Cli) -> None:
    """Claim, list, peek, heartbeat, release."""
    claimed = cli("--strict", "claim", "node:n1", "--purpose", "access")
    assert claimed.out == "presence: claimed node:n1\n", claimed
    assert [row["session_id"] for row in cli("--strict", "list", "--json").json()] == ["me"]
    cli("--strict", "heartbeat")
    cli("--strict", "claim", "node:n1", "--purpose", "again")
    cli("--strict", "release", "--all-mine")
    cli("--strict", "claim", "node:n1", "--purpose", "anew")
    cli("--strict", "release", "node:n1")
    assert cli("--strict", "peek", "node:n1").out == "presence: no active claim on node:n1\n"


def test_client_certificate_inline(cluster: Cluster, namespace: str, tmp_path: Path, server: dict[str, Any]) -> None:
    certificate, key = cluster.client_cert_file.read_bytes(), cluster.client_key_file.read_bytes()
    user = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    round_trip(Cli(tmp_path, write(tmp_path / "config", server, user), namespace, "me"))
    # The key went through memory only.
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "config"]


def test_client_certificate_files(cluster: Cluster, namespace: str, tmp_path: Path, server: dict[str, Any]) -> None:
    user = {"client-certificate": str(cluster.client_cert_file), "client-key": str(cluster.client_key_file)}
    round_trip(Cli(tmp_path, write(tmp_path / "config", server, user), namespace, "me"))


def test_token_and_authority_inline(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    authority = base64.b64encode(cluster.ca_file.read_bytes()).decode()
    config = write(
        tmp_path / "config",
        {"server": cluster.server_url, "certificate-authority-data": authority},
        {"token": cluster.token},
    )
    round_trip(Cli(tmp_path, config, namespace, "me"))


def test_token_file_without_verification(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(cluster.token + "\n")
    config = write(
        tmp_path / "config",
        {"server": cluster.server_url, "insecure-skip-tls-verify": True},
        {"tokenFile": str(tmp_path / "token")},
    )
    round_trip(Cli(tmp_path, config, namespace, "me"))


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_exec_plugin(cluster: Cluster, namespace: str, tmp_path: Path, server: dict[str, Any], version: str) -> None:
    api = f"client.authentication.k8s.io/{version}"
    answer = {"apiVersion": api, "kind": "ExecCredential", "status": {"token": cluster.token}}
    (tmp_path / "answer").write_text(json.dumps(answer))
    helper = tmp_path / "helper"
    helper.write_text('#!/bin/sh\nexec cat "$1"\n')
    helper.chmod(0o755)
    plugin = {"apiVersion": api, "command": "./helper", "args": [str(tmp_path / "answer")], "interactiveMode": "Never"}
    round_trip(Cli(tmp_path, write(tmp_path / "config", server, {"exec": plugin}), namespace, "me"))


def test_two_files_merged_and_a_context_chosen(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    broken = write(tmp_path / "first", {"server": "https://127.0.0.1:1"}, {})
    cli = Cli(tmp_path, f"{broken}:{cluster.kubeconfig}", namespace, "me")
    assert "Connection refused" in cli("list").err
    name = next(
        line.split()[1] for line in cluster.kubeconfig.read_text().splitlines() if line.startswith("current-context:")
    )
    assert cli("--context", name, "list", "--json", "--strict").json() == []
    assert cli("--kubeconfig", str(cluster.kubeconfig), "list", "--json", "--strict").json() == []
    assert "no context 'gone'" in cli("--context", "gone", "--strict", "list", code=69).err


def test_the_documented_role_is_enough(kube: Kube, namespace: str, tmp_path: Path, server: dict[str, Any]) -> None:
    account = Account(kube, namespace, EVERYTHING)
    round_trip(Cli(tmp_path, write(tmp_path / "config", server, {"token": account.token}), namespace, "me"))


def test_readers_may_read_and_are_told_what_they_may_not(
    kube: Kube, namespace: str, tmp_path: Path, server: dict[str, Any]
) -> None:
    account = Account(kube, namespace, ["get", "list"])
    cli = Cli(tmp_path, write(tmp_path / "config", server, {"token": account.token}), namespace, "me")
    assert cli("--strict", "list").out == f"presence: no active claims on board {namespace}\n"
    refused = cli("claim", "node:n1", "--purpose", "x")
    assert "board unreachable, going on without it: not allowed:" in refused.err
    assert f"ask for a role on namespace '{namespace}'" in refused.err
    assert refused.err.count("\n") == 1
    assert cli("--strict", "claim", "node:n1", "--purpose", "x", code=69).out == ""
    # Another board is another matter.
    assert "not allowed" in cli("list", "-n", "kube-system").err


def test_credentials_that_are_refused(namespace: str, tmp_path: Path, server: dict[str, Any]) -> None:
    cli = Cli(tmp_path, write(tmp_path / "config", server, {"token": "wrong"}), namespace, "me")
    refused = cli("list", "--json")
    assert refused.json() == []
    assert "does not accept these credentials; log in again" in refused.err
    assert "wrong" not in refused.err


def test_a_board_that_does_not_exist(cluster: Cluster, tmp_path: Path) -> None:
    cli = Cli(tmp_path, cluster.kubeconfig, "no-such-board", "me")
    refused = cli("claim", "node:n1", "--purpose", "x")
    assert (
        "there is no namespace 'no-such-board'; create it, or name the board's namespace with --namespace"
        in refused.err
    )
    # To a list the API server says nothing of that: at least the empty board has its name.
    assert cli("list").out == "presence: no active claims on board no-such-board\n"
    assert cli("list", "--ended").out == "presence: no claims on board no-such-board\n"


def test_an_empty_default_board_needs_no_name(cluster: Cluster, tmp_path: Path) -> None:
    cli = Cli(tmp_path, cluster.kubeconfig, None, "me")
    assert cli("list", "--resource", "infra:never-claimed-by-anybody").out == "presence: no active claims\n"


def test_the_board_is_presence_whatever_the_context_says(
    kube: Kube, namespace: str, tmp_path: Path, server: dict[str, Any]
) -> None:
    # The context names the namespace `elsewhere`; this account may see neither, and is told which one was asked for.
    account = Account(kube, namespace, EVERYTHING)
    cli = Cli(tmp_path, write(tmp_path / "config", server, {"token": account.token}), None, "me")
    assert 'in the namespace "presence"' in cli("list").err
    assert 'in the namespace "other"' in cli("list", env={"PRESENCE_NAMESPACE": "other"}).err
    assert cli("-n", namespace, "--strict", "list", env={"PRESENCE_NAMESPACE": "other"}).out


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root for a file system of its own")
def test_in_a_pod_with_its_service_account(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, server: dict[str, Any]
) -> None:
    # The paths of a pod's account are fixed, so the call gets a mount namespace in which they exist.
    account = Account(kube, namespace, EVERYTHING)
    (tmp_path / "token").write_text(account.token)
    host, _, port = cluster.server_url.removeprefix("https://").partition(":")
    cli = Cli(tmp_path, None, namespace, "me")
    env = cli.environment({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port})
    directory = "/run/secrets/kubernetes.io/serviceaccount"
    setup = (
        f"mount -t tmpfs none /run && mkdir -p {directory} && cp {tmp_path}/token {directory}/token"
        f' && cp {cluster.ca_file} {directory}/ca.crt && echo not-the-board > {directory}/namespace && exec "$@"'
    )
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            setup,
            "sh",
            *cli.command("--strict", "claim", "node:n1", "--purpose", "in a pod"),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "presence: claimed node:n1\n"), done.stderr


class Proxy:
    """An http proxy that knows CONNECT, and notes the targets."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:pass%20word@127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.targets.append(head.decode())
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as upstream:
                client.sendall(b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n")
                back = threading.Thread(target=self._copy, args=(upstream, client))
                back.start()
                self._copy(client, upstream)
                back.join(10)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # either side may hang up

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def test_through_a_proxy(
    cluster: Cluster, namespace: str, tmp_path: Path, server: dict[str, Any], proxy: Proxy
) -> None:
    config = write(tmp_path / "config", {**server, "proxy-url": proxy.url}, {"token": cluster.token})
    round_trip(Cli(tmp_path, config, namespace, "me"))
    assert proxy.targets[0].startswith(f"CONNECT {cluster.server_url.removeprefix('https://')} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n" in proxy.targets[0]
