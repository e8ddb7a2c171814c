"""The judge: what a history, and nothing else, says about the promises of Exclusive claims.

`python -m faults.checker FILE` judges a history that was saved.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faults.history import ACTIVE, CREATED, ENDED, Change, History, Started, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from faults.history import Record

#: Exit codes of `presence run` that tell a contender why its command did not run, or not to its end.
TOLD = {3: "held by another", 4: "wait timed out", 5: "claim lost", 69: "board unreachable"}
#: A claim is served before those that came this many seconds (of the API server's whole seconds) after it.
HEAD_START = 2


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, and the few records that show it."""

    rule: str
    text: str
    witnesses: tuple[Record, ...]

    def __str__(self) -> str:
        lines = [f"{self.rule}: {self.text}"]
        lines += [f"    {each.at:12.3f}  {each}" for each in sorted(self.witnesses, key=lambda each: each.at)]
        return "\n".join(lines)


def judge(history: History) -> list[Violation]:
    """Every broken promise; empty when all were kept."""
    return [
        *_complete(history),
        *_commands_exclude(history),
        *_tokens_grow_with_commands(history),
        *_holders_exclude(history),
        *_commands_hold_claims(history),
        *_first_come_first_served(history),
        *_everyone_is_served_or_told(history),
    ]


def _complete(history: History) -> Iterator[Violation]:
    """The watcher saw everything."""
    for gap in history.gaps:
        yield Violation("complete", f"the watcher missed something, so nothing is proven: {gap.why}", (gap,))


def _commands_exclude(history: History) -> Iterator[Violation]:
    """No two commands on one resource run at once, whole process groups counted."""
    ends = {(each.run, each.resource): each for each in history.stopped}
    for resource, commands in _by_resource(history.started).items():
        longest: tuple[Started, Stopped] | None = None
        for place, command in enumerate(commands):
            if not command.alone:
                before = [each for each in commands[:place] if not _over_by(ends.get((each.run, resource)), command)]
                yield Violation(
                    "commands exclude",
                    f"{resource}: a process of an earlier command was alive when the command of {command.run} began",
                    (*before[-1:], command),
                )
            if longest is not None and longest[1].at > command.at:
                yield Violation(
                    "commands exclude",
                    f"{resource}: the commands of {longest[0].run} and {command.run} ran at once"
                    f" for {longest[1].at - command.at:.3f} s or longer",
                    (longest[0], command, longest[1]),
                )
            end = ends.get((command.run, resource))
            if end is not None and (longest is None or end.at > longest[1].at):
                longest = (command, end)


def _over_by(end: Stopped | None, command: Started) -> bool:
    return end is not None and end.order < command.order


def _tokens_grow_with_commands(history: History) -> Iterator[Violation]:
    """On every resource each command has a larger fencing token than all commands before it."""
    for resource, commands in _by_resource(history.started).items():
        highest: Started | None = None
        for command in commands:
            if highest is not None and command.token <= highest.token:
                yield Violation(
                    "tokens grow",
                    f"{resource}: {command.run} began after {highest.run} with token {command.token},"
                    f" which is not above {highest.token}",
                    (highest, command),
                )
            if highest is None or command.token > highest.token:
                highest = command


def _holders_exclude(history: History) -> Iterator[Violation]:
    """By the API server's own order: one Exclusive claim Active at a time, tokens grow, and what ended stays ended."""
    for resource, changes in _changes(history).items():
        holders: dict[str, Change] = {}
        ended: dict[str, Change] = {}
        tokens: dict[str, Change] = {}
        highest: Change | None = None
        for change in changes:
            if change.kind == ENDED:
                holders.pop(change.uid, None)
                ended.setdefault(change.uid, change)
            elif change.kind == ACTIVE:
                if change.uid in ended:
                    yield Violation(
                        "ended is ended", f"{resource}: a claim became Active again", (ended[change.uid], change)
                    )
                for other in holders.values():
                    if other.uid != change.uid:
                        yield Violation(
                            "holders exclude", f"{resource}: two Exclusive claims were Active at once", (other, change)
                        )
                known = tokens.setdefault(change.uid, change)
                if known.token != change.token:
                    yield Violation("tokens grow", f"{resource}: the token of a claim changed", (known, change))
                elif known is change:
                    if highest is not None and change.token <= highest.token:
                        yield Violation(
                            "tokens grow", f"{resource}: a later grant has no larger token", (highest, change)
                        )
                    highest = change
                holders[change.uid] = change


