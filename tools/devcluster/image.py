"""The images of the cluster: the sandbox's, and the operator's own.

The operator's has three layers, each cached by what goes into it: Debian with Python, the pinned dependencies,
and this project's wheel. No registry and no container engine takes part.
"""

import configparser
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from . import debian, golang, oci
from .errors import DevclusterError
from .locks import exclusive
from .paths import REPOSITORY, user_cache, venv_bin

OPERATOR_IMAGE = "docker.io/presence/operator:dev"

_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3")
_PYTHON = "3.11"
_SITE = f"usr/local/lib/python{_PYTHON}/dist-packages"
_UID = 65532
_DROPPED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_GLIBC_2 = (17, 24, 26, 27, 28, 31, 34, 35, 36)
_KEPT = 3
_SETTINGS: dict[str, Any] = {
    "Entrypoint": ["/usr/local/bin/presence-operator"],
    "User": f"{_UID}:{_UID}",
    "WorkingDir": "/",
    "Env": [
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "LANG=C.UTF-8",
        "PYTHONUNBUFFERED=1",
        "PYTHONDONTWRITEBYTECODE=1",
    ],
}


def write_pause(archive: Path, name: str, program: Path) -> None:
    """An image of one static program."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        layer = oci.write_layer(Path(scratch) / "layer.tar", {"pause": (program.read_bytes(), 0o755)})
        oci.write_archive(archive, name, [layer], {"Entrypoint": ["/pause"], "User": "65535:65535"})


def build_operator(repository: Path = REPOSITORY) -> Path:
    """The archive (OCI layout in a tar) of `docker.io/presence/operator:dev` for the sources as they are now."""
    images = repository / ".cache" / "images"
    with exclusive(images / "lock", "another build of the operator's image"):
        digest = _hash(_sources(repository), json.dumps(_SETTINGS), _base_key(), _dependencies_key(repository))
        archive = images / f"operator-{digest}.tar"
        if not archive.exists():
            layers = [_base_layer(), _dependencies_layer(repository), _project_layer(repository, images)]
            oci.write_archive(archive, OPERATOR_IMAGE, layers, _SETTINGS)
        archive.touch()
        for stale in sorted(images.glob("operator-*.tar"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            stale.unlink()
    return archive


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sources(repository: Path) -> str:
    """A digest of everything that the wheel is made of."""
    summary = hashlib.sha256()
    tops = ["cli", "operator", "crds", "pyproject.toml", "README.md", "LICENSE"]
    for top in tops:
        path = repository / top
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                summary.update(
                    f"{file.relative_to(repository)}\0".encode() + hashlib.sha256(file.read_bytes()).digest()
                )
    return summary.hexdigest()


def _base_key() -> str:
    return _hash(_SUITE, *_PACKAGES, *_DROPPED, str(_UID), golang.architecture())


def _base_layer() -> oci.Layer:
    cached = user_cache() / "images" / f"base-{_base_key()}.tar"
    with exclusive(cached.with_suffix(".lock"), "another build of the base file system"):
        if not cached.exists():
            debian.ensure_programs({"mmdebstrap": "mmdebstrap"})
            print(f"making the image's base from Debian {_SUITE} packages, about 15 s", file=sys.stderr, flush=True)
            _make_base(cached)
    return oci.layer_of(cached)


def _make_base(target: Path) -> None:
    fresh = target.with_name(f".fresh-{target.name}")
    entry = f"presence:x:{_UID}"
    hook = (
        f'echo "{entry}:{_UID}::/nonexistent:/usr/sbin/nologin" >> "$1/etc/passwd"; '
        f'echo "{entry}:" >> "$1/etc/group"; rm -rf "$1"/var/cache/* "$1"/var/log/*'
    )
    command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(_PACKAGES)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _DROPPED]
    command += [f"--customize-hook={hook}", _SUITE, str(fresh)]
    _run(command, {**os.environ, "SOURCE_DATE_EPOCH": "0"}, timeout=900)
    fresh.replace(target)


def _requirements(repository: Path) -> list[str]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["operator"]]


def _dependencies_key(repository: Path) -> str:
    return _hash(*_requirements(repository), (repository / "constraints.txt").read_text(), _PYTHON)


def _dependencies_layer(repository: Path) -> oci.Layer:
    cached = user_cache() / "images" / f"python-{_dependencies_key(repository)}-{golang.architecture()}.tar"
    with exclusive(cached.with_suffix(".lock"), "another build of the dependencies' layer"):
        if not cached.exists():
            with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
                constraints = ["--constraint", str(repository / "constraints.txt")]
                _install(Path(scratch), [*constraints, *_requirements(repository)])
                oci.write_layer(cached, _files(Path(scratch)))
    return oci.layer_of(cached)


def _project_layer(repository: Path, workspace: Path) -> oci.Layer:
    with tempfile.TemporaryDirectory(dir=workspace) as scratch:
        wheels, root = Path(scratch) / "wheels", Path(scratch) / "root"
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(repository))
        _install(root, ["--no-deps", *map(str, wheels.glob("*.whl"))])
        files = _files(root)
        for entry_points in root.glob("*.dist-info/entry_points.txt"):
            files.update(_scripts(entry_points.read_text()))
        return oci.write_layer(workspace / "project-layer.tar", files)


def _install(target: Path, arguments: list[str]) -> None:
    """Wheels for the Python and the C library of the image, whatever this machine has."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[golang.architecture()]
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC_2]
    platforms.append(f"--platform=manylinux2014_{machine}")
    exact = ["--only-binary=:all:", "--implementation=cp", f"--python-version={_PYTHON}", *platforms]
    _pip("install", "--no-compile", "--target", str(target), *exact, *arguments)
    shutil.rmtree(target / "bin", ignore_errors=True)
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == _PYTHON:
        compiled = [
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode=unchecked-hash",
            "-s",
            str(target),
            "-p",
            f"/{_SITE}",
        ]
        _run([sys.executable, *compiled, str(target)], dict(os.environ), timeout=300)


def _files(root: Path) -> dict[str, tuple[bytes, int]]:
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            found[f"{_SITE}/{path.relative_to(root)}"] = (path.read_bytes(), mode)
    return found


def _scripts(entry_points: str) -> dict[str, tuple[bytes, int]]:
    """The programs that a wheel declares, as an installer would write them."""
    parsed = configparser.ConfigParser(delimiters=("=",))
    parsed.read_string(entry_points)
    scripts = {}
    for name, reference in parsed["console_scripts"].items():
        module, _, function = reference.partition(":")
        text = f"#!/usr/bin/python3\nimport sys\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        scripts[f"usr/local/bin/{name}"] = (text.encode(), 0o755)
    return scripts


def _pip(*arguments: str) -> None:
    python = venv_bin() / "python"
    program = str(python) if python.exists() else sys.executable
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    _run([program, "-m", "pip", arguments[0], *quiet, *arguments[1:]], dict(os.environ), timeout=600)


def _run(command: list[str], env: dict[str, str], timeout: float) -> None:
    try:
        answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise DevclusterError(f"{command[0]} {command[1]} took longer than {timeout:.0f} s") from None
    if answer.returncode != 0:
        shown = " ".join(command[:4])
        raise DevclusterError(f"{shown} … failed:\n{(answer.stdout + answer.stderr).strip()[-1500:]}")
