"""The Terraform module on a real cluster whose node runs the schema Job in a pod, against a real Dolt."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from devcluster import Toolchain, image, terraform
from presence_operator.mirror.dsn import Dsn
from support.dolt import Database
from support.kube import ApiError
from support.terraform import Terraform
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Kube

    Body = dict[str, Any]

IMAGE = image.OPERATOR_IMAGE
CRDS = ["agentsessions.presence.dev", "presenceclaims.presence.dev"]
COLUMNS = ["session_id", "resource_label", "purpose", "claimed_at", "expires_at", "host", "user", "agent_name"]


class Site:
    """One use of the module: a configuration, its namespace and its fresh database."""

    def __init__(
        self, ground: Cluster, kube: Kube, directory: Path, configuration: str = ".", binary: Path | None = None
    ) -> None:
        self.kube = kube
        self.namespace = f"tf-{uuid.uuid4().hex[:8]}"
        name = self.namespace.replace("-", "_")
        server = Dsn.parse(ground.dolt.root_dsn)
        self.database = Database(replace(server, database=name))
        # The pods reach Dolt under another address than the tests do.
        self.dsn = f"{ground.dolt.pod_dsn.rpartition('/')[0]}/{name}"
        Database(server).execute(
            f"CREATE DATABASE {name}", f"GRANT ALL ON {name}.* TO '{Dsn.parse(self.dsn).user}'@'%'"
        )
        self.terraform = Terraform(
            binary or Toolchain().terraform(),
            directory / "tree",
            configuration,
            env={**terraform.environment(Toolchain()), "KUBECONFIG": str(ground.kubeconfig)},
            image=IMAGE,
        )

    def columns(self, table: str) -> list[str]:
        return [str(row[0]) for row in self.database.rows(f"DESCRIBE {table}")]

    def named(self, kind: str) -> list[str]:
        """Names of the namespace's objects of a kind, such as `apis/batch/v1/jobs`."""
        group, _, plural = kind.rpartition("/")
        items = self.kube.request("GET", f"/{group}/namespaces/{self.namespace}/{plural}")["items"]
        return sorted(item["metadata"]["name"] for item in items)

    def jobs(self) -> list[str]:
        return self.named("apis/batch/v1/jobs")


