"""The judge of the fault experiments finds what is wrong with a history, and nothing in a good one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from faults.checker import Violation, judge, report
from faults.history import (
    ACTIVE,
    CREATED,
    ENDED,
    Change,
    Exited,
    Fault,
    Gap,
    History,
    Launched,
    Record,
    Started,
    Stopped,
)

if TYPE_CHECKING:
    from pathlib import Path

VAULT = "stack:vault"


class Story:
    """Writes histories: one contender after the other, each with its own claim."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = 100.0
        self.version = 1000
        self.order = 0

    def tick(self, seconds: float = 0.1) -> float:
        self.now = round(self.now + seconds, 3)
        return self.now

    def add(self, record: Record) -> None:
        self.records.append(record)

    def change(
        self,
        kind: str,
        run: str,
        resource: str = VAULT,
        created: int = 0,
        token: int = 0,
        *,
        heir: str = "",
        how: str = "",
    ) -> None:
        self.version += 1
        uid, session = f"uid-{run}-{resource}", f"s-{run}"
        at = self.tick()
        self.add(Change(kind, uid, resource, session, self.version, created, at, token, heir=heir, how=how))

    def come(self, run: str, resource: str = VAULT, created: int | None = None) -> int:
        stamp = int(self.now) if created is None else created
        self.add(Launched(run, (resource,), self.tick()))
        self.change(CREATED, run, resource, stamp)
        return stamp

    def start(self, run: str, token: int, resource: str = VAULT, alone: bool = True) -> None:
        self.order += 1
        self.add(Started(run, resource, f"s-{run}", token, 1, self.tick(), self.order, alone))

    def stop(self, run: str, resource: str = VAULT) -> None:
        self.order += 1
        self.add(Stopped(run, resource, self.tick(), self.order))

    def leave(self, run: str, code: int = 0, said: str = "", harmed: bool = False) -> None:
        self.add(Exited(run, code, said, harmed, self.tick()))

    def turn(self, run: str, token: int, created: int, resource: str = VAULT, heir: str = "") -> None:
        """A claim is granted, its command runs, and it is released."""
        self.change(ACTIVE, run, resource, created, token)
        self.start(run, token, resource)
        self.stop(run, resource)
        self.change(ENDED, run, resource, created, token, how="Released", heir=heir)
        self.leave(run)

    def history(self) -> History:
        return History.of(self.records)

    def verdict(self) -> list[Violation]:
        return judge(self.history())


def rules(found: list[Violation]) -> set[str]:
    return {each.rule for each in found}


def test_nothing_is_wrong_with_two_that_take_turns() -> None:
    story = Story()
    first, second = story.come("a"), story.come("b")
    story.turn("a", 7, first)
    story.turn("b", 8, second)
    assert story.verdict() == []
    assert "every promise was kept" in report(story.history())


def test_commands_that_run_at_once_are_shown_with_the_records_that_prove_it() -> None:
    story = Story()
    first, second = story.come("a"), story.come("b")
    story.change(ACTIVE, "a", created=first, token=7)
    story.start("a", 7)
    story.change(ENDED, "a", created=first, token=7, how="Expired")
    story.change(ACTIVE, "b", created=second, token=8)
    story.start("b", 8)
    story.stop("a")
    story.stop("b")
    story.leave("a")
    story.leave("b")
    story.change(ENDED, "b", created=second, token=8)
    found = story.verdict()
    assert rules(found) == {"commands exclude", "commands hold claims"}
    [overlap] = [each for each in found if each.rule == "commands exclude"]
    assert len(overlap.witnesses) == 3
    assert "a and b ran at once" in str(overlap)


def test_a_process_left_behind_counts_as_its_command() -> None:
    story = Story()
    first, second = story.come("a"), story.come("b")
    story.change(ACTIVE, "a", created=first, token=7)
    story.start("a", 7)
    story.change(ENDED, "a", created=first, token=7, how="Expired")
    story.leave("a", -9, harmed=True)
    story.change(ACTIVE, "b", created=second, token=8)
    story.start("b", 8, alone=False)
    story.stop("b")
    story.change(ENDED, "b", created=second, token=8)
    story.leave("b")
    [found] = story.verdict()
    assert found.rule == "commands exclude"
    assert [type(each) for each in found.witnesses] == [Started, Started]


def test_a_token_that_does_not_grow() -> None:
    story = Story()
    first, second = story.come("a"), story.come("b")
    story.turn("a", 7, first)
    story.turn("b", 7, second)
    assert "tokens grow" in rules(story.verdict())


