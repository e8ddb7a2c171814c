"""What people should hear of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence.model import kinds
from presence.model.times import format_time
from presence_operator.core import status as statuses
from presence_operator.core.actions import EmitEvent, GrantExclusive, WriteClaimStatus, WriteSessionStatus

if TYPE_CHECKING:
    from presence_operator.core.actions import Action
    from presence_operator.core.facts import Claim, ClaimStatus

#: What is older than this when it is seen for the first time is history to be caught up with, not news.
NEWS_SECONDS = 60.0


def news(action: Action, now: float) -> list[EmitEvent]:
    """What changed for people, told by comparing the status before and after the write."""
    if isinstance(action, WriteSessionStatus):
        fault = action.session.ttl_fault
        if fault and not statuses.fault_shown(action.session.status.conditions, statuses.ALIVE, fault):
            return [EmitEvent(action.session, "InvalidTTL", fault, warning=True)]
        return []
    if not isinstance(action, (WriteClaimStatus, GrantExclusive)):
        return []
    claim, status = action.claim, action.status
    if action.ended:
        return [_end(claim, status, now)]
    if status.ended:
        return []
    events = []
    if action.began and now - (status.granted_at or claim.created) <= NEWS_SECONDS:
        how = " exclusively" if claim.exclusive else ""
        events.append(EmitEvent(claim, "Claimed", f"{claim.session} holds {claim.resource}{how}: {claim.purpose}"))
    if status.phase == kinds.PENDING and not claim.status.phase and now - claim.created <= NEWS_SECONDS:
        granted = status.condition(statuses.GRANTED)
        note = f"{claim.session} waits for {claim.resource}: {granted.message if granted else ''}"
        events.append(EmitEvent(claim, "Waiting", note))
    conflict, before = status.condition(statuses.CONFLICTED), claim.status.condition(statuses.CONFLICTED)
    if conflict is not None and conflict.status == "True" and (before is None or before.status != "True"):
        reason = statuses.OVERLAP if conflict.reason == statuses.OVERLAP else "Conflicted"
        events.append(EmitEvent(claim, reason, f"{claim.resource} is {conflict.message}", warning=True))
    if claim.ttl_fault and not statuses.fault_shown(claim.status.conditions, statuses.GRANTED, claim.ttl_fault):
        events.append(EmitEvent(claim, "InvalidTTL", claim.ttl_fault, warning=True))
    return events


def _end(claim: Claim, status: ClaimStatus, now: float) -> EmitEvent:
    condition = status.condition(statuses.GRANTED)
    message = condition.message if condition else ""
    if status.phase == kinds.EXPIRED:
        ended_at = format_time(status.ended_at or now)
        note = f"{claim.session} lost {claim.resource} at {ended_at}: {message}"
        return EmitEvent(claim, "Expired", note, warning=True)
    if claim.released and claim.release is not None and claim.release.forced:
        return EmitEvent(claim, "ForceReleased", f"{claim.session} lost {claim.resource}: {message}", warning=True)
    why = f": {message}" if message else ""
    return EmitEvent(claim, "Released", f"{claim.session} let {claim.resource} go{why}")
