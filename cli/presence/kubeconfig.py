"""Where the API server is and how to be let in: kubeconfig files, or a pod's service account.

The rules are kubectl's (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/): the
files of KUBECONFIG are merged, the first to set a value wins, relative paths are relative to the file that names them.
One difference: the board's namespace never comes from the context, because the board belongs to no one's current
namespace.
"""

from __future__ import annotations

import binascii
import os
import os.path

from presence.errors import ConfigError
from presence.kubeyaml import load

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

#: Fields of a cluster or user entry that name a file.
_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_FILE_MAX = 16 * 1024 * 1024


class Access:
    """Everything needed to open a connection. Secrets live in it: it has no useful text form on purpose."""

    __slots__ = (
        "basic",
        "ca_file",
        "ca_pem",
        "client_pem",
        "cluster",
        "exec",
        "insecure",
        "origin",
        "proxy_url",
        "server",
        "server_name",
        "token",
        "token_file",
    )

    def __init__(self, server: str, origin: str) -> None:
        self.server = server
        #: What to name in messages: the context and file, or the service account.
        self.origin = origin
        self.ca_file: str | None = None
        self.ca_pem: str | None = None
        self.insecure = False
        self.server_name: str | None = None
        self.proxy_url: str | None = None
        self.client_pem: bytes | None = None
        self.token: str | None = None
        self.token_file: str | None = None
        self.basic: tuple[str, str] | None = None
        self.exec: Mapping[str, Any] | None = None
        #: The cluster entry as it stands, for credential plugins that ask for it.
        self.cluster: Mapping[str, Any] = {}


def find_access(
    env: Mapping[str, str],
    *,
    kubeconfig: str | None = None,
    context: str | None = None,
    service_account: str = SERVICE_ACCOUNT,
) -> Access:
    """How to reach the API server that the user means.

    Args:
        env: the environment; KUBECONFIG, HOME and KUBERNETES_SERVICE_HOST/_PORT are read.
        kubeconfig: the file named on the command line; it alone counts then.
        context: the context to use instead of the current one.
        service_account: the directory of the pod's token, used when there is no kubeconfig.

    Raises:
        ConfigError: there is none, or it cannot be used; the message says what to do.
    """
    listed = [part for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]
    explicit = kubeconfig is not None
    paths = [kubeconfig] if kubeconfig is not None else listed or [_default_path(env)]
    merged = _merge(paths, must_exist=explicit)
    if merged is None:
        if context is None and env.get("KUBERNETES_SERVICE_HOST") and os.path.exists(f"{service_account}/token"):
            return _in_cluster(env, service_account)
        looked = ", ".join(paths)
        raise ConfigError(f"no kubeconfig at {looked}; set KUBECONFIG, or name a file with --kubeconfig")
    return _resolve(merged, context, " and ".join(paths))


def _default_path(env: Mapping[str, str]) -> str:
    home = env.get("HOME") or os.path.expanduser("~")
    return os.path.join(home, ".kube", "config")


def _merge(paths: list[str], *, must_exist: bool) -> dict[str, Any] | None:
    """The merged configuration, or None when no file has any."""
    found = False
    merged: dict[str, Any] = {"clusters": {}, "contexts": {}, "users": {}, "current-context": ""}
    for path in paths:
        try:
            text = read_text(path)
        except FileNotFoundError:
            if must_exist:
                raise ConfigError(f"no kubeconfig at {path}; name an existing file with --kubeconfig") from None
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read kubeconfig {path}: {_reason(error)}") from None
        try:
            body = load(text)
        except ValueError as error:
            raise ConfigError(f"kubeconfig {path} is no YAML: {str(error)[:200]}; mend it or name another") from None
        if body is None:
            continue
        if not isinstance(body, dict):
            raise ConfigError(f"kubeconfig {path} is no kubeconfig: its top level has to be a mapping")
        found = True
        base = os.path.dirname(os.path.abspath(path))
        for plural, singular in (("clusters", "cluster"), ("contexts", "context"), ("users", "user")):
            _collect(merged[plural], body.get(plural), singular, path, base)
        current = body.get("current-context")
        if not merged["current-context"] and current is not None:
            merged["current-context"] = str(current)
    return merged if found else None


def _collect(into: dict[str, Any], entries: Any, singular: str, path: str, base: str) -> None:
    if entries is None:
        return
    if not isinstance(entries, list):
        raise ConfigError(f"kubeconfig {path}: {singular}s has to be a list of entries with a name and a {singular}")
    for entry in entries:
        if not isinstance(entry, dict) or "name" not in entry or not isinstance(entry.get(singular) or {}, dict):
            raise ConfigError(f"kubeconfig {path}: every entry of {singular}s needs a name and a {singular}")
        body = dict(entry.get(singular) or {})
        for field in _PATHS:
            if body.get(field):
                body[field] = os.path.join(base, str(body[field]))
        program = body.get("exec")
        if isinstance(program, dict) and isinstance(program.get("command"), str):
            command = program["command"]
            # Like kubectl: a bare name is looked up on PATH, a relative path is relative to the file.
            if os.sep in command and not os.path.isabs(command):
                body["exec"] = {**program, "command": os.path.join(base, command)}
        into.setdefault(str(entry["name"]), body)


