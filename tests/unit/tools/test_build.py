"""A build that is killed: nothing of it runs on or is believed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from devcluster import processes
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[3]
_BUILD = """
import sys
from pathlib import Path
from devcluster import catalog, golang
from devcluster.toolchain import Toolchain
golang.ensure = lambda: Path(sys.argv[2])
Toolchain(cache=Path(sys.argv[1])).path("pause")
"""


def _compiler(directory: Path, script: str) -> Path:
    program = directory / "go"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def _builder(tmp_path: Path, compiler: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    environment.pop("KUBEBUILDER_ASSETS", None)
    return subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(tmp_path / "cache"), str(compiler)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_builder_takes_its_compiler_along_and_the_next_one_builds_anew(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    with _builder(tmp_path, _compiler(tmp_path, f"echo $$ > {told}; exec sleep 600")) as builder:
        try:
            pid = int(eventually(lambda: told.exists() and told.read_text().strip(), "the compiler runs"))
        finally:
            builder.send_signal(signal.SIGKILL)
    eventually(lambda: processes.start_ticks(pid) is None, "the compiler is gone")

    finished = 'while [ "$1" != -o ]; do shift; [ $# -gt 0 ] || exit 0; done; printf "#!/bin/sh\\necho 1.0.0\\n" > "$2"'
    with _builder(tmp_path, _compiler(tmp_path, finished + '; chmod +x "$2"')) as builder:
        _, said = builder.communicate(timeout=60)
    assert builder.returncode == 0, said
    (directory,) = (tmp_path / "cache" / "tools").iterdir()
    assert sorted(path.name for path in directory.iterdir()) == ["bin", "build.log", "lock", "manifest.json"]


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    with _builder(tmp_path, _compiler(tmp_path, "echo 'main.go:7: no such thing'; exit 1")) as builder:
        _, said = builder.communicate(timeout=60)
    assert builder.returncode != 0
    assert "build of pause failed" in said
    assert "main.go:7: no such thing" in said
