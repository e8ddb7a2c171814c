"""The pipelines in examples/ do what they say: each is run with its CI system's variables, as its ServiceAccount."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from presence.model import kinds
from presence.model.names import claim_name
from support.kube import Board, phase_of
from support.operator import OperatorProcess
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from devcluster import Cluster
    from support.kube import Body, Kube

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SCHEMAS = {
    "woodpecker/*.yaml": "vendor.woodpecker-ci",
    "github-actions/apply.yaml": "vendor.github-workflows",
    "gitlab-ci/.gitlab-ci.yml": "vendor.gitlab-ci",
}
WOODPECKER = {
    "CI": "woodpecker",
    "CI_REPO": "infra/vault",
    "CI_PIPELINE_NUMBER": "812",
    "CI_WORKFLOW_NAME": "apply",
    "CI_PIPELINE_URL": "https://ci.example.org/repos/7/pipeline/812",
    "CI_PIPELINE_AUTHOR": "ann",
}
WOODPECKER_ID = "woodpecker:infra/vault#812/apply"
GITHUB = {
    "GITHUB_REPOSITORY": "infra/vault",
    "GITHUB_RUN_ID": "9001",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_JOB": "apply",
    "GITHUB_ACTOR": "ann",
    "GITHUB_REF_NAME": "main",
}
GITLAB = {
    "CI_PROJECT_PATH": "infra/vault",
    "CI_PIPELINE_ID": "4711",
    "CI_JOB_NAME": "apply",
    "CI_JOB_URL": "https://git.example.org/infra/vault/-/jobs/1",
    "GITLAB_USER_LOGIN": "ann",
    "CI_COMMIT_BRANCH": "main",
}
ATLANTIS = {
    "BASE_REPO_OWNER": "infra",
    "BASE_REPO_NAME": "vault",
    "PULL_NUM": "12",
    "REPO_REL_DIR": "live/prod",
    "WORKSPACE": "default",
    "USER_NAME": "ann",
}
MAIN_TF = """
resource "terraform_data" "vault" {
  input = "unsealed"
  # What the board says while Terraform runs.
  provisioner "local-exec" { command = "presence --json peek stack:$LABEL > board.json; env > env.txt" }
}
"""


def files(pattern: str) -> list[Path]:
    found = [each for each in sorted(EXAMPLES.glob(pattern)) if each.name != "rbac.yaml"]
    assert found, pattern
    return found


@pytest.mark.parametrize(
    ("file", "schema"),
    [(each, schema) for pattern, schema in SCHEMAS.items() for each in files(pattern)],
    ids=lambda value: str(value.relative_to(EXAMPLES)) if isinstance(value, Path) else "",
)
def test_the_file_is_what_the_ci_system_says_its_files_are(file: Path, schema: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


class Stage:
    """A board, an operator, a directory with Terraform code, and the account that an example's rbac.yaml makes."""

    def __init__(self, example: str, cluster: Cluster, kube: Kube, namespace: str, directory: Path) -> None:
        self.board = Board(kube, namespace)
        self.directory = directory
        self.home = directory / "home"
        self.work = directory / "work"
        self.log = directory / "output"
        programs = directory / "bin"
        for each in (self.home, self.work, programs):
            each.mkdir()
        (self.work / "main.tf").write_text(MAIN_TF)
        self.kubeconfig = self._account(example, cluster, kube, namespace)
        from devcluster import Toolchain

        (programs / "terraform").symlink_to(Toolchain().terraform())
        (programs / "presence").write_text(f'#!/bin/sh\nexec {sys.executable} -m presence "$@"\n')
        (programs / "presence").chmod(0o755)
        self.env = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT / "cli"),
            "KUBECONFIG": str(self.kubeconfig),
            "PRESENCE_NAMESPACE": namespace,
            "CHECKPOINT_DISABLE": "1",
            "TF_IN_AUTOMATION": "1",
            "LABEL": "vault",
        }

    def _account(self, example: str, cluster: Cluster, kube: Kube, namespace: str) -> Path:
        """What `kubectl apply -f rbac.yaml` does, with the fresh namespace in the place of all that it names."""
        text = (EXAMPLES / example / "rbac.yaml").read_text()
        account = ""
        paths = {"ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts"}
        for body in yaml.safe_load_all(re.sub(r"namespace: \S+", f"namespace: {namespace}", text)):
            path = paths.get(body["kind"], f"/apis/{body['apiVersion']}/namespaces/{{}}/{body['kind'].lower()}s")
            kube.request("POST", path.format(namespace), body)
            if body["kind"] == "ServiceAccount":
                account = body["metadata"]["name"]
        token = kube.request(
            "POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {"spec": {}}
        )  # fmt: skip
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
        file = self.directory / "kubeconfig"
        file.write_text(json.dumps(config))
        return file

    @contextmanager
    def started(self, words: list[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        """A command at work; whatever is left of it is ended with the block, as a container is."""
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                words, cwd=self.work, env={**self.env, **variables}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def run(self, words: list[str], variables: Mapping[str, str], code: int = 0) -> str:
        with self.started(words, variables) as process:
            process.wait(60)
        out = self.log.read_text()
        assert process.returncode == code, f"exit {process.returncode}: {words}\n{out}"
        return out

    def applied(self, holder: str) -> Body:
        """Terraform has done its work, the whole time under a claim of `holder`; that claim as the board shows it."""
        state = json.loads((self.work / "terraform.tfstate").read_text())
        assert state["resources"][0]["instances"][0]["attributes"]["input"]["value"] == "unsealed"
        [row] = json.loads((self.work / "board.json").read_text())
        assert row["session_id"].startswith(holder), row
        [claim] = [each for each in self.board.claims() if each["spec"]["session"] == row["session_id"]]
        assert claim["spec"]["mode"] == kinds.EXCLUSIVE
        return claim

    def applied_under_run(self, holder: str) -> Body:
        claim = self.applied(holder)
        env = dict(
            line.split("=", 1) for line in (self.work / "env.txt").read_text().splitlines() if line.startswith("PRES")
        )
        assert int(env["PRESENCE_FENCING_TOKEN"]) == claim["status"]["fencingToken"]
        self.board.until_phase(claim["metadata"]["name"], kinds.RELEASED)
        return claim

    def nothing_is_left(self) -> None:
        eventually(
            lambda: all(phase_of(each) in kinds.ENDED_PHASES for each in self.board.claims()), "all claims are over"
        )


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path
) -> Iterator[Stage]:
    with OperatorProcess(cluster.kubeconfig, namespace, tmp_path / "operator"):
        yield Stage(request.param, cluster, kube, namespace, tmp_path)


def woodpecker(commands: list[str]) -> list[str]:
    """The way Woodpecker runs a step: variables in ${…} are its own, and commands reach the shell through a pipe."""
    script = "\n".join(commands)
    assert not re.search(r"(?<!\$)\$\{", script), "${…} is Woodpecker's; write $NAME or $${NAME} for the shell"
    text = base64.b64encode(script.replace("$${", "${").encode()).decode()
    return ["/bin/sh", "-c", f"echo {text} | base64 -d | /bin/sh -e"]


def steps_of(name: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in yaml.safe_load((EXAMPLES / "woodpecker" / name).read_text())["steps"]}


@pytest.mark.parametrize("stage", ["woodpecker"], indirect=True)
def test_woodpecker_in_one_line(stage: Stage) -> None:
    [step] = steps_of("run.yaml").values()
    stage.run(woodpecker(step["commands"]), WOODPECKER)
    claim = stage.applied_under_run(WOODPECKER_ID)
    assert claim["spec"]["purpose"] == "apply infra/vault#812"
    assert claim["spec"]["holder"]["url"] == WOODPECKER["CI_PIPELINE_URL"]


@pytest.mark.parametrize("stage", ["woodpecker"], indirect=True)
def test_woodpecker_waits_for_another_repository(stage: Stage) -> None:
    [step] = steps_of("run.yaml").values()
    stage.board.claim("stack:vault", "somebody", mode=kinds.EXCLUSIVE)
    stage.board.until_phase(claim_name("somebody", "stack:vault"), kinds.ACTIVE)
    with stage.started(woodpecker(step["commands"]), WOODPECKER) as waiting:
        eventually(lambda: any(phase_of(each) == kinds.PENDING for each in stage.board.claims()), "the pipeline waits")
        assert not (stage.work / "terraform.tfstate").exists()
        stage.board.release(claim_name("somebody", "stack:vault"))
        assert waiting.wait(60) == 0
    stage.applied_under_run(WOODPECKER_ID)


@pytest.mark.parametrize("stage", ["woodpecker"], indirect=True)
@pytest.mark.parametrize("broken", [False, True], ids=["success", "failure"])
def test_woodpecker_claims_and_releases_whether_or_not_the_apply_works(stage: Stage, broken: bool) -> None:
    steps = steps_of("claim-release.yaml")
    assert steps["release"]["when"] == [{"status": ["success", "failure"]}]
    stage.run(woodpecker(steps["claim"]["commands"]), WOODPECKER)
    name = claim_name(WOODPECKER_ID, "stack:vault")
    assert phase_of(stage.board.get(name)) == kinds.ACTIVE
    if broken:
        (stage.work / "broken.tf").write_text('resource "terraform_data" "x" { lifecycle { precondition {\n'
            'condition = 1 == 2\nerror_message = "no" } } }')  # fmt: skip
    stage.run(woodpecker(steps["apply"]["commands"]), WOODPECKER, code=1 if broken else 0)
    if not broken:
        stage.applied(WOODPECKER_ID)
    assert phase_of(stage.board.get(name)) == kinds.ACTIVE
    stage.run(woodpecker(steps["release"]["commands"]), WOODPECKER)
    stage.board.until_phase(name, kinds.RELEASED)


@pytest.mark.parametrize("stage", ["woodpecker"], indirect=True)
def test_woodpecker_waits_for_another_turn_when_the_claim_ran_out(stage: Stage) -> None:
    steps = steps_of("claim-release.yaml")
    stage.run(woodpecker(steps["claim"]["commands"]), WOODPECKER)
    name = claim_name(WOODPECKER_ID, "stack:vault")
    stage.board.set_ttl(name, "1s")
    stage.board.until_phase(name, kinds.EXPIRED)
    stage.board.claim("stack:vault", "somebody", mode=kinds.EXCLUSIVE)
    stage.board.until_phase(claim_name("somebody", "stack:vault"), kinds.ACTIVE)
    with stage.started(woodpecker(steps["apply"]["commands"]), WOODPECKER) as apply:
        stage.board.until_phase(name, kinds.PENDING)
        assert not (stage.work / "terraform.tfstate").exists()
        stage.board.release(claim_name("somebody", "stack:vault"))
        assert apply.wait(60) == 0
    stage.applied(WOODPECKER_ID)


@pytest.mark.parametrize("stage", ["woodpecker"], indirect=True)
def test_woodpecker_releases_when_the_pipeline_is_cancelled(stage: Stage) -> None:
    steps = steps_of("hold.yaml")
    assert steps["hold"]["detach"] is True
    stage.run(woodpecker(steps["claim"]["commands"]), WOODPECKER)
    name = claim_name(WOODPECKER_ID, "stack:vault")
    before = stage.board.get_session(WOODPECKER_ID)["metadata"]["annotations"][kinds.HEARTBEAT_ANNOTATION]

    def renewed() -> bool:
        now = stage.board.get_session(WOODPECKER_ID)["metadata"]["annotations"][kinds.HEARTBEAT_ANNOTATION]
        return bool(now != before)

    with stage.started(steps["hold"]["entrypoint"], WOODPECKER) as hold:
        eventually(renewed, "the detached step renews the claim")
        # To the first process only, as a container engine does it.
        hold.send_signal(signal.SIGTERM)
        assert hold.wait(20) == 0
    stage.board.until_phase(name, kinds.RELEASED)


@pytest.mark.parametrize("stage", ["github-actions"], indirect=True)
def test_github_actions(stage: Stage) -> None:
    workflow = yaml.safe_load((EXAMPLES / "github-actions" / "apply.yaml").read_text())
    assert workflow[True]["push"]["branches"] == ["main"]  # YAML 1.1 takes the key `on` for a boolean
    _, kubeconfig, apply = workflow["jobs"]["apply"]["steps"]
    runner = stage.directory / "runner"
    runner.mkdir()
    variables = {**GITHUB, "RUNNER_TEMP": str(runner), "GITHUB_ENV": str(runner / "env")}
    assert kubeconfig["env"] == {"KUBECONFIG_TEXT": "${{ secrets.PRESENCE_KUBECONFIG }}"}
    (runner / "1.sh").write_text(kubeconfig["run"])
    (runner / "2.sh").write_text(apply["run"])
    secret = stage.kubeconfig.read_text()
    stage.kubeconfig.unlink()
    # In a container job the runner's default shell is `sh -e`.
    stage.run(["sh", "-e", str(runner / "1.sh")], {**variables, "KUBECONFIG_TEXT": secret, "KUBECONFIG": ""})
    assert (runner / "kubeconfig").stat().st_mode & 0o077 == 0
    [(name, _, value)] = [line.partition("=") for line in (runner / "env").read_text().splitlines()]
    stage.run(["sh", "-e", str(runner / "2.sh")], {**variables, name: value})
    claim = stage.applied_under_run("github:infra/vault#9001.2/apply")
    assert claim["spec"]["holder"]["url"] == "https://github.com/infra/vault/actions/runs/9001/attempts/2"


@pytest.mark.parametrize("stage", ["gitlab-ci"], indirect=True)
def test_gitlab(stage: Stage) -> None:
    job = yaml.safe_load((EXAMPLES / "gitlab-ci" / ".gitlab-ci.yml").read_text())["apply"]
    assert job["variables"] == {"KUBECONFIG": "$PRESENCE_KUBECONFIG"}
    script = "set -eo pipefail\n" + "\n".join(job["script"])
    stage.run(["bash", "-c", script], GITLAB)
    stage.applied_under_run("gitlab:infra/vault#4711/apply")


@pytest.mark.parametrize("stage", ["atlantis"], indirect=True)
def test_atlantis(stage: Stage) -> None:
    workflow = yaml.safe_load((EXAMPLES / "atlantis" / "repos.yaml").read_text())["workflows"]["presence"]
    variables = {**ATLANTIS, "PLANFILE": str(stage.work / "default.tfplan"), "LABEL": "vault/live/prod"}
    assert workflow["plan"]["steps"] == ["init", "plan"]
    stage.run(["terraform", "init", "-input=false"], variables)
    stage.run(["terraform", "plan", "-input=false", "-out", variables["PLANFILE"]], variables)
    for step in workflow["apply"]["steps"]:
        if "env" in step:
            value = step["env"].get("value") or stage.run(["sh", "-c", step["env"]["command"]], variables).strip()
            variables[step["env"]["name"]] = value
        else:
            stage.run(["sh", "-c", step["run"]], variables)
    claim = stage.applied_under_run("atlantis:infra/vault#12/live/prod/default")
    assert claim["spec"]["purpose"] == "apply infra/vault#12 by ann"
    assert claim["spec"]["resource"] == "stack:vault/live/prod"


@pytest.mark.parametrize("stage", ["terraform-wrapper"], indirect=True)
def test_the_wrapper_claims_for_what_changes_something(stage: Stage) -> None:
    wrapper = str(EXAMPLES / "terraform-wrapper" / "terraform-claimed")
    stage.run([wrapper, "stack:vault", "init", "-input=false"], {})
    stage.run([wrapper, "stack:vault", "plan", "-input=false"], {})
    assert stage.board.claims() == []
    stage.run([wrapper, "stack:vault", "apply", "-input=false", "-auto-approve"], {"PRESENCE_SESSION": "ann"})
    stage.applied_under_run("ann")
    assert "usage" in stage.run([wrapper, "apply"], {}, code=2)


def test_every_folder_brings_its_rights_and_is_on_the_page() -> None:
    page = (EXAMPLES / "README.md").read_text()
    folders = [each.parent for each in EXAMPLES.glob("*/rbac.yaml")]
    assert len(folders) == 5
    for folder in folders:
        assert f"`{folder.name}/`" in page
        kinds_found = [body["kind"] for body in yaml.safe_load_all((folder / "rbac.yaml").read_text())]
        assert kinds_found == ["ServiceAccount", "Role", "RoleBinding"]
        roles = [
            body["rules"] for body in yaml.safe_load_all((folder / "rbac.yaml").read_text()) if body["kind"] == "Role"
        ]
        assert all(rule["apiGroups"] == [kinds.GROUP] for rule in roles[0])
