"""Where the API server keeps things, and what it says of things that it has not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence.model import kinds
from presence.model.names import lease_name
from presence_operator.core.facts import Claim, Session

if TYPE_CHECKING:
    from presence_operator.shell.connection import Answer

_BASE = f"/apis/{kinds.API_VERSION}"
MERGE_PATCH = "application/merge-patch+json"
#: Objects in one page of a list.
PAGE = 500


def object_path(fact: Claim | Session) -> str:
    """The URL path of an object."""
    return f"{list_path(type(fact), fact.namespace)}/{fact.name}"


def status_path(fact: Claim | Session) -> str:
    """The URL path for writes of an object's status."""
    return f"{object_path(fact)}/status?fieldManager={kinds.OPERATOR_MANAGER}"


def list_path(kind: type[Claim | Session], namespace: str | None) -> str:
    """The URL path of a list; `namespace` is None for all of them."""
    plural = kinds.CLAIM_PLURAL if kind is Claim else kinds.SESSION_PLURAL
    return f"{_BASE}/{plural}" if namespace is None else f"{_BASE}/namespaces/{namespace}/{plural}"


def leases_path(namespace: str) -> str:
    """The URL path of the Leases of a namespace."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def lease_path(namespace: str, resource: str) -> str:
    """The URL path of the Lease of a resource."""
    return f"{leases_path(namespace)}/{lease_name(resource)}"


def kind_name(kind: type[Claim | Session]) -> str:
    """The Kubernetes kind."""
    return kinds.CLAIM_KIND if kind is Claim else kinds.SESSION_KIND


def is_gone(answer: Answer) -> bool:
    """True when the server says that this very object does not exist; a missing API or a page of a proxy says less."""
    if answer.status not in (404, 410):
        return False
    body = answer.body()
    return body.get("reason") in ("NotFound", "Gone") and bool((body.get("details") or {}).get("name"))
