"""The file with the limits: what it may say, and what is said to whoever wrote something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from presence_operator.core.limits import Limit
from presence_operator.limits_file import LimitsError, parse_limits
from presence_operator.settings import Settings, SettingsError
from presence_operator.shell.limiting import LimitsFile

if TYPE_CHECKING:
    from pathlib import Path

    from presence_operator.core.limits import Limits

FULL = """
limits:
  - name: applies
    max: 3
    resourceType: stack
    sessionKind: Agent
    namespaces: [presence, other]
    mode: Any
    per: Session
  - {name: drains, max: 1, resourceType: node}
"""


def test_every_field_is_understood_and_most_may_be_absent() -> None:
    assert parse_limits(FULL, "file") == (
        Limit("applies", 3, frozenset({"presence", "other"}), "stack", "Agent", exclusive_only=False, per_session=True),
        Limit("drains", 1, resource_type="node"),
    )


@pytest.mark.parametrize("text", ["limits: []", "limits:", '{"limits": []}'])
def test_a_file_may_hold_no_limits(text: str) -> None:
    assert parse_limits(text, "file") == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write one key, limits, with a list"),
        ("- a", "write one key, limits, with a list"),
        ("limits: 3", "write one key, limits, with a list"),
        ("limits: [", "is no YAML"),
        ("limits: [3]", "limit 1: write a mapping with at least name and max"),
        ("limits: [{max: 3}]", "limit 1: name: write lower-case letters"),
        ("limits: [{name: a}]", "limit 1: max: write a whole number within 1 to 100000"),
        ("limits: [{name: a, max: 0}]", "max: write a whole number"),
        ("limits: [{name: a, max: true}]", "max: write a whole number"),
        ("limits: [{name: a, max: 1, type: stack}]", "'type' is unknown: write name, max, resourceType"),
        ("limits: [{name: a, max: 1, resourceType: 'stack:vault'}]", "write the part of a label before the colon"),
        ("limits: [{name: a, max: 1, sessionKind: agent}]", "sessionKind: write Agent, Pipeline or Human"),
        ("limits: [{name: a, max: 1, mode: Shared}]", "mode: write Exclusive or Any"),
        ("limits: [{name: a, max: 1, per: board}]", "per: write Claim or Session"),
        ("limits: [{name: a, max: 1, namespaces: []}]", "namespaces: write a list of namespaces"),
        ("limits: [{name: a, max: 1}, {name: a, max: 2}]", "two limits are named a"),
    ],
)
def test_a_fault_is_told_with_what_to_write_instead(text: str, told: str) -> None:
    with pytest.raises(LimitsError) as caught:
        parse_limits(text, "file")
    assert any(told in error for error in caught.value.errors), caught.value.errors


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(LimitsError) as caught:
        parse_limits("limits: [{name: A, max: x}, {name: b, max: 1, mode: x}]", "file")
    assert len(caught.value.errors) == 3


def test_an_operator_does_not_start_with_a_file_that_it_cannot_use(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    with pytest.raises(SettingsError, match=r"--limits-file: .*cannot be read"):
        Settings.load({"--limits-file": str(file)}, {})
    file.write_text("limits: [{name: a}]")
    with pytest.raises(SettingsError, match=r"PRESENCE_LIMITS_FILE: .*max: write"):
        Settings.load({}, {"PRESENCE_LIMITS_FILE": str(file)})


def test_a_change_of_the_file_counts_and_a_broken_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("limits: [{name: a, max: 1}]")
    used: list[Limits] = []
    limits = LimitsFile(file, used.append)
    limits.look()
    limits.look()
    assert used == [(Limit("a", 1),)]
    for broken in ("limits: [", None):
        if broken is None:
            file.unlink()
        else:
            file.write_text(broken)
        caplog.clear()
        limits.look()
        limits.look()
        assert len(caplog.records) == 1
        assert len(used) == 1
    file.write_text("limits: [{name: a, max: 2}]")
    limits.look()
    assert used[1:] == [(Limit("a", 2),)]
