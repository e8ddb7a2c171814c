"""Image archives are what the runtime expects, and the same for the same content."""

import hashlib
import json
import tarfile
from pathlib import Path

from devcluster import image, oci


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        opened = tar.extractfile(name)
        assert opened is not None
        return opened.read()


def test_an_archive_leads_from_the_index_to_every_blob(tmp_path: Path) -> None:
    layer = oci.write_layer(tmp_path / "layer.tar", {"usr/bin/tool": (b"#!/bin/sh\n", 0o755)})
    archive = tmp_path / "image.tar"
    oci.write_archive(archive, "docker.io/presence/tool:dev", [layer], {"User": "1:1"})
    entry = json.loads(_member(archive, "index.json"))["manifests"][0]
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/presence/tool:dev"
    manifest = json.loads(_blob(archive, entry["digest"]))
    config = json.loads(_blob(archive, manifest["config"]["digest"]))
    assert config["config"] == {"User": "1:1"}
    assert config["rootfs"]["diff_ids"] == [described["digest"] for described in manifest["layers"]]
    assert _blob(archive, manifest["layers"][0]["digest"]) == layer.path.read_bytes()


def _blob(archive: Path, digest: str) -> bytes:
    """A blob, after a check that it is what its name says."""
    content = _member(archive, "blobs/" + digest.replace(":", "/"))
    assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content


def test_a_layer_keeps_modes_and_lists_its_directories_first(tmp_path: Path) -> None:
    layer = oci.write_layer(tmp_path / "layer.tar", {"a/b/run": (b"x", 0o755), "a/data": (b"y", 0o644)})
    with tarfile.open(layer.path) as tar:
        listed = [(entry.name, entry.mode, entry.isdir()) for entry in tar]
    assert listed == [("a", 0o755, True), ("a/b", 0o755, True), ("a/b/run", 0o755, False), ("a/data", 0o644, False)]


def test_the_same_files_make_the_same_layer(tmp_path: Path) -> None:
    files = {"b": (b"1", 0o644), "a": (b"2", 0o644)}
    first = oci.write_layer(tmp_path / "1.tar", files)
    second = oci.write_layer(tmp_path / "2.tar", dict(reversed(files.items())))
    assert first.digest == second.digest


def test_the_programs_of_a_wheel_become_scripts() -> None:
    made = image._scripts("[console_scripts]\npresence-operator = presence_operator.__main__:main\n")
    text, mode = made["usr/local/bin/presence-operator"]
    assert text.decode().splitlines()[2:] == [
        "from presence_operator.__main__ import main",
        "",
        "sys.exit(main())",
    ]
    assert mode == 0o755
