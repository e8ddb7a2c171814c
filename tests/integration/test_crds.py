"""What the real API server accepts, refuses and shows of claims and sessions, without any operator."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from presence.model import kinds
from support.kube import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devcluster import Cluster
    from support.kube import Board, Kube

    Body = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "crds"
CLAIMS, SESSIONS = kinds.CLAIM_PLURAL, kinds.SESSION_PLURAL

CLAIM: Body = {
    "apiVersion": kinds.API_VERSION,
    "kind": kinds.CLAIM_KIND,
    "metadata": {"name": "a-claim"},
    "spec": {
        "resource": "stack:vault",
        "session": "alice@laptop@a1b2c3d4",
        "holder": {"user": "alice", "host": "laptop"},
        "purpose": "rotate the unseal keys",
    },
}
SESSION: Body = {
    "apiVersion": kinds.API_VERSION,
    "kind": kinds.SESSION_KIND,
    "metadata": {"name": "a-session"},
    "spec": {"sessionId": "alice@laptop@a1b2c3d4"},
}
WHOLE_CLAIM_STATUS: Body = {
    "phase": "Active",
    "grantedAt": "2026-01-01T10:00:00Z",
    "expiresAt": "2026-01-01T10:15:00Z",
    "observedGeneration": 1,
    "conflictsWith": [{"name": "other", "session": "bob@pc", "since": "2026-01-01T09:59:00Z"}],
    "conditions": [
        {
            "type": "Granted",
            "status": "True",
            "reason": "Granted",
            "message": "",
            "lastTransitionTime": "2026-01-01T10:00:00Z",
            "observedGeneration": 1,
        }
    ],
}
ABSENT = object()


def with_field(body: Body, path: str, value: Any) -> Body:
    """A copy of `body` with one field set, or taken away when `value` is ABSENT."""
    changed = copy.deepcopy(body)
    *parents, last = path.split(".")
    node = changed
    for parent in parents:
        node = node.setdefault(parent, {})
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    return changed


class Api:
    """The two kinds in one namespace. `try_*` changes nothing."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._base = f"/apis/{kinds.API_VERSION}/namespaces/{namespace}"

    def try_create(self, body: Body) -> Body:
        plural = CLAIMS if body["kind"] == kinds.CLAIM_KIND else SESSIONS
        return self._kube.request("POST", f"{self._base}/{plural}", body, dryRun="All", fieldValidation="Strict")

    def create(self, body: Body) -> Body:
        plural = CLAIMS if body["kind"] == kinds.CLAIM_KIND else SESSIONS
        return self._kube.request("POST", f"{self._base}/{plural}", body, fieldValidation="Strict")

    def patch(self, plural: str, name: str, body: Body, subresource: str = "") -> Body:
        return self._kube.request(
            "PATCH", f"{self._base}/{plural}/{name}{subresource}", body, "application/merge-patch+json"
        )

    def refusal(self, action: Callable[[], Any]) -> tuple[list[str], str]:
        """The fields at fault and the whole message of an action that must be refused as invalid."""
        with pytest.raises(ApiError) as caught:
            action()
        assert caught.value.status == 422, caught.value
        causes = caught.value.body["details"]["causes"]
        return [each["field"] for each in causes], " | ".join(each["message"] for each in causes)


@pytest.fixture
def api(kube: Kube, namespace: str) -> Api:
    return Api(kube, namespace)


@pytest.fixture
def kubectl(cluster: Cluster, namespace: str) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(cluster.kubectl), "--namespace", namespace, *arguments],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


