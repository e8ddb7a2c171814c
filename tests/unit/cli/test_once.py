"""What a call of `presence once` does about its key."""

from __future__ import annotations

from typing import Any

import pytest

from presence import once
from presence.model.kinds import HEARTBEAT_ANNOTATION, HEARTBEAT_MANAGER, TTL_ANNOTATION
from presence.model.labels import check_label, is_key
from presence.model.times import format_time

BEGIN = 1_800_000_000.0


def claim(
    name: str = "a",
    *,
    made: float = BEGIN,
    ttl: str = "5m",
    exit_code: int | None = None,
    beat: float | None = None,
    phase: str | None = None,
    **spec: Any,
) -> dict[str, Any]:
    notes = {TTL_ANNOTATION: ttl}
    managed = []
    if exit_code is not None:
        notes |= once.end_patch(once.Outcome(exit_code, made, made + 1, "h", "u"), 300.0)["metadata"]["annotations"]
        notes[TTL_ANNOTATION] = ttl
        del notes[HEARTBEAT_ANNOTATION]
    if beat is not None:
        notes[HEARTBEAT_ANNOTATION] = "x"
        owned: dict[str, Any] = {"f:metadata": {"f:annotations": {f"f:{HEARTBEAT_ANNOTATION}": {}}}}
        managed = [{"manager": HEARTBEAT_MANAGER, "time": format_time(beat), "fieldsV1": owned}]
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": format_time(made),
            "annotations": notes,
            "managedFields": managed,
        },
        "spec": {"resource": "once:x", "session": "s", **spec},
        "status": {"phase": phase} if phase else {},
    }


@pytest.mark.parametrize(
    ("hook", "context", "key"),
    [
        # printf 'session-start\0abc' | sha256sum
        ("session-start", "abc", "c83890e58e67c63b"),
        ("stop", "proj:/a", "5ffe3713aeeded5f"),
        ("", "", "6e340b9cffb37a98"),
        ("h'x", 'c"t $(date)\n', "811cf09a02f5d31b"),
        ("stop", "b\udcfcro", "320b2c05bd4c7269"),
    ],
)
def test_the_key_follows_from_hook_and_context_alone(hook: str, context: str, key: str) -> None:
    assert once.key_of(hook, context) == key
    assert is_key(check_label(f"once:{key}"))


def test_two_pairs_of_texts_that_look_alike_with_a_colon_between_are_two_keys() -> None:
    assert once.key_of("a", "b:c") != once.key_of("a:b", "c")
    assert once.key_of("a", "") != once.key_of("", "a")


def test_a_key_that_is_renewed_runs_and_one_that_is_not_is_free_without_any_operator() -> None:
    assert once.judge(claim(ttl="30s"), BEGIN + 29) == (once.RUNNING, None)
    assert once.judge(claim(ttl="30s"), BEGIN + 30) == (once.FREE, None)
    assert once.judge(claim(ttl="30s", beat=BEGIN + 20), BEGIN + 49) == (once.RUNNING, None)
    assert once.judge(None, BEGIN) == (once.FREE, None)


@pytest.mark.parametrize("code", [0, 7])
def test_an_outcome_counts_until_the_ttl_after_the_first_start(code: int) -> None:
    verdict, outcome = once.judge(claim(exit_code=code), BEGIN + 299)
    assert verdict == once.DONE
    assert outcome is not None
    assert outcome.code == code
    assert once.judge(claim(exit_code=code), BEGIN + 300) == (once.FREE, None)


def test_a_late_heartbeat_does_not_extend_what_is_done() -> None:
    assert once.judge(claim(exit_code=0, beat=BEGIN + 200), BEGIN + 300)[0] == once.FREE


def test_an_operator_that_expired_the_key_before_its_outcome_came_takes_nothing_from_it() -> None:
    assert once.judge(claim(exit_code=0, phase="Expired"), BEGIN + 100)[0] == once.DONE
    assert once.judge(claim(phase="Expired"), BEGIN + 1)[0] == once.FREE


def test_a_key_that_somebody_released_is_free() -> None:
    assert once.judge(claim(exit_code=0, released=True), BEGIN + 1)[0] == once.FREE


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"exit":"0"}', '{"exit":300}', '{"exit":0,"started":"x"}'])
def test_an_outcome_that_cannot_be_read_is_none(text: str) -> None:
    broken = claim()
    broken["metadata"]["annotations"][once.OUTCOME_ANNOTATION] = text
    assert once.read_outcome(broken) is None


def test_over_the_limit_the_crashed_go_first_then_the_oldest_that_are_done_and_never_the_running() -> None:
    now = BEGIN + 100
    claims = [
        claim("running-and-oldest", made=BEGIN - 900, ttl="30s", beat=now - 1),
        claim("done-new", made=BEGIN + 50, exit_code=0),
        claim("done-old", made=BEGIN, exit_code=1),
        claim("crashed", made=BEGIN + 60, ttl="30s"),
    ]
    names = [[found["metadata"]["name"] for found in once.surplus(claims, now, most)] for most in (4, 3, 2, 1, 0)]
    assert names == [[], ["crashed"], ["crashed", "done-old"], *[["crashed", "done-old", "done-new"]] * 2]


def test_a_context_of_any_length_and_content_becomes_one_bounded_line() -> None:
    text = once.describe("stop", "x\ny\t\x1b[31m\u202e" + "z" * 5000)
    assert len(text) <= 200
    assert text.isprintable()
    assert text.startswith("stop: x y")
    assert once.describe("b\udcfc", "") == "b?:"


@pytest.mark.parametrize(("ttl", "lease"), [(5.0, 5.0), (20.0, 20.0), (300.0, 30.0)])
def test_a_crash_keeps_others_away_for_half_a_minute_at_most(ttl: float, lease: float) -> None:
    assert once.lease_of(ttl) == lease