def test_two_active_claims_are_seen_even_when_their_commands_never_met() -> None:
    story = Story()
    first, second = story.come("a"), story.come("b")
    story.change(ACTIVE, "a", created=first, token=7)
    story.change(ACTIVE, "b", created=second, token=8)
    for run, created, token in (("a", first, 7), ("b", second, 8)):
        story.start(run, token)
        story.stop(run)
        story.change(ENDED, run, created=created, token=token)
        story.leave(run)
    assert "holders exclude" in rules(story.verdict())


def test_an_ended_claim_that_lives_again() -> None:
    story = Story()
    first = story.come("a")
    story.turn("a", 7, first)
    story.change(ACTIVE, "a", created=first, token=7)
    assert "ended is ended" in rules(story.verdict())


def test_a_command_without_a_claim() -> None:
    story = Story()
    first = story.come("a")
    story.start("a", 7)
    story.stop("a")
    story.change(ENDED, "a", created=first)
    story.leave("a")
    assert rules(story.verdict()) == {"commands hold claims"}


def test_overtaking() -> None:
    story = Story()
    first = story.come("a", created=100)
    second = story.come("b", created=102)
    story.turn("b", 7, second)
    story.turn("a", 8, first)
    assert rules(story.verdict()) == {"first come, first served"}


def test_those_who_came_at_about_the_same_time_may_go_in_any_order() -> None:
    story = Story()
    first = story.come("a", created=100)
    second = story.come("b", created=101)
    story.turn("b", 7, second)
    story.turn("a", 8, first)
    assert story.verdict() == []


def test_a_hand_over_may_overtake_once() -> None:
    story = Story()
    holder = story.come("h", created=90)
    first, second, third = story.come("a", created=100), story.come("b", created=105), story.come("c", created=110)
    story.turn("h", 6, holder, heir="s-b")
    story.turn("b", 7, second)
    assert {each.rule for each in story.verdict()} == {"served or told"}  # a and c have not come to an end yet
    story.turn("c", 8, third)
    story.turn("a", 9, first)
    assert rules(story.verdict()) == {"first come, first served"}


@pytest.mark.parametrize("code", [3, 4, 5, 69])
def test_whoever_is_told_why_has_no_complaint_but_silence_is_one(code: int) -> None:
    story = Story()
    first = story.come("a")
    story.change(ENDED, "a", created=first, how="Expired")
    silent = Story()
    silent.records = list(story.records)
    story.leave("a", code, "presence: stack:vault is held by bob")
    assert story.verdict() == []
    silent.leave("a", code, "Traceback")
    assert rules(silent.verdict()) == {"served or told"}


def test_a_waiter_nobody_cared_for() -> None:
    story = Story()
    story.come("a")
    [never_ended, left_waiting] = story.verdict()
    assert never_ended.rule == left_waiting.rule == "served or told"


def test_a_command_that_ended_badly_without_a_fault() -> None:
    story = Story()
    first = story.come("a")
    story.change(ACTIVE, "a", created=first, token=7)
    story.start("a", 7)
    story.change(ENDED, "a", created=first, token=7)
    story.leave("a", 143)
    assert rules(story.verdict()) == {"served or told"}


def test_a_watcher_that_missed_something_proves_nothing() -> None:
    story = Story()
    story.add(Gap("410 Gone", story.tick()))
    assert rules(story.verdict()) == {"complete"}


def test_a_history_is_the_same_after_it_was_kept_in_a_file(tmp_path: Path) -> None:
    story = Story()
    story.add(Fault("kill operator 1", story.tick()))
    story.turn("a", 7, story.come("a"))
    story.history().save(tmp_path / "history.jsonl")
    loaded = History.load(tmp_path / "history.jsonl")
    assert loaded.records() == story.history().records()
    assert judge(loaded) == []


