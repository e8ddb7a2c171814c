"""How an Exclusive claim is granted: by compare-and-swap on the Lease of its resource, one request after the other.

The Lease names the claim whose turn it is. It passes to another claim only when the one it names is over in the API,
and a claim that is over has changed, so a grant of it that is still on its way is refused. A Lease that is missing may
have been deleted by hand while a grant was on its way: whoever makes a new one changes all other waiting claims first
(`Touch`), which refuses such a grant just as well.

Everything here is pure: `grant` is a generator of requests that is sent their answers, so every interleaving of two
operators can be tried.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from presence.model import kinds
from presence.model.names import lease_name
from presence.model.queue import shown_position
from presence.model.times import format_micro_time, readable_time
from presence_operator.core.actions import Failed, Gone, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from presence_operator.core.actions import FreeLease, GrantExclusive, Outcome
    from presence_operator.core.facts import Claim, ClaimStatus

#: Compare-and-swaps tried in a row before others get their turn.
_TRIES = 4
_PAUSE = 0.2
_LABELS = {"app.kubernetes.io/name": "presence", "app.kubernetes.io/component": "exclusive-claims"}


@dataclass(frozen=True, slots=True)
class Lease:
    """The Lease of a resource. An empty resourceVersion: not stored yet."""

    namespace: str
    resource: str
    resource_version: str = ""
    holder: str = ""
    """uid of the claim it was granted to last; empty when that is over and nobody waits."""
    claim: str = ""
    """Name of that claim."""
    session: str = ""
    token: int = 0
    """0 when it cannot be read."""
    transitions: int = 0
    unfenced: bool = False
    """True when it was made anew, and grants under an older one may still be on their way."""
    acquired: float = 0.0

    @property
    def name(self) -> str:
        """Name of the object."""
        return lease_name(self.resource)


@dataclass(frozen=True, slots=True)
class ReadLease:
    """Read the Lease of a resource; the answer is a Lease, or None when there is none."""

    namespace: str
    resource: str


@dataclass(frozen=True, slots=True)
class PutLease:
    """Create the Lease, or replace it provided that it has this resourceVersion.

    The answer is the stored Lease, or None when it exists already, has changed or is gone.
    """

    lease: Lease


@dataclass(frozen=True, slots=True)
class ReadClaim:
    """Read a claim linearizably; the answer is a Claim, or None when there is none."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ListClaims:
    """Read all claims on a resource linearizably; the answer is a list of them.

    With a resourceVersion of a claim, a picture not older than that will do, which the API server has at once.
    """

    namespace: str
    resource: str
    not_older_than: str = ""


@dataclass(frozen=True, slots=True)
class Touch:
    """Change each of these claims by its queuePosition and the phase Pending, provided that it is as given.

    `position` is for those that show none; others lose theirs. The answer is the list of what each is now: the
    changed claim, what it was meanwhile by other hands, or None when it is gone.
    """

    claims: tuple[Claim, ...]
    position: int


@dataclass(frozen=True, slots=True)
class WriteGrant:
    """Write this status provided that the claim still is as given; the answer is an Outcome."""

    claim: Claim
    status: ClaimStatus


Request = ReadLease | PutLease | ReadClaim | ListClaims | Touch | WriteGrant


@dataclass(frozen=True, slots=True)
class Step:
    """What the state of the Lease means for a claim that is to be granted; one of MAKE, TAKE, DONE, ASK."""

    what: str
    token: int = 0


MAKE, TAKE, DONE, ASK = "make", "take", "done", "ask"


def lease_decision(lease: Lease | None, claim: Claim, is_over: Callable[[str, str], bool]) -> Step:
    """What to do about the Lease so that `claim` may be granted.

    MAKE: there is none. TAKE: it is free to be taken, with this token. DONE: it names the claim already. ASK: it names
    another claim of which it is not known whether it is over. `is_over(uid, name)` must only be true of what the API
    has shown to be over.
    """
    if lease is None:
        return Step(MAKE)
    if lease.holder == claim.uid:
        return Step(DONE, lease.token)
    if not lease.holder or is_over(lease.holder, lease.claim):
        return Step(TAKE, lease.token + 1)
    return Step(ASK)


def grant(
    action: GrantExclusive, known: Lease | None, is_over: Callable[[str, str], bool], server_now: Callable[[], float]
) -> Generator[Request, Any, Outcome]:
    """Grant a claim. `known` is the Lease as last seen, if it was.

    Yields one request at a time and is sent its answer. A request that fails in another way ends it: close it then,
    and decide anew.
    """
    claim = action.claim
    lease, fresh, asked = known, False, ""

    def over(uid: str, name: str) -> bool:
        return uid == asked or is_over(uid, name)

    for _ in range(_TRIES):
        if lease is None and not fresh:
            lease, fresh = (yield ReadLease(claim.namespace, claim.resource)), True
        step = lease_decision(lease, claim, over)
        if step.what == DONE and not fresh:
            # Only what was read after the claim tells that the claim may be granted as it was then.
            lease = None
            continue
        if step.what == ASK:
            assert lease is not None
            holder = yield from _holder(lease)
            if holder is not None and not holder.over:
                return Held(holder)
            asked = lease.holder
            continue
        if step.what == MAKE:
            token = int(server_now() * 1000)
            wanted = _named(Lease(claim.namespace, claim.resource), claim, token, server_now())
            lease = yield PutLease(replace(wanted, unfenced=True))
        elif step.what == TAKE:
            assert lease is not None
            wanted = _named(lease, claim, step.token, server_now())
            # A number that cannot be read is made anew like a Lease that is missing.
            unreadable = lease.token <= 0
            token = int(server_now() * 1000) if unreadable else step.token
            lease = yield PutLease(replace(wanted, token=token, unfenced=unreadable or lease.unfenced))
        if lease is None:
            fresh = False
            continue
        if lease.unfenced:
            own = (yield Touch((claim,), 1))[0]
            if own is None:
                return Gone()
            same = replace(own, resource_version=claim.resource_version, status=claim.status) == claim
            if own.status.phase != kinds.PENDING or not same:
                # It has changed by other hands.
                return Failed(0.0, own)
            claim = own
            fenced = yield from _fence(lease, claim)
            if not isinstance(fenced, Lease):
                if fenced is None:
                    lease, fresh = None, False
                    continue
                return fenced
            lease = fenced
        outcome: Outcome = yield WriteGrant(claim, replace(action.status, fencing_token=lease.token))
        return outcome
    return Failed(_PAUSE)


