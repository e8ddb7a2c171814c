"""When a claim ends by itself, as operator and readers compute it alike."""

from typing import Any

import pytest

from presence.model.deadlines import (
    claim_deadline,
    is_live,
    last_sign_of_life,
    make_honest,
    session_deadline,
    session_stale_at,
    ttl_of,
)
from presence.model.times import format_time, parse_time

NOON = parse_time("2026-11-20T12:00:00Z")


def an_object(
    *, created: float = NOON, ttl: str | None = None, beat: float | None = None, **spec: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "x", "creationTimestamp": format_time(created), "annotations": {}}
    if ttl is not None:
        metadata["annotations"]["presence.dev/ttl"] = ttl
    if beat is not None:
        metadata["annotations"]["presence.dev/heartbeat"] = "whatever the client's clock says"
        metadata["managedFields"] = [
            {
                "manager": "presence-heartbeat",
                "time": format_time(beat),
                "fieldsV1": {"f:metadata": {"f:annotations": {"f:presence.dev/heartbeat": {}}}},
            }
        ]
    return {"metadata": metadata, "spec": spec}


def test_a_claim_without_a_heartbeat_lives_its_ttl_from_its_creation() -> None:
    assert claim_deadline(an_object(ttl="10m")) == NOON + 600


def test_fifteen_minutes_is_the_default() -> None:
    assert claim_deadline(an_object()) == NOON + 900


def test_a_ttl_that_is_no_duration_counts_as_the_default() -> None:
    assert ttl_of(an_object(ttl="soon")) == 900


def test_a_ttl_is_kept_in_the_bounds() -> None:
    assert ttl_of(an_object(ttl="10d")) == 86_400
    assert ttl_of(an_object(ttl="1s"), 5, 60) == 5


def test_its_own_heartbeat_moves_the_deadline_by_the_servers_stamp() -> None:
    assert claim_deadline(an_object(ttl="1m", beat=NOON + 40)) == NOON + 100


def test_a_managed_field_of_something_else_is_no_sign_of_life() -> None:
    claim = an_object(ttl="1m", beat=NOON + 40)
    claim["metadata"]["managedFields"][0]["fieldsV1"] = {"f:spec": {"f:purpose": {}}}

    assert claim_deadline(claim) == NOON + 60


def test_the_sessions_heartbeat_keeps_all_its_claims_alive() -> None:
    session = an_object(beat=NOON + 50)

    assert claim_deadline(an_object(ttl="1m"), session) == NOON + 110


def test_a_beat_after_the_sessions_end_revives_nothing() -> None:
    session = an_object(beat=NOON + 500)
    session["status"] = {"phase": "Expired", "endedAt": format_time(NOON + 90)}

    assert claim_deadline(an_object(ttl="1m"), session) == NOON + 150


def test_a_session_is_stale_after_three_missed_beats_and_expires_with_its_ttl() -> None:
    session = an_object(ttl="5m", beat=NOON + 10, heartbeatSeconds=20)

    assert session_stale_at(session) == NOON + 70
    assert session_deadline(session) == NOON + 310


def test_a_claim_is_live_until_its_deadline_and_not_at_it() -> None:
    claim = an_object(ttl="1m")

    assert is_live(claim, NOON + 59)
    assert not is_live(claim, NOON + 60)


def test_the_promise_of_the_operator_holds_without_a_look_at_the_session() -> None:
    claim = an_object(ttl="1m")
    claim["status"] = {"phase": "Active", "expiresAt": format_time(NOON + 300)}

    assert is_live(claim, NOON + 299)
    assert not is_live(claim, NOON + 300)


@pytest.mark.parametrize("phase", ["Expired", "Released"])
def test_an_ended_claim_never_looks_alive(phase: str) -> None:
    claim = an_object(ttl="1m", beat=NOON + 50)
    claim["status"] = {"phase": phase, "expiresAt": format_time(NOON + 300)}

    assert not is_live(claim, NOON + 1)


def test_released_lapsed_and_deleted_claims_are_over_before_any_operator_says_so() -> None:
    released = an_object(released=True)
    lapsed = an_object()
    lapsed["metadata"]["annotations"]["presence.dev/lapsed"] = format_time(NOON)
    deleted = an_object()
    deleted["metadata"]["deletionTimestamp"] = format_time(NOON)

    assert not any(is_live(claim, NOON + 1) for claim in (released, lapsed, deleted))


def test_the_end_of_its_session_ends_a_claim() -> None:
    session = an_object(beat=NOON + 50, state="Completed")

    assert not is_live(an_object(ttl="1m"), NOON + 1, session)


def test_a_heartbeat_from_the_future_does_not_count() -> None:
    claim = an_object(ttl="1m", beat=NOON + 86_400)
    claim["metadata"]["managedFields"].append({**claim["metadata"]["managedFields"][0], "time": format_time(NOON + 40)})

    assert last_sign_of_life(claim, NOON + 3600) == NOON + 40
    assert last_sign_of_life(claim) == NOON + 86_400


@pytest.mark.parametrize("stamp", ["0000-01-01T00:00:00Z", "2026-11-20T23:59:60Z", "soon", None])
def test_a_heartbeat_whose_stamp_cannot_be_read_does_not_count(stamp: str | None) -> None:
    claim = an_object(ttl="1m", beat=NOON + 40)
    claim["metadata"]["managedFields"][0]["time"] = stamp

    assert claim_deadline(claim) == NOON + 60


@pytest.mark.parametrize("fields", [None, {}, {"f:metadata": None}, {"f:metadata": {"f:annotations": None}}])
def test_managed_fields_of_any_shape_that_the_api_takes_are_read(fields: Any) -> None:
    claim = an_object(ttl="1m", beat=NOON + 40)
    claim["metadata"]["managedFields"][0]["fieldsV1"] = fields

    assert claim_deadline(claim) == NOON + 60


def test_a_reader_forgets_the_times_that_nobody_honest_wrote() -> None:
    claim = an_object(ttl="1m", beat=NOON + 40)
    honest = claim["metadata"]["managedFields"][0]
    forged = [{**honest, "time": stamp} for stamp in ("2099-01-01T00:00:00Z", "0000-01-01T00:00:00Z")]
    claim["metadata"]["managedFields"] = [*forged, honest, {"manager": "without a time"}]
    claim["status"] = {"phase": "Active", "expiresAt": "0000-01-01T00:00:00Z", "grantedAt": "2026-11-20T12:00:00Z"}

    make_honest(claim, NOON)

    assert claim["metadata"]["managedFields"] == [honest, {"manager": "without a time"}]
    assert claim["status"] == {"phase": "Active", "grantedAt": "2026-11-20T12:00:00Z"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1e12, "0001-01-01T00:00:00Z"), (1e12, "9999-12-31T23:59:59Z"), (NOON, "2026-11-20T12:00:00Z")],
)
def test_every_time_can_be_written(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
