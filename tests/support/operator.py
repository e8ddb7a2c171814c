"""Operator processes as tests start, kill and pause them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Self

from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class OperatorProcess:
    """`presence-operator run` in a process of its own, restricted to one namespace."""

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        directory: Path,
        *arguments: str,
        dsn: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "operator.log"
        self._listen = directory / "listen"
        self._command = [
            sys.executable, "-m", "presence_operator", "run",
            "--namespace", namespace, "--listen", "127.0.0.1:0", "--listen-file", str(self._listen),
            "--min-ttl", "1s", *arguments,
        ]  # fmt: skip
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PRESENCE_")},
            "KUBECONFIG": str(kubeconfig),
            **({"PRESENCE_DSN": dsn} if dsn else {}),
            **(env or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait_ready: bool = True) -> Self:
        """Start it, and wait until its lists are in."""
        assert self.process is None or self.process.poll() is not None, "already running"
        self._listen.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=self._env
            )
        if wait_ready:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until /readyz says so."""
        eventually(lambda: self.get("/readyz")[0] == 200, f"operator ready; its log:\n{self.tail()}", timeout)

    @property
    def url(self) -> str:
        """Where it serves /metrics, /healthz and /readyz."""
        return f"http://{self._listen.read_text().strip()}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages; (0, reason) when nobody answers."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the operator ended with {self.process.returncode}:\n{self.tail()}")
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, FileNotFoundError) as error:
            return 0, str(error)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, summed over the label sets that match; 0 when there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        status, text = self.get("/metrics")
        if status != 200:
            raise LookupError(f"/metrics answers {status}: {text}")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def kill(self) -> None:
        """Kill -9."""
        self._signal(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM; its exit code."""
        self._signal(signal.SIGTERM)
        return self._wait(timeout)

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _wait(self, timeout: float = 10.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.kill()
            self.process.wait(10)
        if kind is not None:
            sys.stderr.write(f"--- {self.log}\n{self.tail(60)}\n")
