"""Deciding what a call of `presence once` does about its key. Pure: objects in, verdicts out.

A key is a claim whose name follows from hook and context, so that creating it is the atomic step: of any number of
calls, on any number of machines, the API server lets one create it. While the command runs the claim is short-lived and
renewed; a run that crashed frees its key by not renewing it. At the end the outcome is written onto it, the heartbeat
is taken away, and the ttl becomes that of the key: it counts from the first execution.
"""

from __future__ import annotations

import hashlib
import json

from presence.model.deadlines import is_live, ttl_of
from presence.model.durations import format_duration
from presence.model.kinds import (
    API_VERSION,
    CLAIM_KIND,
    ENDED_PHASES,
    EXPIRED,
    GROUP,
    HEARTBEAT_ANNOTATION,
    MIN_TTL,
    PURPOSE_MAX,
    TTL_ANNOTATION,
)
from presence.model.labels import ONCE_TYPE
from presence.model.times import format_time, parse_time
from presence.output import fit, fold

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Object = dict[str, Any]

#: Selects the keys among all claims.
LABEL = f"{GROUP}/once"
#: What became of the command: JSON with exit, started, finished, host and user.
OUTCOME_ANNOTATION = f"{GROUP}/outcome"

#: Seconds a key stays unless the call says otherwise.
DEFAULT_TTL = 300.0
#: Seconds that a crashed run keeps others away.
LEASE_MAX = 30.0
#: Keys that a board holds.
MOST_KEYS = 1000

# What the object of a key says.
FREE = "free"
RUNNING = "running"
DONE = "done"


def key_of(hook: str, context: str) -> str:
    """The first 16 hex digits of SHA-256 over hook, NUL and context.

    No argument of a program holds NUL, so ("a", "b:c") and ("a:b", "c") are two keys.
    """
    # Arguments that are no UTF-8 arrive with surrogates in place of their bytes.
    data = b"\0".join(part.encode("utf-8", "surrogateescape") for part in (hook, context))
    return hashlib.sha256(data).hexdigest()[:16]


def name_of(key: str) -> str:
    """The object name of a key."""
    return f"{ONCE_TYPE}-{key}"


def lease_of(ttl: float) -> float:
    """Seconds that a running key of this ttl lives without a renewal."""
    return max(MIN_TTL, min(LEASE_MAX, ttl))


class Outcome:
    """How a run ended: exit code, start and finish in seconds since the epoch, and where."""

    __slots__ = ("code", "finished", "host", "started", "user")

    def __init__(self, code: int, started: float, finished: float, host: str, user: str) -> None:
        self.code = code
        self.started = started
        self.finished = finished
        self.host = host
        self.user = user

    def row(self) -> dict[str, Any]:
        """The outcome as it is stored and shown."""
        return {
            "exit": self.code,
            "started": format_time(self.started),
            "finished": format_time(self.finished),
            "host": self.host,
            "user": self.user,
        }


def read_outcome(claim: Object) -> Outcome | None:
    """The outcome on a key; None when there is none that can be read."""
    text = (claim["metadata"].get("annotations") or {}).get(OUTCOME_ANNOTATION)
    if text is None:
        return None
    try:
        row = json.loads(text)
        code = row["exit"]
        if not isinstance(code, int) or not 0 <= code <= 255:
            return None
        started, finished = parse_time(row["started"]), parse_time(row["finished"])
        return Outcome(code, started, finished, str(row.get("host", "")), str(row.get("user", "")))
    except (ValueError, KeyError, TypeError):
        return None


def kept_until(claim: Object) -> float:
    """Until when a key with an outcome stays: its ttl after the first execution, whoever called since."""
    return parse_time(claim["metadata"]["creationTimestamp"]) + ttl_of(claim)


def judge(claim: Object | None, now: float) -> tuple[str, Outcome | None]:
    """FREE, RUNNING or DONE at `now` (the API server's time), with the outcome of what is done.

    It takes no operator: one that has seen the key expire says the same as the times do.
    """
    if claim is None or claim["metadata"].get("deletionTimestamp") or claim["spec"].get("released"):
        return FREE, None
    phase = (claim.get("status") or {}).get("phase")
    outcome = read_outcome(claim)
    if outcome is not None:
        # A run that was away for longer than its lease was expired meanwhile; what it reports still counts.
        kept = now < kept_until(claim) and (phase not in ENDED_PHASES or phase == EXPIRED)
        return (DONE, outcome) if kept else (FREE, None)
    return (RUNNING, None) if is_live(claim, now) else (FREE, None)


def describe(hook: str, context: str) -> str:
    """The purpose of a key: both texts on one line, as far as they fit."""
    text = fold(f"{hook}: {context}".encode("utf-8", "replace").decode())
    return fit(text, 200) or "a hook"


def body_of(
    key: str, hook: str, context: str, *, execution: str, holder: dict[str, str], lease: float
) -> dict[str, Any]:
    """The claim to create; `execution` is 8 hex digits of this call alone."""
    return {
        "apiVersion": API_VERSION,
        "kind": CLAIM_KIND,
        "metadata": {
            "name": name_of(key),
            "labels": {LABEL: "true"},
            "annotations": {TTL_ANNOTATION: format_duration(lease)},
        },
        "spec": {
            "resource": f"{ONCE_TYPE}:{key}",
            "session": f"{ONCE_TYPE}/{key}/{execution}",
            "holder": holder,
            "purpose": describe(hook, context)[:PURPOSE_MAX],
        },
    }


def end_patch(outcome: Outcome, ttl: float) -> dict[str, Any]:
    """The merge patch that records how the run ended.

    Without a heartbeat the deadline counts from the creation, for every reader and the operator alike.
    """
    text = json.dumps(outcome.row(), separators=(",", ":"))
    notes = {OUTCOME_ANNOTATION: text, TTL_ANNOTATION: format_duration(ttl), HEARTBEAT_ANNOTATION: None}
    return {"metadata": {"annotations": notes}}


def surplus(claims: Iterable[Object], now: float, most: int) -> list[Object]:
    """The keys that have to go so that `most` are left: first those that are over, then the oldest that are done.

    Running ones stay, however many they are.
    """
    every = list(claims)
    standing = {id(claim): judge(claim, now)[0] for claim in every}
    idle = [claim for claim in every if standing[id(claim)] != RUNNING]
    idle.sort(
        key=lambda claim: (
            standing[id(claim)] == DONE,
            parse_time(claim["metadata"]["creationTimestamp"]),
            claim["metadata"]["name"],
        )
    )
    return idle[: max(0, len(every) - most)]
