"""Who is shown to whom on a crowded resource, and what a crowd costs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from presence.model.times import format_time
from presence_operator.core.conflicts import SHOWN, ResourceGroup
from presence_operator.core.facts import Bounds, Claim, Peer, parse_claim
from unit.operator.core.world import NAMESPACE, START, claim_spec


def a_claim(number: int, session: str, age: float = 0.0) -> Claim:
    metadata = {
        "namespace": NAMESPACE,
        "name": f"{session}-{number}",
        "uid": f"{session}-{number}",
        "resourceVersion": "1",
        "creationTimestamp": format_time(START - age),
    }
    return parse_claim({"metadata": metadata, "spec": claim_spec("stack:vault", session)}, Bounds())


def shown(claims: set[Claim], to: Claim) -> tuple[Peer, ...]:
    oldest: dict[str, Claim] = {}
    for claim in sorted(claims, key=lambda claim: (claim.created, claim.name)):
        if claim.session != to.session:
            oldest.setdefault(claim.session, claim)
    return tuple(Peer(claim.name, claim.session, claim.created) for claim in oldest.values())[:SHOWN]


@given(
    moves=st.lists(
        st.builds(
            a_claim, st.integers(0, 3), st.sampled_from([f"s{n}" for n in range(14)]), st.integers(0, 5).map(float)
        ),
        max_size=60,
    )
)
def test_each_sees_the_oldest_claim_of_each_other_session_and_hears_when_that_changes(moves: list[Claim]) -> None:
    group, members = ResourceGroup((NAMESPACE, "stack:vault")), set[Claim]()
    for claim in moves:
        before = {member: group.peers(member) for member in members}
        group.stale = False
        if claim in members:
            group.leave(claim)
            members.discard(claim)
        else:
            group.join(claim)
            members.add(claim)
        for member in members:
            assert group.peers(member) == shown(members, member)
            assert group.stale or member not in before or group.peers(member) == before[member]
        assert len(group) == len(members)
        assert sorted(group.names()) == sorted(member.name for member in members)


def test_more_claims_of_one_session_are_no_news_to_anybody() -> None:
    group = ResourceGroup((NAMESPACE, "stack:vault"))
    mine = [a_claim(number, "ann") for number in range(300)]
    for claim in mine:
        group.join(claim)
        assert not group.stale
    group.join(a_claim(0, "bob"))
    assert group.stale
    group.stale = False
    for claim in mine[1:]:
        group.leave(claim)
        group.join(claim)
    assert not group.stale
