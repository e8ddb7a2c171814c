"""The cluster's certificate authority, certificates, tokens and kubeconfigs."""

import base64
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import DevclusterError

_DAYS = "365"
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def make_authority(directory: Path) -> None:
    """`ca.crt` and `ca.key`."""
    config = _config(directory, "ca", "presence-development-ca", "", ("basicConstraints=critical,CA:TRUE",))
    _openssl("req", "-x509", *_CURVE, "-config", config, "-extensions", "extensions", "-days", _DAYS,
             "-keyout", directory / "ca.key", "-out", directory / "ca.crt")  # fmt: skip


def make_certificate(
    directory: Path, stem: str, common_name: str, organization: str, usage: str, addresses: Sequence[str] = ()
) -> None:
    """`<stem>.crt` and `<stem>.key`, signed by the authority in the same directory.

    `usage` is serverAuth or clientAuth; `addresses` are subject alternative names such as `IP:127.0.0.1`.
    """
    extensions = ["basicConstraints=critical,CA:FALSE", f"extendedKeyUsage={usage}"]
    if addresses:
        extensions.append("subjectAltName=" + ",".join(addresses))
    config = _config(directory, stem, common_name, organization, extensions)
    request = directory / f"{stem}.csr"
    _openssl("req", "-new", *_CURVE, "-config", config, "-keyout", directory / f"{stem}.key", "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", directory / "ca.crt", "-CAkey", directory / "ca.key",
             "-set_serial", str(int.from_bytes(os.urandom(8)) >> 1), "-days", _DAYS, "-sha256",
             "-extfile", config, "-extensions", "extensions", "-out", directory / f"{stem}.crt")  # fmt: skip
    request.unlink()


def make_signing_key(path: Path) -> None:
    """The key pair (one file) that signs service-account tokens."""
    _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path)
    path.chmod(0o600)


def kubeconfig(server: str, authority: Path, users: dict[str, dict[str, str]], name: str) -> str:
    """A kubeconfig with one context per user; the first is current. The contexts are called as the users are."""
    lines = ["apiVersion: v1", "kind: Config", f"current-context: {next(iter(users))}", "clusters:"]
    lines += [f"- name: {name}", "  cluster:", f"    server: {server}"]
    lines += [f"    certificate-authority-data: {encoded(authority)}", "users:"]
    for user, credentials in users.items():
        lines += [f"- name: {user}", "  user:", *(f"    {key}: {value}" for key, value in credentials.items())]
    lines.append("contexts:")
    for user in users:
        lines += [f"- name: {user}", "  context:", f"    cluster: {name}", f"    user: {user}"]
    return "\n".join(lines) + "\n"


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _config(directory: Path, stem: str, common_name: str, organization: str, extensions: Sequence[str]) -> Path:
    path = directory / f"{stem}.cnf"
    subject = [f"CN={common_name}"] + ([f"O={organization}"] if organization else [])
    lines = ["[req]", "prompt=no", "distinguished_name=subject", "[subject]", *subject, "[extensions]", *extensions]
    path.write_text("\n".join(lines) + "\n")
    return path


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except FileNotFoundError:
        raise DevclusterError("openssl is not on PATH; install the Debian package openssl") from None
    except subprocess.CalledProcessError as error:
        raise DevclusterError(f"{' '.join(command[:3])} failed: {error.stderr.strip()[-500:]}") from error
