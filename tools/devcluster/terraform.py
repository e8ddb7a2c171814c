"""Terraform and OpenTofu without a registry: a filesystem mirror with the provider that was built here."""

import os
import shutil
from pathlib import Path

from . import catalog, golang
from .locks import exclusive
from .toolchain import Toolchain

REGISTRIES = ("registry.terraform.io", "registry.opentofu.org")
_PROVIDER = "gavinbunney/kubectl"
_MODULE = "github.com/gavinbunney/terraform-provider-kubectl"


def environment(toolchain: Toolchain) -> dict[str, str]:
    """`TF_CLI_CONFIG_FILE` for a run of terraform or tofu that takes the provider from the mirror only."""
    program = toolchain.path("terraform-provider-kubectl")
    mirror = program.parent.parent / "mirror"
    config = mirror / "terraform.rc"
    with exclusive(program.parent.parent / "mirror.lock", "another terraform-env"):
        if not config.exists():
            _make(mirror, program, config)
    return {"TF_CLI_CONFIG_FILE": str(config)}


def _make(mirror: Path, program: Path, config: Path) -> None:
    version = catalog.pinned("terraform-provider-kubectl", _MODULE)
    for registry in REGISTRIES:
        platform = f"linux_{golang.architecture()}"
        target = mirror / registry / _PROVIDER / version.removeprefix("v") / platform
        target.mkdir(parents=True, exist_ok=True)
        file = target / f"terraform-provider-kubectl_{version}"
        file.unlink(missing_ok=True)
        try:
            os.link(program, file)
        except OSError:
            shutil.copy2(program, file)
    names = ", ".join(f'"{registry}/{_PROVIDER}"' for registry in REGISTRIES)
    fresh = config.with_suffix(".new")
    source = f'  filesystem_mirror {{\n    path    = "{mirror}"\n    include = [{names}]\n  }}'
    fresh.write_text(f"provider_installation {{\n{source}\n}}\n")
    fresh.replace(config)
