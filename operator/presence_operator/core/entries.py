"""What the Board keeps of each object besides its facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence.model import kinds
from presence_operator.core.schedule import NEVER

if TYPE_CHECKING:
    from presence_operator.core import status as statuses
    from presence_operator.core.actions import Priority
    from presence_operator.core.conflicts import ResourceGroup
    from presence_operator.core.facts import Claim, Key, Session
    from presence_operator.core.queueing import ResourceQueue

#: Before any time.
NO_FACTS = -NEVER


class Entry:
    """What claims and sessions have in common: at most one action in flight, and a time to look again."""

    __slots__ = ("busy", "failures", "gone", "queued", "retry_at", "wake")

    def __init__(self) -> None:
        self.wake = NEVER
        self.busy = False
        self.gone = False
        self.failures = 0
        self.retry_at = NO_FACTS
        self.queued: Priority | None = None


class ClaimEntry(Entry):
    """A claim. `group` is set while it is shown among those that hold the resource."""

    __slots__ = ("fact", "group", "holder", "live", "mirror", "mirror_due", "resource", "show_peers")

    def __init__(self, fact: Claim, holder: Holder, resource: ResourceQueue) -> None:
        super().__init__()
        self.fact = fact
        self.resource = resource
        self.group: ResourceGroup | None = None
        self.holder = holder
        self.live = False
        # After a start, every list of others is compared with what is shown.
        self.show_peers = True
        self.mirror: statuses.MirrorNote | None = None
        self.mirror_due = NEVER


class SessionEntry(Entry):
    """A session."""

    __slots__ = ("count_due", "fact", "holder")

    def __init__(self, fact: Session, holder: Holder) -> None:
        super().__init__()
        self.fact = fact
        self.holder = holder
        self.count_due = NEVER


class LeaseNote:
    """The claim that the Lease of a resource names as far as this operator knows."""

    __slots__ = ("busy", "failures", "holder", "key", "wake")

    def __init__(self, key: Key, holder: str) -> None:
        self.wake = NEVER
        self.key = key
        #: uid of the claim.
        self.holder = holder
        self.busy = False
        self.failures = 0


class Holder:
    """One session id of one board: its claims, and the session objects that keep them alive."""

    __slots__ = ("alive", "claims", "completed", "departed", "key", "sessions", "verified", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.claims: dict[ClaimEntry, None] = {}
        self.sessions: dict[SessionEntry, None] = {}
        # A heartbeat keeps what it renewed also when the session object is deleted afterwards.
        self.departed: Session | None = None
        self.alive = NO_FACTS
        self.completed = False
        self.verified = NO_FACTS
        self.waiting: dict[ClaimEntry, None] = {}

    def recount(self) -> None:
        """Take in a change of the session objects."""
        facts = [entry.fact for entry in self.sessions]
        # A session that was begun anew under the same id holds its claims whatever became of the one before.
        newest = max(facts, key=lambda fact: (fact.created, fact.name), default=self.departed)
        self.completed = newest is not None and newest.state == kinds.COMPLETED
        if self.departed is not None:
            facts.append(self.departed)
        self.alive = max((_sign_of_life(fact) for fact in facts), default=NO_FACTS)

    def kind(self) -> str:
        """What acts in the session: Agent, Pipeline, Human; empty when nobody has said."""
        facts = [entry.fact for entry in self.sessions] or ([self.departed] if self.departed else [])
        return max(facts, key=lambda fact: (fact.created, fact.name)).kind if facts else ""

    def active(self) -> int:
        """How many of its claims are held."""
        return sum(entry.live and entry.fact.status.phase == kinds.ACTIVE for entry in self.claims)


def _sign_of_life(fact: Session) -> float:
    # A heartbeat after the session's end does not revive what it held.
    ended = fact.status.ended_at if fact.status.ended else None
    return fact.alive if ended is None else min(fact.alive, ended)
