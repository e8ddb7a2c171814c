"""Runs the demo's commands and shows each with its real output."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STEP_TIMEOUT = 600.0


class StepError(Exception):
    """A step that did not do what it is there to show."""


class Script:
    """Prints titles, commands and outputs; stops at the first command that fails."""

    def __init__(self) -> None:
        self._environment: dict[str, str] = {}
        self._bold, self._dim, self._plain = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")

    def use(self, environment: Mapping[str, str]) -> None:
        """Set the environment of all later commands."""
        self._environment = {**os.environ, **environment}

    def say(self, text: str) -> None:
        """A line of explanation."""
        print(f"\n{self._bold}{text}{self._plain}", flush=True)

    def title(self, text: str) -> None:
        """The heading of a chapter."""
        self.say(f"== {text}")

    def run(
        self,
        command: str,
        *,
        show: str = "",
        env: Mapping[str, str] | None = None,
        expect: str = "",
        keep: int = 0,
    ) -> str:
        """Run a command line, show it and its output (the last `keep` lines), and return the output.

        Raises:
            StepError: it failed, or its output lacks `expect`.
        """
        prefix = "".join(f"{key}={value} " for key, value in (env or {}).items())
        print(f"\n{self._dim}${self._plain} {prefix}{show or command}", flush=True)
        output = self._output(command, env)
        self._print(output, keep)
        if expect and expect not in output:
            raise StepError(f"`{show or command}` printed no {expect!r}")
        return output

    def until(
        self,
        command: str,
        test: Callable[[str], bool],
        what: str,
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 20.0,
    ) -> None:
        """Repeat a command until its output passes, then show it once.

        Raises:
            StepError: it did not within `timeout` seconds.
        """
        started = time.monotonic()
        output = ""

        def passes() -> bool:
            nonlocal output
            output = self._output(command, env)
            return test(output)

        if not wait_for(passes, timeout):
            raise StepError(f"not within {timeout:.0f} s: {what}; last output:\n{output}")
        prefix = "".join(f"{key}={value} " for key, value in (env or {}).items())
        print(f"\n{self._dim}${self._plain} {prefix}{command}    # after {time.monotonic() - started:.1f} s: {what}")
        self._print(output)

    def show(self, command: str, output: str) -> None:
        """Show a command that was run by other means, with its output."""
        print(f"\n{self._dim}${self._plain} {command}", flush=True)
        self._print(output)

    def _output(self, command: str, env: Mapping[str, str] | None) -> str:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            env={**self._environment, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_STEP_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise StepError(f"`{command}` ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def _print(self, output: str, keep: int = 0) -> None:
        lines = [line for line in output.rstrip().splitlines() if line.strip()]
        if keep and len(lines) > keep:
            print(f"  … ({len(lines) - keep} lines before)")
            lines = lines[-keep:]
        for line in lines:
            print(f"  {line}")
        sys.stdout.flush()


def wait_for(test: Callable[[], bool], timeout: float, every: float = 0.2) -> bool:
    """True as soon as `test` passes; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not test():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
