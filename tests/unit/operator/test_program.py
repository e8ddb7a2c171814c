"""`presence-operator` as a program: how it ends when it cannot start."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kubernetes.aio.config import ConfigException

from presence import __version__
from presence_operator.__main__ import main
from presence_operator.settings import Settings
from presence_operator.shell import connection
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: not-a-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("PRESENCE_", "KUBE"))}
    return subprocess.run(
        [sys.executable, "-m", "presence_operator", "run", "--listen", "127.0.0.1:0", *arguments],
        env={**keep, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("content", "flags", "expected"),
    [
        (None, [], "no way to the API server"),
        ("not: [yaml", ["--kubeconfig", "config"], "no way to the API server: while parsing"),
        (KUBECONFIG, ["--kubeconfig", "config", "--context", "nope"], "Expected object with name nope"),
    ],
)
def test_without_a_usable_kubeconfig_it_says_what_to_set(
    tmp_path: Path, content: str | None, flags: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "config").write_text(content)
    done = run(tmp_path, *flags)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "--kubeconfig" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_log_begins_with_what_runs(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    address = tmp_path / "dsn"
    address.write_text("mysql://operator:hunter2@127.0.0.1/presence")
    flags = ["--kubeconfig", str(tmp_path / "config"), "--namespace", "a,b", "--dsn-file", str(address)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(tmp_path, *flags, "--mirror-namespace", "a", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    first = done.stderr.splitlines()[0]
    assert f"app: starting version={__version__} " in first
    assert "namespaces=" in first
    assert "a,b" in first
    assert "leader_election=false mirror=true" in first
    assert "hunter2" not in done.stderr


def test_an_address_in_use_ends_it_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(tmp_path, "--kubeconfig", str(tmp_path / "config"), "--listen", address)
    assert done.returncode == 1
    assert f"--listen {address}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hash_of_the_migrations_needs_no_usable_address(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESENCE_DSN", "nonsense")
    assert main(["migrate", "--print-hash"]) == 0
    assert len(capsys.readouterr().out.strip()) == 64


def test_an_unusable_address_is_explained_before_anything_is_migrated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESENCE_DSN", "nonsense")
    assert main(["migrate"]) == 2
    assert "presence-operator: PRESENCE_DSN: " in capsys.readouterr().err


def hanging_plugin(tmp_path: Path) -> Path:
    """A kubeconfig whose exec plugin writes its process id to `pid` and hangs."""
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/partial && mv {tmp_path}/partial {tmp_path}/pid\nexec sleep 600\n"
    )
    plugin.chmod(0o700)
    config = tmp_path / "config"
    user = f"{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}}}}}"
    config.write_text(KUBECONFIG.replace("{token: not-a-token}", user))
    return config


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_ends_when_told_to_while_a_plugin_hangs(tmp_path: Path) -> None:
    config = hanging_plugin(tmp_path)
    command = [sys.executable, "-m", "presence_operator", "run", "--listen", "127.0.0.1:0", "--kubeconfig", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually((tmp_path / "pid").exists, "the plugin runs")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    eventually(lambda: not is_running(int((tmp_path / "pid").read_text())), "the plugin is gone")


def test_a_plugin_that_hangs_is_ended_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = hanging_plugin(tmp_path)
    monkeypatch.setattr(connection, "LOAD_TIMEOUT", 0.5)
    with pytest.raises(ConfigException, match="did not answer within"):
        asyncio.run(connection.load_configuration(Settings(kubeconfig=str(config))))
    eventually(lambda: not is_running(int((tmp_path / "pid").read_text())), "the plugin is gone")
