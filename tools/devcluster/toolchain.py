"""Finds the programs of a cluster, and builds those that are missing from the pinned Go modules."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import catalog, debian, golang, versions
from .errors import DevclusterError
from .locks import exclusive
from .paths import MODULES, user_cache
from .progress import Progress

_BUILD_TIMEOUT = 3600.0


def fingerprint(files: Mapping[str, bytes], go_version: str, architecture: str, ldflags: str) -> str:
    """Sixteen hex digits that change with anything that changes what is built."""
    summary = hashlib.sha256(f"{go_version}\0{architecture}\0{ldflags}\0".encode())
    for name in sorted(files):
        summary.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return summary.hexdigest()[:16]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Toolchain:
    """The programs of a cluster, by name (`kube-apiserver`, `dolt`, …).

    In this order: KUBEBUILDER_ASSETS, this user's cache, PATH (the latter and the first only where the version
    fits), else a build into the cache. Safe to use from several processes at once.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = (cache or user_cache()) / "tools"
        self._found: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """One program, built if need be."""
        return self.ensure([name])[name]

    def ensure(self, names: Iterable[str]) -> dict[str, Path]:
        """The given programs (names, or the part names of `catalog.PARTS`), built if need be."""
        wanted = catalog.expand(tuple(names))
        for name in wanted:
            if name not in self._found:
                found = self.find(name)
                if found is not None:
                    self._found[name] = found
        self._build([name for name in wanted if name not in self._found])
        return {name: self._found[name] for name in wanted}

    def find(self, name: str) -> Path | None:
        """A program that is there already, or None."""
        tool, binary = catalog.binaries()[name]
        assets = os.environ.get("KUBEBUILDER_ASSETS")
        if assets and _fits(Path(assets) / name, binary):
            return Path(assets) / name
        cached = self._verified(self.directory(tool), name)
        if cached is not None:
            return cached
        on_path = shutil.which(name)
        return Path(on_path) if on_path and _fits(Path(on_path), binary) else None

    def terraform(self) -> Path:
        """Terraform 1.5 or newer from PATH, else tofu from PATH, else tofu built here."""
        for name in ("terraform", "tofu"):
            found = shutil.which(name)
            if found:
                answer = _output([found, "version", "-json"])
                answer = answer[answer.find("{") : answer.rfind("}") + 1]  # a warning may stand before or behind it
                try:
                    version = versions.parse(str(json.loads(answer).get("terraform_version", "")))
                except ValueError:
                    version = None
                if version and version >= (1, 5, 0):
                    return Path(found)
        return self.path("tofu")

    def directory(self, tool: catalog.Tool) -> Path:
        """Where this tool's programs are cached: named by the hash of everything that goes into them."""
        module = MODULES / tool.name
        files = {path.name: path.read_bytes() for path in module.iterdir() if path.suffix in (".mod", ".sum", ".go")}
        digest = fingerprint(files, golang.GO_VERSION, golang.architecture(), tool.ldflags)
        return self._cache / f"{tool.name}-{digest}"

    def _verified(self, directory: Path, name: str) -> Path | None:
        path = directory / "bin" / name
        try:
            recorded = json.loads((directory / "manifest.json").read_text())[name]
            if path.stat().st_size == recorded["size"] and sha256(path) == recorded["sha256"]:
                return path
        except (OSError, ValueError, KeyError):
            pass
        return None

    def _build(self, names: list[str]) -> None:
        if not names:
            return
        debian.ensure([package for name in names for package in catalog.binaries()[name][0].debian])
        go = golang.ensure()
        progress = Progress([(name, catalog.binaries()[name][1].seconds) for name in names])
        for name in names:
            tool, binary = catalog.binaries()[name]
            directory = self.directory(tool)
            with exclusive(directory / "lock", waiting_for=f"another build of {tool.name}"):
                already = self._verified(directory, name)
                if already is None:
                    progress.start()
                    self._found[name] = _build_one(go, tool, binary, directory, progress)
                    progress.finish()
                else:
                    self._found[name] = already
                    progress.skip("built meanwhile by another process")


def _build_one(go: Path, tool: catalog.Tool, binary: catalog.Binary, directory: Path, progress: Progress) -> Path:
    for stale in directory.glob(".build-*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch:
        output = Path(scratch) / binary.name
        environment = golang.build_environment()
        environment["CGO_ENABLED"] = "1" if tool.cgo else "0"
        command = [str(go), "build", "-mod=readonly", f"-ldflags={tool.ldflags}", "-o", str(output), binary.package]
        log = directory / "build.log"
        _run_build(command, MODULES / tool.name, environment, log, progress)
        if binary.version_args and not _output([str(output), *binary.version_args]):
            raise DevclusterError(f"{binary.name} was built but does not run; see {log}")
        target = directory / "bin" / binary.name
        target.parent.mkdir(exist_ok=True)
        record = {"size": output.stat().st_size, "sha256": sha256(output), "go": _output([str(go), "version"]).strip()}
        output.replace(target)
    manifest = directory / "manifest.json"
    try:
        entries = json.loads(manifest.read_text())
    except (OSError, ValueError):
        entries = {}
    entries[binary.name] = record
    fresh = manifest.with_suffix(".new")
    fresh.write_text(json.dumps(entries, indent=1, sort_keys=True))
    fresh.replace(manifest)
    return target


def _run_build(command: list[str], module: Path, env: dict[str, str], log: Path, progress: Progress) -> None:
    deadline = time.monotonic() + _BUILD_TIMEOUT
    with log.open("ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode())
        out.flush()
        # A builder that is killed takes its compiler along; else the next one would compete with an orphan.
        tied = ["setpriv", "--pdeathsig", "KILL", *command] if shutil.which("setpriv") else command
        build = subprocess.Popen(
            tied, cwd=module, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            while True:
                try:
                    code = build.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    progress.tick()
                    if time.monotonic() > deadline:
                        raise DevclusterError(f"gave up after {_BUILD_TIMEOUT / 60:.0f} minutes; see {log}") from None
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(build.pid, signal.SIGKILL)
            build.wait()
            raise
    if code != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise DevclusterError(f"{' '.join(command[:2])} of {module.name} failed ({log}):\n{tail}")


def _fits(path: Path, binary: catalog.Binary) -> bool:
    if binary.accepts is None or not os.access(path, os.X_OK):
        return False
    version = versions.parse(_output([str(path), *binary.version_args]))
    return version is not None and binary.accepts(version)


def _output(command: list[str]) -> str:
    """Both streams of a short command, or nothing when it fails."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout + answer.stderr
