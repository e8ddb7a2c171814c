"""Several operators that all act on one API server in memory: Leases, and grants that stop between any two requests."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from presence.model import kinds
from presence.model.queue import ahead_of, hand_over, holds_on, is_over, mode_of
from presence_operator.core import granting
from presence_operator.core.actions import Failed, FreeLease, Gone, GrantExclusive, Outcome, WriteClaimStatus
from presence_operator.core.facts import Claim, Key
from presence_operator.core.status import touch_patch
from unit.operator.core.world import NAMESPACE, Body, Kind, Operator, World, parse

if TYPE_CHECKING:
    from collections.abc import Generator

    from presence_operator.core.decide import Policy


class Store(World):
    """The API server with its Leases; it judges every write."""

    def __init__(self) -> None:
        super().__init__()
        self.watches: list[list[tuple[Kind, str, Body]]] = []
        self.leases: dict[Key, granting.Lease] = {}
        self.greatest: dict[str, int] = {}
        self.grants: list[str] = []

    def _tell(self, kind: Kind, event: str, body: Body) -> None:
        for watch in self.watches:
            watch.append((kind, event, body))

    def unheard(self) -> set[str]:
        return {body["metadata"]["uid"] for watch in self.watches for _, event, body in watch if event == "ADDED"}

    def answer(self, request: granting.Request) -> Any:
        """What the API server answers to a request of a grant."""
        if isinstance(request, granting.ReadLease):
            return self.leases.get((request.namespace, request.resource))
        if isinstance(request, granting.PutLease):
            return self._put_lease(request.lease)
        if isinstance(request, granting.ReadClaim):
            body = self.objects.get((Claim, (request.namespace, request.name)))
            return parse(Claim, body) if body else None
        if isinstance(request, granting.ListClaims):
            return [parse(Claim, body) for body in self.claims() if body["spec"]["resource"] == request.resource]
        if isinstance(request, granting.Touch):
            return [self._touch(claim, request.position) for claim in request.claims]
        return self.perform(WriteClaimStatus(request.claim, request.status, 0.0), self.now)

    def delete_lease(self, resource: str) -> None:
        """Somebody deletes a Lease by hand."""
        self.leases.pop((NAMESPACE, resource), None)

    def _put_lease(self, lease: granting.Lease) -> granting.Lease | None:
        key = (lease.namespace, lease.resource)
        stored = self.leases.get(key)
        if (stored.resource_version if stored else "") != lease.resource_version:
            return None
        # A grant takes time; so a token made of it is new also when nothing else is known.
        self.now += 0.002
        self.revision += 1
        body = granting.lease_body(lease)
        body["metadata"]["resourceVersion"] = str(self.revision)
        self.leases[key] = granting.parse_lease(body, lease.namespace, lease.resource)
        return self.leases[key]

    def _touch(self, claim: Claim, position: int) -> Claim | None:
        body = self.objects.get((Claim, claim.key))
        if body is None:
            return None
        if body["metadata"]["resourceVersion"] == claim.resource_version:
            patch = touch_patch(claim, position)["status"]
            assert (body.get("status") or {}).get("phase", "") in ("", kinds.PENDING)
            self._merge(body, patch)
            self._stored(Claim, body, "MODIFIED")
        return parse(Claim, body)  # type: ignore[no-any-return]

    def _check_write(self, kind: Kind, body: Body, before: Body) -> None:
        super()._check_write(kind, body, before)
        status = body["status"]
        if kind is not Claim or status["phase"] != kinds.ACTIVE or before.get("phase") == kinds.ACTIVE:
            return
        assert not is_over(body), "granted although it is over"
        if mode_of(body) != kinds.EXCLUSIVE:
            return
        resource = body["spec"]["resource"]
        assert status["fencingToken"] > self.greatest.get(resource, 0), "the fencing token does not grow"
        self.greatest[resource] = status["fencingToken"]
        self.grants.append(body["metadata"]["name"])
        holding = [each["metadata"]["name"] for each in self.holding(resource) if mode_of(each) == kinds.EXCLUSIVE]
        assert holding == [body["metadata"]["name"]], "two hold the resource exclusively"

    def holding(self, resource: str) -> list[Body]:
        """The claims that hold a resource or keep it blocked."""
        return [
            body
            for body in self.claims()
            if body["spec"]["resource"] == resource
            and not is_over(body)
            and ((body.get("status") or {}).get("phase") == kinds.ACTIVE or holds_on(body))
        ]

    def on(self, resource: str) -> list[Body]:
        """All claims on a resource."""
        return [body for body in self.claims() if body["spec"]["resource"] == resource]


class Flight:
    """A grant on its way: what has been asked, and not been answered yet."""

    def __init__(
        self, action: GrantExclusive | FreeLease, program: Generator[granting.Request, Any, Outcome], key: Key
    ) -> None:
        self.action = action
        self.program = program
        self.key = key
        self.request = program.send(None)


class Rival(Operator):
    """An operator that acts although others do as well."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.heard: list[tuple[Kind, str, Body]] = []
        store.watches.append(self.heard)
        self.known: dict[Key, granting.Lease] = {}
        self.flights: list[Flight] = []
        self.tried: set[str] = set()
        super().__init__(store, policy)

    def watch(self) -> list[tuple[Kind, str, Body]]:
        return self.heard

    def restart(self) -> None:
        self.heard.clear()
        self.known = {}
        self.flights = []
        self.tried = set()
        super().restart()

    def decide(self, limit: int = 100) -> None:
        actions = self.board.decide(self.now, limit)
        for action in actions:
            if isinstance(action, GrantExclusive):
                self._check_turn(action.claim)
                key = (action.claim.namespace, action.claim.resource)
                program = granting.grant(action, self.known.get(key), self._is_over, lambda: self.now)
                self.flights.append(Flight(action, program, key))
            elif isinstance(action, FreeLease):
                key = (action.namespace, action.resource)
                self._begin(action, granting.free(action, self.known.get(key)), key)
            else:
                self.flying.append(action)

    def act(self, index: int = 0) -> None:
        """Let one write, or one request of a grant, reach the API server, and hear its answer."""
        index %= len(self.flying) + len(self.flights)
        if index < len(self.flying):
            super().act(index)
            return
        flight = self.flights[index - len(self.flying)]
        answer = self.store.answer(flight.request)
        if isinstance(flight.request, granting.ReadLease | granting.PutLease):
            self.known.pop(flight.key, None)
            if answer is not None:
                self.known[flight.key] = answer
        try:
            flight.request = flight.program.send(answer)
        except StopIteration as end:
            self.flights.remove(flight)
            self.events += self.board.settle(flight.action, end.value, self.now)

    def lose(self, index: int, arrives: bool) -> None:
        """A request gets no answer; it may have been carried out nevertheless."""
        index %= len(self.flying) + len(self.flights)
        if index < len(self.flying):
            action = self.flying.pop(index)
            if arrives:
                self.world.perform(action, self.now)
            self.board.settle(action, Failed(1.5), self.now)
            return
        flight = self.flights.pop(index - len(self.flying))
        if arrives:
            self.store.answer(flight.request)
        self.known.pop(flight.key, None)
        flight.program.close()
        self.board.settle(flight.action, Failed(1.5), self.now)

    @property
    def busy(self) -> bool:
        return bool(self.flying or self.flights)

    def turn_around(self) -> None:
        """Hear everything, and act on it once."""
        self.hear()
        self.decide()
        while self.busy:
            self.act()

    def _begin(self, action: FreeLease, program: Generator[granting.Request, Any, Outcome], key: Key) -> None:
        try:
            self.flights.append(Flight(action, program, key))
        except StopIteration as end:
            self.board.settle(action, end.value, self.now)

    def _is_over(self, uid: str, name: str) -> bool:
        return self.board.is_over(NAMESPACE, uid, name)

    def _check_turn(self, claim: Claim) -> None:
        """Whoever is granted the resource was the first of those that this operator could see."""
        lease = self.store.leases.get((claim.namespace, claim.resource))
        # A grant that has begun goes on, whatever comes in between.
        if claim.uid in self.tried or (lease is not None and lease.holder == claim.uid):
            return
        self.tried.add(claim.uid)
        known, _ = self.board.snapshot()
        others = [each for each in known if each.resource == claim.resource and each.uid != claim.uid]
        bodies = [self.store.objects.get((Claim, each.key)) for each in others]
        to, _until = hand_over([body for body in bodies if body])
        if to == claim.session:
            return
        before = [
            each.name
            for each in others
            if not (each.over or each.held or each.holds_on) and each.created < claim.created
        ]
        assert before == [], f"{claim.name} goes before those that came earlier"


