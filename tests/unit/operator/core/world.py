"""A small API server in memory, with a watch that lags, and an operator's Board beside it.

Nothing here stands in for Kubernetes in tests of the shell; it lets thousands of histories be tried against the core.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

from presence.model import kinds
from presence.model.deadlines import claim_deadline
from presence.model.times import format_time, parse_time
from presence_operator.core.actions import (
    Action,
    DeleteObject,
    Done,
    EmitEvent,
    Failed,
    Gone,
    GrantExclusive,
    Outcome,
    Verified,
    VerifySessions,
    WriteClaimStatus,
    WriteSessionStatus,
)
from presence_operator.core.board import Board
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Bounds, Claim, Fact, Key, Session, parse_claim, parse_session
from presence_operator.core.listing import Listing
from presence_operator.core.status import claim_patch, session_patch

Body = dict[str, Any]
Kind = type[Claim] | type[Session]

NAMESPACE = "board"
BOUNDS = Bounds()
START = 1_700_000_000.0


class World:
    """The objects as the API server holds them. Every time is the server's."""

    def __init__(self) -> None:
        self.now = START
        self.revision = 100
        self.objects: dict[tuple[Kind, Key], Body] = {}
        self.watch: list[tuple[Kind, str, Body]] = []
        self.writes: list[Action] = []
        #: A claim must live at least until then: its deadline as moved by every renewal that came in time.
        self.must_live_until: dict[str, float] = {}
        self.ever_ended: dict[str, str] = {}
        self.granted_at: dict[str, str] = {}
        self._uids = itertools.count(1)

    # ---- what users do

    def create(self, kind: Kind, name: str, spec: Body, ttl: str | None) -> None:
        if (kind, (NAMESPACE, name)) in self.objects:
            return
        body: Body = {
            "metadata": {
                "namespace": NAMESPACE,
                "name": name,
                "uid": f"uid-{next(self._uids)}",
                "generation": 1,
                "creationTimestamp": format_time(self.now),
                "annotations": {} if ttl is None else {kinds.TTL_ANNOTATION: ttl},
            },
            "spec": spec,
        }
        self.objects[kind, (NAMESPACE, name)] = body
        self._stored(kind, body, "ADDED")
        self._renewed()

    def annotate(self, kind: Kind, name: str, annotation: str, value: str) -> None:
        body = self.objects.get((kind, (NAMESPACE, name)))
        if body is None:
            return
        metadata = body["metadata"]
        metadata["annotations"][annotation] = value
        if annotation == kinds.HEARTBEAT_ANNOTATION:
            metadata["managedFields"] = [
                {
                    "manager": kinds.HEARTBEAT_MANAGER,
                    "time": format_time(self.now),
                    "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{annotation}": {}}}},
                }
            ]
        self._stored(kind, body, "MODIFIED")
        if annotation == kinds.TTL_ANNOTATION and kind is Claim:
            # A change of the ttl applies to the claim as it stands.
            self.must_live_until[metadata["uid"]] = self.deadline(body)
        self._renewed()

    def change_spec(self, kind: Kind, name: str, **changes: Any) -> None:
        body = self.objects.get((kind, (NAMESPACE, name)))
        if body is None or all(body["spec"].get(field) == value for field, value in changes.items()):
            return
        if body["spec"].get("state") == kinds.COMPLETED:
            return
        body["spec"] |= changes
        body["metadata"]["generation"] += 1
        self._stored(kind, body, "MODIFIED")

    def delete(self, kind: Kind, name: str) -> None:
        body = self.objects.pop((kind, (NAMESPACE, name)), None)
        if body is None:
            return
        self._stored(kind, body, "DELETED")
        if kind is Session:
            # What a session kept alive may end with it, or live on until the deadline that it gave.
            for claim in self.claims():
                if claim["spec"]["session"] == body["spec"]["sessionId"]:
                    uid = claim["metadata"]["uid"]
                    self.must_live_until[uid] = min(self.must_live_until[uid], self.deadline(claim))

    # ---- what the operator does

    def perform(self, action: Action, board_now: float) -> Outcome:
        """Carry out an action as the API server would."""
        if isinstance(action, VerifySessions):
            bodies = [self.objects.get((Session, (action.namespace, name))) for name in action.names]
            return Verified(board_now, tuple(parse_session(body, BOUNDS) for body in bodies if body))
        target = subject(action)
        kind = type(target)
        body = self.objects.get((kind, target.key))
        if body is None or (body["metadata"]["uid"] != target.uid and isinstance(action, DeleteObject)):
            return Gone()
        if body["metadata"]["resourceVersion"] != target.resource_version:
            return Failed(0.0, parse(kind, body))
        self.writes.append(action)
        if isinstance(action, DeleteObject):
            self._check_collection(body, kind)
            self.delete(kind, target.name)
            return Done()
        if isinstance(action, WriteClaimStatus):
            patch = claim_patch(action.claim, action.status)["status"]
        elif isinstance(action, GrantExclusive):
            # Without the Lease: what two operators do to each other is tried in rivals.py.
            status = replace(action.status, fencing_token=self.revision)
            patch = claim_patch(action.claim, status)["status"]
        else:
            assert isinstance(action, WriteSessionStatus)
            patch = session_patch(action.session, action.status)["status"]
        before = copy.deepcopy(body.get("status") or {})
        self._merge(body, patch)
        self._check_write(kind, body, before)
        self._stored(kind, body, "MODIFIED")
        return Done(parse(kind, body))

    def _merge(self, body: Body, patch: Body) -> None:
        merged = {**(body.get("status") or {}), **patch}
        body["status"] = {field: value for field, value in merged.items() if value is not None}

    def _check_write(self, kind: Kind, body: Body, before: Body) -> None:
        status, uid = body["status"], body["metadata"]["uid"]
        assert status != before, "a write that changes nothing"
        if before.get("phase") in ("Expired", "Released", "Completed"):
            assert status["phase"] == before["phase"], "what has ended lives again"
        if kind is Session:
            if status["phase"] == kinds.EXPIRED != before.get("phase"):
                metadata = body["metadata"]
                assert self.now >= parse(kind, body).alive + parse(kind, body).ttl, metadata
            return
        if "grantedAt" in status:
            granted = self.granted_at.setdefault(uid, status["grantedAt"])
            assert status["grantedAt"] == granted, "grantedAt has changed"
        if status["phase"] == kinds.EXPIRED != before.get("phase"):
            lapsed = kinds.LAPSED_ANNOTATION in body["metadata"]["annotations"]
            assert lapsed or self.now >= self.must_live_until[uid], "expired although it was renewed in time"
        if status["phase"] == kinds.RELEASED != before.get("phase"):
            sessions = [s for s in self.sessions() if s["spec"]["sessionId"] == body["spec"]["session"]]
            known = not sessions or any(s["spec"].get("state") == kinds.COMPLETED for s in sessions)
            assert body["spec"].get("released") or known, "released although nobody let go"

    def _check_collection(self, body: Body, kind: Kind) -> None:
        assert parse(kind, body).status.ended, "collected before its end"
        if kind is Session:
            session_id = body["spec"]["sessionId"]
            left = [claim for claim in self.claims() if claim["spec"]["session"] == session_id]
            live = [
                claim for claim in left if not parse(Claim, claim).status.ended and not claim["spec"].get("released")
            ]
            created_late = [claim for claim in live if claim["metadata"]["uid"] in self.unheard()]
            assert len(live) == len(created_late), "a session was collected before its claims"

    # ---- what is true

    def unheard(self) -> set[str]:
        """Uids of objects that the watch has not told of yet."""
        return {body["metadata"]["uid"] for _, event, body in self.watch if event == "ADDED"}

    def claims(self) -> list[Body]:
        return [body for (kind, _), body in self.objects.items() if kind is Claim]

    def sessions(self) -> list[Body]:
        return [body for (kind, _), body in self.objects.items() if kind is Session]

    def session_of(self, claim: Body) -> Body | None:
        return next((s for s in self.sessions() if s["spec"]["sessionId"] == claim["spec"]["session"]), None)

    def deadline(self, claim: Body) -> float:
        return claim_deadline(claim, self.session_of(claim))

    def _renewed(self) -> None:
        for claim in self.claims():
            uid = claim["metadata"]["uid"]
            until = self.must_live_until.get(uid)
            # A renewal in time moves the deadline; one that comes too late may revive, or may not.
            if until is None or self.now < until:
                self.must_live_until[uid] = max(until or 0.0, self.deadline(claim))

    def _stored(self, kind: Kind, body: Body, event: str) -> None:
        self.revision += 1
        body["metadata"]["resourceVersion"] = str(self.revision)
        self._tell(kind, event, copy.deepcopy(body))

    def _tell(self, kind: Kind, event: str, body: Body) -> None:
        self.watch.append((kind, event, body))


