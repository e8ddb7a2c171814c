"""The command line: `devcluster up|down|status|env|logs|build|image|terraform-env`."""

import argparse
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

from . import catalog, image, processes, terraform
from .cluster import DEFAULT, Cluster
from .errors import DevclusterError
from .paths import clusters_root
from .toolchain import Toolchain

DEFAULT_PARTS = ("controlplane", "dolt", "terraform", "node")


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 usage, 3 (`status`) not all of it runs, 130 interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        code: int = options.run(options)
    except DevclusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("devcluster: interrupted; `down` removes what was started", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return code


def _interrupted(_number: int, _frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="devcluster", description="A local Kubernetes with Dolt, from pinned sources."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help_text: str, name_argument: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.set_defaults(run=run)
        if name_argument:
            sub.add_argument("name", nargs="?", default=DEFAULT, metavar="NAME", help="cluster (default: %(default)s)")
            sub.add_argument("--dir", type=Path, help="its directory (default: .cache/cluster/NAME)")
        return sub

    up = command("up", _up, "start a cluster, or what is missing of it")
    up.add_argument("--node", action="store_true", help="with a node that runs pods (needs root)")
    up.add_argument("--dolt", action=argparse.BooleanOptionalAction, default=True, help="with a Dolt server")
    down = command("down", _down, "stop a cluster and remove every trace of it")
    down.add_argument("--all", action="store_true", help="every cluster of this clone")
    command("status", _status, "what runs")
    command("env", _env, "print the shell commands that point at the cluster")
    logs = command("logs", _logs, "list the logs, or show the end of one")
    logs.add_argument("--process", help="etcd, apiserver, dolt, …")
    logs.add_argument("--lines", type=int, default=50)
    build = command("build", _build, "build programs that are missing", name_argument=False)
    build.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(catalog.PARTS)}, a tool or a program")
    tf = command("terraform-env", _terraform_env, "make a provider mirror and print its setting", name_argument=False)
    tf.add_argument("--binary", action="store_true", help="print the path of terraform or tofu as well")

    images = commands.add_parser("image", help="container images, without any registry")
    actions = images.add_subparsers(required=True, metavar="ACTION")
    load = actions.add_parser("load", help="load an OCI archive into a cluster's node")
    load.add_argument("archive", type=Path)
    load.add_argument("name", nargs="?", default=DEFAULT)
    load.add_argument("--dir", type=Path)
    load.set_defaults(run=_image_load)
    operator = actions.add_parser("build-operator", help="build the operator's image; prints the archive's path")
    operator.set_defaults(run=_image_build)
    return parser


def _cluster(options: argparse.Namespace) -> Cluster:
    return Cluster(options.dir, options.name) if options.dir else Cluster.named(options.name)


def _up(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    cluster.up(node=options.node, dolt=options.dolt)
    print(f"cluster {cluster.name}: {cluster.server_url}, logs in {cluster.logs}\nuse it:  . {cluster.env_file}")
    return 0


def _down(options: argparse.Namespace) -> int:
    if not options.all:
        _cluster(options).down()
        return 0
    root = clusters_root()
    failed = False
    for state in sorted(root.glob("*/state.json")):
        try:
            Cluster.named(state.parent.name).down()
        except DevclusterError as error:
            failed = True
            print(f"devcluster: {state.parent.name}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _status(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    running = cluster.processes()
    for name, alive in running.items():
        pid = str(cluster.process(name).pid) if alive else "-"
        print(f"{name:20} {'running' if alive else 'down':8} {pid:>8}  {cluster.process(name).log}")
    return 0 if all(running.values()) else 3


def _env(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    if not cluster.env_file.exists():
        raise DevclusterError(f"no cluster {cluster.name}; make one with `up {cluster.name}`")
    print(cluster.env_file.read_text(), end="")
    return 0


def _logs(options: argparse.Namespace) -> int:
    cluster = _cluster(options)
    if options.process:
        print(processes.tail(cluster.process(options.process).log, options.lines))
    else:
        for path in sorted(cluster.logs.rglob("*.log")):
            print(path)
    return 0


def _build(options: argparse.Namespace) -> int:
    for name, path in Toolchain().ensure(options.parts or DEFAULT_PARTS).items():
        print(f"{name:28} {path}")
    return 0


def _terraform_env(options: argparse.Namespace) -> int:
    toolchain = Toolchain()
    for key, value in terraform.environment(toolchain).items():
        print(f"{key}={value}")
    if options.binary:
        print(f"TERRAFORM={toolchain.terraform()}")
    return 0


def _image_load(options: argparse.Namespace) -> int:
    _cluster(options).load_image(options.archive)
    return 0


def _image_build(_options: argparse.Namespace) -> int:
    print(image.build_operator())
    return 0


def run_kubectl(cluster: Cluster, *arguments: str) -> str:
    """What kubectl prints, for scripts."""
    command = [str(cluster.kubectl), *arguments]
    env = {**os.environ, **cluster.env()}
    answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode != 0:
        raise DevclusterError(f"kubectl {' '.join(arguments)}: {answer.stderr.strip()}")
    return answer.stdout