def free(action: FreeLease, known: Lease | None) -> Generator[Request, Any, Outcome]:
    """Blank the Lease of a resource that nobody holds or waits for, provided that it still names that claim."""
    lease = known or (yield ReadLease(action.namespace, action.resource))
    if lease is None or lease.holder != action.holder or lease.unfenced:
        return Gone()
    holder = yield from _holder(lease)
    if holder is not None and not holder.over:
        return Held(holder)
    stored = yield PutLease(replace(lease, holder="", claim="", session=""))
    return Gone() if stored is not None else Failed(_PAUSE)


def _named(lease: Lease, claim: Claim, token: int, now: float) -> Lease:
    return replace(
        lease,
        holder=claim.uid,
        claim=claim.name,
        session=claim.session,
        token=token,
        transitions=lease.transitions + 1 if lease.resource_version else 0,
        acquired=now,
    )


def _holder(lease: Lease) -> Generator[Request, Any, Claim | None]:
    """The claim that the Lease names, as it is now; None when it does not exist any more."""
    if lease.claim:
        found: Claim | None = yield ReadClaim(lease.namespace, lease.claim)
        if found is not None and found.uid == lease.holder:
            return found
    claims: list[Claim] = yield ListClaims(lease.namespace, lease.resource)
    return next((each for each in claims if each.uid == lease.holder), None)


def _fence(lease: Lease, claim: Claim) -> Generator[Request, Any, Lease | Outcome | None]:
    """Make sure under a new Lease that no other grant is on its way, and that its token is the greatest.

    The Lease to go on with; an outcome when somebody else holds the resource; None when the Lease has changed.
    """
    # The claim itself was changed after the Lease: what is not older than that shows whatever came before the Lease.
    claims: list[Claim] = yield ListClaims(lease.namespace, lease.resource, claim.resource_version)
    others = [each for each in claims if each.uid != claim.uid and each.exclusive]
    highest = max((each.status.fencing_token or 0 for each in claims), default=0)
    holder = _holding(others)
    if holder is not None:
        return Held(holder)
    waiting = tuple(each for each in others if not each.over)
    if waiting:
        touched: list[Claim | None] = yield Touch(waiting, shown_position(len(waiting) + 1))
        holder = _holding([each for each in touched if each is not None])
        if holder is not None:
            return Held(holder)
    stored: Lease | None = yield PutLease(replace(lease, token=max(lease.token, highest + 1), unfenced=False))
    return stored


def _holding(claims: list[Claim]) -> Claim | None:
    return next((each for each in claims if (each.held or each.holds_on) and not each.over), None)


def parse_lease(body: Mapping[str, Any], namespace: str, resource: str) -> Lease:
    """The Lease as the API server returned it. What cannot be understood counts as absent."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    token = annotations.get(kinds.FENCING_TOKEN_ANNOTATION, "")
    return Lease(
        namespace=namespace,
        resource=resource,
        resource_version=metadata["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        claim=annotations.get(kinds.CLAIM_ANNOTATION, ""),
        session=annotations.get(kinds.SESSION_ANNOTATION, ""),
        token=int(token) if token.isdecimal() and len(token) < 19 else 0,
        transitions=spec.get("leaseTransitions") or 0,
        acquired=readable_time(spec.get("acquireTime")) or 0.0,
        unfenced=kinds.UNFENCED_ANNOTATION in annotations,
    )


def lease_body(lease: Lease) -> dict[str, Any]:
    """The Lease as it is written."""
    annotations = {
        kinds.RESOURCE_ANNOTATION: lease.resource,
        kinds.FENCING_TOKEN_ANNOTATION: str(lease.token),
    }
    if lease.holder:
        annotations |= {kinds.CLAIM_ANNOTATION: lease.claim, kinds.SESSION_ANNOTATION: lease.session}
    if lease.unfenced:
        annotations[kinds.UNFENCED_ANNOTATION] = "true"
    metadata: dict[str, Any] = {"name": lease.name, "namespace": lease.namespace, "labels": _LABELS}
    if lease.resource_version:
        metadata["resourceVersion"] = lease.resource_version
    # Without renewTime: how long the claim lives stands on the claim.
    spec: dict[str, Any] = {"leaseTransitions": lease.transitions, "holderIdentity": lease.holder or None}
    if lease.holder:
        spec["acquireTime"] = format_micro_time(lease.acquired)
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {**metadata, "annotations": annotations},
        "spec": spec,
    }