def settle(store: Store, rivals: list[Rival]) -> None:
    """Let all of them act until nothing is due, also what is written a little later on purpose."""
    quiet = 0
    for _ in range(3000):
        before = (store.revision, len(store.writes))
        for rival in rivals:
            rival.turn_around()
        if (store.revision, len(store.writes)) != before:
            quiet = 0
            continue
        quiet += 1
        if quiet > 20:
            return
        store.now += 1.0
    raise AssertionError("they never come to rest")


def check_queues(store: Store) -> None:
    """What holds whenever everybody has come to rest."""
    bodies = sorted(store.claims(), key=lambda body: str(body["spec"]["resource"]))
    for resource, group in groupby(bodies, key=lambda body: str(body["spec"]["resource"])):
        claims = list(group)
        waiting = [body for body in claims if body["status"]["phase"] == kinds.PENDING]
        lease = store.leases.get((NAMESPACE, resource))
        for body in waiting:
            ahead = ahead_of(body, claims)
            promised = lease is not None and lease.holder in [each["metadata"]["uid"] for each in waiting]
            assert ahead or promised, f"{body['metadata']['name']} waits for nobody"
            place = 1 + sum(each["status"]["phase"] == kinds.PENDING for each in ahead)
            shown = body["status"]["queuePosition"]
            if not promised and mode_of(body) == kinds.EXCLUSIVE:
                assert shown >= place, "a position that is too good"
                assert shown == place or place > 3, "one of the first three does not know its place"
            assert body["status"]["waitingFor"]
        for body in claims:
            if body["status"]["phase"] != kinds.PENDING:
                assert "queuePosition" not in body["status"]
                assert "waitingFor" not in body["status"]


__all__ = ["Failed", "Gone", "Rival", "Store", "check_queues", "settle"]
