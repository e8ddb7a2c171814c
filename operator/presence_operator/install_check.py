"""Shows that an installation works: its pages answer, and a claim is granted, seen by others and let go of.

`python3 -m presence_operator.install_check --service presence-operator --namespace presence` runs in a pod of the
operator's image with the rights of a claimant (`helm test` does so). It claims through the command line, as users do,
under a label of its own. One line for each thing that works; the first that does not ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DONE, FAILED, USAGE = 0, 1, 2

_PATIENCE = 60.0  # seconds for an operator that has just been started
_PAUSE = 1.0


class CheckError(Exception):
    """Something does not work; the message says what, and where to look."""


def address(service: str, env: Mapping[str, str]) -> str:
    """`http://host:port` of a Service of this namespace, from the variables that Kubernetes gives each pod.

    They need no DNS. The port is that of the name `http`.

    Raises:
        CheckError: there are no such variables.
    """
    prefix = service.upper().replace("-", "_")
    host = env.get(f"{prefix}_SERVICE_HOST")
    port = env.get(f"{prefix}_SERVICE_PORT_HTTP")
    if not host or not port:
        raise CheckError(f"no Service {service} was there when this pod started: is the operator installed?")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_pages(url: str) -> str:
    """The version that the operator at `url` says it is, once its pages answer."""
    ready = json.loads(_page(f"{url}/readyz"))
    if "presence_build_info{" not in _page(f"{url}/metrics"):
        raise CheckError(f"{url}/metrics answers, but has no metrics of the operator")
    print(f"the operator is {ready['status']} and serves its metrics", flush=True)
    version = json.loads(_page(f"{url}/version")).get("version", "?")
    return str(version)


def check_claim(namespace: str) -> None:
    """Claim a label of this run's own for itself, see it, and let it go."""
    unique = uuid.uuid4().hex[:8]
    label, session = f"install-check:{unique}", f"install-check@{unique}"
    common = ("--session", session, "--namespace", namespace, "--json", "--strict", "--timeout", "15s")
    asked = ("--ttl", "2m", "--wait", f"{_PATIENCE:.0f}s", "--purpose", "checking the installation")
    try:
        claimed = _presence("claim", "--exclusive", label, *asked, *common)
        print(f"{label} is claimed on the board {namespace}, with fencing token {claimed['fencing_token']}", flush=True)
        rows = _presence("list", *common)
        if [row["resource_label"] for row in rows] != [label]:
            raise CheckError(f"the claim is not to be seen: presence list answers {rows}")
        print("it is on the board", flush=True)
    except CheckError:
        with contextlib.suppress(CheckError):
            _presence("release", label, *common)
        raise
    released = _presence("release", label, *common)
    if [row["resource_label"] for row in released] != [label] or _presence("list", *common):
        raise CheckError(f"the claim could not be let go of: presence release answers {released}")
    print("it is let go of", flush=True)


def _page(url: str) -> str:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a Service of the cluster
                text: bytes = answer.read()
                return text.decode()
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                said = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
                raise CheckError(f"{url}: {error} {said}".strip()) from None
        time.sleep(_PAUSE)


def _presence(*arguments: str) -> Any:
    command = [sys.executable, "-m", "presence", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE * 2, check=False)
    except subprocess.TimeoutExpired:
        raise CheckError(f"presence {arguments[0]} did not end within {_PATIENCE * 2:.0f} s") from None
    if done.returncode != 0:
        raise CheckError(f"presence {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything; the exit code."""
    parser = argparse.ArgumentParser(prog="presence_operator.install_check", description="Check an installation.")
    parser.add_argument("--service", required=True, help="name of the operator's Service in this namespace")
    parser.add_argument("--namespace", required=True, help="the board on which to claim something for a moment")
    args = parser.parse_args(arguments)
    try:
        version = check_pages(address(args.service, os.environ))
        check_claim(args.namespace)
    except CheckError as error:
        print(f"presence_operator.install_check: {error}", file=sys.stderr, flush=True)
        return FAILED
    print(f"presence {version} works", flush=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
