"""`make setup`: quick when nothing has changed, whoever's shell it is called from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_setup_leaves_the_environment_alone_in_a_shell_that_uses_the_local_cluster() -> None:
    venv = ROOT / ".cache" / "venv"
    before = venv.readlink()
    env = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}

    done = subprocess.run(
        [ROOT / "tools" / "setup.sh"], env=env, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == ""
    assert venv.readlink() == before
