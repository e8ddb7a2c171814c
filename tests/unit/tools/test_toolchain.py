"""The cache of programs: found again, never trusted blindly, never half built."""

import json
import stat
import zipfile
from pathlib import Path

import pytest

from devcluster import catalog, golang
from devcluster.paths import MODULES
from devcluster.toolchain import Toolchain, fingerprint, sha256


def _cached(toolchain: Toolchain, name: str) -> Path:
    """A program in the cache, as a finished build leaves it."""
    directory = toolchain.directory(catalog.binaries()[name][0])
    program = directory / "bin" / name
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    entry = {"size": program.stat().st_size, "sha256": sha256(program)}
    (directory / "manifest.json").write_text(json.dumps({name: entry}))
    return program


@pytest.fixture
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return Toolchain(cache=tmp_path / "cache")


@pytest.mark.parametrize("change", ["file", "name", "go", "architecture", "ldflags"])
def test_whatever_changes_the_build_changes_the_place_in_the_cache(change: str) -> None:
    before = fingerprint({"go.mod": b"a", "go.sum": b"b"}, "1.26.8", "amd64", "-s")
    after = fingerprint(
        {"go.mod" if change != "name" else "go.mo": b"a" if change != "file" else b"A", "go.sum": b"b"},
        "1.26.9" if change == "go" else "1.26.8",
        "arm64" if change == "architecture" else "amd64",
        "-w" if change == "ldflags" else "-s",
    )
    assert before != after


def test_bytes_that_move_from_one_file_to_the_next_change_the_place_too() -> None:
    assert fingerprint({"a": b"12", "b": b"3"}, "", "", "") != fingerprint({"a": b"1", "b": b"23"}, "", "", "")


def test_a_program_in_the_cache_is_used(toolchain: Toolchain) -> None:
    program = _cached(toolchain, "etcd")
    assert toolchain.path("etcd") == program


def test_a_damaged_program_is_not_used(toolchain: Toolchain) -> None:
    program = _cached(toolchain, "etcd")
    program.write_text("#!/bin/sh\necho 2\n")  # the same size
    assert toolchain.find("etcd") is None


def test_a_program_without_an_entry_is_the_rest_of_a_build_that_was_killed(toolchain: Toolchain) -> None:
    program = _cached(toolchain, "etcd")
    (program.parent.parent / "manifest.json").unlink()
    assert toolchain.find("etcd") is None


def _foreign(directory: Path, name: str, output: str) -> Path:
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{output}'\n")
    program.chmod(0o755)
    return program


def test_a_program_on_the_path_is_taken_when_its_version_fits(toolchain: Toolchain, tmp_path: Path) -> None:
    program = _foreign(tmp_path / "bin", "etcd", "etcd Version: 3.5.21")
    assert toolchain.find("etcd") == program


def test_a_program_on_the_path_is_left_alone_when_it_is_too_old(toolchain: Toolchain, tmp_path: Path) -> None:
    _foreign(tmp_path / "bin", "kubectl", "Client Version: v1.32.4")
    assert toolchain.find("kubectl") is None


def test_kubebuilder_assets_come_before_the_cache(
    toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cached(toolchain, "etcd")
    program = _foreign(tmp_path / "assets", "etcd", "etcd Version: 3.6.4")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert toolchain.find("etcd") == program


def test_the_go_checksum_of_a_module_zip_is_the_one_that_go_computes(tmp_path: Path) -> None:
    # From the Go source tree: dirhash's own test of Hash1 over two files.
    archive = tmp_path / "m.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("xyz", "hello")
        made.writestr("abc", "world")
    assert golang.h1(archive) == _hash_by_hand({"abc": b"world", "xyz": b"hello"})


def _hash_by_hand(files: dict[str, bytes]) -> str:
    import base64
    import hashlib

    lines = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "h1:" + base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()


@pytest.mark.parametrize(
    ("setting", "asked"),
    [
        ("", ["https://proxy.golang.org"]),
        ("https://a.example/go/,direct", ["https://a.example/go"]),
        ("https://a.example|https://b.example,off", ["https://a.example", "https://b.example"]),
        ("off", []),
    ],
)
def test_the_proxies_of_goproxy_are_asked_in_order(setting: str, asked: list[str]) -> None:
    assert golang.proxies({"GOPROXY": setting}) == asked


def test_the_pinned_go_is_new_enough_for_every_module() -> None:
    wanted = [
        line.split()[1]
        for path in MODULES.glob("*/go.mod")
        for line in path.read_text().splitlines()
        if line.startswith("go ")
    ]
    assert len(wanted) == len(catalog.tools())
    assert max(tuple(map(int, version.split("."))) for version in wanted) <= tuple(
        map(int, golang.GO_VERSION.split("."))
    )


def test_no_module_names_a_registry_host() -> None:
    for path in MODULES.glob("*/go.sum"):
        assert "://" not in path.read_text()
