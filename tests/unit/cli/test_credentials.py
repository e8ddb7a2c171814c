from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from presence.credentials import obtain
from presence.deadline import Deadline
from presence.errors import ConfigError, UnreachableError
from presence.kubeconfig import Access

if TYPE_CHECKING:
    from pathlib import Path

V1 = "client.authentication.k8s.io/v1"


def with_plugin(command: str, **changes: Any) -> Access:
    access = Access("https://host:6443", "context main")
    access.cluster = {"server": "https://host:6443", "certificate-authority-data": "Q0E=", "extensions": None}
    access.exec = {"apiVersion": V1, "command": command, **changes}
    return access


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "helper"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def answer(**status: str) -> str:
    return json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": status})


def get(access: Access, seconds: float = 10) -> str | None:
    return obtain(access, {"PATH": "/usr/bin:/bin", "KEPT": "1"}, Deadline(seconds)).authorization


def test_a_token_becomes_a_header() -> None:
    access = Access("https://host", "context main")
    access.token = "abc"
    assert get(access) == "Bearer abc"


def test_the_token_file_wins_because_it_is_rotated(tmp_path: Path) -> None:
    access = Access("https://host", "context main")
    access.token = "old"
    access.token_file = str(tmp_path / "token")
    (tmp_path / "token").write_text("new\n")
    assert get(access) == "Bearer new"
    access.token_file = str(tmp_path / "missing")
    with pytest.raises(ConfigError, match="cannot read the token"):
        get(access)


def test_user_and_password() -> None:
    access = Access("https://host", "context main")
    access.basic = ("user", "päss")
    assert get(access) == "Basic dXNlcjpww6Rzcw=="


@pytest.mark.parametrize("token", ["two\r\nX-Header: 1", "two words", "naïve"])
def test_a_token_cannot_smuggle_headers(token: str) -> None:
    access = Access("https://host", "context main")
    access.token = token
    with pytest.raises(ConfigError) as caught:
        get(access)
    assert token not in str(caught.value)


def test_a_plugin_gives_a_token(tmp_path: Path) -> None:
    command = script(tmp_path, f"echo '{answer(token='from-plugin')}'")
    assert get(with_plugin(command)) == "Bearer from-plugin"


def test_a_plugin_gives_a_certificate(tmp_path: Path) -> None:
    command = script(tmp_path, f"echo '{answer(clientCertificateData='C', clientKeyData='K')}'")
    assert obtain(with_plugin(command), {}, Deadline(10)).client_pem == b"C\nK"


def test_a_plugin_gets_its_arguments_environment_and_the_cluster(tmp_path: Path) -> None:
    out = tmp_path / "seen"
    command = script(tmp_path, f"echo \"$1 $2 $MINE $KEPT $KUBERNETES_EXEC_INFO\" > {out}; echo '{answer(token='t')}'")
    access = with_plugin(command, args=["a b", 7], env=[{"name": "MINE", "value": "yes"}], provideClusterInfo=True)
    access.cluster = {
        **access.cluster,
        "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"x": 1}}],
    }
    get(access)
    seen = out.read_text()
    assert seen.startswith("a b 7 yes 1 {")
    info = json.loads(seen[seen.index("{") :])
    assert info["apiVersion"] == V1
    assert info["spec"] == {
        "interactive": False,
        "cluster": {"server": "https://host:6443", "certificate-authority-data": "Q0E=", "config": {"x": 1}},
    }


def test_the_older_version_of_the_protocol(tmp_path: Path) -> None:
    old = "client.authentication.k8s.io/v1beta1"
    command = script(tmp_path, f"echo '{answer(token='t').replace(V1, old)}'")
    assert get(with_plugin(command, apiVersion=old)) == "Bearer t"


@pytest.mark.parametrize(
    ("body", "changes", "advice"),
    [
        ("echo nonsense", {}, "printed no ExecCredential"),
        ("echo '{}'", {}, "printed no ExecCredential"),
        (f"echo '{answer()}'", {}, "neither a token nor a certificate"),
        (f"echo '{answer(clientCertificateData='C')}'", {}, "a certificate without its key"),
        ("echo first >&2; echo 'please log in' >&2; exit 3", {}, "failed with exit code 3: please log in"),
        ("exit 3", {"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "update the plugin"),
        ("exit 3", {"interactiveMode": "Always"}, "wants a terminal"),
        (
            f"echo '{answer(token='t', expirationTimestamp='2020-01-01T00:00:00Z')}'",
            {},
            "log in again",
        ),
    ],
)
def test_what_plugins_do_wrong_is_said(tmp_path: Path, body: str, changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get(with_plugin(script(tmp_path, body), **changes))
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_plugin_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match="is not installed: apt install helper"):
        get(with_plugin("no-such-helper", installHint="apt install\n  helper\n"))


def test_a_plugin_that_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = script(tmp_path, f"sleep 600 & echo $! > {pid}; wait")
    with pytest.raises(UnreachableError, match="waiting for the credential plugin"):
        get(with_plugin(command), seconds=0.5)
    state = tmp_path.joinpath("/proc", pid.read_text().strip(), "stat")
    assert not state.exists() or " Z " in state.read_text()
