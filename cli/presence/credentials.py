"""Turning an `Access` into what goes over the wire: a client certificate, and an Authorization header.

Credential plugins follow https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
They are run without a terminal: a plugin that has to ask questions belongs in front of the command line.
"""

from __future__ import annotations

import binascii
import os

from presence.errors import ConfigError
from presence.kubeconfig import join_pem, read_text

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from presence.deadline import Deadline
    from presence.kubeconfig import Access

EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_EXTENSION = "client.authentication.k8s.io/exec"


class Credentials:
    """What identifies the caller to the API server."""

    __slots__ = ("authorization", "client_pem")

    def __init__(self, authorization: str | None, client_pem: bytes | None) -> None:
        self.authorization = authorization
        self.client_pem = client_pem


def obtain(access: Access, env: Mapping[str, str], deadline: Deadline) -> Credentials:
    """The credentials of `access`; runs its plugin when it has one.

    Raises:
        ConfigError: they cannot be had; the message says why.
    """
    token, client_pem = access.token, access.client_pem
    if access.token_file:
        # Like client-go: the file wins over the inline token, because it is the one that is rotated.
        try:
            token = read_text(access.token_file).strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot read the token of {access.origin} at {access.token_file}: {reason}") from None
    if access.exec is not None and not token:
        token, client_pem = _run_plugin(access, access.exec, env, deadline)
    if token:
        _check_header(token, access)
        return Credentials(f"Bearer {token}", client_pem)
    if access.basic is not None:
        user, password = access.basic
        encoded = binascii.b2a_base64(f"{user}:{password}".encode(), newline=False).decode()
        return Credentials(f"Basic {encoded}", client_pem)
    return Credentials(None, client_pem)


def _check_header(token: str, access: Access) -> None:
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"the token of {access.origin} holds characters that no token has; copy it again")


def _run_plugin(
    access: Access, plugin: Mapping[str, Any], env: Mapping[str, str], deadline: Deadline
) -> tuple[str | None, bytes | None]:
    import json
    import subprocess  # only calls with a plugin pay for this import

    version, command = plugin.get("apiVersion"), plugin.get("command")
    if version not in EXEC_VERSIONS:
        raise ConfigError(
            f"exec plugin of {access.origin} speaks {version!r}; {' and '.join(EXEC_VERSIONS)} are understood:"
            " update the plugin and its kubeconfig entry"
        )
    if not isinstance(command, str) or not command:
        raise ConfigError(f"exec plugin of {access.origin} has no command")
    if plugin.get("interactiveMode") == "Always":
        raise ConfigError(
            f"exec plugin {command} of {access.origin} wants a terminal (interactiveMode: Always);"
            " log in by hand first, or set interactiveMode to IfAvailable"
        )
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo") is True:
        spec["cluster"] = _cluster_info(access.cluster)
    environment = dict(env)
    for pair in _listed(plugin, "env", access):
        if not isinstance(pair, dict) or "name" not in pair or "value" not in pair:
            raise ConfigError(f"every entry of env of the exec plugin of {access.origin} needs a name and a value")
        environment[str(pair["name"])] = str(pair["value"])
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    # YAML has dates, JSON has not.
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(info, default=str)
    arguments = [command, *(str(item) for item in _listed(plugin, "args", access))]
    try:
        child = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        hint = " ".join(str(plugin.get("installHint") or "install it, or put it on PATH").split())
        raise ConfigError(f"exec plugin {command} of {access.origin} is not installed: {hint[:300]}") from None
    except OSError as error:
        raise ConfigError(f"exec plugin {command} of {access.origin} cannot be run: {error.strerror}") from None
    except ValueError as error:
        # A NUL, or a name of a variable that no system takes.
        raise ConfigError(f"exec plugin {command} of {access.origin} cannot be run: {error}") from None
    try:
        out, complaint = child.communicate(timeout=max(deadline.left(), 0.001))
    except subprocess.TimeoutExpired:
        _end_group(child.pid)
        child.communicate()
        raise deadline.passed(f"waiting for the credential plugin {command}") from None
    if child.returncode != 0:
        lines = complaint.decode("utf-8", "replace").strip().splitlines()
        said = f": {_redacted(_printable(lines[-1]))}" if lines else ""
        raise ConfigError(f"exec plugin {command} of {access.origin} failed with exit code {child.returncode}{said}")
    try:
        answer = json.loads(out)
        status = answer["status"]
        if (
            answer.get("kind") != "ExecCredential"
            or answer.get("apiVersion") != version
            or not isinstance(status, dict)
        ):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"exec plugin {command} of {access.origin} printed no ExecCredential of {version}") from None
    return _credential(status, command, access)


def _credential(status: Mapping[str, Any], command: str, access: Access) -> tuple[str | None, bytes | None]:
    expires = status.get("expirationTimestamp")
    if expires:
        from time import time

        from presence.model.times import parse_time

        try:
            over = parse_time(str(expires)) <= time()
        except ValueError:
            over = False
        if over:
            raise ConfigError(
                f"exec plugin {command} of {access.origin} gave a credential that ended {expires}; log in again"
            )
    token, certificate, key = status.get("token"), status.get("clientCertificateData"), status.get("clientKeyData")
    if bool(certificate) != bool(key):
        raise ConfigError(
            f"exec plugin {command} of {access.origin} gave a certificate without its key, or a key alone"
        )
    if not token and not certificate:
        raise ConfigError(f"exec plugin {command} of {access.origin} gave neither a token nor a certificate")
    pem = join_pem(str(certificate).encode(), str(key).encode()) if certificate else None
    return (str(token) if token else None), pem


def _cluster_info(cluster: Mapping[str, Any]) -> dict[str, Any]:
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
    info = {name: cluster[name] for name in names if cluster.get(name)}
    path = cluster.get("certificate-authority")
    if path and "certificate-authority-data" not in info:
        try:
            info["certificate-authority-data"] = binascii.b2a_base64(read_text(path).encode(), newline=False).decode()
        except (OSError, ValueError):
            pass  # the plugin decides whether it can do without
    extensions = cluster.get("extensions")
    for extension in extensions if isinstance(extensions, list) else ():
        if isinstance(extension, dict) and extension.get("name") == _EXTENSION:
            info["config"] = extension.get("extension")
    return info


def _end_group(pid: int) -> None:
    import signal

    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _listed(plugin: Mapping[str, Any], field: str, access: Access) -> list[Any]:
    found = plugin.get(field) or []
    if not isinstance(found, list):
        raise ConfigError(f"{field} of the exec plugin of {access.origin} has to be a list")
    return found


def _redacted(text: str) -> str:
    """What a plugin complains of, without what looks like a credential: a plugin may print the one it was refused."""
    import re

    text = re.sub(r"\b[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "***", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+\S+", r"\1 ***", text)
    named = r"(?i)([\w-]*(?:token|secret|password|passwd|pwd|api[_-]?key|code)[\"']?\s*[=:]\s*)[^\s,;&]+"
    return re.sub(r"(://)[^\s/@]+@", r"\1***@", re.sub(named, r"\1***", text))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200].strip()
