"""SQL servers and databases for tests: Dolt as it really is, and MariaDB where it is installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import pymysql

from presence_operator.migrate import run_migrations
from presence_operator.mirror.dsn import Dsn
from presence_operator.mirror.schema import PACKAGED, load_migrations
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MARIADB = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
if not (shutil.which("mariadb-install-db") and shutil.which("my_print_defaults")):
    MARIADB = None


@dataclass(frozen=True)
class Database:
    """One database on a test's server, seen by its administrator."""

    dsn: Dsn

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """What a query returns."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(query, arguments or None)
            return list(cursor.fetchall())

    def execute(self, *statements: str) -> None:
        """Carry out statements, each by itself."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def connect(self) -> pymysql.connections.Connection[pymysql.cursors.Cursor]:
        """A connection that commits each statement."""
        dsn = self.dsn
        return pymysql.connect(
            host=dsn.host, port=dsn.port, user=dsn.user, password=dsn.password, database=dsn.database,
            charset="utf8mb4", autocommit=True, connect_timeout=5, read_timeout=30, write_timeout=30,
        )  # fmt: skip

    def migrate(self) -> Self:
        """Bring it to the packaged schema."""
        assert run_migrations(self.dsn, load_migrations(PACKAGED), wait=10, say=lambda _: None) == 0
        return self


class Server:
    """A database server of a test's own, which may be killed, paused and restarted. A context."""

    def __init__(self, directory: Path, kind: str = "dolt") -> None:
        self.kind = kind
        self.port = _free_port()
        self.log = directory / f"{kind}.log"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {"HOME": str(directory), "PATH": os.environ["PATH"], "DOLT_DISABLE_EVENT_FLUSH": "1"}
        directory.mkdir(parents=True, exist_ok=True)
        if kind == "dolt":
            for name, value in (("user.name", "t"), ("user.email", "t@t.invalid"), ("metrics.disabled", "true")):
                self._run(_dolt(), "config", "--global", "--add", name, value)
        else:
            self._run(
                "mariadb-install-db", "--no-defaults", f"--datadir={directory / 'data'}", "--skip-test-db",
                "--auth-root-authentication-method=normal", *_as_root(),
            )  # fmt: skip

    @property
    def root(self) -> Dsn:
        """The administrator, in a database that exists on every server."""
        return Dsn("127.0.0.1", self.port, "root", "", "information_schema")

    def start(self, *, read_only: bool = False) -> Self:
        """Start it and wait until it answers."""
        assert self._process is None
        if self.kind == "dolt":
            command = [
                _dolt(), "sql-server", "--host=127.0.0.1", f"--port={self.port}",
                f"--data-dir={self._directory / 'data'}", *(["--readonly"] if read_only else []),
            ]  # fmt: skip
            (self._directory / "data").mkdir(exist_ok=True)
        else:
            command = [
                str(MARIADB), "--no-defaults", f"--datadir={self._directory / 'data'}", "--bind-address=127.0.0.1",
                f"--port={self.port}", f"--socket={self._directory / 's'}", "--innodb-flush-log-at-trx-commit=2",
                "--innodb-buffer-pool-size=16M", *_as_root(),
            ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment, cwd=self._directory
            )
        eventually(self.answers, f"{self.kind} answers; see {self.log}", timeout=30)
        return self

    def answers(self) -> bool:
        """Whether it lets the administrator in."""
        assert self._process is not None
        assert self._process.poll() is None, f"it ended: {self.log.read_text()[-2000:]}"
        try:
            Database(self.root).rows("SELECT 1")
        except pymysql.err.Error:
            return False
        return True

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)
        self._process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on after `pause`."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """A fresh, empty database."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        admin = Database(self.root)
        admin.execute(f"CREATE DATABASE {name}")
        yield Database(replace(self.root, database=name))
        if self._process is not None:
            admin.execute(f"DROP DATABASE {name}")

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, env=self._environment, cwd=self._directory, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self.kill()


def dump(database: Database, columns: str = "session_id, resource_label") -> Sequence[tuple[Any, ...]]:
    """Rows of presence_claims in order."""
    return database.rows(f"SELECT {columns} FROM presence_claims ORDER BY session_id, resource_label")


def _dolt() -> str:
    from devcluster import Toolchain

    return str(Toolchain().path("dolt"))


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
