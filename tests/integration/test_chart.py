"""The Helm chart without a cluster: complete, one with the sources it shares, and helpful with wrong values."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from presence import __version__
from presence_operator.limits_file import parse_limits
from presence_operator.settings import Settings, options
from support.helm import CHART, NEEDED, ROOT, Helm, one

if TYPE_CHECKING:
    from pathlib import Path

    Body = dict[str, Any]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def default(helm: Helm) -> list[Body]:
    """What an installer gets who says no more than needed."""
    return helm.render()


def container_of(bodies: list[Body]) -> Body:
    [container] = one(bodies, "Deployment")["spec"]["template"]["spec"]["containers"]
    found: Body = container
    return found


def flags_of(bodies: list[Body]) -> dict[str, str]:
    command, *flags = container_of(bodies)["args"]
    assert command == "run"
    return {name: value or "true" for name, _, value in (flag.partition("=") for flag in flags)}


def test_helm_finds_nothing_to_say_against_it(helm: Helm) -> None:
    said = helm("lint", "--strict", str(CHART), values=NEEDED).text
    assert "0 chart(s) failed" in said


def test_it_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_names_are_those_that_every_other_way_of_installing_uses(default: list[Body]) -> None:
    hash_ = subprocess.run(
        [sys.executable, "-m", "presence_operator", "migrate", "--print-hash"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    job = one(default, "Job")
    assert job["metadata"]["annotations"]["presence.dev/schema-hash"] == hash_
    assert job["metadata"]["name"] == f"presence-schema-{hash_[:8]}"
    assert one(default, "ConfigMap", job["metadata"]["name"])["immutable"] is True
    assert one(default, "ConfigMap", "presence-limits")
    for kind in ("Deployment", "ServiceAccount", "PodDisruptionBudget", "Service", "ClusterRoleBinding"):
        assert one([each for each in default if "test" not in each["metadata"]["name"]], kind, "presence-operator")
    assert one(default, "ClusterRole", "presence-operator")


def test_shared_texts_are_the_repositorys_own(default: list[Body], helm: Helm, tmp_path: Path) -> None:
    ours = {"helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "app.kubernetes.io/instance"}

    def essence(body: Body) -> Body:
        body["metadata"].pop("annotations", None)
        for label in ours:
            body["metadata"]["labels"].pop(label, None)
        return body

    for file in [*sorted((ROOT / "crds").glob("*.yaml")), *sorted((ROOT / "crds" / "roles").glob("*.yaml"))]:
        if file.name == "kustomization.yaml":
            continue
        source = yaml.safe_load(file.read_text())
        made = one(default, source["kind"], source["metadata"]["name"])
        assert ours <= set(made["metadata"]["labels"]), file.name
        assert essence(made) == source, file.name
    migrations = {path.name: path.read_text() for path in (CHART / "files" / "migrations").glob("*.sql")}
    assert one(default, "ConfigMap", one(default, "Job")["metadata"]["name"])["data"] == migrations

    # The archive holds the files themselves, so it is complete without the repository.
    archive = helm.package()
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
        assert not [each.name for each in packed.getmembers() if not each.isreg()]
    assert helm.render(chart=tmp_path / "presence") == helm.render()


def test_without_other_values_the_operators_own_defaults_hold(default: list[Body]) -> None:
    flags = flags_of(default)
    given = {flag: value for flag, value in flags.items() if flag not in ("--dsn-file", "--limits-file")}
    settings, plain = Settings.load(given, {}), Settings.load({}, {})
    chosen = {"leader_elect": True, "log_format": "json", "lease_namespace": "presence"}
    for name, option in options().items():
        if name in ("identity", "limits_file"):
            continue
        assert getattr(settings, name) == chosen.get(name, getattr(plain, name)), option.flag
    assert parse_limits(one(default, "ConfigMap", "presence-limits")["data"]["limits.yaml"], "chart") is not None


def test_image_and_database_have_to_be_named(helm: Helm) -> None:
    said = helm("template", "presence", str(CHART), values={"mirror": {"enabled": False}}, code=1).text
    assert "build the image with the Dockerfile" in said
    said = helm("template", "presence", str(CHART), values={"image": {"repository": "x.example.com/y"}}, code=1).text
    assert "mirror.existingSecret.name" in said
    assert "mirror.enabled=false" in said


@pytest.mark.parametrize(
    ("wrong", "place", "advice"),
    [
        ({"replica": 2}, "", "additional properties 'replica' not allowed"),
        ({"replicas": "two"}, "/replicas", "got string, want integer"),
        ({"image": {"digest": "md5:0"}}, "/image/digest", "sha256:[0-9a-f]{64}"),
        ({"mirror": {"dsn": "postgres://u:p@h/d"}}, "/mirror/dsn", "mysql://"),
        ({"settings": {"minTtl": "5 seconds"}}, "/settings/minTtl", "does not match pattern"),
        ({"settings": {"logFormat": "xml"}}, "/settings/logFormat", "'json', 'text'"),
        ({"limits": [{"name": "a", "max": 0}]}, "/limits/0/max", "minimum: got 0, want 1"),
        ({"limits": [{"name": "a", "max": 1, "colour": "red"}]}, "/limits/0", "'colour' not allowed"),
        ({"namespaces": ["Team"]}, "/namespaces/0", "does not match pattern"),
        ({"monitoring": {"serviceMonitor": {"interval": "5m"}}}, "/monitoring/serviceMonitor/interval", "pattern"),
        ({"policies": {"actions": ["Deny", "Warn"]}}, "policies.actions", "write [Deny] or [Warn]"),
        ({"namespaces": ["a", "b"]}, "", "which board is mirrored? Set mirror.namespace to one of a, b"),
        (
            {"namespaces": ["a"], "mirror": {"namespace": "b"}},
            "",
            "mirror.namespace b is not among namespaces (a): add it there",
        ),
    ],
)
def test_wrong_values_are_refused_with_advice(helm: Helm, wrong: Body, place: str, advice: str) -> None:
    said = helm.refused(wrong)
    assert place in said
    assert advice in said


def test_every_value_is_known_to_the_schema(helm: Helm) -> None:
    """What stands in values.yaml cannot be misspelt: a key beside it is refused at every level."""

    def misspelt(node: Body, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        found = [path]
        for key, value in node.items():
            if isinstance(value, dict) and value:
                found += misspelt(value, (*path, key))
        return found

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in misspelt(values, ()):
        if path[-1:] in (("requests",), ("limits",)):
            continue
        wrong: Body = {"misspelt": True}
        for key in reversed(path):
            wrong = {key: wrong}
        assert "misspelt" in helm.refused(wrong), path
