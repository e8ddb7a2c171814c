"""Turns the end of a Job into the rollout of a Deployment, for tools that can wait for rollouts only.

Terraform's provider `gavinbunney/kubectl` waits for Deployments and reports the message of a failed rollout; it
cannot wait for a Job. So a Deployment of one pod, whose readiness gate never opens, runs
`python -m presence_operator.job_gate`: it watches the Job and ends the rollout with the Job. After success the
Deployment is scaled to zero, which completes its rollout and this program. After a failure its condition Progressing
carries why, with the last output of the Job's pod; the deployment controller leaves that condition alone as long as
the rollout is not complete.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import ssl
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Body = Mapping[str, Any]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: The reason that ends the wait for a rollout with an error.
FAILED_ROLLOUT = "ProgressDeadlineExceeded"

_OUTPUT_MAX = 1500  # characters of a pod's output in the message
_POLL = 1.0
_BACK_OFF_MAX = 15.0
#: Pauses after the Job has failed: nothing but another Job will change that.
_FAILED_PAUSE, _FAILED_PAUSE_MAX = 15.0, 60.0
_REQUEST_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """The Job has not ended; `trouble` says what keeps its pod from running, if anything does."""

    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    """The Job has done its work."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The Job has given up; `reason` says why, in words for people."""

    reason: str


def judge(job: Body, pods: Sequence[Body], trouble: str = "") -> Running | Complete | Failed:
    """How `job` stands, given its `pods`; `trouble` is what was last seen to keep a pod from running."""
    name = job["metadata"]["name"]
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") != "True":
            continue
        if condition["type"] == "Complete":
            return Complete()
        if condition["type"] == "Failed":
            lines = [f"Job {name} failed: {condition.get('message') or condition.get('reason', '')}"]
            output = _last_output(pods)
            if output:
                lines.append(f"Its pod said: {output}")
            elif trouble:
                lines.append(f"Its pod did not start: {trouble}")
            lines.append(
                "Remove the cause, then run terraform apply again; with unchanged migrations, replace the Job: "
                "terraform apply -replace=<module>.kubectl_manifest.job\n"
            )
            return Failed("\n".join(lines))
    return Running(_trouble(pods))


def _last_output(pods: Sequence[Body]) -> str:
    ended = [
        state["terminated"]
        for pod in pods
        for container in (pod.get("status") or {}).get("containerStatuses") or ()
        for state in (container.get("state") or {}, container.get("lastState") or {})
        if "terminated" in state and state["terminated"].get("exitCode") != 0
    ]
    if not ended:
        return ""
    latest = max(ended, key=lambda each: each.get("finishedAt") or "")
    text = str(latest.get("message") or "").strip()
    return text[-_OUTPUT_MAX:] if text else f"exit code {latest.get('exitCode')} ({latest.get('reason', 'no output')})"


def _trouble(pods: Sequence[Body]) -> str:
    for pod in pods:
        status = pod.get("status") or {}
        for container in status.get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return ""


class Api:
    """The few requests this program makes, as the service account of its pod."""

    def __init__(self, url: str, namespace: str, token_file: Path, ca_file: Path) -> None:
        self._parts = urlsplit(url)
        self._namespace = quote(namespace, safe="")
        self._token_file = token_file
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._failed_at: dict[str, str] = {}

    def job(self, name: str) -> Body:
        """The Job of this name."""
        found: Body = self._request("GET", f"/apis/batch/v1/namespaces/{self._namespace}/jobs/{quote(name, safe='')}")
        return found

    def pods(self, job: str) -> Sequence[Body]:
        """The pods of the Job of this name."""
        query = urlencode({"labelSelector": f"batch.kubernetes.io/job-name={job}"})
        items: list[Body] = self._request("GET", f"/api/v1/namespaces/{self._namespace}/pods?{query}")["items"]
        return items

    def complete_rollout(self, deployment: str) -> None:
        """Scale `deployment` to nothing: nothing is left to wait for."""
        self._patch(deployment, "scale", {"spec": {"replicas": 0}})

    def fail_rollout(self, deployment: str, message: str) -> None:
        """Mark the rollout of `deployment` as failed, with `message`; said again, it changes nothing that is there."""
        # The same words at the same time: of such a patch the API server makes no new version.
        now = self._failed_at.setdefault(message, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        condition = {
            "type": "Progressing",
            "status": "False",
            "reason": FAILED_ROLLOUT,
            "message": message,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        }
        self._patch(deployment, "status", {"status": {"conditions": [condition]}})

    def _patch(self, deployment: str, subresource: str, body: Body) -> None:
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{quote(deployment, safe='')}/{subresource}"
        kind = "strategic-merge" if subresource == "status" else "merge"
        self._request("PATCH", path, body, f"application/{kind}-patch+json")

    def _request(self, method: str, path: str, body: Body | None = None, content_type: str = "application/json") -> Any:
        connection = http.client.HTTPSConnection(
            self._parts.hostname or "", self._parts.port, context=self._tls, timeout=_REQUEST_TIMEOUT
        )
        # The kubelet renews the token in its file.
        token = self._token_file.read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type, "Accept": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise OSError(f"{method} {path}: {answer.status} {text[:300].decode(errors='replace')}")
        return json.loads(text)


def watch(api: Api, job: str, deployment: str, stopped: threading.Event) -> None:
    """Report the end of `job` on `deployment`, until `stopped`. Troubles with the API server are retried for ever."""
    pause, trouble, told = _POLL, "", ""
    waited = _FAILED_PAUSE
    while not stopped.is_set():
        try:
            verdict = judge(api.job(job), api.pods(job), trouble)
            pause = _POLL
            if isinstance(verdict, Complete):
                text = f"Job {job} is complete"
                api.complete_rollout(deployment)
            elif isinstance(verdict, Failed):
                text = verdict.reason
                # Whoever waits may begin to look late, and the condition may have been replaced until then.
                api.fail_rollout(deployment, text)
                pause, waited = waited, min(waited * 2, _FAILED_PAUSE_MAX)
            else:
                trouble = verdict.trouble or trouble
                text = f"Job {job} has not ended{f' ({trouble})' if trouble else ''}"
                waited = _FAILED_PAUSE
        except (OSError, http.client.HTTPException, ValueError) as error:
            text = f"will be tried again: {error}"
            pause = min(max(pause, _POLL) * 2, _BACK_OFF_MAX)
        if text != told:
            print(text, flush=True)
            told = text
        stopped.wait(pause)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the pod is ended."""
    parser = argparse.ArgumentParser(prog="presence_operator.job_gate", description="End a rollout with a Job.")
    parser.add_argument("--job", required=True, help="name of the Job, in the namespace of this pod")
    parser.add_argument("--deployment", required=True, help="name of the Deployment whose rollout ends with the Job")
    args = parser.parse_args(arguments)
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host or not (SERVICE_ACCOUNT / "token").exists():
        print("this program runs in a pod with a service account; there is none here", file=sys.stderr)
        return 2
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    bracketed = f"[{host}]" if ":" in host else host
    url = f"https://{bracketed}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
    watch(
        Api(url, namespace, SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"), args.job, args.deployment, stopped
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
