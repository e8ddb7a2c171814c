"""The command line as its users run it: a process of its own, with an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class Result:
    """What a call left behind: exit code, standard output and error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


class Cli:
    """Runs `presence` for one board and, unless a call says otherwise, one session."""

    def __init__(self, home: Path, kubeconfig: Path | str | None, namespace: str | None, session: str | None) -> None:
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT / "cli"),
            # A test machine may be busier than any user would bear; what the limit itself does is tested with its own.
            "PRESENCE_TIMEOUT": "15s",
        }
        for name, value in (
            ("KUBECONFIG", kubeconfig),
            ("PRESENCE_NAMESPACE", namespace),
            ("PRESENCE_SESSION", session),
        ):
            if value is not None:
                self.env[name] = str(value)

    def as_session(self, session: str) -> Cli:
        """The same for another session."""
        return Cli(self.home, self.env.get("KUBECONFIG"), self.env.get("PRESENCE_NAMESPACE"), session)

    def __call__(self, *arguments: str, env: dict[str, str | None] | None = None, code: int | None = 0) -> Result:
        """Run one call; fails unless it ends within 20 s with exit code `code` (None: any). Env None removes a name."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(env),
            capture_output=True,
            text=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            timeout=20,
            check=False,
            cwd=self.home,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in result.err, result
        if code is not None:
            assert result.code == code, result
        return result

    def command(self, *arguments: str) -> list[str]:
        """The argument list of a call."""
        return [sys.executable, "-m", "presence", *arguments]

    def environment(self, changes: dict[str, str | None] | None = None) -> dict[str, str]:
        """The environment of a call."""
        merged: dict[str, str | None] = {**self.env, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}
