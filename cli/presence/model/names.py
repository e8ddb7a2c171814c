"""Deterministic object names.

A label holds `:` and `/`, a session id may hold `@`: neither is a legal object name. The name is a readable slug and
a hash, so one (session, resource) pair has one object, and a second claim is an update instead of a duplicate.
"""

import hashlib
import re

_HASH_DIGITS = 8
_SLUG_MAX = 48


def slug(text: str) -> str:
    """`text` as a part of an object name: lower case, other characters as single dashes, at most 48 characters."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain[:_SLUG_MAX].rstrip("-") or "x"


def claim_name(session: str, resource: str) -> str:
    """Name of the claim that `session` makes on `resource`."""
    return f"{slug(resource)}-{_digest(session, resource)}"


def session_name(session: str) -> str:
    """Name of the AgentSession object of `session`."""
    return f"{slug(session)}-{_digest(session)}"


def lease_name(resource: str) -> str:
    """Name of the Lease by which exclusive claims on `resource` are granted."""
    return f"presence-{slug(resource)}-{_digest(resource)}"


def _digest(*parts: str) -> str:
    # NUL occurs in no part, so ("a", "b:c") and ("a:b", "c") cannot meet.
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH_DIGITS]
