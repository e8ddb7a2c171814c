"""Two operators at once, paused and killed between any two requests, and Leases deleted by hand: never two holders."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from presence.model import kinds
from presence_operator.core import granting
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Claim, Session
from unit.operator.core.rivals import Rival, Store, check_queues, settle
from unit.operator.core.world import NAMESPACE, claim_spec, session_spec

RESOURCE = "stack:vault"
WHO = st.sampled_from(["ann", "bob", "cyd", "dan", "eve"])
NUMBERS = st.integers(0, 1)


class Rivals(RuleBasedStateMachine):
    @initialize(operators=st.sampled_from([1, 2, 2]))
    def begin(self, operators: int) -> None:
        self.store = Store()
        self.rivals = [Rival(self.store, Policy(retention=300.0)) for _ in range(operators)]

    # ---- users

    @rule(
        who=WHO,
        mode=st.sampled_from([kinds.EXCLUSIVE, kinds.EXCLUSIVE, kinds.SHARED]),
        ttl=st.sampled_from(["5s", "30s", "15m", "15m"]),
        hold=st.booleans(),
    )
    def claim(self, who: str, mode: str, ttl: str, hold: bool) -> None:
        on_expiry = kinds.ON_EXPIRY_HOLD if hold else kinds.ON_EXPIRY_RELEASE
        spec = {**claim_spec(RESOURCE, who), "mode": mode, "onExpiry": on_expiry}
        self.store.create(Claim, who, spec, ttl)

    @rule(who=WHO)
    def begin_session(self, who: str) -> None:
        self.store.create(Session, who, session_spec(who, 5), "30s")

    @rule(who=WHO)
    def complete_session(self, who: str) -> None:
        self.store.change_spec(Session, who, state=kinds.COMPLETED)

    @rule(who=WHO)
    def beat(self, who: str) -> None:
        self.store.annotate(Claim, who, kinds.HEARTBEAT_ANNOTATION, str(self.store.revision))

    @rule(who=WHO)
    def release(self, who: str) -> None:
        self.store.change_spec(Claim, who, released=True)

    @rule(who=WHO, to=WHO)
    def hand_over(self, who: str, to: str) -> None:
        body = self.store.objects.get((Claim, (NAMESPACE, who)))
        if body is not None and not body["spec"].get("released"):
            self.store.change_spec(Claim, who, released=True, release={"to": to})

    @rule()
    def release_the_holder(self) -> None:
        for body in self.store.holding(RESOURCE):
            self.store.change_spec(Claim, body["metadata"]["name"], released=True)

    @rule(who=WHO)
    def delete_claim(self, who: str) -> None:
        self.store.delete(Claim, who)

    @rule()
    def delete_lease(self) -> None:
        self.store.delete_lease(RESOURCE)

    @rule(step=st.sampled_from([0.3, 1.0, 6.0, 40.0]))
    def time_passes(self, step: float) -> None:
        self.store.now += step

    # ---- operators

    @rule(number=NUMBERS, count=st.integers(1, 9))
    def hear(self, number: int, count: int) -> None:
        self._rival(number).hear(count)

    @rule(number=NUMBERS)
    def decide(self, number: int) -> None:
        self._rival(number).decide(3)

    @rule(number=NUMBERS, index=st.integers(0, 3))
    def act(self, number: int, index: int) -> None:
        if self._rival(number).busy:
            self._rival(number).act(index)

    @rule(number=NUMBERS, index=st.integers(0, 3), arrives=st.booleans())
    def lose(self, number: int, index: int, arrives: bool) -> None:
        if self._rival(number).busy:
            self._rival(number).lose(index, arrives)

    @rule(number=NUMBERS)
    def turn_around(self, number: int) -> None:
        self._rival(number).turn_around()

    @rule(number=NUMBERS)
    def begin_a_grant(self, number: int) -> None:
        """It gets as far as the Lease, and is stopped before it writes the status."""
        rival = self._rival(number)
        rival.hear()
        rival.decide()
        while rival.flights and not isinstance(rival.flights[0].request, granting.WriteGrant):
            rival.act(len(rival.flying))

    @rule(who=WHO, to=WHO)
    def hand_over_and_delete(self, who: str, to: str) -> None:
        """Some see the hand-over, others only that the claim is gone."""
        body = self.store.objects.get((Claim, (NAMESPACE, who)))
        if body is not None and not body["spec"].get("released"):
            self.store.change_spec(Claim, who, released=True, release={"to": to})
        self._rival(0).hear()
        self.store.delete(Claim, who)

    @rule(number=NUMBERS)
    def crash(self, number: int) -> None:
        self._rival(number).restart()

    @rule(number=NUMBERS)
    def miss_events(self, number: int) -> None:
        self._rival(number).heard.clear()
        self._rival(number).resync()

    @precondition(lambda self: self.store.claims())
    @rule()
    def come_to_rest(self) -> None:
        self._check_at_rest()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._check_at_rest()

    def _check_at_rest(self) -> None:
        settle(self.store, self.rivals)
        check_queues(self.store)
        if len(self.rivals) == 1:
            held = self.store.holding(RESOURCE)
            assert len(held) <= 1 or not any(body["spec"]["mode"] == kinds.EXCLUSIVE for body in held)

    def _rival(self, number: int) -> Rival:
        return self.rivals[number % len(self.rivals)]


TestRivals = Rivals.TestCase
TestRivals.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