# --- what is accepted


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.resource", "node:k8s-node1"),
        ("spec.resource", "pvc:monitoring/prom-data"),
        ("spec.resource", "repo:github.com/acme/shop"),
        ("spec.resource", "service:My_App.v2"),
        ("spec.resource", "a:" + "x" * 253),
        ("spec.session", "s"),
        ("spec.session", "ü" * 128),
        ("spec.purpose", "größer machen 🙂, siehe \"Plan\" <b>x</b> & 'y'"),
        ("spec.purpose", "x" * 1024),
        ("spec.holder.url", "https://ci.example.com/repos/7/pipeline/42?x=%20#log"),
        ("spec.holder.url", "http://10.0.0.1:3000/"),
        ("spec.released", True),
        ("spec.mode", "Exclusive"),
        ("spec.onExpiry", "Hold"),
        ("metadata.annotations", {"presence.dev/ttl": "90s"}),
    ],
)
def test_a_good_claim_is_accepted(api: Api, path: str, value: Any) -> None:
    api.try_create(with_field(CLAIM, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.kind", "Pipeline"),
        ("spec.state", "Paused"),
        ("spec.heartbeatSeconds", 5),
        ("spec.heartbeatSeconds", 3600),
        ("spec.model", ""),
        ("spec.project", "/home/alice/my project"),
        ("spec.url", "https://ci.example.com/42"),
    ],
)
def test_a_good_session_is_accepted(api: Api, path: str, value: Any) -> None:
    api.try_create(with_field(SESSION, path, value))


def test_what_is_left_out_has_a_default(api: Api) -> None:
    claim, session = api.try_create(CLAIM), api.try_create(SESSION)

    assert claim["spec"]["holder"]["agent"] == "claude-code"
    assert "released" not in claim["spec"]
    assert (claim["spec"]["mode"], claim["spec"]["onExpiry"]) == ("Shared", "Release")
    assert {key: session["spec"][key] for key in ("kind", "state", "heartbeatSeconds")} == {
        "kind": "Agent",
        "state": "Running",
        "heartbeatSeconds": 30,
    }


