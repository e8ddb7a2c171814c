"""What the gate of the schema Job writes to a real API server."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from presence_operator import job_gate
from support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from devcluster import Cluster
    from support.kube import Kube


def test_a_failure_that_is_told_already_makes_no_new_version_of_the_deployment(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"app": "gate"}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"nodeSelector": {"no": "where"}, "containers": [{"name": "c", "image": "none"}]},
    }
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    body = {"metadata": {"name": "gate"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}}
    kube.request("POST", deployments, body)
    (tmp_path / "token").write_text(cluster.token)
    api = job_gate.Api(cluster.server_url, namespace, tmp_path / "token", cluster.ca_file)
    moments = iter(range(60))

    class Clock(datetime):
        """Every look at it is a second later."""

        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls(2026, 1, 1, 10, 0, next(moments), tzinfo=tz)

    monkeypatch.setattr(job_gate, "datetime", Clock)

    def look() -> Any:
        return kube.request("GET", f"{deployments}/gate")

    def observed() -> bool:
        return bool(look().get("status", {}).get("unavailableReplicas"))

    eventually(observed, "the deployment controller is done with it")
    api.fail_rollout("gate", "it failed")
    before = look()
    api.fail_rollout("gate", "it failed")
    after = look()
    told = [each for each in after["status"]["conditions"] if each.get("message") == "it failed"]
    assert [each["reason"] for each in told] == [job_gate.FAILED_ROLLOUT]
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
