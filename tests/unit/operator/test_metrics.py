"""The figures that Prometheus reads."""

from __future__ import annotations

import random
import string
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from presence.model.labels import KNOWN_TYPES
from presence.model.times import parse_time
from presence_operator import board_metrics
from presence_operator import metrics as module
from presence_operator.core.facts import Bounds, Claim, Session, parse_claim, parse_session
from presence_operator.core.limits import Limit
from presence_operator.metrics import Metrics, outcome_of_status

if TYPE_CHECKING:
    from collections.abc import Mapping


#: Two hours after the claims of these tests were made, by the API server's clock.
LATER = parse_time("2026-11-20T12:00:00Z")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def claim(resource: str, phase: str = "", *, name: str = "a", conflicts: bool = False, **spec: Any) -> Claim:
    status: dict[str, Any] = {"phase": phase} if phase else {}
    if conflicts:
        status["conflictsWith"] = [{"name": "b", "session": "other", "since": "2026-11-20T10:00:00Z"}]
    body = {
        "metadata": {
            "namespace": "presence", "name": name, "uid": f"uid-{name}", "resourceVersion": "1",
            "creationTimestamp": "2026-11-20T10:00:00Z",
        },
        "spec": {"resource": resource, "session": "s", "purpose": "testing", **spec},
        "status": status,
    }  # fmt: skip
    return parse_claim(body, Bounds())


def session(phase: str = "", session_id: str = "s", **spec: Any) -> Session:
    body: Mapping[str, Any] = {
        "metadata": {
            "namespace": "presence", "name": "s", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": "2026-11-20T10:00:00Z",
        },
        "spec": {"sessionId": session_id, **spec},
        "status": {"phase": phase} if phase else {},
    }  # fmt: skip
    return parse_session(body, Bounds())


def test_claims_are_counted_by_phase_and_type_when_asked(metrics: Metrics) -> None:
    board: list[Claim] = [claim("stack:vault", "Active"), claim("stack:dns", "Active"), claim("node:n1", "Expired")]
    sessions = [session("Active"), session("Stale", kind="Pipeline"), session()]
    metrics.observe_board(lambda: (board, sessions), lambda: LATER)
    assert value(metrics, "presence_claims", phase="Active", type="stack") == 2
    assert value(metrics, "presence_claims", phase="Expired", type="node") == 1
    assert value(metrics, "presence_sessions", phase="Stale", kind="Pipeline") == 1
    assert value(metrics, "presence_sessions", phase="New", kind="Agent") == 1

    board.clear()
    assert value(metrics, "presence_claims", phase="Active", type="stack") == 0


def test_a_resource_claimed_by_several_counts_once_while_they_live(metrics: Metrics) -> None:
    both = [claim("db:main", "Active", name=name, conflicts=True) for name in ("a", "b")]
    over = claim("db:old", "Released", conflicts=True)
    metrics.observe_board(lambda: ([*both, over], ()), lambda: LATER)
    assert value(metrics, "presence_conflicted_resources") == 1


def test_claims_are_counted_by_what_acts_in_their_sessions(metrics: Metrics) -> None:
    sessions = [session(session_id="ci", kind="Pipeline"), session(session_id="me", kind="Human")]
    board = [
        claim("stack:vault", "Active", name="a", session="ci"),
        claim("stack:vault", "Pending", name="b", session="ci"),
        claim("node:n1", "Active", name="c", session="me"),
        claim("node:n2", "Active", name="d", session="nobody has said"),
        claim("node:n3", "Expired", name="e", session="ci"),
    ]
    metrics.observe_board(lambda: (board, sessions), lambda: LATER)
    assert value(metrics, "presence_session_claims", kind="Pipeline", phase="Active") == 1
    assert value(metrics, "presence_session_claims", kind="Pipeline", phase="Pending") == 1
    assert value(metrics, "presence_session_claims", kind="Human", phase="Active") == 1
    assert value(metrics, "presence_session_claims", kind="Agent", phase="Active") == 0
    assert value(metrics, "presence_session_claims", kind="Other", phase="Active") == 1


def test_a_session_that_was_begun_anew_is_of_its_newest_kind(metrics: Metrics) -> None:
    old, new = session(kind="Agent"), replace(session(kind="Human"), name="t", created=LATER)
    metrics.observe_board(lambda: ([claim("node:n1", "Active")], [new, old]), lambda: LATER)
    assert value(metrics, "presence_session_claims", kind="Human", phase="Active") == 1


def test_how_long_the_oldest_claims_wait_hold_and_are_overdue_is_told(metrics: Metrics) -> None:
    waits = claim("stack:vault", "Pending", name="a")
    waits_less = replace(waits, name="b", created=waits.created + 30)
    holds = claim("node:n1", "Active", name="c")
    holds = replace(holds, status=replace(holds.status, granted_at=LATER - 300.0, expires_at=LATER - 7.0))
    unseen = replace(claim("db:main", name="d"), created=LATER - 4.0)
    ended = replace(holds, name="e", resource="node:n2", status=replace(holds.status, phase="Expired", granted_at=1.0))
    metrics.observe_board(lambda: ([waits, waits_less, holds, unseen, ended], ()), lambda: LATER)
    assert value(metrics, "presence_claim_oldest_wait_seconds", type="stack") == LATER - waits.created
    assert value(metrics, "presence_claim_oldest_wait_seconds", type="node") == 0
    assert value(metrics, "presence_claim_oldest_hold_seconds", type="node") == 300
    assert value(metrics, "presence_claim_overdue_seconds") == 7
    assert value(metrics, "presence_claim_unseen_seconds") == 4