def examples() -> Iterator[Any]:
    for path in sorted((CRDS / "examples").glob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            yield pytest.param(body, id=f"{path.stem}-{body['metadata']['name']}")


@pytest.mark.parametrize("body", list(examples()))
def test_the_examples_are_accepted(api: Api, body: Body) -> None:
    api.try_create(body)


# --- what is refused, and what the refusal says

TYPE_HINT = "write for example node, host, stack, service, db, pvc or infra"
ONE_LINE = "write one line without control characters"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("spec.resource", "vault", "write <type>:<name>, for example service:my-app"),
        ("spec.resource", "", "write <type>:<name>, for example service:my-app"),
        ("spec.resource", "Stack:vault", TYPE_HINT),
        ("spec.resource", ":vault", TYPE_HINT),
        ("spec.resource", "9stack:vault", TYPE_HINT),
        ("spec.resource", "x" * 32 + ":vault", TYPE_HINT),
        ("spec.resource", "stack:", "the name after the colon is missing: write for example service:my-app"),
        ("spec.resource", "stack:-vault", "the name after the colon begins with a letter or digit"),
        ("spec.resource", "stack:my vault", "holds letters, digits and . _ / @ : + ~ # = - only"),
        ("spec.resource", "stack:vault\n", "holds letters, digits and . _ / @ : + ~ # = - only"),
        ("spec.resource", "pvc:prom-data", "write pvc:<namespace>/<name>, for example pvc:monitoring/prom-data"),
        ("spec.resource", "pvc:a/b/c", "write pvc:<namespace>/<name>"),
        ("spec.resource", "pvc:Monitoring/prom-data", "write pvc:<namespace>/<name>"),
        ("spec.resource", "a:" + "x" * 254, "Too long: may not be more than 255"),
        ("spec.resource", ABSENT, "Required value"),
        ("spec.session", "", "write its id, for example alice@laptop@a1b2c3d4"),
        ("spec.session", " \u00a0", "write its id, for example alice@laptop@a1b2c3d4"),
        ("spec.session", "a\tb", ONE_LINE),
        ("spec.session", "x" * 129, "Too long: may not be more than 128"),
        ("spec.session", ABSENT, "Required value"),
        ("spec.holder", ABSENT, "Required value"),
        ("spec.holder.user", ABSENT, "Required value"),
        ("spec.holder.user", "", "others must know whom to ask: write a user or service account, for example alice"),
        ("spec.holder.user", "x" * 65, "Too long: may not be more than 64"),
        ("spec.holder.user", "alice\u202egpj", ONE_LINE),
        ("spec.holder.host", ABSENT, "Required value"),
        ("spec.holder.host", "", "write a machine or runner, for example laptop"),
        ("spec.holder.host", "x" * 129, "Too long: may not be more than 128"),
        ("spec.holder.host", "a\x1b[31m", ONE_LINE),
        ("spec.holder.agent", "", "for example claude-code, or leave the field out"),
        ("spec.holder.agent", "x" * 65, "Too long: may not be more than 64"),
        ("spec.holder.url", "ci.example.com/42", "write an address such as https://ci.example.com/repos/7/pipeline/42"),
        ("spec.holder.url", "javascript:alert(1)", "write an address such as https://"),
        ("spec.holder.url", "https://ci.example.com/a b", "write an address such as https://"),
        ("spec.holder.url", "", "or leave the field out"),
        ("spec.purpose", "", "others must know what you do and why: write for example"),
        ("spec.purpose", " \t ", "others must know what you do and why: write for example"),
        ("spec.purpose", "one\ntwo", "put spaces in the place of line breaks and tabs"),
        ("spec.purpose", "red \x1b[31m text", ONE_LINE),
        ("spec.purpose", "x" * 1025, "Too long: may not be more than 1024"),
        ("spec.purpose", ABSENT, "Required value"),
        ("spec.released", "yes", "must be of type boolean"),
        ("spec.mode", "exclusive", 'supported values: "Shared", "Exclusive"'),
        ("spec.onExpiry", "Keep", 'supported values: "Release", "Hold"'),
        ("spec.release", {"by": "bob@pc"}, "set released to true with it"),
    ],
)
def test_a_bad_claim_is_refused_with_what_to_write_instead(api: Api, path: str, value: Any, says: str) -> None:
    fields, message = api.refusal(lambda: api.try_create(with_field(CLAIM, path, value)))

    assert path in fields
    assert says in message


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("spec.sessionId", ABSENT, "Required value"),
        ("spec.sessionId", "  ", "a session has an id: write for example alice@laptop@a1b2c3d4"),
        ("spec.sessionId", "a\rb", ONE_LINE),
        ("spec.sessionId", "x" * 129, "Too long: may not be more than 128"),
        ("spec.kind", "Robot", 'supported values: "Agent", "Pipeline", "Human"'),
        ("spec.state", "Stopped", 'supported values: "Running", "Paused", "Completed"'),
        ("spec.heartbeatSeconds", 4, "greater than or equal to 5"),
        ("spec.heartbeatSeconds", 3601, "less than or equal to 3600"),
        ("spec.user", "a\nb", ONE_LINE),
        ("spec.host", "a\u2066b", ONE_LINE),
        ("spec.agent", "a\x00b", ONE_LINE),
        ("spec.model", "x" * 129, "Too long: may not be more than 128"),
        ("spec.project", "x" * 1025, "Too long: may not be more than 1024"),
        ("spec.url", "ftp://x", "write an address such as https://ci.example.com/repos/7/pipeline/42"),
    ],
)
def test_a_bad_session_is_refused_with_what_to_write_instead(api: Api, path: str, value: Any, says: str) -> None:
    fields, message = api.refusal(lambda: api.try_create(with_field(SESSION, path, value)))

    assert path in fields
    assert says in message


def test_a_misspelt_field_is_refused(api: Api) -> None:
    with pytest.raises(ApiError, match=r"unknown field .spec\.purpos"):
        api.try_create(with_field(CLAIM, "spec.purpos", "x"))


# --- what never changes


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("spec.resource", "stack:other", "release this claim and claim the other resource"),
        ("spec.session", "bob@pc", "the other session makes a claim of its own"),
        ("spec.mode", "Exclusive", "make one in the other mode"),
    ],
)
def test_the_identity_of_a_claim_never_changes(api: Api, path: str, value: str, says: str) -> None:
    api.create(CLAIM)

    fields, message = api.refusal(lambda: api.patch(CLAIMS, "a-claim", with_field({}, path, value)))

    assert fields == [path]
    assert says in message


