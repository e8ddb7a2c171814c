"""Helm as a user runs it: the real binary, its own home, and a chart that a test may change."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from devcluster import Toolchain

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "presence"

Body = dict[str, Any]
#: What an installer has to say, and nothing else.
NEEDED: Body = {
    "image": {"repository": "registry.example.com/presence-operator"},
    "mirror": {"existingSecret": {"name": "dolt"}},
}


class Result:
    """What a call left behind; `text` is all of its output in one line."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.output = output
        self.text = " ".join((output + errors).split())

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.text}"


class Helm:
    """Calls of Helm in `home`, where its caches and settings are; with a kubeconfig it reaches a cluster."""

    def __init__(self, home: Path, kubeconfig: Path | None = None) -> None:
        self._home = home
        self._binary = Toolchain().path("helm")
        home.mkdir(parents=True, exist_ok=True)
        self._env = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(kubeconfig or home / "none")}

    def __call__(
        self, *arguments: str, values: Body | None = None, code: int | None = 0, timeout: float = 240
    ) -> Result:
        """Run a command with `values` in a file; fails unless it ends with exit code `code`."""
        command = [str(self._binary), *arguments]
        if values is not None:
            file = self._home / "values.yaml"
            file.write_text(yaml.safe_dump(values))
            command += ["--values", str(file)]
        done = subprocess.run(
            command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        if code is not None:
            assert result.code == code, result
        return result

    def render(
        self, values: Body | None = None, *, release: str = "presence", chart: Path = CHART, **options: str
    ) -> list[Body]:
        """The objects that the chart makes of NEEDED with `values` over it."""
        more = [f"--{name.replace('_', '-')}={value}" for name, value in {"namespace": "presence", **options}.items()]
        text = self("template", release, str(chart), *more, values=merged(NEEDED, values or {})).output
        return [body for body in yaml.safe_load_all(text) if body]

    def refused(self, values: Body) -> str:
        """What is said of values that the chart does not take."""
        done = self("template", "presence", str(CHART), values=merged(NEEDED, values), code=1)
        assert not done.output, "something was rendered nevertheless"
        return done.text

    def package(self, chart: Path = CHART) -> Path:
        """The chart's archive."""
        target = self._home / "packages"
        said = self("package", str(chart), "--destination", str(target)).output
        return Path(said.rpartition("saved it to: ")[2].strip())


def merged(under: Body, over: Body) -> Body:
    """`over` laid over `under` as Helm does it: mappings are merged, all else is replaced."""
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def copy_tree(target: Path) -> Path:
    """A copy of the chart, and of what its links lead to, that a test may change; the path of the chart in it."""
    for part in ("charts/presence", "crds", "operator/presence_operator/migrations"):
        shutil.copytree(ROOT / part, target / part, symlinks=True)
    return target / "charts" / "presence"


def one(bodies: list[Body], kind: str, name: str | None = None) -> Body:
    """The only object of its kind (and name)."""
    [found] = [body for body in bodies if body["kind"] == kind and name in (None, body["metadata"]["name"])]
    return found
