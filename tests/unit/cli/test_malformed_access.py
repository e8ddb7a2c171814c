"""Kubeconfigs that are wrong in every way: one line that says what to mend, and no secret in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path

V1 = "client.authentication.k8s.io/v1"
CANARY = "CanaryTokenCanaryToken"
SERVER = "https://127.0.0.1:1"


def config(user: Any = None, cluster: Any = None, context: Any = None) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
            "users": [{"name": "u", "user": user or {"token": CANARY}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", **(context or {})}}],
            "current-context": "x",
        }
    )


def plugin(**fields: Any) -> str:
    return config({"exec": {"apiVersion": V1, "command": "true", **fields}})


def shell(script: str) -> str:
    return plugin(command="sh", args=["-c", script])


CASES = {
    "auth-provider is no mapping": (config({"auth-provider": "gcp"}), "auth-provider"),
    "an entry of env without a name": (plugin(env=[{"value": CANARY}]), "needs a name and a value"),
    "env is no list": (plugin(env=CANARY), "has to be a list"),
    "a NUL in env": (plugin(env=[{"name": "A", "value": f"{CANARY}\0"}]), "cannot be run"),
    "no name for a variable": (plugin(env=[{"name": "A=B", "value": CANARY}]), "cannot be run"),
    "args is a number": (plugin(args=5), "has to be a list"),
    "extensions is a number": (
        config({"exec": {"apiVersion": V1, "command": "true", "provideClusterInfo": True}}, {"extensions": 5}),
        "printed no ExecCredential",
    ),
    "the plugin prints an endless list": (shell("yes [ | head -100000 | tr -d '\\n'"), "printed no ExecCredential"),
    "the plugin prints a list": (shell("echo []"), "printed no ExecCredential"),
    "the plugin complains with a token": (shell(f"echo 'refused: token={CANARY}' >&2; exit 1"), "refused"),
    "the plugin complains with a header": (shell(f"echo 'refused Bearer {CANARY}' >&2; exit 1"), "refused"),
    "the plugin complains with JSON": (shell(f'echo \'{{"id_token": "{CANARY}"}}\' >&2; exit 1'), "exit code 1"),
    "the plugin complains with an address": (shell(f"echo 'no https://u:{CANARY}@idp' >&2; exit 1"), "no https://"),
    "the plugin gives a token of two lines": (
        shell(
            f"""printf %s '{{"apiVersion": "{V1}", "kind": "ExecCredential", "status": {{"token": "{CANARY}\\n"}}}}'"""
        ),
        "copy it again",
    ),
    "a token with a control character": (config({"token": f"{CANARY}\x01"}), "copy it again"),
    "a log-in in the server's address": (config(cluster={"server": f"https://u:{CANARY}@127.0.0.1:9x"}), "no address"),
    "a log-in in the proxy's address": (config(cluster={"proxy-url": f"http://u:{CANARY}@127.0.0.1:9x"}), "no address"),
    "a slash in the proxy's password": (config(cluster={"proxy-url": f"http://u:{CANARY}/@127.0.0.1:9"}), "no address"),
    "a proxy of another kind": (config(cluster={"proxy-url": f"socks5://u:{CANARY}@127.0.0.1:9"}), "no address"),
    "a NUL in the server": (config(cluster={"server": "https://a\0b:1"}), "no right host"),
    "a server with no name": (config(cluster={"server": f"https://{'ä' * 80}:1"}), "no right host"),
    "a port that is none": (config(cluster={"server": "https://127.0.0.1:999999"}), "no right host"),
    "a line break in the server": (config(cluster={"server": f"{SERVER}/\r\nX: y"}), "no right host"),
    "credentials in the place of the user's name": (config(context={"user": {"token": CANARY}}), "has to be a name"),
    "a cluster in the place of its name": (config(context={"cluster": ["c"]}), "has to be a name"),
    "JSON that is nested too deeply": ('{"a": ' + "[" * 100_000, "nested deeper"),
    "YAML that is nested too deeply": ("a: " + "{b: " * 100_000, "nested deeper"),
    "a list of lists without end": ("- " * 100_000, "nested deeper"),
    "YAML with an error in the line of the token": (f'users:\n- token: "{CANARY}\\q"\n', "is no YAML"),
    "YAML with the token as an alias": (f"users: *{CANARY}\n", "is no YAML"),
}


@pytest.mark.parametrize(("text", "told"), CASES.values(), ids=CASES)
def test_one_line_says_what_is_wrong_and_tells_no_secret(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)

    result = Cli(tmp_path, path, None, "me")("--strict", "list", code=69)

    assert told in result.err
    assert result.err.startswith("presence: board unreachable: ")
    assert result.err.count("\n") == 1
    assert CANARY not in result.err + result.out


def test_an_error_in_yaml_is_told_without_its_line_where_the_fast_parser_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import yaml

    from presence.kubeyaml import load

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    with pytest.raises(ValueError, match="in line 2") as caught:
        load(f"users:\n- token: {CANARY}: x\n")
    assert CANARY not in str(caught.value)
