"""The definitions in `crds/` state the limits of the model, so the command line refuses what the API would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from presence.model import kinds, labels

CRDS = Path(__file__).resolve().parents[3] / "crds"


def definition(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return found


def field(plural: str, path: str) -> dict[str, Any]:
    node: dict[str, Any] = definition(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for part in path.split("."):
        node = node["properties"][part]
    return node


@pytest.mark.parametrize(
    ("plural", "path", "limit"),
    [
        (kinds.CLAIM_PLURAL, "spec.resource", kinds.RESOURCE_MAX),
        (kinds.CLAIM_PLURAL, "spec.session", kinds.SESSION_MAX),
        (kinds.CLAIM_PLURAL, "spec.purpose", kinds.PURPOSE_MAX),
        (kinds.CLAIM_PLURAL, "spec.holder.user", kinds.USER_MAX),
        (kinds.CLAIM_PLURAL, "spec.holder.host", kinds.HOST_MAX),
        (kinds.CLAIM_PLURAL, "spec.holder.agent", kinds.AGENT_MAX),
        (kinds.CLAIM_PLURAL, "spec.holder.url", kinds.URL_MAX),
        (kinds.CLAIM_PLURAL, "spec.release.by", kinds.SESSION_MAX),
        (kinds.CLAIM_PLURAL, "spec.release.to", kinds.SESSION_MAX),
        (kinds.CLAIM_PLURAL, "spec.release.user", kinds.USER_MAX),
        (kinds.CLAIM_PLURAL, "spec.release.reason", kinds.REASON_MAX),
        (kinds.SESSION_PLURAL, "spec.sessionId", kinds.SESSION_MAX),
        (kinds.SESSION_PLURAL, "spec.user", kinds.USER_MAX),
        (kinds.SESSION_PLURAL, "spec.host", kinds.HOST_MAX),
        (kinds.SESSION_PLURAL, "spec.agent", kinds.AGENT_MAX),
        (kinds.SESSION_PLURAL, "spec.url", kinds.URL_MAX),
    ],
)
def test_lengths_are_the_models(plural: str, path: str, limit: int) -> None:
    assert field(plural, path)["maxLength"] == limit


def test_labels_have_the_models_patterns() -> None:
    rules = [each["rule"] for each in field(kinds.CLAIM_PLURAL, "spec.resource")["x-kubernetes-validations"]]

    assert f"self.matches(r'{labels.PATTERN}')" in rules
    assert f"!self.startsWith('pvc:') || self.matches(r'{labels.PVC_PATTERN}')" in rules


def test_every_agreed_type_is_explained() -> None:
    text = field(kinds.CLAIM_PLURAL, "spec.resource")["description"]

    assert [kind for kind in labels.KNOWN_TYPES if kind not in text] == []


def test_defaults_are_the_models() -> None:
    assert field(kinds.CLAIM_PLURAL, "spec.holder.agent")["default"] == kinds.DEFAULT_AGENT
    assert field(kinds.CLAIM_PLURAL, "spec.mode")["default"] == kinds.SHARED
    assert field(kinds.CLAIM_PLURAL, "spec.onExpiry")["default"] == kinds.ON_EXPIRY_RELEASE
    assert field(kinds.SESSION_PLURAL, "spec.heartbeatSeconds")["default"] == kinds.DEFAULT_HEARTBEAT_SECONDS
    assert field(kinds.SESSION_PLURAL, "spec.state")["default"] == kinds.RUNNING
    assert field(kinds.SESSION_PLURAL, "spec.kind")["default"] == kinds.AGENT


def test_the_words_for_phases_states_and_kinds_are_the_models() -> None:
    claim = set(field(kinds.CLAIM_PLURAL, "status.phase")["enum"])
    session = set(field(kinds.SESSION_PLURAL, "status.phase")["enum"])

    assert set(field(kinds.CLAIM_PLURAL, "spec.mode")["enum"]) == {kinds.SHARED, kinds.EXCLUSIVE}
    assert set(field(kinds.CLAIM_PLURAL, "spec.onExpiry")["enum"]) == {
        kinds.ON_EXPIRY_RELEASE,
        kinds.ON_EXPIRY_HOLD,
    }
    assert claim == {kinds.PENDING, kinds.ACTIVE, *kinds.ENDED_PHASES}
    assert session == {kinds.ACTIVE, kinds.STALE, kinds.PAUSED, *kinds.ENDED_SESSION_PHASES}
    assert set(field(kinds.SESSION_PLURAL, "spec.state")["enum"]) == {kinds.RUNNING, kinds.PAUSED, kinds.COMPLETED}
    assert set(field(kinds.SESSION_PLURAL, "spec.kind")["enum"]) == {kinds.AGENT, kinds.PIPELINE, kinds.HUMAN}


@pytest.mark.parametrize(
    ("plural", "kind"), [(kinds.CLAIM_PLURAL, kinds.CLAIM_KIND), (kinds.SESSION_PLURAL, kinds.SESSION_KIND)]
)
def test_names_are_the_models(plural: str, kind: str) -> None:
    spec = definition(plural)["spec"]

    assert (spec["group"], spec["names"]["plural"], spec["names"]["kind"]) == (kinds.GROUP, plural, kind)
    assert [version["name"] for version in spec["versions"]] == [kinds.VERSION]


@pytest.mark.parametrize("plural", [kinds.CLAIM_PLURAL, kinds.SESSION_PLURAL])
def test_default_ttl_of_the_description_is_the_models(plural: str) -> None:
    text = definition(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"]

    assert kinds.DEFAULT_TTL == 15 * 60
    assert "15m when absent" in text
