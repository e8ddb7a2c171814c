"""The decisions and the processes of `presence run`, without a board."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presence.commands.run import run_session
from presence.contention import why_over
from presence.running import plan
from presence.running.child import MARK, NOT_EXECUTABLE, NOT_FOUND, Processes, Unrunnable, find_program
from presence.running.deadline import Terms, attempt_limit, grace_of, next_renewal, retry_pause, terms_of, ttl_in_force
from support.waiting import eventually

TTLS = st.floats(5, 86_400)


@given(sent=st.floats(0, 1e9), ttl=TTLS, passed=st.floats(0, 1))
def test_a_command_is_over_before_its_claim_whatever_the_stamp_was_rounded_to(
    sent: float, ttl: float, passed: float
) -> None:
    terms = terms_of(sent, ttl)
    # The API server took the renewal `passed` after it was sent, and stamped the whole second before that.
    deadline = sent + passed + ttl - 1
    assert terms.term_at <= terms.kill_at < terms.end <= deadline + 1e-6
    assert terms.term_at >= sent


@given(ttl=TTLS)
def test_a_renewal_can_fail_and_be_tried_again_before_the_command_is_asked_to_end(ttl: float) -> None:
    terms = terms_of(0, ttl)
    first = next_renewal(0, ttl)
    assert first + attempt_limit(ttl) < terms.term_at
    assert retry_pause(1, ttl) <= ttl / 12
    assert retry_pause(100, ttl) <= 5


@settings(deadline=None)
@given(ttl=TTLS, step=st.floats(0.01, 3), because=st.sampled_from(["", "lost", "ended"]))
def test_processes_are_asked_once_and_killed_until_they_are_gone(ttl: float, step: float, because: str) -> None:
    terms, grace = terms_of(0, ttl), grace_of(ttl)
    ending, asked, killed, now = plan.Ending(), 0, 0, 0.0
    ending.because = because
    while now < terms.end and killed < 5:
        decided = plan.next_step(ending, terms, grace, now)
        if decided.act == plan.ASK:
            asked += 1
            ending.asked_at = now
        killed += decided.act == plan.KILL
        assert decided.act != plan.NOTHING or decided.wake_at > now
        if killed:
            assert decided.act == plan.KILL
        if now >= terms.kill_at:
            assert decided.act == plan.KILL
        now = min(max(decided.wake_at, now + 0.001), now + step * ttl / 5)
    assert asked <= 1
    assert killed


def test_a_command_may_run_on_until_its_deadline_comes_near() -> None:
    terms = Terms(term_at=10, kill_at=14, end=15)
    decided = plan.next_step(plan.Ending(), terms, 5, 3)
    assert (decided.act, decided.wake_at) == (plan.NOTHING, 10)


def body(ttl: str, alive: str, promise: str, message: str) -> dict[str, Any]:
    return {
        "metadata": {"creationTimestamp": alive, "annotations": {"presence.dev/ttl": ttl}},
        "spec": {},
        "status": {
            "expiresAt": promise,
            "conditions": [{"type": "Granted", "status": "True", "message": message}],
        },
    }


def test_an_operator_that_allows_less_is_believed() -> None:
    start = "2026-11-20T10:00:00Z"
    assert ttl_in_force(body("2h", start, "2026-11-20T11:00:00Z", "2h is too long"), None) == 3600
    assert ttl_in_force(body("2h", start, "2026-11-20T11:00:00Z", ""), None) == 7200


def test_every_run_has_a_session_of_its_own() -> None:
    assert run_session("ci") != run_session("ci")
    assert run_session("ci").startswith("ci/run-")
    assert len(run_session("x" * 128)) == 128


def test_a_program_is_found_as_a_shell_would(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    (here / "tool").write_text("not executable")
    (there / "tool").write_text("#!/bin/sh\n")
    (there / "tool").chmod(0o755)
    path = f"{here}:{there}"
    assert find_program("tool", path) == str(there / "tool")
    assert find_program(str(there / "tool"), "") == str(there / "tool")
    for name, search, code in (("tool", str(here), NOT_EXECUTABLE), ("none", path, NOT_FOUND), ("", path, NOT_FOUND)):
        with pytest.raises(Unrunnable) as problem:
            find_program(name, search)
        assert problem.value.code == code
    with pytest.raises(Unrunnable) as problem:
        find_program(str(here), path)
    assert problem.value.code == NOT_EXECUTABLE


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_descendants_are_found_by_group_and_by_mark(tmp_path: Path) -> None:
    script = f"setsid sh -c 'echo $$ > {tmp_path}/far; exec sleep 300' & sleep 300"
    command = subprocess.Popen(
        ["sh", "-c", script], process_group=0, env={**os.environ, MARK: "outer 0123abcd"}, stdin=subprocess.DEVNULL
    )
    far = int(eventually(lambda: (tmp_path / "far").exists() and (tmp_path / "far").read_text().strip()))
    processes = Processes(command.pid, "0123abcd")
    try:
        assert not processes.gone(detached=True)
        processes.signal(signal.SIGKILL, detached=False)
        command.wait(10)
        eventually(lambda: processes.gone(detached=False))
        assert not processes.gone(detached=True), "the one in a session of its own lives on"
        assert Processes(-1, "0123").gone(detached=True), "a part of a mark is none"
    finally:
        processes.signal(signal.SIGKILL, detached=True)
    eventually(lambda: processes.gone(detached=True))
    eventually(lambda: not Path(f"/proc/{far}/cmdline").exists() or not Path(f"/proc/{far}/cmdline").read_bytes())


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        ({"released": True, "release": {"forced": True, "by": "b", "user": "u", "reason": "r"}}, {}, 'by b (u): "r"'),
        ({"released": True, "release": {"to": "next", "by": "me"}}, {}, "was handed over to next"),
        ({"released": True}, {"phase": "Released"}, "was released"),
        ({}, {"phase": "Expired"}, "expired"),
    ],
)
def test_the_end_of_a_claim_is_said_in_words(spec: dict[str, Any], status: dict[str, Any], words: str) -> None:
    claim = {"metadata": {"uid": "1"}, "spec": spec, "status": status}
    assert words in why_over(claim, "1")
    assert why_over(claim, "2") == why_over(None, "1") == "was deleted from the board"