class Pictures:
    """A list that is read page by page while the world goes on."""

    def __init__(self, world: World, board: Board) -> None:
        self.parts = [
            (Listing(board, kind, None, str(world.revision)), kind, [copy.deepcopy(b) for b in bodies])
            for kind, bodies in ((Session, world.sessions()), (Claim, world.claims()))
        ]

    def finish(self) -> None:
        for listing, kind, bodies in self.parts:
            facts = []
            for body in bodies:
                metadata = body["metadata"]
                key = (metadata["namespace"], metadata["name"])
                if not listing.known(key, metadata["uid"], metadata["resourceVersion"]):
                    facts.append(parse(kind, body))
            listing.put(facts)
            listing.finish()


class Operator:
    """A Board, and the actions that it has given out."""

    def __init__(self, world: World, policy: Policy | None = None, lag: float = 0.0) -> None:
        self.world = world
        self.policy = policy or Policy()
        self.lag = lag
        self.events: list[EmitEvent] = []
        self.restart()

    @property
    def now(self) -> float:
        """The time as the operator knows it: never ahead of the server's."""
        return self.world.now - self.lag

    def watch(self) -> list[tuple[Kind, str, Body]]:
        """The events that it has not heard yet."""
        return self.world.watch

    def restart(self) -> None:
        self.board = Board(self.policy)
        self.flying: list[Action] = []
        self.pictures: Pictures | None = None
        self.resync()

    def resync(self) -> None:
        Pictures(self.world, self.board).finish()

    def hear(self, count: int | None = None) -> None:
        """Take in the next events of the watch."""
        watch = self.watch()
        count = len(watch) if count is None else count
        events, watch[:] = watch[:count], watch[count:]
        for kind, event, body in events:
            metadata = body["metadata"]
            if event == "DELETED":
                self.board.drop(kind, (metadata["namespace"], metadata["name"]), metadata["uid"])
            else:
                self.board.put(parse(kind, body), heard=True)

    def decide(self, limit: int = 100) -> None:
        actions = self.board.decide(self.now, limit)
        busy = [subject(action).uid for action in self.flying if not isinstance(action, VerifySessions)]
        for action in actions:
            if not isinstance(action, VerifySessions):
                assert subject(action).uid not in busy, "two actions on one object at a time"
                busy.append(subject(action).uid)
        self.flying += actions

    def act(self, index: int = 0) -> None:
        """Carry out one of the actions."""
        action = self.flying.pop(index % len(self.flying))
        self.events += self.board.settle(action, self.world.perform(action, self.now), self.now)

    def quiesce(self) -> None:
        """Hear everything and act until nothing is due at this moment."""
        for _ in range(10_000):
            self.hear()
            self.decide()
            if not self.flying:
                if self.board.next_wake() > self.now:
                    return
                continue
            while self.flying:
                self.act()
        raise AssertionError("it never comes to rest")

    def settle_down(self) -> None:
        """Come to rest, also with what is written a little later on purpose."""
        quiet = 0
        while quiet < 7:
            writes = len(self.world.writes)
            self.quiesce()
            quiet = quiet + 1 if len(self.world.writes) == writes else 0
            self.world.now += 1.0
        self.world.now -= 1.0

    def live_until(self, when: float) -> None:
        """Let time pass from wake to wake, as the scheduler does."""
        while True:
            self.quiesce()
            wake = self.board.next_wake() + self.lag
            if wake > when:
                break
            self.world.now = max(self.world.now, wake)
        self.world.now = max(self.world.now, when)
        self.quiesce()

    # ---- short forms for tests

    def status(self, name: str) -> Body:
        body = self.world.objects[Claim, (NAMESPACE, name)]
        status: Body = body.get("status") or {}
        return status

    def session_status(self, name: str) -> Body:
        body = self.world.objects[Session, (NAMESPACE, name)]
        status: Body = body.get("status") or {}
        return status


def parse(kind: Kind, body: Body) -> Any:
    return parse_claim(body, BOUNDS) if kind is Claim else parse_session(body, BOUNDS)


def subject(action: Action) -> Fact:
    if isinstance(action, WriteClaimStatus | GrantExclusive):
        return action.claim
    if isinstance(action, WriteSessionStatus):
        return action.session
    assert isinstance(action, DeleteObject)
    return action.target


def claim_spec(resource: str, session: str) -> Body:
    return {"resource": resource, "session": session, "purpose": "testing", "holder": {"user": "u", "host": "h"}}


def session_spec(session: str, heartbeat: int = 30) -> Body:
    return {"sessionId": session, "heartbeatSeconds": heartbeat}


def seconds(text: str) -> float:
    return parse_time(text)
