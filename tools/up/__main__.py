"""`make up`: a local cluster with Dolt and a running operator, left behind for you to use. `make down` removes it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from devcluster import Cluster, DevclusterError  # noqa: E402

_READY_TIMEOUT = 30.0
_OURS = "app.kubernetes.io/name=presence"


def main() -> int:
    """Bring up what is missing of it; 0 when all of it runs."""
    parser = argparse.ArgumentParser(prog="make up", description=__doc__)
    parser.add_argument("--node", action="store_true", help="with a node that runs pods (needs root)")
    options = parser.parse_args()
    cluster = Cluster.named()
    try:
        cluster.up(node=options.node, dolt=True)
    except DevclusterError as error:
        print(f"up: {error}", file=sys.stderr)
        return 1
    programs = Path(sys.executable).parent
    environment = {**os.environ, **cluster.env()}
    steps: list[list[str]] = [
        [str(cluster.kubectl), "apply", "--server-side", "-k", str(ROOT / "crds")],
        [str(cluster.kubectl), "wait", "--for=condition=Established", "--timeout=30s", "crd", "-l", _OURS],
        [str(cluster.kubectl), "apply", "-f", str(Path(__file__).with_name("board.yaml"))],
        [str(programs / "presence-operator"), "migrate", "--wait", "30s"],
    ]
    for step in steps:
        done = subprocess.run(step, env=environment, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            print(f"up: {' '.join(step)}:\n{done.stdout}{done.stderr}", file=sys.stderr)
            return 1
    address = f"127.0.0.1:{cluster.metrics_port}"
    operator = cluster.spawn("operator", [str(programs / "presence-operator"), "run", "--listen", address])
    deadline = time.monotonic() + _READY_TIMEOUT
    while not _ready(address):
        if time.monotonic() > deadline:
            print(f"up: the operator is not ready; its log is {operator.log}", file=sys.stderr)
            return 1
        time.sleep(0.1)
    env_file = cluster.env_file.relative_to(ROOT)
    print(f"""
A cluster with Dolt and a running operator. In each shell that is to use it:

    . {env_file}

Then for example, in two shells:

    presence claim stack:vault --purpose "rotate the unseal keys" --session alice
    presence claim stack:vault --purpose "drift fix" --session bob
    presence list
    kubectl -n presence get presenceclaims -o wide
    curl -s $PRESENCE_METRICS_URL | grep ^presence_claims

Logs: {cluster.logs.relative_to(ROOT)}    Remove it all: make down""")
    return 0


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
