"""The Role that docs/operations.md shows is enough for the operator, and nothing else is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from devcluster.cli import run_kubectl
from presence_operator.settings import Settings
from support.operator import OperatorProcess
from support.waiting import eventually

if TYPE_CHECKING:
    from devcluster import Cluster
    from support.kube import Board, Kube

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def documented() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    bodies = [body for block in blocks for body in yaml.safe_load_all(block)]
    return [body for body in bodies if isinstance(body, dict) and "kind" in body]


def documented_role() -> dict[str, Any]:
    [role] = [body for body in documented() if body["kind"] == "Role"]
    return role


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


def test_what_the_page_shows_runs_the_operator_in_a_cluster(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    bodies = documented()
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(bodies))
    done = run_kubectl(
        cluster, "apply", "--namespace", namespace, "--dry-run=server", "--validate=strict", "-f", str(file)
    )
    by_kind = {body["kind"]: body for body in bodies}
    assert set(by_kind) == {"Role", "RoleBinding", "ServiceAccount", "Secret", "Deployment"}
    assert done.count("server dry run") == len(bodies)

    [subject] = by_kind["RoleBinding"]["subjects"]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    assert subject["name"] == by_kind["ServiceAccount"]["metadata"]["name"]
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["serviceAccountName"] == subject["name"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")} == {
        "/healthz",
        "/readyz",
    }
    [variable] = container["env"]
    reference = variable["valueFrom"]["secretKeyRef"]
    assert variable["name"] == "PRESENCE_DSN"
    assert reference["name"] == by_kind["Secret"]["metadata"]["name"]
    assert reference["key"] in by_kind["Secret"]["stringData"]
    command, *flags = container["args"]
    assert command == "run"
    given = dict(flag.split("=", 1) for flag in flags)
    assert Settings.load(given, {}).namespaces == (subject["namespace"],)
