from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from presence.errors import ConfigError
from presence.kubeconfig import find_access

if TYPE_CHECKING:
    from pathlib import Path


def config(name: str = "main", **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443"}}],
        "users": [{"name": name, "user": {"token": f"{name}-token"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "not-the-board"}}],
    }
    return {**body, **changes}


def write(path: Path, body: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(body))
    return path


def test_the_current_context_decides(tmp_path: Path) -> None:
    path = write(tmp_path / "config", config())
    access = find_access({"KUBECONFIG": str(path)})
    assert (access.server, access.token) == ("https://main:6443", "main-token")


def test_without_any_setting_it_is_the_file_in_the_home_directory(tmp_path: Path) -> None:
    write(tmp_path / ".kube" / "config", config("home"))
    assert find_access({"HOME": str(tmp_path)}).server == "https://home:6443"


def test_files_are_merged_and_the_first_to_say_something_wins(tmp_path: Path) -> None:
    first = config("one")
    first["users"] = [{"name": "shared", "user": {"token": "from-first"}}]
    first["contexts"][0]["context"]["user"] = "shared"
    second = config("two")
    second["users"].append({"name": "shared", "user": {"token": "from-second"}})
    paths = [tmp_path / "missing", write(tmp_path / "1", first), write(tmp_path / "2", second)]
    env = {"KUBECONFIG": os.pathsep.join(["", *map(str, paths)])}

    assert find_access(env).server == "https://one:6443"
    assert find_access(env).token == "from-first"
    assert find_access(env, context="two").token == "two-token"


def test_a_context_of_one_file_may_name_the_cluster_of_another(tmp_path: Path) -> None:
    contexts = {"contexts": config("x")["contexts"], "current-context": "x"}
    rest = {key: value for key, value in config("x").items() if key in ("clusters", "users")}
    env = {"KUBECONFIG": f"{write(tmp_path / '1', contexts)}{os.pathsep}{write(tmp_path / '2', rest)}"}
    assert find_access(env).server == "https://x:6443"


def test_the_file_named_on_the_command_line_stands_alone(tmp_path: Path) -> None:
    env = {"KUBECONFIG": str(write(tmp_path / "1", config("one")))}
    assert find_access(env, kubeconfig=str(write(tmp_path / "2", config("two")))).server == "https://two:6443"
    with pytest.raises(ConfigError, match="no kubeconfig at /proc/nonexistent"):
        find_access(env, kubeconfig="/proc/nonexistent")


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    body = config()
    body["clusters"][0]["cluster"]["certificate-authority"] = "pki/ca.crt"
    body["users"][0]["user"] = {"tokenFile": "token", "exec": {"command": "./bin/helper", "apiVersion": "v1"}}
    access = find_access({"KUBECONFIG": str(write(tmp_path / "conf" / "config", body))})
    assert access.ca_file == str(tmp_path / "conf" / "pki/ca.crt")
    assert access.token_file == str(tmp_path / "conf" / "token")
    assert access.exec is not None
    assert access.exec["command"] == f"{tmp_path}/conf/./bin/helper"


def test_inline_data_wins_over_files(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"-----BEGIN X-----\n").decode()
    body = config()
    body["clusters"][0]["cluster"] |= {
        "certificate-authority-data": encoded,
        "certificate-authority": "/proc/nonexistent",
    }
    body["users"][0]["user"] = {
        "client-certificate-data": encoded,
        "client-certificate": "/proc/nonexistent",
        "client-key-data": encoded,
        "client-key": "/proc/nonexistent",
    }
    access = find_access({"KUBECONFIG": str(write(tmp_path / "config", body))})
    assert access.ca_pem == "-----BEGIN X-----\n"
    assert access.client_pem == b"-----BEGIN X-----\n" * 2


def test_certificates_may_be_files(tmp_path: Path) -> None:
    (tmp_path / "c.crt").write_text("CERT\n")
    (tmp_path / "c.key").write_text("KEY\n")
    body = config()
    body["users"][0]["user"] = {"client-certificate": "c.crt", "client-key": "c.key"}
    assert find_access({"KUBECONFIG": str(write(tmp_path / "config", body))}).client_pem == b"CERT\nKEY\n"


def test_in_a_pod_the_service_account_is_used_when_there_is_no_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    env = {"HOME": "/proc/nonexistent", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    access = find_access(env, service_account=str(tmp_path))
    assert access.server == "https://10.0.0.1:443"
    assert access.ca_file == f"{tmp_path}/ca.crt"
    assert access.token_file == f"{tmp_path}/token"

    six = find_access({**env, "KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account=str(tmp_path))
    assert six.server == "https://[fd00::1]:443"

    given = {**env, "KUBECONFIG": str(write(tmp_path / "config", config()))}
    assert find_access(given, service_account=str(tmp_path)).server == "https://main:6443"


def text(**changes: Any) -> str:
    return json.dumps(config(**changes))


def user(**fields: Any) -> str:
    return text(users=[{"name": "main", "user": fields}])


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ("a: b: c", "is no YAML"),
        ("- a\n- b\n", "top level has to be a mapping"),
        ("\x00\x01", "is no YAML"),
        ("\xff", "cannot read kubeconfig"),
        ("kind: Config\n", "sets no current-context; name one with --context"),
        (
            json.dumps(config(**{"current-context": "gone"})),
            "no context 'gone'; name one of these with --context: main",
        ),
        (text(clusters=[]), "names the cluster 'main', which is not there"),
        (text(users=[]), "names the user 'main', which is not there"),
        (text(users="x"), "users has to be a list"),
        (text(users=[{"user": {}}]), "every entry of users needs a name and a user"),
        (text(clusters=[{"name": "main", "cluster": {}}]), "has no server"),
        (
            user(**{"auth-provider": {"name": "gcp"}}),
            "auth-provider 'gcp'",
        ),
        (user(**{"client-certificate-data": "%%%"}), "is no base64"),
        (
            user(**{"client-certificate": "/dev/null"}),
            "client-key is missing",
        ),
        (
            user(**{"client-certificate": "/no", "client-key": "/no"}),
            "cannot read client-certificate /no",
        ),
        (
            user(exec="aws"),
            "exec of context main has to be a mapping",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path: Path, content: str, advice: str) -> None:
    path = tmp_path / "config"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        find_access({"KUBECONFIG": str(path)})
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_message_holds_a_secret(tmp_path: Path) -> None:
    body = config(users=[{"name": "main", "user": {"token": "s3cr3t", "client-key-data": "s3cr3t%"}}])
    with pytest.raises(ConfigError) as caught:
        find_access({"KUBECONFIG": str(write(tmp_path / "config", body))})
    assert "s3cr3t" not in str(caught.value)