def look(kube: Kube, path: str) -> Body | None:
    """An object, or None where there is none."""
    try:
        return kube.request("GET", path)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def crd(kube: Kube, name: str) -> Body | None:
    return look(kube, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")


@pytest.fixture
def site(ground: Cluster, kube: Kube, tmp_path: Path) -> Iterator[Site]:
    """The module as it is, with everything made by it but the definitions."""
    made = Site(ground, kube, tmp_path)
    made.terraform.variables |= {"namespace": made.namespace, "dsn": made.dsn, "apply_crds": False}
    made.terraform.init()
    yield made
    with suppress(ApiError):
        kube.request("DELETE", f"/api/v1/namespaces/{made.namespace}")


def test_from_nothing_to_a_new_column_and_back_to_nothing(site: Site) -> None:
    kube = site.kube
    site.terraform.variables["apply_crds"] = True
    site.terraform.apply()

    # The schema is there, brought by the Job that is named after it.
    outputs = site.terraform.outputs()
    name = f"presence-schema-{outputs['schema_hash'][:8]}"
    assert outputs["job_name"] == name
    assert outputs["namespace"] == site.namespace
    assert outputs["crds"] == CRDS
    assert site.jobs() == [name]
    assert site.columns("presence_claims") == COLUMNS
    kept = kube.request("GET", f"/api/v1/namespaces/{site.namespace}/configmaps/{name}")
    assert kept["immutable"] is True
    assert sorted(kept["data"]) == sorted(path.name for path in site.terraform.migrations.glob("*.sql"))

    # Nothing is left to do.
    site.terraform.plan_is_empty()
    claim = {
        "apiVersion": "presence.dev/v1alpha1",
        "kind": "PresenceClaim",
        "metadata": {"name": "a-claim"},
        "spec": {"resource": "a:b", "session": "s", "holder": {"user": "u", "host": "h"}, "purpose": "p"},
    }
    claims = f"/apis/presence.dev/v1alpha1/namespaces/{site.namespace}/presenceclaims"
    made = kube.request("POST", claims, claim)

    # A new migration is a new Job, and what it says is really done; a changed definition is changed where it stands.
    number = len(list(site.terraform.migrations.glob("*.sql"))) + 1
    (site.terraform.migrations / f"{number:04d}_colour.sql").write_text(
        "ALTER TABLE presence_sessions ADD COLUMN colour VARCHAR(32) NULL;\n"
    )
    definition = site.terraform.tree / "crds" / "presenceclaims.yaml"
    definition.write_text(definition.read_text().replace("shortNames: [pclaim]", "shortNames: [pclaim, pcl]"))
    site.terraform.apply()

    assert "colour" in site.columns("presence_sessions")
    assert site.columns("presence_claims") == COLUMNS
    later = f"presence-schema-{site.terraform.outputs()['schema_hash'][:8]}"
    assert later != name
    assert site.jobs() == [later]
    assert later in site.named("api/v1/configmaps")
    changed = crd(kube, "presenceclaims.presence.dev")
    assert changed is not None
    assert changed["spec"]["names"]["shortNames"] == ["pclaim", "pcl"]
    assert kube.request("GET", f"{claims}/a-claim")["metadata"]["uid"] == made["metadata"]["uid"]
    site.terraform.plan_is_empty()

    # Gone is gone.
    site.terraform.destroy()
    assert look(kube, f"/api/v1/namespaces/{site.namespace}") is None
    assert [each for each in CRDS if crd(kube, each)] == []
    for kind in ("clusterroles", "clusterrolebindings"):
        items = kube.request("GET", f"/apis/rbac.authorization.k8s.io/v1/{kind}")["items"]
        assert [each["metadata"]["name"] for each in items if "presence" in each["metadata"]["name"]] == []


def test_a_broken_migration_fails_apply_with_its_reason_and_a_mended_one_goes_on(site: Site) -> None:
    site.terraform.variables |= {"apply_crds": True, "keep_crds": True}
    broken = site.terraform.migrations / f"{len(list(site.terraform.migrations.glob('*.sql'))) + 1:04d}_broken.sql"
    broken.write_text("ALTER TABLE presence_sessions ADD COLUMN colour NOSUCHTYPE;\n")

    failed = site.terraform.apply(code=1)

    assert broken.name in failed.text
    assert "NOSUCHTYPE" in failed.text
    assert "terraform apply" in failed.text
    assert Dsn.parse(site.dsn).password not in failed.text

    broken.write_text("ALTER TABLE presence_sessions ADD COLUMN colour VARCHAR(32) NULL;\n")
    site.terraform.apply()

    assert "colour" in site.columns("presence_sessions")
    site.terraform.plan_is_empty()

    # Who wants to keep the definitions, and so the claims, keeps them.
    site.terraform.destroy()
    assert look(site.kube, f"/api/v1/namespaces/{site.namespace}") is None
    assert [each for each in CRDS if crd(site.kube, each) is None] == []


def test_a_pod_that_cannot_start_is_told_too(site: Site) -> None:
    del site.terraform.variables["dsn"]
    site.terraform.variables |= {"dsn_secret": {"name": "forgotten"}, "job_timeout_seconds": 10}

    failed = site.terraform.apply(code=1)
    assert 'secret "forgotten" not found' in failed.text

    # The same failure is told at once when nothing has changed, with the way on ...
    again = site.terraform.apply(code=1)
    assert "terraform apply -replace=<module>.kubectl_manifest.job" in again.text

    # ... which works.
    site.kube.request(
        "POST",
        f"/api/v1/namespaces/{site.namespace}/secrets",
        {"metadata": {"name": "forgotten"}, "stringData": {"PRESENCE_DSN": site.dsn}},
    )
    site.terraform.apply("-replace=kubectl_manifest.job")
    assert site.columns("presence_claims") == COLUMNS


def test_an_existing_namespace_and_secret_are_used_and_left_alone(ground: Cluster, kube: Kube, tmp_path: Path) -> None:
    # With OpenTofu where it is there, so that both are shown to work.
    site = Site(ground, kube, tmp_path, "examples/existing-dolt", Toolchain().find("tofu"))
    site.terraform.variables |= {"namespace": site.namespace}
    base = f"/api/v1/namespaces/{site.namespace}"
    kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": site.namespace}})
    secret = {"metadata": {"name": "dolt-credentials"}, "stringData": {"dsn": site.dsn}}
    kube.request("POST", f"{base}/secrets", secret)
    site.terraform.init()
    try:
        site.terraform.apply()

        assert site.columns("presence_claims") == COLUMNS
        job = kube.request("GET", f"/apis/batch/v1/namespaces/{site.namespace}/jobs/{site.jobs()[0]}")
        assert job["metadata"]["labels"]["team"] == "platform"
        pod = job["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
        state = (site.terraform.directory / "terraform.tfstate").read_text()
        assert Dsn.parse(site.dsn).password not in state
        site.terraform.plan_is_empty()

        # A second run of the same migrations does no harm.
        applied = "SELECT version, checksum, applied_at FROM presence_migrations ORDER BY version"
        before = site.database.rows(applied)
        site.terraform.apply("-replace=module.presence.kubectl_manifest.job")
        assert site.jobs() == [job["metadata"]["name"]]
        assert site.database.rows(applied) == before
    finally:
        site.terraform.destroy()

    assert look(kube, f"{base}/secrets/dolt-credentials") is not None

    def nothing_is_left() -> bool:
        kinds = ("apis/batch/v1/jobs", "api/v1/pods", "apis/apps/v1/deployments", "apis/apps/v1/replicasets")
        access = "apis/rbac.authorization.k8s.io/v1"
        left = {kind: site.named(kind) for kind in (*kinds, f"{access}/roles", f"{access}/rolebindings")}
        left["config"] = [each for each in site.named("api/v1/configmaps") if each != "kube-root-ca.crt"]
        left["accounts"] = [each for each in site.named("api/v1/serviceaccounts") if each != "default"]
        assert not any(left.values()), left
        return True

    eventually(nothing_is_left, "everything that the module made is gone", timeout=60)
    kube.request("DELETE", base)
