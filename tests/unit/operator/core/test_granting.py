"""One grant at a time: what a Lease means, and what becomes of grants that were stopped half-way."""

from __future__ import annotations

import pytest

from presence.model import kinds
from presence_operator.core import granting
from presence_operator.core.decide import Policy
from presence_operator.core.facts import Claim
from presence_operator.core.granting import ASK, DONE, MAKE, TAKE, Lease, Step, lease_decision
from support.facts import a_claim
from unit.operator.core.rivals import Rival, Store, check_queues, settle
from unit.operator.core.world import NAMESPACE, claim_spec

RESOURCE = "stack:vault"
POLICY = Policy(retention=300.0)


def lease(holder: str, token: int = 7) -> Lease:
    return Lease("presence", RESOURCE, resource_version="5", holder=holder, claim="it", token=token)


def nothing_is_over(_uid: str, _name: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (None, Step(MAKE)),
        (lease("me"), Step(DONE, 7)),
        (lease(""), Step(TAKE, 8)),
        (lease("other"), Step(ASK)),
    ],
)
def test_what_the_lease_says(found: Lease | None, step: Step) -> None:
    assert lease_decision(found, a_claim(uid="me"), nothing_is_over) == step


def test_a_lease_is_taken_from_a_claim_that_is_known_to_be_over() -> None:
    assert lease_decision(lease("other"), a_claim(uid="me"), lambda uid, _: uid == "other") == Step(TAKE, 8)


def test_a_lease_survives_being_written_and_read() -> None:
    full = Lease("presence", RESOURCE, "5", "uid", "name", "ann@host", 1_700_000_000_123, 4, True, 1_700_000_000.0)
    body = granting.lease_body(full)
    body["metadata"]["resourceVersion"] = "5"

    assert granting.parse_lease(body, "presence", RESOURCE) == full


@pytest.mark.parametrize("text", ["", "many", "-1", "1" * 30])
def test_a_token_that_cannot_be_read_counts_as_none(text: str) -> None:
    body = granting.lease_body(lease("uid"))
    body["metadata"] |= {"resourceVersion": "5"}
    body["metadata"]["annotations"][kinds.FENCING_TOKEN_ANNOTATION] = text

    assert granting.parse_lease(body, "presence", RESOURCE).token == 0


class Scene:
    """ann held the vault and hands it over to cyd, past bob who came first; the first operator has begun that grant."""

    def __init__(self) -> None:
        self.store = Store()
        self.rivals = [Rival(self.store, POLICY), Rival(self.store, POLICY)]
        for who in ("ann", "bob", "cyd"):
            self.claim(who)
        settle(self.store, self.rivals)
        assert self.phases() == {"ann": "Active", "bob": "Pending", "cyd": "Pending"}
        self.store.change_spec(Claim, "ann", released=True, release={"to": "cyd"})
        self.begin(self.rivals[0])

    def claim(self, who: str) -> None:
        self.store.create(Claim, who, {**claim_spec(RESOURCE, who), "mode": kinds.EXCLUSIVE}, "15m")
        self.store.now += 1

    @staticmethod
    def begin(rival: Rival) -> None:
        """As far as the Lease, but not further."""
        rival.hear()
        rival.decide()
        while not isinstance(rival.flights[0].request, granting.WriteGrant):
            rival.act(len(rival.flying))

    @staticmethod
    def grant(rival: Rival) -> None:
        """It grants what it can, and writes nothing else."""
        rival.hear()
        rival.decide()
        while rival.flights:
            rival.act(len(rival.flying))

    def phases(self) -> dict[str, str]:
        return {body["metadata"]["name"]: body["status"]["phase"] for body in self.store.claims()}

    def token(self, who: str) -> int:
        number: int = self.store.objects[Claim, (NAMESPACE, who)]["status"]["fencingToken"]
        return number

    def forget_ann(self) -> None:
        """Whoever looks now does not see the hand-over any more, and finds bob first."""
        self.store.delete(Claim, "ann")


def test_a_grant_that_was_begun_is_completed_by_the_next_operator_with_the_same_token() -> None:
    scene = Scene()
    begun = scene.store.leases[NAMESPACE, RESOURCE].token
    scene.rivals.pop(0)
    scene.forget_ann()

    settle(scene.store, scene.rivals)

    assert scene.phases() == {"bob": "Pending", "cyd": "Active"}
    assert scene.token("cyd") == begun


