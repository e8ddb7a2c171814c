"""The Role that docs/operations.md shows is enough for the operator, and nothing else is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from support.operator import OperatorProcess
from support.waiting import eventually

if TYPE_CHECKING:
    from devcluster import Cluster
    from support.kube import Board, Kube

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def documented_role() -> dict[str, Any]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [role] = [body for body in map(yaml.safe_load, blocks) if isinstance(body, dict) and body.get("kind") == "Role"]
    return dict(role)


def kubeconfig_of(account: str, cluster: Cluster, kube: Kube, namespace: str, path: Path) -> Path:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    kube.request("POST", accounts, {"metadata": {"name": account}})
    token = kube.request("POST", f"{accounts}/{account}/token", {"spec": {"expirationSeconds": 3600}})
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": cluster.server_url, "certificate-authority": str(cluster.ca_file)}}
        ],
        "users": [{"name": "u", "user": {"token": token["status"]["token"]}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


def test_the_documented_role_is_all_that_the_operator_needs(
    cluster: Cluster, kube: Kube, namespace: str, board: Board, tmp_path: Path
) -> None:
    role = documented_role()
    kube.request("POST", f"{RBAC}/namespaces/{namespace}/roles", role)
    binding = {
        "metadata": {"name": "presence-operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    kube.request("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding)
    kubeconfig = kubeconfig_of("operator", cluster, kube, namespace, tmp_path / "kubeconfig")

    flags = ("--leader-elect", "--lease-namespace", namespace, "--retention", "1s")
    with OperatorProcess(kubeconfig, namespace, tmp_path / "operator", *flags) as operator:
        board.session("s1", ttl="2s")
        board.claim("stack:vault", "s1", ttl="2s")
        board.claim("stack:vault", "s2", ttl="60s")
        board.claim("db:main", "s2", ttl="60s", name="alone", mode="Exclusive")
        board.until_phase("alone", "Active")
        board.delete("alone")
        base = f"/apis/presence.dev/v1alpha1/namespaces/{namespace}"

        def names(plural: str) -> list[str]:
            return [item["metadata"]["name"] for item in kube.request("GET", f"{base}/{plural}")["items"]]

        eventually(lambda: len(names("presenceclaims")) == 1, "the claim that ran out is collected")
        eventually(lambda: not names("agentsessions"), "so is its session")

        def events() -> set[str]:
            found = kube.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
            return {item["reason"] for item in found["items"]}

        eventually(lambda: {"Claimed", "Conflicted", "Expired"} <= events(), "events are recorded")
        lease = kube.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/presence-operator")
        assert lease["spec"]["holderIdentity"]
        assert operator.metric("presence_api_request_duration_seconds_count", outcome="denied") == 0
        assert operator.stop() == 0
        assert "403" not in operator.log.read_text()
