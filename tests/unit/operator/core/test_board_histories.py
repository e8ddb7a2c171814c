"""Whatever happens in whatever order, the Board keeps its promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from presence.model import kinds
from presence.model.deadlines import session_deadline
from presence.model.times import format_time
from presence_operator.core.actions import Failed
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Claim, Session
from unit.operator.core.world import (
    NAMESPACE,
    Body,
    Operator,
    Pictures,
    World,
    claim_spec,
    parse,
    seconds,
    session_spec,
)

if TYPE_CHECKING:
    from presence_operator.core.facts import Fact

SESSIONS = st.sampled_from(["ann", "bob", "cyd"])
RESOURCES = st.sampled_from(["stack:vault", "db:main"])
TTLS = st.sampled_from(["5s", "10s", "60s", "15m", "rubbish", None])
RETENTION = 120.0


class Histories(RuleBasedStateMachine):
    @initialize(lag=st.sampled_from([0.0, 0.4]))
    def begin(self, lag: float) -> None:
        self.world = World()
        self.operator = Operator(self.world, Policy(retention=RETENTION), lag)

    # ---- users

    @rule(session=SESSIONS, resource=RESOURCES, ttl=TTLS, twice=st.booleans())
    def claim(self, session: str, resource: str, ttl: str | None, twice: bool) -> None:
        name = f"{session}-{resource.partition(':')[0]}{'-2' if twice else ''}"
        self.world.create(Claim, name, claim_spec(resource, session), ttl)

    @rule(session=SESSIONS, ttl=TTLS)
    def begin_session(self, session: str, ttl: str | None) -> None:
        self.world.create(Session, session, session_spec(session, 5), ttl)

    @rule(session=SESSIONS)
    def beat(self, session: str) -> None:
        self.world.annotate(Session, session, kinds.HEARTBEAT_ANNOTATION, str(self.world.revision))

    @precondition(lambda self: self.world.claims())
    @rule(data=st.data())
    def beat_claim(self, data: st.DataObject) -> None:
        self.world.annotate(Claim, self._some_claim(data), kinds.HEARTBEAT_ANNOTATION, str(self.world.revision))

    @precondition(lambda self: self.world.claims())
    @rule(data=st.data(), ttl=TTLS.filter(bool))
    def change_ttl(self, data: st.DataObject, ttl: str) -> None:
        self.world.annotate(Claim, self._some_claim(data), kinds.TTL_ANNOTATION, ttl)

    @precondition(lambda self: self.world.claims())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.world.change_spec(Claim, self._some_claim(data), released=True)

    @precondition(lambda self: self.world.claims())
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        """The holder comes back after its deadline, and says so."""
        name = self._some_claim(data)
        deadline = self.world.deadline(self.world.objects[Claim, (NAMESPACE, name)])
        if deadline <= self.world.now:
            self.world.annotate(Claim, name, kinds.LAPSED_ANNOTATION, format_time(deadline))

    @rule(session=SESSIONS, state=st.sampled_from([kinds.PAUSED, kinds.RUNNING, kinds.COMPLETED]))
    def change_session(self, session: str, state: str) -> None:
        self.world.change_spec(Session, session, state=state)

    @precondition(lambda self: self.world.claims())
    @rule(data=st.data())
    def delete_claim(self, data: st.DataObject) -> None:
        self.world.delete(Claim, self._some_claim(data))

    @rule(session=SESSIONS)
    def delete_session(self, session: str) -> None:
        self.world.delete(Session, session)

    @rule(step=st.sampled_from([0.3, 1.0, 2.5, 4.0, 15.0, 70.0]))
    def time_passes(self, step: float) -> None:
        self.world.now += step

    # ---- the operator, and what may go wrong

    @rule(count=st.integers(1, 5))
    def hear(self, count: int) -> None:
        self.operator.hear(count)

    @rule(limit=st.integers(0, 4))
    def decide(self, limit: int) -> None:
        self.operator.decide(limit)

    @precondition(lambda self: self.operator.flying)
    @rule(index=st.integers(0, 9))
    def act(self, index: int) -> None:
        self.operator.act(index)

    @precondition(lambda self: self.operator.flying)
    @rule(index=st.integers(0, 9), arrives=st.booleans())
    def lose(self, index: int, arrives: bool) -> None:
        """A request gets no answer; it may have been carried out nevertheless."""
        action = self.operator.flying.pop(index % len(self.operator.flying))
        if arrives:
            self.world.perform(action, self.operator.now)
        self.operator.board.settle(action, Failed(1.5), self.operator.now)

    @rule()
    def miss_events(self) -> None:
        """The watch breaks; what it had not told is never told, and a comparison follows."""
        self.world.watch.clear()
        self.operator.resync()

    @precondition(lambda self: self.operator.pictures is None)
    @rule()
    def begin_comparison(self) -> None:
        self.operator.pictures = Pictures(self.world, self.operator.board)

    @precondition(lambda self: self.operator.pictures is not None)
    @rule()
    def end_comparison(self) -> None:
        assert self.operator.pictures is not None
        self.operator.pictures.finish()
        self.operator.pictures = None

    @rule(forget_watch=st.booleans())
    def restart(self, forget_watch: bool) -> None:
        if forget_watch:
            self.world.watch.clear()
        self.operator.restart()

    @rule()
    def come_to_rest(self) -> None:
        self._check_at_rest()

    def teardown(self) -> None:
        if hasattr(self, "operator"):
            self._check_at_rest()
            if any(self._outlives_its_session(body) for body in self.world.claims()):
                return
            writes = len(self.world.writes)
            self.operator.restart()
            self.operator.quiesce()
            assert len(self.world.writes) == writes, "a new operator does again what was done"

    def _outlives_its_session(self, claim: Body) -> bool:
        """Only the operator that saw the session's heartbeats remembers them after the session was deleted."""
        status = claim["status"]
        promise = status.get("expiresAt")
        live = status["phase"] not in kinds.ENDED_PHASES
        return live and promise is not None and self.world.deadline(claim) < seconds(promise)

    # ---- what holds

    def _check_at_rest(self) -> None:
        if self.operator.pictures is not None:
            self.end_comparison()
        self.operator.settle_down()
        claims, sessions = self.operator.board.snapshot()
        facts: list[Fact] = [*claims, *sessions]
        known = {fact.uid: fact.resource_version for fact in facts}
        there = [*self.world.claims(), *self.world.sessions()]
        assert known == {body["metadata"]["uid"]: body["metadata"]["resourceVersion"] for body in there}
        now = self.operator.now
        live = []
        for body in self.world.claims():
            status = body["status"]
            session = self.world.session_of(body)
            if status["phase"] == kinds.ACTIVE:
                live.append(body)
                assert status["observedGeneration"] == body["metadata"]["generation"]
                assert seconds(status["expiresAt"]) > now, "a promise that has passed"
                assert "endedAt" not in status
                assert not body["spec"].get("released")
                assert kinds.LAPSED_ANNOTATION not in body["metadata"]["annotations"]
                assert session is None or session["spec"].get("state") != kinds.COMPLETED
            else:
                assert now < seconds(status["endedAt"]) + RETENTION, "not collected"
                assert "conflictsWith" not in status or not status["conflictsWith"]
        for body in live:
            shown = {peer["name"] for peer in body["status"]["conflictsWith"]}
            others: dict[str, str] = {}
            for other in sorted(live, key=lambda other: _seniority(other["metadata"])):
                if (
                    other["spec"]["resource"] == body["spec"]["resource"]
                    and other["spec"]["session"] != body["spec"]["session"]
                ):
                    others.setdefault(other["spec"]["session"], other["metadata"]["name"])
            assert shown == set(others.values())
        for body in self.world.sessions():
            status = body["status"]
            held = [item for item in live if item["spec"]["session"] == body["spec"]["sessionId"]]
            assert status["activeClaims"] == len(held)
            if status["phase"] in (kinds.ACTIVE, kinds.STALE, kinds.PAUSED):
                assert session_deadline(body) > now or parse(Session, body).ttl_fault
                assert seconds(status["expiresAt"]) > now
                stale = now >= parse(Session, body).alive + 3 * 5
                paused = body["spec"].get("state") == kinds.PAUSED
                assert status["phase"] == (kinds.PAUSED if paused else kinds.STALE if stale else kinds.ACTIVE)

    def _some_claim(self, data: st.DataObject) -> str:
        names = sorted(body["metadata"]["name"] for body in self.world.claims())
        return str(data.draw(st.sampled_from(names)))


def _seniority(metadata: Body) -> tuple[float, str]:
    return seconds(metadata["creationTimestamp"]), metadata["name"]


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