def test_the_id_of_a_session_never_changes(api: Api) -> None:
    api.create(SESSION)

    fields, message = api.refusal(lambda: api.patch(SESSIONS, "a-session", {"spec": {"sessionId": "bob@pc"}}))

    assert fields == ["spec.sessionId"]
    assert "make another AgentSession" in message


def test_purpose_and_holder_may_change(api: Api) -> None:
    api.create(CLAIM)

    changed = api.patch(
        CLAIMS, "a-claim", {"spec": {"purpose": "something else", "holder": {"host": "desk"}, "onExpiry": "Hold"}}
    )

    assert changed["spec"]["purpose"] == "something else"
    assert changed["spec"]["onExpiry"] == "Hold"
    assert changed["spec"]["holder"]["host"] == "desk"


@pytest.mark.parametrize("value", [False, None])
def test_a_released_claim_stays_released(api: Api, value: bool | None) -> None:
    api.create(CLAIM)
    api.patch(CLAIMS, "a-claim", {"spec": {"released": False}})
    api.patch(CLAIMS, "a-claim", {"spec": {"released": True}})

    fields, message = api.refusal(lambda: api.patch(CLAIMS, "a-claim", {"spec": {"released": value}}))

    assert fields == ["spec.released"]
    assert "delete it and make a new claim" in message


def test_who_let_go_and_why_is_said_once_and_stays(api: Api) -> None:
    said = {"by": "bob@pc", "user": "bob", "reason": "alice is on holiday", "forced": True, "to": "bob@pc"}
    api.create(CLAIM)

    fields, message = api.refusal(lambda: api.patch(CLAIMS, "a-claim", {"spec": {"release": said}}))
    assert (fields, "set released to true with it" in message) == (["spec.release"], True)

    api.patch(CLAIMS, "a-claim", {"spec": {"released": True, "release": said}})
    for other in ({"reason": "no reason"}, None):
        fields, message = api.refusal(partial(api.patch, CLAIMS, "a-claim", {"spec": {"release": other}}))
        assert (fields, "stays as it was" in message) == (["spec.release"], True)


def test_who_let_go_can_be_said_after_the_release(api: Api) -> None:
    api.create(CLAIM)
    api.patch(CLAIMS, "a-claim", {"spec": {"released": True}})

    changed = api.patch(CLAIMS, "a-claim", {"spec": {"release": {"by": "bob@pc"}}})

    assert changed["spec"]["release"] == {"by": "bob@pc"}


@pytest.mark.parametrize("value", ["Running", "Paused", None])
def test_a_completed_session_stays_completed(api: Api, value: str | None) -> None:
    api.create(SESSION)
    api.patch(SESSIONS, "a-session", {"spec": {"state": "Paused"}})
    api.patch(SESSIONS, "a-session", {"spec": {"state": "Running"}})
    api.patch(SESSIONS, "a-session", {"spec": {"state": "Completed"}})

    fields, message = api.refusal(lambda: api.patch(SESSIONS, "a-session", {"spec": {"state": value}}))

    assert fields == ["spec.state"]
    assert "begin a new session" in message


@pytest.mark.parametrize("status", [{"phase": "Active"}, {"phase": "Released"}, {"phase": None}, None])
def test_an_expired_claim_never_lives_again(api: Api, status: Body | None) -> None:
    api.create(CLAIM)
    for phase in ("Pending", "Active", "Expired"):
        api.patch(CLAIMS, "a-claim", {"status": {"phase": phase}}, "/status")

    fields, message = api.refusal(lambda: api.patch(CLAIMS, "a-claim", {"status": status}, "/status"))

    assert fields == ["status.phase"]
    assert "delete it and make a new claim" in message
    ended = api.patch(CLAIMS, "a-claim", {"status": {"endedAt": "2026-01-01T10:00:00Z"}}, "/status")
    assert ended["status"]["phase"] == "Expired"