def test_an_operator_that_was_paused_in_the_middle_of_a_grant_does_no_harm_when_it_resumes() -> None:
    scene = Scene()
    scene.forget_ann()
    settle(scene.store, scene.rivals[1:])
    scene.store.change_spec(Claim, "cyd", released=True)
    settle(scene.store, scene.rivals[1:])
    assert scene.phases() == {"bob": "Active", "cyd": "Released"}

    settle(scene.store, scene.rivals)

    assert scene.phases() == {"bob": "Active", "cyd": "Released"}


def test_a_lease_deleted_by_hand_in_the_middle_of_a_grant_makes_no_second_holder() -> None:
    scene = Scene()
    scene.forget_ann()
    scene.store.delete_lease(RESOURCE)
    scene.grant(scene.rivals[1])
    assert scene.phases() == {"bob": "Active", "cyd": "Pending"}

    # The store judges every write: the grant of cyd that is still on its way must be refused.
    settle(scene.store, scene.rivals)

    assert scene.phases() == {"bob": "Active", "cyd": "Pending"}
    check_queues(scene.store)


def test_a_lease_deleted_while_it_is_being_made_anew_is_made_anew_once_more() -> None:
    scene = Scene()
    scene.forget_ann()
    scene.store.delete_lease(RESOURCE)
    other = scene.rivals[1]
    other.hear()
    other.decide()
    while not isinstance(other.flights[0].request, granting.Touch):
        other.act(len(other.flying))
    scene.store.delete_lease(RESOURCE)

    settle(scene.store, scene.rivals)

    assert sorted(scene.phases().values()) == ["Active", "Pending"]


def test_tokens_grow_also_when_the_lease_was_deleted() -> None:
    scene = Scene()
    settle(scene.store, scene.rivals)
    before = scene.token("cyd")
    scene.store.delete_lease(RESOURCE)
    scene.store.change_spec(Claim, "cyd", released=True)

    settle(scene.store, scene.rivals)

    assert scene.token("bob") > before


def test_a_lease_that_nobody_needs_is_blanked_and_keeps_its_token() -> None:
    scene = Scene()
    settle(scene.store, scene.rivals)
    for who in ("cyd", "bob"):
        scene.store.change_spec(Claim, who, released=True)
        settle(scene.store, scene.rivals)

    blank = scene.store.leases[NAMESPACE, RESOURCE]

    assert (blank.holder, blank.claim, blank.session) == ("", "", "")
    scene.store.delete(Claim, "bob")
    scene.claim("bob")
    settle(scene.store, scene.rivals)
    assert scene.token("bob") == blank.token + 1


def test_of_two_operators_that_know_the_same_lease_one_is_refused() -> None:
    store = Store()
    rivals = [Rival(store, POLICY), Rival(store, POLICY)]
    scene = Scene.__new__(Scene)
    scene.store, scene.rivals = store, rivals
    for who in ("ann", "bob", "cyd"):
        scene.claim(who)
    settle(store, rivals[:1])
    store.change_spec(Claim, "ann", released=True, release={"to": "cyd"})
    rivals[0].hear()
    rivals[0].decide()
    assert isinstance(rivals[0].flights[0].request, granting.PutLease)

    scene.forget_ann()
    scene.grant(rivals[1])
    assert scene.phases() == {"bob": "Active", "cyd": "Pending"}
    settle(store, rivals)

    assert scene.phases() == {"bob": "Active", "cyd": "Pending"}


def test_a_grant_is_not_taken_up_again_on_the_word_of_a_lease_that_was_read_before() -> None:
    scene = Scene()
    late, other = scene.rivals
    late.lose(len(late.flying), arrives=False)
    scene.forget_ann()
    scene.store.delete_lease(RESOURCE)
    scene.grant(other)
    assert scene.phases() == {"bob": "Active", "cyd": "Pending"}
    scene.store.now += 2

    # It learns that cyd's claim has changed, and not yet that bob holds the resource.
    names = [body["metadata"]["name"] for _, _, body in late.heard]
    late.hear(names.index("cyd") + 1)
    late.known[NAMESPACE, RESOURCE] = Lease(
        NAMESPACE, RESOURCE, "1", scene.store.objects[Claim, (NAMESPACE, "cyd")]["metadata"]["uid"], "cyd", "cyd", 9
    )
    late.decide()
    assert late.flights
    settle(scene.store, scene.rivals)

    assert scene.phases() == {"bob": "Active", "cyd": "Pending"}
