"""A Go toolchain that is new enough: the installed one, else the pinned one from the Go module proxy."""

import base64
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path

from . import versions
from .errors import DevclusterError
from .locks import exclusive
from .paths import user_cache

GO_VERSION = "1.26.8"
"""At least what the `go` line of every module under tools/go asks for."""

_HASHES = {
    "amd64": "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=",
    "arm64": "h1:sYL/O6MqS68ML0kjsQ36WoYIpJqkw60TxizWUYUKQMc=",
}


def h1(archive: Path) -> str:
    """The Go checksum (`h1:…`) of a module zip: what go.sum would record for it."""
    summary = hashlib.sha256()
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            digest = hashlib.sha256(opened.read(name)).hexdigest()
            summary.update(f"{digest}  {name}\n".encode())
    return "h1:" + base64.b64encode(summary.digest()).decode()


def proxies(environment: Mapping[str, str]) -> list[str]:
    """The module proxies to ask, from GOPROXY, else the go command's own default."""
    setting = environment.get("GOPROXY") or "https://proxy.golang.org"
    listed = setting.replace("|", ",").split(",")
    return [url.strip().rstrip("/") for url in listed if url.strip() not in ("", "direct", "off")]


def architecture() -> str:
    machine = platform.machine()
    known = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    if machine not in known:
        raise DevclusterError(f"no Go toolchain is pinned for {machine}; install Go {GO_VERSION} or newer yourself")
    return known[machine]


def installed() -> Path | None:
    """The `go` on PATH when it is new enough."""
    found = shutil.which("go")
    if found is None:
        return None
    try:
        answer = subprocess.run(
            [found, "version"], env=build_environment(), capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = versions.parse(answer.stdout.replace("go version go", ""))
    needed = versions.parse(GO_VERSION)
    return Path(found) if version and needed and version >= needed else None


def build_environment() -> dict[str, str]:
    """The environment of every `go` command: reproducible output, and never a toolchain switch of its own."""
    environment = dict(os.environ)
    environment.update(GOFLAGS="-buildvcs=false -trimpath", GOTOOLCHAIN="local", GOWORK="off")
    return environment


def ensure() -> Path:
    """The `go` program to build with; fetches the pinned toolchain once per user if none fits."""
    return installed() or _fetched()


def _fetched() -> Path:
    arch = architecture()
    home = user_cache() / "go" / f"go{GO_VERSION}-{arch}"
    program = home / "bin" / "go"
    if program.exists():
        return program
    with exclusive(home.parent / "lock", waiting_for="another fetch of the Go toolchain"):
        if not program.exists():
            _fetch(arch, home)
    return program


def _fetch(arch: str, home: Path) -> None:
    version = f"v0.0.1-go{GO_VERSION}.linux-{arch}"
    print(f"fetching Go {GO_VERSION}, 70 MB, because no go on PATH is as new", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetch-") as scratch:
        archive = Path(scratch) / "toolchain.zip"
        _download(f"golang.org/toolchain/@v/{version}.zip", archive)
        if h1(archive) != _HASHES[arch]:
            raise DevclusterError(f"the Go toolchain {version} has another checksum than the pinned {_HASHES[arch]}")
        prefix = f"golang.org/toolchain@{version}/"
        root = Path(scratch) / "go"
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(scratch)
        (Path(scratch) / prefix).rename(root)
        for directory in (root / "bin", root / "pkg" / "tool"):
            for path in directory.rglob("*"):
                if path.is_file():
                    path.chmod(0o755)
        root.rename(home)


def _download(path: str, target: Path) -> None:
    failures = []
    for proxy in proxies(os.environ):
        try:
            with urllib.request.urlopen(f"{proxy}/{path}", timeout=120) as answer, target.open("wb") as out:
                shutil.copyfileobj(answer, out)
            return
        except (OSError, urllib.error.URLError) as error:
            failures.append(f"{proxy}: {error}")
    raise DevclusterError(
        f"no Go {GO_VERSION} or newer on PATH, and it cannot be fetched ({'; '.join(failures) or 'GOPROXY is off'}); "
        "install Go or set GOPROXY to a module proxy that can be reached"
    )