@pytest.mark.parametrize("end", ["Completed", "Expired"])
def test_an_ended_session_never_lives_again(api: Api, end: str) -> None:
    api.create(SESSION)
    for phase in ("Active", "Stale", "Paused", "Active", end):
        api.patch(SESSIONS, "a-session", {"status": {"phase": phase}}, "/status")

    for status in ({"phase": "Active"}, None):
        change: Body = {"status": status}
        fields, message = api.refusal(partial(api.patch, SESSIONS, "a-session", change, "/status"))
        assert fields == ["status.phase"]
        assert "begin a new session" in message


# --- the status


def test_the_status_is_written_apart_from_the_spec(api: Api) -> None:
    made = api.create({**CLAIM, "status": {"phase": "Active"}})
    assert "status" not in made

    shown = api.patch(CLAIMS, "a-claim", {"status": WHOLE_CLAIM_STATUS, "spec": {"purpose": "sneaked in"}}, "/status")
    assert shown["status"] == WHOLE_CLAIM_STATUS
    assert shown["spec"]["purpose"] == CLAIM["spec"]["purpose"]
    assert shown["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status.phase", "Alive"),
        ("status.expiresAt", "tomorrow"),
        ("status.conditions", [{"type": "Granted", "status": "Maybe"}]),
        ("status.conflictsWith", WHOLE_CLAIM_STATUS["conflictsWith"] * 11),
        ("status.conflictsWith", [{"name": "other"}]),
        ("status.waitingFor", WHOLE_CLAIM_STATUS["conflictsWith"] * 11),
        ("status.queuePosition", 0),
        ("status.fencingToken", "12"),
    ],
)
def test_a_wrong_status_is_refused(api: Api, path: str, value: Any) -> None:
    api.create(CLAIM)

    api.refusal(lambda: api.patch(CLAIMS, "a-claim", with_field({}, path, value), "/status"))


# --- what users of kubectl see


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("spec.resource=stack:vault", ["vault-a", "vault-b", "vault-c"]),
        ("spec.resource=stack:vault,spec.session=a@h", ["vault-a"]),
        ("spec.session=a@h", ["consul-a", "vault-a"]),
        ("status.phase=Active", ["vault-b"]),
        ("spec.mode=Exclusive,spec.resource=stack:vault", ["vault-c"]),
        ("status.phase!=Active,spec.resource=stack:vault", ["vault-a", "vault-c"]),
    ],
)
def test_claims_are_selected_by_resource_session_and_phase(
    api: Api, board: Board, kubectl: Callable[..., str], selector: str, found: list[str]
) -> None:
    board.claim("stack:vault", "a@h", name="vault-a")
    board.claim("stack:vault", "b@h", name="vault-b")
    board.claim("stack:vault", "c@h", name="vault-c", mode="Exclusive")
    board.claim("stack:consul", "a@h", name="consul-a")
    api.patch(CLAIMS, "vault-b", {"status": {"phase": "Active"}}, "/status")

    listed = kubectl("get", "pclaim", "--field-selector", selector, "-o", "name").split()

    assert sorted(line.partition("/")[2] for line in listed) == found


@pytest.mark.parametrize(
    ("selector", "found"),
    [("spec.sessionId=a@h", ["a"]), ("spec.state=Paused", ["b"]), ("status.phase=Active", ["a"])],
)
def test_sessions_are_selected_by_id_state_and_phase(
    api: Api, kubectl: Callable[..., str], selector: str, found: list[str]
) -> None:
    for name, state in (("a", "Running"), ("b", "Paused")):
        body = with_field(SESSION, "metadata.name", name)
        body["spec"] = {"sessionId": f"{name}@h", "state": state}
        api.create(body)
    api.patch(SESSIONS, "a", {"status": {"phase": "Active"}}, "/status")

    listed = kubectl("get", "psession", "--field-selector", selector, "-o", "name").split()

    assert [line.partition("/")[2] for line in listed] == found


