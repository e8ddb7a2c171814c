"""The board is away, in every way it can be: agents go on without it, --strict fails, and nobody waits for long."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERBS = [
    ["list"],
    ["peek", "node:n1"],
    ["claim", "node:nowhere", "--purpose", "test"],
    ["heartbeat"],
    ["release", "node:n1"],
    ["release", "--all-mine"],
    ["session", "list"],
]


def kubeconfig(directory: Path, server: str, **cluster: object) -> Path:
    path = directory / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "current-context": "x",
                "clusters": [{"name": "x", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "x", "user": {"token": "s3cr3t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            }
        )
    )
    return path


def goes_on(cli: Cli, arguments: list[str], cause: str, limit: str | None = None) -> None:
    """The call goes on without the board; with --json it prints an empty list; with --strict it fails."""
    env = {"PRESENCE_TIMEOUT": limit}
    open_ended = cli(*arguments, env=env)
    assert open_ended.out == ""
    assert open_ended.err.startswith("presence: board unreachable, going on without it: ")
    assert re.search(cause, open_ended.err), open_ended
    assert open_ended.err.count("\n") == 1
    assert "s3cr3t" not in open_ended.err
    in_json = cli("--json", *arguments, env=env)
    assert (in_json.out, in_json.err) == ("[]\n", open_ended.err)
    strict = cli("--strict", *arguments, env=env, code=69)
    assert strict.out == ""
    assert strict.err.count("\n") == 1
    assert re.search(cause, strict.err)


@pytest.fixture
def port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("arguments", VERBS, ids=" ".join)
def test_nobody_listens(tmp_path: Path, port: int, arguments: list[str]) -> None:
    cli = Cli(tmp_path, kubeconfig(tmp_path, f"https://127.0.0.1:{port}"), None, "me")
    goes_on(cli, arguments, f"cannot connect to 127.0.0.1:{port}: Connection refused; is the cluster running")


class Silent:
    """A server that takes connections and says nothing, or only what it is told to, forever."""

    def __init__(self, tls: ssl.SSLContext | None = None, says: bytes = b"") -> None:
        self._tls = tls
        self._says = says
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._hold, args=(client,)))
            self._threads[-1].start()

    def _hold(self, client: socket.socket) -> None:
        try:
            with self._tls.wrap_socket(client, server_side=True) if self._tls else client as secured:
                for byte in self._says:
                    if self._over.wait(0.1):
                        return
                    secured.sendall(bytes([byte]))
                self._over.wait(60)
        except OSError:
            client.close()  # the other side gave up, as it should

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *files, *names], check=True, capture_output=True, timeout=20)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


@pytest.fixture(params=["tls stalls", "no answer", "byte by byte"])
def silent(request: pytest.FixtureRequest, certificate: ssl.SSLContext) -> Iterator[tuple[Silent, str]]:
    kind, cause = request.param, "waiting for"
    if kind == "tls stalls":
        server, cause = Silent(), "setting up TLS with"
    elif kind == "no answer":
        server = Silent(certificate)
    else:
        server = Silent(certificate, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000)
    yield server, f"no answer within 0.5 s while {cause} https://127.0.0.1:{server.port}"
    server.close()


def test_a_server_that_takes_calls_and_never_answers(tmp_path: Path, silent: tuple[Silent, str]) -> None:
    server, cause = silent
    path = kubeconfig(
        tmp_path, f"https://127.0.0.1:{server.port}", **{"certificate-authority": str(tmp_path / "cert.pem")}
    )
    goes_on(Cli(tmp_path, path, None, "me"), ["list"], cause, limit="0.5s")


def test_a_server_whose_queue_is_full(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        cli = Cli(tmp_path, kubeconfig(tmp_path, f"https://127.0.0.1:{address[1]}"), None, "me")
        result = cli("list", "--timeout", "0.5s")
        for client in waiting:
            client.close()
    assert f"no answer within 0.5 s while connecting to 127.0.0.1:{address[1]}" in result.err


def test_the_limit_can_be_changed(tmp_path: Path) -> None:
    server = Silent()
    try:
        cli = Cli(tmp_path, kubeconfig(tmp_path, f"https://127.0.0.1:{server.port}"), None, "me")
        assert "no answer within 2.5 s" in cli("claim", "node:n1", "--purpose", "x", env={"PRESENCE_TIMEOUT": None}).err
        assert "within 0.3 s" in cli("list", env={"PRESENCE_TIMEOUT": "0.3s"}).err
        assert "within 0.2 s" in cli("list", "--timeout", "0.2s", env={"PRESENCE_TIMEOUT": "9s"}).err
        assert "PRESENCE_TIMEOUT" in cli("list", env={"PRESENCE_TIMEOUT": "soon"}, code=2).err
    finally:
        server.close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root for a network of its own")
def test_a_name_server_that_never_answers(tmp_path: Path) -> None:
    # In a network namespace with a name server that reads and is silent; the resolver itself would wait 10 s and more.
    cli = Cli(tmp_path, kubeconfig(tmp_path, "https://cluster.example.org:6443"), None, "me")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    (tmp_path / "run.py").write_text(
        "import socket, subprocess, sys\n"
        "silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "silent.bind(('127.0.0.1', 53))\n"
        "sys.exit(subprocess.call(sys.argv[1:]))\n"
    )
    setup = (
        f"ip link set lo up && mount --bind {tmp_path}/resolv.conf /etc/resolv.conf"
        f' && mount --bind {tmp_path}/nsswitch.conf /etc/nsswitch.conf && exec "$@"'
    )
    command = ["unshare", "--net", "--mount", "sh", "-c", setup, "sh", cli.command()[0], str(tmp_path / "run.py")]
    done = subprocess.run(
        [*command, *cli.command("list", "--json")],
        env=cli.environment({"PRESENCE_TIMEOUT": None}),
        capture_output=True,
        text=True,
        timeout=8,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert "no answer within 2.5 s while looking up cluster.example.org" in done.stderr


def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    cli = Cli(tmp_path, kubeconfig(tmp_path, "https://no-such-host.invalid:6443"), None, "me")
    goes_on(cli, ["list"], "cannot look up no-such-host.invalid|while looking up no-such-host.invalid")


def test_something_else_listens(tmp_path: Path) -> None:
    server = Silent(says=b"220 mail.example.org ESMTP\r\n")
    try:
        cli = Cli(tmp_path, kubeconfig(tmp_path, f"https://127.0.0.1:{server.port}"), None, "me")
        goes_on(cli, ["list"], "TLS with https://127.0.0.1:[0-9]+ failed|while setting up TLS")
    finally:
        server.close()


def test_the_certificate_is_of_somebody_else(tmp_path: Path, certificate: ssl.SSLContext) -> None:
    server = Silent(certificate)
    try:
        cli = Cli(tmp_path, kubeconfig(tmp_path, f"https://127.0.0.1:{server.port}"), None, "me")
        goes_on(cli, ["list"], "certificate of .* does not hold: .*; check certificate-authority of context x")
        authority = {"certificate-authority": str(tmp_path / "cert.pem"), "tls-server-name": "other.example.org"}
        cli = Cli(tmp_path, kubeconfig(tmp_path, f"https://127.0.0.1:{server.port}", **authority), None, "me")
        goes_on(cli, ["list"], "does not hold: Hostname mismatch")
        authority = {"certificate-authority": "/proc/nonexistent"}
        cli = Cli(tmp_path, kubeconfig(tmp_path, f"https://127.0.0.1:{server.port}", **authority), None, "me")
        goes_on(cli, ["list"], "cannot use certificate-authority of context x: No such file")
    finally:
        server.close()


def test_there_is_no_kubeconfig(tmp_path: Path) -> None:
    goes_on(
        Cli(tmp_path, None, None, "me"),
        ["list"],
        "no kubeconfig at .*; set KUBECONFIG, or name a file with --kubeconfig",
    )


def test_the_kubeconfig_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("clusters: [")
    goes_on(Cli(tmp_path, path, None, "me"), ["list"], "is no YAML")


def test_a_proxy_that_refuses(tmp_path: Path, port: int) -> None:
    for proxy, cause in (
        (f"http://127.0.0.1:{port}", "cannot connect"),
        ("socks5://127.0.0.1:1", "proxy .*no address"),
    ):
        path = kubeconfig(tmp_path, "https://cluster.example.org", **{"proxy-url": proxy})
        goes_on(Cli(tmp_path, path, None, "me"), ["list"], cause)
