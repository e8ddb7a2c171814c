"""OCI image archives, written without any container engine."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import golang


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer tar and its SHA-256 (hex)."""

    path: Path
    digest: str


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def layer_of(path: Path) -> Layer:
    return Layer(path, file_digest(path))


def config(layers: Sequence[Layer], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The image configuration; `settings` are the container's (Entrypoint, Env, User, …)."""
    return {
        "architecture": golang.architecture(),
        "os": "linux",
        "config": dict(settings),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
    }


def write_archive(target: Path, name: str, layers: Sequence[Layer], settings: Mapping[str, Any]) -> None:
    """An OCI layout as one tar, with the full image name as containerd reads it. Replaces `target` in one step."""
    fresh = target.with_suffix(".new")
    with tarfile.open(fresh, "w") as tar:
        _add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        blob = json.dumps(config(layers, settings)).encode()
        described = [_describe("application/vnd.oci.image.config.v1+json", blob)]
        _add(tar, _blob_path(described[0]), blob)
        for layer in layers:
            media = "application/vnd.oci.image.layer.v1.tar"
            size = layer.path.stat().st_size
            described.append({"mediaType": media, "digest": f"sha256:{layer.digest}", "size": size})
            with layer.path.open("rb") as file:
                _add_stream(tar, _blob_path(described[-1]), file, size)
        media = "application/vnd.oci.image.manifest.v1+json"
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": media, "config": described[0], "layers": described[1:]}
        ).encode()
        entry = _describe(media, manifest)
        _add(tar, _blob_path(entry), manifest)
        tag = name.rpartition(":")[2]
        entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    fresh.replace(target)


def write_layer(target: Path, files: Mapping[str, tuple[bytes, int]]) -> Layer:
    """A layer of files (path in the image to content and mode), the same bytes for the same content."""
    fresh = target.with_suffix(".new")
    with tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as tar:
        for directory in sorted({parent for path in files for parent in Path(path).parents if parent.name}):
            entry = tarfile.TarInfo(str(directory))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path in sorted(files):
            content, mode = files[path]
            _add(tar, path, content, mode)
    fresh.replace(target)
    return layer_of(target)


def _describe(media: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}


def _blob_path(described: Mapping[str, Any]) -> str:
    return "blobs/" + str(described["digest"]).replace(":", "/")


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    _add_stream(tar, name, io.BytesIO(content), len(content), mode)


def _add_stream(tar: tarfile.TarFile, name: str, stream: IO[bytes], size: int, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    tar.addfile(entry, stream)
