"""Where the demo plays: on a local cluster of its own, or on a cluster of the user's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from script import Script, StepError, wait_for

from devcluster import Cluster, image, terraform
from devcluster.toolchain import Toolchain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

_IMAGE = "docker.io/presence/operator:dev"


class Stage(AbstractContextManager["Stage"], ABC):
    """What the story needs: a cluster, a database, an image, a terraform and an operator."""

    directory: Path
    terraform: str
    image: str
    dsn: str
    pod_dsn: str

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables for every command."""

    @abstractmethod
    def start_operator(self) -> None:
        """Have an operator running, with its lists in."""

    def write_terraform_root(self, directory: Path, module: Path) -> None:
        """A root module such as a user would write, with the credentials in a variable file of mode 0600."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "main.tf").write_text(_ROOT_MODULE.replace("MODULE", os.path.relpath(module, directory)))
        settings = directory / "terraform.tfvars.json"
        settings.touch(mode=0o600)
        settings.write_text(json.dumps({"dsn": self.pod_dsn, "image": self.image}))

    def show_sql(
        self,
        script: Script,
        query: str,
        test: Callable[[Sequence[tuple[Any, ...]]], object],
        *,
        only_dolt: bool = False,
    ) -> None:
        """Run a query until its rows pass, then show it with them."""
        if only_dolt and not self._is_dolt():
            return
        rows: Sequence[tuple[Any, ...]] = ()

        def passes() -> bool:
            nonlocal rows
            rows = self._query(query)
            return bool(test(rows))

        if not wait_for(passes, 20):
            raise StepError(f"not within 20 s in the database: {query}; last rows: {rows}")
        script.show("sql> " + query, "\n".join("  ".join(str(value) for value in row) for row in rows) or "(no rows)")

    def _is_dolt(self) -> bool:
        import pymysql

        try:
            return bool(self._query("select dolt_version()"))
        except pymysql.MySQLError:
            return False

    def _query(self, query: str) -> Sequence[tuple[Any, ...]]:
        import pymysql

        where = urlsplit(self.dsn)
        connection = pymysql.connect(
            host=where.hostname or "",
            port=where.port or 3306,
            user=unquote(where.username or ""),
            password=unquote(where.password or ""),
            database=where.path.strip("/"),
            connect_timeout=5,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()


class LocalStage(Stage):
    """A local cluster with a node and Dolt, removed at the end."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cluster = Cluster.named("demo")

    def __enter__(self) -> Self:
        cluster = self._cluster
        cluster.down()
        print("== A local cluster: control plane, a node that runs pods, Dolt", flush=True)
        try:
            self.terraform = str(cluster.toolchain.terraform())
            archive = image.build_operator()
            cluster.up(node=True, dolt=True)
            cluster.load_image(archive)
        except BaseException:
            cluster.down()
            raise
        self.directory = cluster.directory
        self.image = _IMAGE
        self.dsn, self.pod_dsn = cluster.dolt.dsn, cluster.dolt.pod_dsn
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.environ.get("PRESENCE_DEMO_KEEP"):
            print(f"\nThe cluster stays: . {self._cluster.env_file}")
            return
        self._cluster.down()

    def environment(self) -> dict[str, str]:
        """See Stage."""
        return {**self._cluster.env(), **terraform.environment(self._cluster.toolchain)}

    def start_operator(self) -> None:
        """See Stage."""
        address = f"127.0.0.1:{self._cluster.metrics_port}"
        program = Path(sys.executable).parent / "presence-operator"
        operator = self._cluster.spawn("operator", [str(program), "run", "--listen", address])
        if not wait_for(lambda: _ready(self._cluster.metrics_url), 30):
            raise StepError(f"the operator is not ready; its log is {operator.log}")