def test_no_claim_is_old_before_the_servers_time_is_known(metrics: Metrics) -> None:
    def unknown() -> float:
        raise LookupError

    metrics.observe_board(lambda: ([claim("stack:vault", "Pending")], ()), unknown)
    assert value(metrics, "presence_claim_oldest_wait_seconds", type="stack") == 0
    assert value(metrics, "presence_claims_waiting", type="stack") == 1


def test_known_series_exist_before_anything_happens_so_that_rates_work(metrics: Metrics) -> None:
    for kind in (*KNOWN_TYPES, "other"):
        for who in board_metrics.SESSION_KINDS:
            assert value(metrics, "presence_claims_granted_total", type=kind, kind=who) == 0
            assert value(metrics, "presence_claims_expired_total", type=kind, kind=who) == 0
        assert value(metrics, "presence_claims_released_total", type=kind, reason="Released") == 0
        assert value(metrics, "presence_conflicts_total", type=kind) == 0
    assert value(metrics, "presence_heartbeats_total", object="session") == 0
    assert value(metrics, "presence_mirror_errors_total", reason="connect") == 0
    assert value(metrics, "presence_action_retries_total", kind="PresenceClaim", outcome="conflict") == 0
    assert value(metrics, "presence_resync_failures_total") == 0
    assert value(metrics, "presence_mirror_schema_state", state="off") == 1


def test_what_happens_to_a_claim_is_counted(metrics: Metrics) -> None:
    metrics.claim_granted("stack:vault", "Pipeline")
    metrics.claim_waited("stack:vault", 2.0, "Pipeline")
    metrics.grant_delayed(0.4)
    metrics.claim_expired("stack:vault", lag=0.4, held=120)
    metrics.claim_released("stack:vault", "SessionCompleted", held=30)
    metrics.conflict_started("stack:vault")
    metrics.heartbeat("session")
    assert value(metrics, "presence_claims_granted_total", type="stack", kind="Pipeline") == 1
    assert value(metrics, "presence_claim_wait_seconds_sum", type="stack") == 2
    assert value(metrics, "presence_session_wait_seconds_sum", kind="Pipeline") == 2
    assert value(metrics, "presence_claim_grant_delay_seconds_count") == 1
    assert value(metrics, "presence_claims_expired_total", type="stack", kind="Other") == 1
    assert value(metrics, "presence_claims_released_total", type="stack", reason="SessionCompleted") == 1
    assert value(metrics, "presence_claim_expiry_lag_seconds_bucket", le="0.5") == 1
    assert value(metrics, "presence_claim_expiry_lag_seconds_bucket", le="0.25") == 0
    assert value(metrics, "presence_claim_hold_seconds_sum", type="stack") == 150


def test_the_schema_is_in_exactly_one_state(metrics: Metrics) -> None:
    for state in ("ok", "behind", "nonsense"):
        metrics.mirror_schema(state, version=3, wanted=4)
        states = {each: value(metrics, "presence_mirror_schema_state", state=each) for each in module.SCHEMA_STATES}
        assert sum(filter(None, states.values())) == 1
        assert states["unknown" if state == "nonsense" else state] == 1
    assert value(metrics, "presence_mirror_schema_version") == 3
    assert value(metrics, "presence_mirror_schema_wanted_version") == 4


def test_waiting_actions_and_the_mirror_are_read_when_asked(metrics: Metrics) -> None:
    waiting = {"urgent": 2, "weird": 3}
    metrics.observe_queue(lambda: waiting)
    metrics.observe_mirror(lag=lambda: 1.5, pending=lambda: 7)
    assert value(metrics, "presence_action_queue", priority="urgent") == 2
    assert value(metrics, "presence_action_queue", priority="other") == 3
    assert value(metrics, "presence_action_queue", priority="low") == 0
    assert value(metrics, "presence_mirror_lag_seconds") == 1.5
    assert value(metrics, "presence_mirror_pending_rows") == 7


def test_a_leader_tells_since_when_it_acts(metrics: Metrics) -> None:
    metrics.leader(True)
    metrics.leader_transitions(3)
    since = value(metrics, "presence_leader_since_timestamp_seconds")
    assert since is not None
    assert abs(time.time() - since) < 60
    metrics.leader(False)
    assert value(metrics, "presence_leader_since_timestamp_seconds") == 0
    assert value(metrics, "presence_leader_transitions") == 3