def rows(table: str) -> list[list[str]]:
    """The cells of a kubectl table, cut at its headings."""
    head, *lines = table.splitlines()
    starts = [index for index, char in enumerate(head) if char != " " and (index == 0 or head[index - 1] == " ")]
    return [
        [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        for line in [head, *lines]
    ]


def test_kubectl_shows_who_has_what_until_when(api: Api, kubectl: Callable[..., str]) -> None:
    api.create(CLAIM)
    api.patch(CLAIMS, "a-claim", {"status": WHOLE_CLAIM_STATUS}, "/status")

    head, row = rows(kubectl("get", "presenceclaims"))
    assert head == ["NAME", "RESOURCE", "MODE", "SESSION", "PHASE", "EXPIRES", "AGE"]
    assert row[:-1] == ["a-claim", "stack:vault", "Shared", "alice@laptop@a1b2c3d4", "Active", "2026-01-01T10:15:00Z"]
    assert "<" not in row[-1]

    head, row = rows(kubectl("get", "pclaim", "-o", "wide"))
    assert head[7:] == ["PURPOSE", "HOLDER", "TOKEN", "QUEUE"]
    assert row[7:] == ["rotate the unseal keys", "alice", "", ""]


def test_kubectl_shows_who_is_there(api: Api, kubectl: Callable[..., str]) -> None:
    spec = {"sessionId": "s1", "user": "alice", "host": "laptop", "agent": "claude-code", "project": "infra"}
    api.create({**SESSION, "spec": spec})
    status = {"phase": "Active", "activeClaims": 2, "expiresAt": "2026-01-01T10:15:00Z"}
    api.patch(SESSIONS, "a-session", {"status": status}, "/status")

    head, row = rows(kubectl("get", "agentsessions"))
    assert head == ["NAME", "SESSION", "KIND", "PHASE", "CLAIMS", "EXPIRES", "AGE"]
    assert row[:-1] == ["a-session", "s1", "Agent", "Active", "2", "2026-01-01T10:15:00Z"]

    head, row = rows(kubectl("get", "psession", "-o", "wide"))
    assert head[7:] == ["USER", "HOST", "AGENT", "PROJECT"]
    assert row[7:] == ["alice", "laptop", "claude-code", "infra"]


def test_one_word_shows_the_whole_board(api: Api, kubectl: Callable[..., str]) -> None:
    api.create(CLAIM)
    api.create(SESSION)

    listed = kubectl("get", "presence", "-o", "name").split()

    assert sorted(listed) == ["agentsession.presence.dev/a-session", "presenceclaim.presence.dev/a-claim"]


def test_kubectl_waits_for_a_condition(api: Api, kubectl: Callable[..., str]) -> None:
    api.create(CLAIM)
    api.patch(CLAIMS, "a-claim", {"status": WHOLE_CLAIM_STATUS}, "/status")

    kubectl("wait", "--for=condition=Granted", "--timeout=5s", "pclaim/a-claim")


def objects(node: Body, path: str) -> Iterator[tuple[str, Body]]:
    """Every object of a schema with its path, as kubectl explain names it."""
    yield path, node
    for name, child in (node.get("properties") or {}).items():
        inner = child.get("items", child)
        if inner.get("properties"):
            yield from objects(inner, f"{path}.{name}")


@pytest.mark.parametrize("plural", [CLAIMS, SESSIONS])
def test_kubectl_explains_every_field(kubectl: Callable[..., str], plural: str) -> None:
    definition = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    for path, node in objects(schema, definition["spec"]["names"]["singular"]):
        shown = " ".join(kubectl("explain", path).split())
        assert " ".join(node["description"].split()) in shown
        for name, child in node["properties"].items():
            if "." not in path and name in ("apiVersion", "kind", "metadata"):
                continue  # Kubernetes describes these itself
            assert " ".join(child.get("description", f"{path}.{name} has no description").split()) in shown


def test_the_server_took_the_definitions_without_a_complaint(kube: Kube) -> None:
    for plural in (CLAIMS, SESSIONS):
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{kinds.GROUP}"
        conditions = {each["type"]: each["status"] for each in kube.request("GET", path)["status"]["conditions"]}
        assert conditions.get("Established") == "True", json.dumps(conditions)
        assert "NonStructuralSchema" not in conditions
