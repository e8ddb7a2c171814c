"""A Dolt server with the database `beads`, and the users that the mirror and a legacy writer log in as."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from .errors import DevclusterError
from .process import Process
from .state import State
from .store import Store

DATABASE = "beads"
USERS = ("presence", "beads")
"""`presence` is the mirror's, `beads` a legacy writer's; both may do everything, in this database only."""


class Dolt(Process):
    """`dolt sql-server` on 127.0.0.1, on one port for the life of the cluster."""

    def __init__(self, store: Store, pod_host: Callable[[], str]) -> None:
        super().__init__(store, "dolt", ready=self.answers, stop_timeout=10)
        self._pod_host = pod_host

    @property
    def port(self) -> int:
        return self._store.read().ports["dolt"]

    @property
    def dsn(self) -> str:
        """`mysql://user:password@host:port/beads` of the mirror's user, for processes of this machine."""
        return self.dsn_of("presence")

    @property
    def pod_dsn(self) -> str:
        """The same, as pods of the cluster's node reach it."""
        return self.dsn_of("presence", self._pod_host())

    @property
    def root_dsn(self) -> str:
        """The administrator's."""
        return self.dsn_of("root")

    @property
    def legacy_dsn(self) -> str:
        """The user `beads`, as a writer that knows nothing of this project would have."""
        return self.dsn_of("beads")

    def dsn_of(self, user: str, host: str = "127.0.0.1") -> str:
        state = self._store.read()
        return f"mysql://{user}:{state.secrets[f'dolt-{user}']}@{host}:{state.ports['dolt']}/{DATABASE}"

    def answers(self) -> bool:
        """Whether the server greets a client."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.settimeout(2)
                return len(connection.recv(5)) > 4
        except OSError:
            return False


def environment(directory: Path, path: str) -> dict[str, str]:
    """A home of its own, so that the user's Dolt settings and ours never meet."""
    home = directory / "dolt" / "home"
    return {"HOME": str(home), "DOLT_ROOT_PATH": str(home), "PATH": path, "DOLT_DISABLE_EVENT_FLUSH": "1"}


def server_argv(program: Path, directory: Path, state: State) -> list[str]:
    return [
        str(program),
        "sql-server",
        "--host=127.0.0.1",
        f"--port={state.ports['dolt']}",
        f"--data-dir={directory / 'dolt' / 'data'}",
        "--loglevel=info",
    ]


def initialize(program: Path, directory: Path, state: State, env: dict[str, str]) -> None:
    """Make the database and the users, once, before the server starts."""
    done = directory / "dolt" / "initialized"
    if done.exists():
        return
    data = directory / "dolt" / "data"
    Path(env["HOME"]).mkdir(parents=True, exist_ok=True)
    data.mkdir(exist_ok=True)
    settings = {"user.name": "presence", "user.email": "presence@localhost", "metrics.disabled": "true"}
    for key, value in settings.items():
        _run([str(program), "config", "--global", "--add", key, value], data, env)
    statements = [f"CREATE DATABASE IF NOT EXISTS {DATABASE};"]
    for user in ("root", *USERS):
        secret = state.secrets[f"dolt-{user}"]
        statements.append(f"CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{secret}';")
        scope = "*.*" if user == "root" else f"{DATABASE}.*"
        option = " WITH GRANT OPTION" if user == "root" else ""
        statements.append(f"GRANT ALL PRIVILEGES ON {scope} TO '{user}'@'%'{option};")
    _run([str(program), f"--data-dir={data}", "sql"], data, env, "\n".join(statements))
    done.touch()


def _run(command: list[str], cwd: Path, env: dict[str, str], text: str = "") -> None:
    answer = subprocess.run(
        command, cwd=cwd, env=env, input=text, capture_output=True, text=True, timeout=120, check=False
    )
    if answer.returncode != 0:
        raise DevclusterError(f"dolt {command[1]} failed:\n{(answer.stdout + answer.stderr)[-1500:]}")
