"""Object names: legal, readable, one for each pair of session and resource."""

import re

from hypothesis import given
from hypothesis import strategies as st

from presence.model.names import claim_name, lease_name, session_name

LEGAL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@given(st.text(max_size=128), st.text(max_size=255))
def test_any_session_and_resource_give_a_legal_short_name(session: str, resource: str) -> None:
    for name in (claim_name(session, resource), session_name(session)):
        assert LEGAL.fullmatch(name)
        assert len(name) <= 63


def test_the_name_tells_the_resource() -> None:
    assert claim_name("wizard@devvm@a1b2c3d4", "stack:gpu-operator").startswith("stack-gpu-operator-")


def test_the_border_between_session_and_resource_counts() -> None:
    assert claim_name("a", "b:c") != claim_name("a:b", "c")


def test_names_never_change_between_releases() -> None:
    assert claim_name("wizard@devvm@a1b2c3d4", "stack:vault") == "stack-vault-a760ba33"


@given(st.text(max_size=255))
def test_any_resource_gives_a_legal_name_of_its_lease(resource: str) -> None:
    assert LEGAL.fullmatch(lease_name(resource))
    assert len(lease_name(resource)) <= 253


def test_two_resources_with_one_slug_have_two_leases() -> None:
    assert lease_name("stack:a-b") != lease_name("stack:a_b")


def test_the_lease_of_a_resource_never_changes_between_releases() -> None:
    assert lease_name("stack:vault") == "presence-stack-vault-5cb78fd2"