def test_a_follower_has_nothing_to_mirror(metrics: Metrics) -> None:
    metrics.leader(True)
    metrics.mirror_up(True)
    metrics.observe_mirror(lag=lambda: 99.0, pending=lambda: 7)
    metrics.leader(False)
    assert value(metrics, "presence_mirror_lag_seconds") == 0
    assert value(metrics, "presence_mirror_pending_rows") == 0
    assert value(metrics, "presence_mirror_up") == 0


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0", "text/plain; version=1.0.0"])
def test_the_scrape_parses_in_every_format(accept: str) -> None:
    metrics = Metrics()
    metrics.claim_granted("node:n1")
    body, content_type = metrics.exposition(accept)
    reader = parse_openmetrics if "openmetrics" in content_type else parse
    names = {sample.name for family in reader(body.decode()) for sample in family.samples}
    assert {"presence_claims_granted_total", "presence_build_info", "presence_claims"} <= names
    assert "process_resident_memory_bytes" in names
    assert not [name for name in names if name.endswith("_created")]


def test_nothing_that_users_or_servers_say_becomes_a_label(metrics: Metrics) -> None:
    numbers = random.Random(7)

    def hostile() -> str:
        return "".join(numbers.choice(string.printable + "é\u202e\x00") for _ in range(20))

    def feed() -> None:
        text = hostile()
        metrics.claim_granted(text, text)
        metrics.claim_waited(text, 1, text)
        metrics.claim_expired(f"{text}:x", text, lag=float("nan"), held=float("inf"))
        metrics.claim_released(text, text, held=-1)
        metrics.conflict_started(text)
        metrics.heartbeat(text)
        metrics.unparsable(text)
        metrics.api_request(text, text, text, -5)
        metrics.action_retried(text, text)
        metrics.event_dropped(text)
        metrics.resync_succeeded(1, added=1)
        metrics.mirror_error(text)
        metrics.mirror_schema(text)
        metrics.observe_queue(lambda: {text: 1})
        hosts = [claim(f"{text}:x", text, purpose=text, holder={"user": text, "host": text})]
        metrics.observe_board(lambda: (hosts, [session(text, text, kind=text)]), lambda: LATER)

    def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in metrics.registry.collect()
            for sample in family.samples
        }

    feed()
    once = series()
    for _ in range(200):
        feed()
    assert series() == once
    allowed = {
        *board_metrics.TYPES, *board_metrics.CLAIM_PHASES, *board_metrics.SESSION_PHASES,
        *board_metrics.SESSION_KINDS, *module.RELEASE_REASONS, *module.BEATING,
        *module.VERBS, *module.KINDS, *module.OUTCOMES, *module.PRIORITIES, *module.DROP_REASONS, *module.REPAIRS,
        *module.LEASE_RESULTS,
        *module.MIRROR_ERRORS, *module.SCHEMA_STATES,
    }  # fmt: skip
    free = {("presence_build_info", label) for label in ("version", "python", "kopf")}
    for name, labels in once:
        for label, text in labels:
            assert text in allowed or label == "le" or (name, label) in free, (name, label, text)
    for name, _ in once:
        if name.endswith(("_sum", "_total")):
            for family in metrics.registry.collect():
                assert all(
                    s.value == s.value and abs(s.value) != float("inf") for s in family.samples if s.name == name
                )


def test_a_figure_that_cannot_be_had_hides_no_other(metrics: Metrics) -> None:
    def broken() -> Any:
        raise RuntimeError("no board")

    metrics.observe_board(broken, lambda: LATER)
    metrics.observe_queue(broken)
    metrics.observe_mirror(lag=broken, pending=lambda: 3)
    metrics.claim_granted("node:n1")
    assert b'presence_claims_granted_total{kind="Other",type="node"} 1.0' in metrics.exposition()[0]
    assert value(metrics, "presence_mirror_pending_rows") == 3


def test_the_slots_of_each_limit_are_counted_by_board(metrics: Metrics) -> None:
    metrics.observe_limits(lambda: [("infra", Limit("applies", 3), 2, 1)])
    shown = metrics.exposition()[0].decode()
    for name, number in (("max", 3), ("in_use", 2), ("waiting", 1)):
        assert f'presence_limit_{name}{{board="infra",limit="applies"}} {number}.0' in shown


def test_every_metric_is_described_as_it_is(metrics: Metrics) -> None:
    metrics.api_request("patch", "PresenceClaim", "ok", 0.1)
    metrics.observe_limits(lambda: [("infra", Limit("applies", 3), 2, 1)])
    described = {figure.name: figure for figure in metrics.figures}
    found = set()
    for family in metrics.registry.collect():
        for sample in family.samples:
            name = sample.name if family.type in ("counter", "info") else family.name
            found.add(name)
            assert described[name].type == ("gauge" if family.type == "info" else family.type)
            assert set(described[name].labels) == set(sample.labels) - {"le"}, name
    assert found == set(described)
    for name in found:
        assert name.startswith("presence_")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"), (201, "ok"), (404, "not_found"), (409, "conflict"), (410, "conflict"), (422, "invalid"),
        (403, "denied"), (429, "throttled"), (500, "server_error"), (503, "server_error"), (504, "timeout"),
        (0, "unreachable"), (302, "other"),
    ],
)  # fmt: skip
def test_each_answer_has_an_outcome(status: int, outcome: str) -> None:
    assert outcome_of_status(status) == outcome