class ForeignStage(Stage):
    """A context of the user's kubeconfig. What the demo installs is removed at the end."""

    def __init__(self, context: str, environment: Mapping[str, str]) -> None:
        known = subprocess.run(
            ["kubectl", "config", "get-contexts", "--output=name"],
            capture_output=True, text=True, check=False, timeout=30,
        ).stdout.split()  # fmt: skip
        if context not in known:
            raise SystemExit(f"demo: the kubeconfig has no context {context!r}; it has: {', '.join(known) or 'none'}")
        missing = [name for name in ("PRESENCE_DSN", "PRESENCE_IMAGE") if not environment.get(name)]
        if missing:
            raise SystemExit(
                f"demo: set {' and '.join(missing)}: the demo on a cluster of yours needs a MySQL or Dolt database "
                "that this machine and the cluster's pods reach (PRESENCE_DSN=mysql://user:password@host:port/beads, "
                "and PRESENCE_POD_DSN where pods see it elsewhere), and the operator's image (PRESENCE_IMAGE)"
            )
        self._context = context
        self._environment = environment
        self.image, self.dsn = environment["PRESENCE_IMAGE"], environment["PRESENCE_DSN"]
        self.pod_dsn = environment.get("PRESENCE_POD_DSN") or self.dsn
        self._operator: subprocess.Popen[bytes] | None = None
        self._metrics = f"http://127.0.0.1:{_free_port()}/metrics"

    def __enter__(self) -> Self:
        toolchain = Toolchain()
        self.terraform = str(toolchain.terraform())
        self.directory = Path(".cache/demo").absolute() / re.sub(r"[^A-Za-z0-9_-]+", "-", self._context)
        self.directory.mkdir(parents=True, exist_ok=True)
        # A kubeconfig with this one context as the current one serves every tool alike.
        config = subprocess.run(
            ["kubectl", "config", "view", "--minify", "--flatten", "--context", self._context],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        if config.returncode:
            raise SystemExit(f"demo: {config.stderr.strip()}")
        self._kubeconfig = self.directory / "kubeconfig"
        self._kubeconfig.touch(mode=0o600)
        self._kubeconfig.write_text(config.stdout)
        self._provider = terraform.environment(toolchain)
        ours = (self.directory / "terraform" / "terraform.tfstate").exists()
        if not ours and self._installed():
            raise SystemExit(
                f"demo: presence is installed on {self._context} already, and the demo removes what it installs: "
                "take another cluster, or `make demo` for a local one"
            )
        return self

    def _installed(self) -> bool:
        found = subprocess.run(
            ["kubectl", "get", "crd,namespace", "--output=name"],
            env={**os.environ, **self.environment()}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if found.returncode:
            raise SystemExit(f"demo: {found.stderr.strip()}")
        names = {line.rpartition("/")[2] for line in found.stdout.split()}
        return bool(names & {"presenceclaims.presence.dev", "agentsessions.presence.dev", "presence"})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._operator is not None:
            self._operator.send_signal(signal.SIGTERM)
            self._operator.wait(10)
        state = self.directory / "terraform"
        if (state / "terraform.tfstate").exists():
            print("\n== What the demo installed is removed", flush=True)
            done = subprocess.run(
                [self.terraform, f"-chdir={state}", "destroy", "-no-color", "-auto-approve"],
                env={**os.environ, **self.environment()}, stdin=subprocess.DEVNULL, check=False, timeout=600,
            )  # fmt: skip
            if done.returncode == 0:
                shutil.rmtree(state)
        self._kubeconfig.unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """See Stage."""
        return {
            "KUBECONFIG": str(self._kubeconfig),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PRESENCE_METRICS_URL": self._metrics,
            **self._provider,
        }

    def start_operator(self) -> None:
        """See Stage."""
        log = self.directory / "operator.log"
        address = self._metrics.removeprefix("http://").removesuffix("/metrics")
        with log.open("wb") as output:
            self._operator = subprocess.Popen(
                [str(Path(sys.executable).parent / "presence-operator"), "run", "--listen", address],
                env={**os.environ, **self.environment(), "PRESENCE_DSN": self.dsn},
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        if not wait_for(lambda: _ready(self._metrics), 30):
            raise StepError(f"the operator is not ready; its log is {log}")


def _ready(metrics_url: str) -> bool:
    try:
        with urllib.request.urlopen(metrics_url.removesuffix("/metrics") + "/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_ROOT_MODULE = """\
variable "dsn" {
  type      = string
  sensitive = true
}

variable "image" {
  type = string
}

terraform {
  required_providers {
    kubectl = {
      source  = "gavinbunney/kubectl"
      version = ">= 1.19.0"
    }
  }
}

provider "kubectl" {}

module "presence" {
  source = "MODULE"
  image  = var.image
  dsn    = var.dsn
}

output "job" {
  value = module.presence.job_name
}
"""