@st.composite
def good_stories(draw: st.DrawFn) -> Story:
    """Contenders for a few resources come, wait, give up, are killed, and take turns in the order they came."""
    story = Story()
    queues: dict[str, list[tuple[str, int]]] = {f"stack:{name}": [] for name in "xyz"[: draw(st.integers(1, 3))]}
    token, count = 100, draw(st.integers(2, 12))
    arrived = 0
    while arrived < count or any(queues.values()):
        resource = draw(st.sampled_from(sorted(queues)))
        step = draw(st.sampled_from(["come", "come", "turn", "killed", "give up", "pause"]))
        if step == "come" and arrived < count:
            run = f"r{arrived}"
            arrived += 1
            queues[resource].append((run, story.come(run, resource)))
        elif step == "pause":
            story.tick(draw(st.floats(0, 5)))
        elif queues[resource]:
            token += draw(st.integers(1, 3))
            if step == "give up":
                run, created = queues[resource].pop(draw(st.integers(0, len(queues[resource]) - 1)))
                story.change(ENDED, run, resource, created, how="Deleted")
                story.leave(run, 4, "presence: gave up waiting")
            elif step == "killed":
                run, created = queues[resource].pop(0)
                story.change(ACTIVE, run, resource, created, token)
                story.start(run, token, resource)
                story.change(ENDED, run, resource, created, token, how="Expired")
                story.leave(run, -9, harmed=True)
            else:
                run, created = queues[resource].pop(0)
                story.turn(run, token, created, resource)
    return story


@given(good_stories())
def test_good_histories_are_found_good(story: Story) -> None:
    assert story.verdict() == []


FAULTS = [
    "overlap", "left behind", "old token", "same token", "two holders", "revived", "no claim", "overtaken", "vanished",
    "silent", "left waiting", "late stop",
]  # fmt: skip


@given(good_stories(), st.sampled_from(FAULTS), st.data())
def test_a_fault_in_a_good_history_is_found(story: Story, fault: str, data: st.DataObject) -> None:
    expected, records = _spoil(story, fault, data)
    assert expected in rules(judge(History.of(records)))


def _spoil(story: Story, fault: str, data: st.DataObject) -> tuple[str, list[Record]]:
    """The history with one fault in it, and the rule that it breaks."""
    history, records = story.history(), list(story.records)

    def swap(old: Record, new: Record) -> None:
        records[records.index(old)] = new

    def pick() -> Started:
        assume(history.started)
        return data.draw(st.sampled_from(history.started))

    def pair() -> tuple[Started, Started]:
        found = [
            (first, second)
            for place, first in enumerate(history.started)
            for second in history.started[place + 1 :]
            if first.resource == second.resource
        ]
        assume(found)
        return data.draw(st.sampled_from(found))

    def change(kind: str, run: Started) -> Change:
        uid = f"uid-{run.run}-{run.resource}"
        return next(each for each in history.changes if each.kind == kind and each.uid == uid)

    if fault == "overlap":
        first, second = pair()
        stops = [each for each in history.stopped if each.run == first.run]
        assume(stops)
        swap(stops[0], replace(stops[0], at=second.at + 0.01))
        return "commands exclude", records
    if fault == "left behind":
        command = pick()
        swap(command, replace(command, alone=False))
        return "commands exclude", records
    if fault in ("old token", "same token"):
        first, second = pair()
        wrong = first.token - (fault == "old token")
        swap(second, replace(second, token=wrong))
        swap(change(ACTIVE, second), replace(change(ACTIVE, second), token=wrong))
        return "tokens grow", records
    if fault == "two holders":
        first, second = pair()
        end = change(ENDED, first)
        swap(end, replace(end, version=story.version + 1))
        return "holders exclude", records
    if fault == "revived":
        granted = change(ACTIVE, pick())
        records.append(replace(granted, version=story.version + 1))
        return "ended is ended", records
    if fault == "no claim":
        records.remove(change(ACTIVE, pick()))
        return "commands hold claims", records
    if fault == "overtaken":
        first, second = pair()
        mine, other = change(CREATED, first), change(CREATED, second)
        assume(other.version < change(ACTIVE, first).version)
        for each in [each for each in history.changes if each.uid == other.uid]:
            swap(each, replace(each, created=mine.created - 2))
        return "first come, first served", records
    if fault == "late stop":
        first, second = pair()
        stops = [each for each in history.stopped if each.run == first.run]
        assume(stops)
        swap(stops[0], replace(stops[0], at=change(ACTIVE, second).at + 0.01))
        return "commands hold claims", records
    left = data.draw(st.sampled_from(history.exited))
    if fault == "vanished":
        records.remove(left)
    elif fault == "silent":
        swap(left, replace(left, code=5, said="", harmed=False))
    else:
        launch = next(each for each in history.launched if each.run == left.run)
        uid = f"uid-{left.run}-{launch.resources[0]}"
        records = [
            each for each in records if not (isinstance(each, Change) and each.uid == uid and each.kind != CREATED)
        ]
    return "served or told", records