def _resolve(merged: dict[str, Any], wanted: str | None, source: str) -> Access:
    name = wanted or merged["current-context"]
    known = ", ".join(sorted(merged["contexts"])[:8]) or "none"
    if not name:
        raise ConfigError(f"{source} sets no current-context; name one with --context (there are: {known})")
    context = merged["contexts"].get(name)
    if context is None:
        raise ConfigError(f"{source} has no context {name!r}; name one of these with --context: {known}")
    cluster = merged["clusters"].get(_name(context, "cluster", name, source))
    if cluster is None:
        raise ConfigError(
            f"context {name!r} of {source} names the cluster {context.get('cluster')!r}, which is not there"
        )
    # A mapping in the place of a name may hold the credentials themselves: it is not told.
    user_name = _name(context, "user", name, source)
    user = merged["users"].get(str(user_name)) if user_name else {}
    if user is None:
        raise ConfigError(f"context {name!r} of {source} names the user {user_name!r}, which is not there")
    server = cluster.get("server")
    if not server:
        raise ConfigError(
            f"the cluster of context {name!r} in {source} has no server; write for example https://host:6443"
        )
    access = Access(str(server), f"context {name}")
    _use_cluster(access, cluster)
    _use_user(access, user)
    return access


def _name(context: Mapping[str, Any], field: str, name: str, source: str) -> str:
    found = context.get(field)
    if isinstance(found, dict | list):
        raise ConfigError(f"{field} of context {name!r} in {source} has to be a name")
    return "" if found is None else str(found)


def _use_cluster(access: Access, cluster: Mapping[str, Any]) -> None:
    access.cluster = cluster
    access.insecure = cluster.get("insecure-skip-tls-verify") is True
    access.server_name = _text(cluster.get("tls-server-name"))
    access.proxy_url = _text(cluster.get("proxy-url"))
    if cluster.get("certificate-authority-data"):
        pem = _decode(cluster["certificate-authority-data"], "certificate-authority-data", access)
        access.ca_pem = pem.decode("ascii", "replace")
    else:
        access.ca_file = _text(cluster.get("certificate-authority"))


def _use_user(access: Access, user: Mapping[str, Any]) -> None:
    provider = user.get("auth-provider")
    if provider:
        name = provider.get("name") if isinstance(provider, dict) else None
        raise ConfigError(
            f"{access.origin} uses the removed auth-provider{f' {name!r}' if isinstance(name, str) else ''};"
            " replace it with an exec plugin"
        )
    certificate, key = user.get("client-certificate-data"), user.get("client-key-data")
    if certificate and key:
        access.client_pem = join_pem(
            _decode(certificate, "client-certificate-data", access), _decode(key, "client-key-data", access)
        )
    elif certificate or key or user.get("client-certificate") or user.get("client-key"):
        # Data wins over a file, each for itself.
        certificate_pem = (
            _decode(certificate, "client-certificate-data", access)
            if certificate
            else _read_named(user.get("client-certificate"), "client-certificate", access)
        )
        key_pem = (
            _decode(key, "client-key-data", access)
            if key
            else _read_named(user.get("client-key"), "client-key", access)
        )
        access.client_pem = join_pem(certificate_pem, key_pem)
    access.token = _text(user.get("token"))
    access.token_file = _text(user.get("tokenFile"))
    if user.get("username"):
        access.basic = (str(user["username"]), str(user.get("password") or ""))
    program = user.get("exec")
    if program is not None and not isinstance(program, dict):
        raise ConfigError(f"exec of {access.origin} has to be a mapping with apiVersion and command")
    access.exec = program


def join_pem(certificate: bytes, key: bytes) -> bytes:
    """A certificate chain and its key as one PEM text."""
    return certificate.rstrip(b"\n") + b"\n" + key


def _in_cluster(env: Mapping[str, str], directory: str) -> Access:
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT") or "443"
    address = f"[{host}]" if ":" in host else host
    access = Access(f"https://{address}:{port}", "the pod's service account")
    access.ca_file = f"{directory}/ca.crt"
    access.token_file = f"{directory}/token"
    return access


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _decode(value: Any, field: str, access: Access) -> bytes:
    try:
        return binascii.a2b_base64("".join(str(value).split()), strict_mode=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{field} of {access.origin} is no base64; copy it again from its source") from None


def _read_named(path: Any, field: str, access: Access) -> bytes:
    if not path:
        raise ConfigError(f"{access.origin} has a certificate or a key but not both: {field} is missing")
    try:
        return read_bytes(str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {field} {path} of {access.origin}: {_reason(error)}") from None


def read_text(path: str) -> str:
    """The text of a file of sane size.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large or no UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig")


def read_bytes(path: str) -> bytes:
    """The content of a file of sane size.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large.
    """
    with open(path, "rb") as file:
        data = file.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise ValueError("it is larger than 16 MiB")
    return data


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