def _commands_hold_claims(history: History) -> Iterator[Violation]:
    """A command runs under a claim that was Active, and is over before another claim becomes Active."""
    ends = {(each.run, each.resource): each for each in history.stopped}
    grants: dict[str, list[Change]] = defaultdict(list)
    for resource, changes in _changes(history).items():
        grants[resource] = [each for each in changes if each.kind == ACTIVE]
    for resource, commands in _by_resource(history.started).items():
        by_token = {each.token: each for each in grants[resource]}
        for command in commands:
            own = by_token.get(command.token)
            if own is None or own.session != command.session:
                shown = (command,) if own is None else (own, command)
                yield Violation(
                    "commands hold claims",
                    f"{resource}: the command of {command.run} ran with token {command.token},"
                    f" which the board never gave to {command.session}",
                    shown,
                )
                continue
            end = ends.get((command.run, resource))
            later = next((each for each in grants[resource] if each.version > own.version), None)
            if end is not None and later is not None and end.at > later.at:
                yield Violation(
                    "commands hold claims",
                    f"{resource}: the command of {command.run} still ran when the next claim was Active",
                    (command, later, end),
                )


def _first_come_first_served(history: History) -> Iterator[Violation]:
    """Nobody is overtaken by a claim that came 2 s later, except by one to whom the holder handed over."""
    for resource, changes in _changes(history).items():
        waiting: dict[str, Change] = {}
        granted: set[str] = set()
        heir = ""
        for change in changes:
            if change.kind == CREATED:
                waiting[change.uid] = change
            elif change.kind == ENDED:
                waiting.pop(change.uid, None)
                heir = change.heir or heir
            elif change.uid not in granted:
                granted.add(change.uid)
                own = waiting.pop(change.uid, change)
                if heir and own.session == heir:
                    heir = ""
                    continue
                heir = ""
                late = [each for each in waiting.values() if each.created + HEAD_START <= own.created]
                if late:
                    first = min(late, key=lambda each: each.created)
                    yield Violation(
                        "first come, first served",
                        f"{resource}: {own.session} went before {first.session}, which had come"
                        f" {own.created - first.created} s earlier",
                        (first, own, change),
                    )


def _everyone_is_served_or_told(history: History) -> Iterator[Violation]:
    """Each contender's command ran, or the contender was told why not; no claim is left waiting."""
    exits = {each.run: each for each in history.exited}
    served = {each.run for each in history.started}
    finished = {each.run for each in history.stopped}
    for launch in history.launched:
        end = exits.get(launch.run)
        if end is None:
            yield Violation("served or told", f"{launch.run} never came to an end", (launch,))
        elif end.harmed:
            continue
        elif end.code in TOLD:
            if "presence:" not in end.said:
                yield Violation("served or told", f"{launch.run} ended with {end.code} without a word", (launch, end))
        elif launch.run not in served:
            yield Violation(
                "served or told",
                f"{launch.run} ended with {end.code}, its command did not run, and it was not told why",
                (launch, end),
            )
        elif end.code != 0 or launch.run not in finished:
            yield Violation(
                "served or told",
                f"{launch.run} ended with {end.code}, though nothing was done to it"
                + ("" if launch.run in finished else ", and its command did not come to its end"),
                (launch, end),
            )
    for resource, changes in _changes(history).items():
        waiting: dict[str, Change] = {}
        for change in changes:
            if change.kind == CREATED:
                waiting[change.uid] = change
            else:
                waiting.pop(change.uid, None)
        for change in waiting.values():
            yield Violation("served or told", f"{resource}: the claim of {change.session} was left waiting", (change,))


def _by_resource(commands: Iterable[Started]) -> dict[str, list[Started]]:
    found: dict[str, list[Started]] = defaultdict(list)
    for command in commands:
        found[command.resource].append(command)
    return found


def _changes(history: History) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = defaultdict(list)
    for change in history.changes:
        if change.exclusive:
            found[change.resource].append(change)
    return found


def report(history: History, limit: int = 10) -> str:
    """The verdict for people, the smallest counterexamples first."""
    violations = sorted(judge(history), key=lambda each: len(each.witnesses))
    ended = sum(each.kind == ENDED for each in history.changes)
    told: dict[int, int] = defaultdict(int)
    for end in history.exited:
        told[end.code] += 1
    grants = len({each.uid for each in history.changes if each.kind == ACTIVE})
    lines = [
        f"{len(history.launched)} contenders, {len(history.faults)} faults",
        f"{len(history.started)} commands started, {len(history.stopped)} came to their end",
        f"{grants} grants and {ended} ends on the board",
        "exit codes: " + ", ".join(f"{code}: {count}" for code, count in sorted(told.items())),
    ]
    if not violations:
        return "\n".join([*lines, "verdict: every promise was kept"])
    lines.append(f"verdict: {len(violations)} violations")
    lines += [str(each) for each in violations[:limit]]
    return "\n".join(lines)


if __name__ == "__main__":
    judged = History.load(Path(sys.argv[1]))
    print(report(judged))
    sys.exit(1 if judge(judged) else 0)
