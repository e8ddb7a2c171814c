"""Terraform (or OpenTofu) as a user runs it: the real binary on a copy of the module that a test may change."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MIGRATIONS = Path("operator/presence_operator/migrations")


class Result:
    """What a call left behind; `text` is both outputs without colours and frames, in one line."""

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        self.output = output
        self.text = " ".join(re.sub(r"[│╷╵]", " ", output).split())

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.output}"


class Terraform:
    """One configuration below a copy of `terraform/`, `crds/` and the migrations."""

    def __init__(
        self, binary: Path, tree: Path, configuration: str = ".", env: dict[str, str] | None = None, **variables: Any
    ) -> None:
        self.tree = tree
        if not tree.exists():
            for part in (Path("terraform"), Path("crds"), MIGRATIONS):
                shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        self.migrations = tree / MIGRATIONS
        self.directory = tree / "terraform" / configuration
        self.variables: dict[str, Any] = variables
        self._binary = binary
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tree),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
            **(env or {}),
        }

    def __call__(self, *arguments: str, code: int | None = 0, timeout: float = 240, stdin: str | None = None) -> Result:
        """Run a command with the variables of this configuration; fails unless it ends with exit code `code`."""
        (self.directory / "test.auto.tfvars.json").write_text(json.dumps(self.variables))
        done = subprocess.run(
            [str(self._binary), *arguments],
            cwd=self.directory,
            env=self._env,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        result = Result(done.returncode, done.stdout)
        if code is not None:
            assert result.code == code, result
        return result

    def init(self) -> Terraform:
        """Take the provider from the mirror."""
        self("init", "-input=false", "-no-color")
        return self

    def apply(self, *arguments: str, code: int | None = 0) -> Result:
        """Make the cluster as the configuration says."""
        return self("apply", "-auto-approve", "-input=false", "-no-color", *arguments, code=code)

    def plan_is_empty(self) -> None:
        """Fails when another apply would change anything."""
        result = self("plan", "-detailed-exitcode", "-input=false", "-no-color", code=None)
        assert result.code == 0, result

    def destroy(self) -> Result:
        """Take everything away."""
        return self("destroy", "-auto-approve", "-input=false", "-no-color")

    def outputs(self) -> dict[str, Any]:
        """The values of all outputs."""
        raw = json.loads(self("output", "-json").output)
        return {name: each["value"] for name, each in raw.items()}
