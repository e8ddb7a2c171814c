"""The Terraform module without a cluster: well-formed, helpful with wrong inputs, one in the schema's hash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from devcluster import Toolchain, terraform
from support.terraform import ROOT, Terraform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = "registry.example.com/presence-operator:0.1.0"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return terraform.environment(Toolchain())


@pytest.fixture(scope="module")
def module(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    tree = tmp_path_factory.mktemp("terraform") / "tree"
    return Terraform(Toolchain().terraform(), tree, env=environment, image=IMAGE).init()


@pytest.fixture
def planned(module: Terraform) -> Callable[..., Any]:
    """What a plan with the given variables says; none of them reaches a cluster."""

    def plan(**variables: Any) -> Any:
        before = module.variables
        module.variables = {**before, **variables}
        try:
            return module("plan", "-input=false", "-no-color", "-refresh=false", code=None)
        finally:
            module.variables = before

    return plan


def test_it_is_formatted(module: Terraform) -> None:
    module("fmt", "-check", "-recursive", "-diff", str(ROOT / "terraform"))


@pytest.mark.parametrize("configuration", [".", "examples/minimal", "examples/existing-dolt"])
def test_it_is_valid(module: Terraform, environment: dict[str, str], configuration: str) -> None:
    part = Terraform(Toolchain().terraform(), module.tree, configuration, env=environment, image=IMAGE).init()

    assert json.loads(part("validate", "-json").output)["diagnostics"] == []


def test_opentofu_takes_it_too(environment: dict[str, str], tmp_path: Path) -> None:
    tofu = Toolchain().find("tofu")
    if tofu is None:
        pytest.skip("tofu is not built: python3 tools/devcluster/__main__.py build tofu")
    part = Terraform(tofu, tmp_path / "tree", "examples/minimal", env=environment, image=IMAGE).init()

    assert json.loads(part("validate", "-json").output)["diagnostics"] == []


def test_a_module_without_its_repository_says_how_to_name_its_source(
    environment: dict[str, str], tmp_path: Path
) -> None:
    alone = Terraform(Toolchain().terraform(), tmp_path / "tree", env=environment, image=IMAGE).init()
    shutil.rmtree(alone.migrations)

    result = alone("plan", "-input=false", "-no-color", "-refresh=false", code=None)

    assert result.code == 1
    assert "The module needs the rest of its repository. Write the source as a relative path" in result.text


def test_the_hash_is_the_operators(module: Terraform) -> None:
    last = len(list(module.migrations.glob("*.sql")))
    added = module.migrations / f"{last + 1:04d}_later.sql"
    added.write_text("CREATE TABLE `größer` (a INT);\n")
    try:
        shown = module("console", stdin="local.schema_hash\n").output
        printed = subprocess.run(
            [sys.executable, "-m", "presence_operator", "migrate", "--print-hash", "--migrations", module.migrations],
            capture_output=True, text=True, timeout=30, check=False,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'cli'}"},
        )  # fmt: skip
    finally:
        added.unlink()

    assert printed.returncode == 0, printed.stderr
    assert shown.strip().strip('"') == printed.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"image": ""}, "Write an image reference such as registry.example.com/presence-operator:0.1.0."),
        ({"image": "a b"}, "Write an image reference"),
        ({"namespace": "My_Board"}, "write for example presence."),
        ({"namespace": "x" * 64}, "A namespace has at most 63"),
        ({"dsn": "root@host/db"}, "Write mysql://<user>:<password>@<host>:3306/<database>"),
        ({"dsn": "mysql://host"}, "Write mysql://<user>:<password>@<host>:3306/<database>"),
        ({"dsn_secret": {"name": "No Good"}}, "write for example presence-dsn."),
        ({"dsn_secret": {"key": "a b"}}, "write for example PRESENCE_DSN."),
        ({"job_timeout_seconds": 5}, "Write whole seconds between 10 and 3600."),
        ({"job_timeout_seconds": 60.5}, "Write whole seconds between 10 and 3600."),
        ({"backoff_limit": -1}, "Write a whole number between 0 and 20."),
        ({"image_pull_policy": "Sometimes"}, "Write Always, IfNotPresent or Never."),
        ({"migrations_dir": "/nowhere"}, "The directory holds no *.sql file"),
        ({"labels": {"team": "not a label!"}}, "The value of a label has at most 63"),
    ],
)
def test_a_bad_input_is_refused_with_what_to_write_instead(
    planned: Callable[..., Any], variables: dict[str, Any], says: str
) -> None:
    result = planned(**variables)

    assert result.code == 1
    assert says in result.text


def test_the_password_is_not_shown(planned: Callable[..., Any]) -> None:
    result = planned(dsn="mysql://presence:hunter2@dolt:3306/beads")

    assert result.code == 0, result
    assert "hunter2" not in result.output
    assert "aHVudGVyM" not in result.output


def test_whoever_does_not_wait_needs_no_gate(planned: Callable[..., Any]) -> None:
    waiting, hasty = planned(), planned(wait_for_completion=False)

    assert waiting.code == hasty.code == 0, hasty
    assert "kubectl_manifest.gate" in waiting.text
    assert "kubectl_manifest.gate" not in hasty.text
    assert "kubectl_manifest.job" in hasty.text


def test_further_pod_settings_are_taken(planned: Callable[..., Any]) -> None:
    result = planned(
        node_selector={"pool": "infra"},
        tolerations=[{"key": "dedicated", "operator": "Exists"}],
        image_pull_secrets=["registry"],
        extra_pod_spec={"priorityClassName": "system-cluster-critical", "hostAliases": [{"ip": "10.0.0.1"}]},
    )

    assert result.code == 0, result
    for text in (
        "nodeSelector: + pool: infra",
        "tolerations: + - key: dedicated + operator: Exists",
        "imagePullSecrets: + - name: registry",
        "priorityClassName: system-cluster-critical",
        "hostAliases: + - ip: 10.0.0.1",
    ):
        assert "".join(text.split()).replace("+", "") in "".join(result.text.split()).replace("+", "")


def blocks(kind: str) -> set[str]:
    text = "".join(path.read_text() for path in sorted((ROOT / "terraform").glob("*.tf")))
    return set(re.findall(rf'^{kind} "([a-z_]+)" {{', text, re.MULTILINE))


@pytest.mark.parametrize(("kind", "title"), [("variable", "Inputs"), ("output", "Outputs")])
def test_the_readme_lists_every_input_and_output(kind: str, title: str) -> None:
    text = (ROOT / "terraform" / "README.md").read_text()
    section = text.partition(f"## {title}")[2].partition("\n## ")[0]

    assert set(re.findall(r"^\| `([a-z_]+)`", section, re.MULTILINE)) == blocks(kind)


def test_every_input_and_output_is_described(module: Terraform) -> None:
    text = "".join((ROOT / "terraform" / name).read_text() for name in ("variables.tf", "outputs.tf"))
    parts = re.split(r"^(?=variable |output )", text, flags=re.MULTILINE)[1:]

    assert [part.split()[1] for part in parts if not re.search(r'^  description += ".{20,}"', part, re.MULTILINE)] == []
