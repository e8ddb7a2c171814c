"""A local cluster: its parts, its life, and what it tells its users."""

import os
import re
import secrets
import shlex
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from . import catalog, cleanup, controlplane, debian, node, pki, processes
from . import dolt as dolt_module
from .dolt import Dolt
from .errors import DevclusterError
from .locks import exclusive
from .paths import clusters_root, venv_bin
from .ports import free, free_subnet
from .process import Process
from .state import State
from .store import Store
from .toolchain import Toolchain

DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_PORTS = ("etcd", "etcd-peer", "apiserver", "controller-manager", "scheduler", "dolt", "metrics")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Cluster:
    """One cluster in one directory.

    `up` starts what does not run yet, so it also repairs a cluster after a crash; `down` removes every trace, whoever
    started it. As a context manager it goes down at the end; it does not come up by itself.
    """

    def __init__(self, directory: Path | str, name: str | None = None, toolchain: Toolchain | None = None) -> None:
        self.directory = Path(directory).absolute()
        self.name = name or self.directory.name
        if not _NAME.fullmatch(self.name):
            raise DevclusterError(f"cluster name {self.name!r}: use lower-case letters, digits and dashes, at most 32")
        self.toolchain = toolchain or Toolchain()
        self._store = Store(self.directory)
        read = self._store.read
        self.etcd = Process(self._store, "etcd", lambda: controlplane.etcd_ready(read()))
        self.apiserver = Process(
            self._store, "apiserver", lambda: controlplane.apiserver_ready(self.directory, read()), ready_timeout=120
        )
        self.controller_manager = Process(
            self._store, "controller-manager", lambda: controlplane.component_ready(read(), "controller-manager")
        )
        self.scheduler = Process(self._store, "scheduler", lambda: controlplane.component_ready(read(), "scheduler"))
        self.dolt = Dolt(self._store, lambda: controlplane.host_address(read()))
        self.node = node.Node(self._store, self.toolchain)

    @classmethod
    def named(cls, name: str = DEFAULT) -> "Cluster":
        """The cluster of that name of this clone, in `.cache/cluster/<name>`."""
        return cls(clusters_root() / name, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- what callers need to reach it ---

    @property
    def exists(self) -> bool:
        return self._store.exists

    @property
    def id(self) -> str:
        """Eight hex digits, new for every cluster; part of the name of everything that it makes on the machine."""
        return self._store.read().id

    @property
    def kubeconfig(self) -> Path:
        """The admin's: the current context logs in with a client certificate, `<name>-token` with a token."""
        return self.directory / "kubeconfig"

    @property
    def server_url(self) -> str:
        return controlplane.server_url(self._store.read())

    @property
    def token(self) -> str:
        """The admin's bearer token."""
        return self._store.read().secrets["token-admin"]

    @property
    def ca_file(self) -> Path:
        return self.directory / "pki" / "ca.crt"

    @property
    def client_cert_file(self) -> Path:
        return self.directory / "pki" / "admin.crt"

    @property
    def client_key_file(self) -> Path:
        return self.directory / "pki" / "admin.key"

    @property
    def metrics_port(self) -> int:
        """A port of 127.0.0.1 kept free for the operator's metrics."""
        return self._store.read().ports["metrics"]

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def kubectl(self) -> Path:
        return self.directory / "bin" / "kubectl"

    @property
    def has_dolt(self) -> bool:
        return "dolt" in self._store.read().parts

    @property
    def has_node(self) -> bool:
        return "node" in self._store.read().parts

    def env(self) -> dict[str, str]:
        """Environment variables for its users, to be laid over their own."""
        path = os.environ.get("PATH", _SYSTEM_PATH)
        found = {
            "KUBECONFIG": str(self.kubeconfig),
            "PRESENCE_METRICS_URL": self.metrics_url,
            "PATH": f"{self.directory / 'bin'}:{venv_bin()}:{path}",
        }
        if self.has_dolt:
            found["PRESENCE_DSN"] = self.dolt.dsn
        return found

    @property
    def env_file(self) -> Path:
        """`env.sh`, for `. env.sh` in a shell. The default cluster's is one level up: `.cache/cluster/env.sh`."""
        if self.directory == clusters_root() / DEFAULT:
            return clusters_root() / "env.sh"
        return self.directory / "env.sh"

    # --- its life ---

    def up(self, node: bool = False, dolt: bool = True) -> None:
        """Start it, or what is missing of it, and wait until it is ready.

        A part once asked for belongs to the cluster from then on. `node` needs root. Raises DevclusterError, with the
        end of the log that tells why; what did start keeps running until `down`.
        """
        if node and os.geteuid() != 0:
            raise DevclusterError("a node needs root: run this as root (sudo), or leave the node out")
        wanted = [part for part, asked in (("node", node), ("dolt", dolt)) if asked]
        self._check_directory()
        parts = sorted({*wanted, *(self._store.read().parts if self.exists else ())})
        self._prepare_programs(parts)
        with self._life_lock():
            self._ensure_state(parts)
            with ThreadPoolExecutor(max_workers=2) as pool:
                database = pool.submit(self._up_dolt) if "dolt" in parts else None
                self._up_control_plane()
                if "node" in parts:
                    self.node.up(self.scheduler)
                    self._wait_for_account()
                if database is not None:
                    database.result()
            self._write_environment()

    def down(self) -> None:
        """Stop exactly its processes and remove everything that it made, also after a crash. May be repeated."""
        if not self.directory.exists():
            return
        if not self.exists:
            if self._foreign_files():
                raise DevclusterError(f"{self.directory} holds no cluster; nothing was removed")
            shutil.rmtree(self.directory)
            return
        with self._life_lock():
            state = self._store.read()
            self._stop_guests(state)
            cleanup.remove_everything(self.directory, state)
            self.env_file.unlink(missing_ok=True)
            shutil.rmtree(self.directory)

    def spawn(
        self,
        name: str,
        argv: list[str],
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stop_timeout: float = 10,
    ) -> Process:
        """Run one more process as part of the cluster (the operator, say): logged, and stopped by `down`.

        It gets the cluster's `env()`, `env`, and nothing else of the caller's environment but PATH and LANG. Starting
        the same name again stops the former one. The handle can also be had later from `process(name)`.
        """
        if not _NAME.fullmatch(name):
            raise DevclusterError(f"process name {name!r}: use lower-case letters, digits and dashes")
        if name in self._own_names():
            raise DevclusterError(f"{name!r} is a part of the cluster itself; use another name")
        process = Process(self._store, name, stop_timeout=stop_timeout)
        process.stop()
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        base = {"HOME": str(home), "LANG": os.environ.get("LANG", "C.UTF-8")}
        process.define(argv, {**base, **self.env(), **(env or {})}, cwd)
        process.start(wait=False)
        return process

    def process(self, name: str) -> Process:
        """A handle on any of its processes, also those of `spawn`."""
        for own in (self.etcd, self.apiserver, self.controller_manager, self.scheduler, self.dolt):
            if own.name == name:
                return own
        return Process(self._store, name)

    def processes(self) -> dict[str, bool]:
        """Every process by name, and whether it runs."""
        records = self._store.read().processes
        return {name: processes.alive(record) for name, record in records.items()}

    def load_image(self, archive: Path | str) -> None:
        """Make the images of an OCI archive (tar) known to the node; pods use `imagePullPolicy: IfNotPresent|Never`."""
        if not self.has_node:
            raise DevclusterError(f"cluster {self.name} has no node; add one with `up --node`")
        self.node.load_image(Path(archive))

    # --- steps ---

    def _life_lock(self) -> AbstractContextManager[None]:
        return exclusive(self.directory / "life.lock", "another `up` or `down` of this cluster", timeout=600)

    def _check_directory(self) -> None:
        if self.directory.exists() and not self.exists and self._foreign_files():
            raise DevclusterError(f"{self.directory} is not empty and holds no cluster; name another directory")

    def _foreign_files(self) -> bool:
        """Whether there is more than what an `up` leaves that was killed before it had a state."""
        return bool({path.name for path in self.directory.iterdir()} - {"life.lock", "state.lock", "state.new", "logs"})

    def _prepare_programs(self, parts: list[str]) -> None:
        debian.ensure_programs({"openssl": "openssl"})
        names = ["controlplane", *parts]
        if "node" in parts:
            debian.ensure_programs(node.PROGRAMS)
        self.toolchain.ensure(names)

    def _ensure_state(self, parts: list[str]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        self.logs.mkdir(exist_ok=True)
        if not self.exists:
            owners = [f"token-{owner}" for owner in controlplane.USERS]
            users = [f"dolt-{user}" for user in ("root", *dolt_module.USERS)]
            state = State(
                id=secrets.token_hex(4),
                name=self.name,
                boot_id=processes.boot_id(),
                ports=dict(zip(_PORTS, free(len(_PORTS)), strict=True)),
                secrets={key: secrets.token_hex(16) for key in (*owners, *users)},
                subnet=str(free_subnet()),
                parts=parts,
            )
            self._store.create(state)
        with self._store.change() as state:
            state.parts = parts
        if not (self.directory / "kubeconfig").exists():
            controlplane.write_credentials(self.directory, self._store.read(), f"presence-{self.name}")

    def _up_control_plane(self) -> None:
        programs = self.toolchain.ensure(catalog.CONTROL_PLANE)
        state = self._store.read()
        env = {"PATH": _SYSTEM_PATH, "HOME": str(self.directory)}
        self.etcd.define(controlplane.etcd_argv(programs["etcd"], self.directory, state), env)
        self.apiserver.define(controlplane.apiserver_argv(programs["kube-apiserver"], self.directory, state), env)
        self.controller_manager.define(
            controlplane.controller_manager_argv(programs["kube-controller-manager"], self.directory, state), env
        )
        self.etcd.start(wait=False)
        self.apiserver.start(wait=False)
        self.etcd.wait_ready()
        self.apiserver.wait_ready()
        self.controller_manager.start()

    def _wait_for_account(self) -> None:
        """Only then can pods of the namespace `default` be admitted."""
        state = self._store.read()
        if not processes.wait_until(lambda: controlplane.default_account_exists(self.directory, state), 60):
            tail = processes.tail(self.controller_manager.log)
            raise DevclusterError(f"no service account after 60 s; {self.controller_manager.log}:\n{tail}")

    def _up_dolt(self) -> None:
        program = self.toolchain.path("dolt")
        state = self._store.read()
        env = dolt_module.environment(self.directory, _SYSTEM_PATH)
        dolt_module.initialize(program, self.directory, state, env)
        argv = dolt_module.server_argv(program, self.directory, state)
        self.dolt.define(argv, env, self.directory / "dolt" / "data")
        self.dolt.start()

    def _own_names(self) -> set[str]:
        own = (self.etcd, self.apiserver, self.controller_manager, self.scheduler, self.dolt)
        return {process.name for process in own} | set(node.PROCESS_NAMES)

    def _stop_guests(self, state: State) -> None:
        """The processes of `spawn` get the time to end well; the cluster's own have nothing left to save."""
        guests = [record for name, record in state.processes.items() if name not in self._own_names()]
        for record in guests:
            processes.signal_group(record, signal.SIGTERM)
            processes.signal_group(record, signal.SIGCONT)
        processes.wait_until(lambda: processes.gone(guests), 8)

    def _write_environment(self) -> None:
        programs = self.directory / "bin"
        programs.mkdir(exist_ok=True)
        links = {"kubectl": self.toolchain.path("kubectl")}
        if self.has_dolt:
            links["dolt"] = self.toolchain.path("dolt")
        for name, target in links.items():
            fresh = programs / f".{name}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            fresh.replace(programs / name)
        variables = self.env()
        path = variables.pop("PATH").removesuffix(os.environ.get("PATH", _SYSTEM_PATH))
        lines = [f"# presence: the local cluster {self.name}; use with `. {self.env_file}`"]
        lines += [f"export {key}={shlex.quote(value)}" for key, value in variables.items()]
        lines.append(f'export PATH={shlex.quote(path)}"$PATH"')
        pki.write_private(self.env_file, "\n".join(lines) + "\n")
