"""The Board: everything the operator knows, and what is to be done about it.

Facts come in from watches, lists and the answers to the operator's own writes, in any order and as often as they like:
`put`, `drop`, `Listing`. `decide` hands out actions, at most one at a time for each object; `settle` takes their
outcomes. What failed is decided again from the facts as they are then. Nothing here waits, reads a clock or does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from presence.model import kinds
from presence.model.names import session_name
from presence.model.queue import shown_position
from presence_operator.core.actions import (
    DeleteObject,
    Done,
    Failed,
    FreeLease,
    Gone,
    GrantExclusive,
    Held,
    Priority,
    Verified,
    VerifySessions,
    WriteClaimStatus,
    WriteSessionStatus,
)
from presence_operator.core.conflicts import ResourceGroup
from presence_operator.core.decide import (
    Circumstances,
    Decision,
    Policy,
    Turn,
    as_stamped,
    decide_claim,
    decide_session,
    promise_is_due,
)
from presence_operator.core.entries import NO_FACTS, ClaimEntry, Holder, LeaseNote, SessionEntry
from presence_operator.core.facts import Claim, Fact, Key, Peer, Session, is_newer, version_number
from presence_operator.core.limiting import Limiter
from presence_operator.core.limits import Slots
from presence_operator.core.news import news
from presence_operator.core.queueing import ResourceQueue
from presence_operator.core.schedule import NEVER, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from presence_operator.core import status as statuses
    from presence_operator.core.actions import Action, EmitEvent, Outcome
    from presence_operator.core.limits import Limits

#: The uids of this many objects that were deleted last are remembered against events that come late.
_BURIED = 8192
#: Objects looked at by one call of `decide`, so that the loop around it stays responsive.
_LOOKS = 2000
#: Seconds for which the status of a claim that was let go is not written, while the next one is being granted.
_GRANT_FIRST = 0.2
#: Seconds until the same claim is tried again after somebody else turned out to hold the resource.
_HELD_PAUSE = 0.1
_LONGEST_HELD_PAUSE = 5.0
#: Seconds that the time goes back before everything is looked at anew; less is made up for by waiting.
_SET_BACK = 2.0


class Observer(Protocol):
    """Who wants to hear of every change of the facts, such as the mirror."""

    def changed(self, fact: Fact, before: Fact | None) -> None:
        """An object is new or different."""

    def gone(self, fact: Fact) -> None:
        """An object does not exist any more; `fact` is the last that was known of it."""


class _Deaf:
    def changed(self, fact: Fact, before: Fact | None) -> None: ...

    def gone(self, fact: Fact) -> None: ...


class Board:
    """All boards (namespaces) that this operator serves. Every time is in seconds by the API server's clock.

    `shift` tells what a stamp would be had the clock always been as it is now (`ServerClock.shift`).
    """

    def __init__(
        self, policy: Policy, observer: Observer | None = None, shift: Callable[[float], float] = as_stamped
    ) -> None:
        self.policy = policy
        self.observer: Observer = observer or _Deaf()
        self.shift = shift
        self._latest = self._verified_until = NO_FACTS
        self._back_since = NEVER
        self._claims: dict[Key, ClaimEntry] = {}
        self._sessions: dict[Key, SessionEntry] = {}
        self._holders: dict[Key, Holder] = {}
        self._groups: dict[Key, ResourceGroup] = {}
        self._stale_groups: dict[ResourceGroup, None] = {}
        self._resources: dict[Key, ResourceQueue] = {}
        self._changed_resources: dict[ResourceQueue, None] = {}
        # Resources whose next holder is being granted, and the claims that let that go first.
        self._granting: dict[ResourceQueue, dict[ClaimEntry, None]] = {}
        self._leases: dict[Key, LeaseNote] = {}
        # First seen idle, then for long enough.
        self._idle_leases: dict[LeaseNote, None] = {}
        self._unwanted_leases: dict[LeaseNote, None] = {}
        #: How many claims may be Active at once, and who waits for that.
        self.limiter = Limiter()
        self._schedule: Schedule[ClaimEntry | SessionEntry | ResourceGroup | ResourceQueue | Slots | LeaseNote] = (
            Schedule()
        )
        self._queues: tuple[dict[ClaimEntry | SessionEntry, None], ...] = ({}, {}, {})
        self._unverified: dict[str, dict[Holder, None]] = {}
        self._verifying: set[str] = set()
        self._verify_at: dict[str, float] = {}
        self._verify_failures: dict[str, int] = {}
        self._buried: dict[str, None] = {}
        self._listings = 0
        self._horizon: dict[tuple[type, str | None], int] = {}

    # ---- facts

    def put(self, fact: Fact, *, heard: bool = False) -> bool:
        """Take in the state of an object; true when it was news. Older states than the known one are ignored.

        `heard` says that it came by a watch, which may lag behind a list: an object that the last complete list did
        not hold, and that is not newer than it, is gone.
        """
        return self._put(fact, heard=heard, force=False)

    def drop(self, kind: type[Fact], key: Key, uid: str) -> bool:
        """Forget an object that was deleted; true when it was known."""
        entry = self._entry(kind, key)
        self._bury(uid)
        if entry is None or entry.fact.uid != uid:
            return False
        self._remove(entry)
        return True

    def knows(self, kind: type[Fact], key: Key, resource_version: str) -> bool:
        """True when this state of the object, or a newer one, has been taken in: it need not even be parsed."""
        entry = self._entry(kind, key)
        if entry is None:
            return False
        known = entry.fact.resource_version
        return known == resource_version or not is_newer(resource_version, known)

    def get(self, kind: type[Fact], key: Key) -> Fact | None:
        """The facts of an object, if it is known."""
        entry = self._entry(kind, key)
        return entry.fact if entry else None

    def snapshot(self) -> tuple[list[Claim], list[Session]]:
        """All facts."""
        return [entry.fact for entry in self._claims.values()], [entry.fact for entry in self._sessions.values()]

    def session_kind(self, claim: Claim) -> str:
        """What acts in the claim's session: Agent, Pipeline, Human; empty when nobody has said."""
        holder = self._holders.get((claim.namespace, claim.session))
        return holder.kind() if holder else ""

    def is_over(self, namespace: str, uid: str, name: str) -> bool:
        """True when the API has shown that the claim keeps nobody waiting any more. That never becomes false again."""
        if uid in self._buried:
            return True
        entry = self._claims.get((namespace, name))
        return entry is not None and entry.fact.uid == uid and entry.fact.over

    def lease_seen(self, namespace: str, resource: str, holder: str) -> None:
        """The Lease of a resource names the claim with this uid; empty when it names none."""
        key = (namespace, resource)
        note = self._leases.get(key)
        if not holder:
            if note is not None and not note.busy:
                self._forget_wishes(note)
                del self._leases[key]
            return
        if note is None:
            note = self._leases[key] = LeaseNote(key, holder)
        elif note.holder != holder:
            note.holder = holder
            self._forget_wishes(note)
        self._consider_lease(key)

    def set_limits(self, limits: Limits) -> None:
        """Go by these limits from now on. Claims that are Active stay so."""
        for slots in self.limiter.begin(limits):
            self._schedule.at(slots, NEVER)
        for entry in self._claims.values():
            self._reconsider(entry)

    def mirror_says(self, key: Key, uid: str, note: statuses.MirrorNote, now: float) -> None:
        """The mirror has written a claim, or cannot."""
        entry = self._claims.get(key)
        if entry is None or entry.fact.uid != uid or entry.mirror == note:
            return
        entry.mirror = note
        entry.mirror_due = now + self.policy.mirror_coalesce
        self._mark(entry, Priority.LOW)

    # ---- decisions

    def decide(self, now: float, limit: int) -> list[Action]:
        """At most `limit` actions that are due at `now`, the most urgent first. Each has to be settled."""
        actions: list[Action] = []
        self._notice_setting_back(now)
        self._admit(now)
        self._wake(now)
        looks = _LOOKS
        for priority in Priority:
            queue = self._queues[priority]
            while queue and len(actions) < limit and looks:
                looks -= 1
                entry = next(iter(queue))
                del queue[entry]
                entry.queued = None
                if entry.gone or entry.busy:
                    continue
                if isinstance(entry, ClaimEntry) and self._lets_grant_go_first(entry, now):
                    continue
                if now < entry.retry_at:
                    self._schedule.at(entry, entry.retry_at)
                    continue
                decision = self._decide(entry, now)
                if decision.verify:
                    assert isinstance(entry, ClaimEntry)
                    self._want_verified(entry)
                elif decision.action is None:
                    self._schedule.at(entry, decision.look_at)
                    if isinstance(entry, ClaimEntry):
                        entry.show_peers = False
                elif decision.priority > priority:
                    self._mark(entry, decision.priority)
                else:
                    entry.busy = True
                    self._schedule.at(entry, NEVER)
                    if isinstance(entry, ClaimEntry):
                        # Whatever is written shows the others as they are now.
                        entry.show_peers = False
                    actions.append(decision.action)
            if queue:
                break
        self._verify(actions, now)
        self._free(actions, limit)
        return actions

    def next_wake(self) -> float:
        """When `decide` has something to do if nothing else happens: a time, -inf for at once, inf for never."""
        if (
            any(self._queues)
            or self._stale_groups
            or self._changed_resources
            or self.limiter.stale
            or self._idle_leases
            or self._unwanted_leases
        ):
            return -NEVER
        wake = self._schedule.next()
        for namespace in self._unverified:
            if namespace not in self._verifying:
                wake = min(wake, self._verify_at.get(namespace, -NEVER))
        return wake

    def backlog(self) -> dict[str, int]:
        """How many objects wait to be decided, by priority."""
        return {priority.name.lower(): len(self._queues[priority]) for priority in Priority}

    def settle(self, action: Action, outcome: Outcome, now: float) -> list[EmitEvent]:
        """Take in what came of an action; what people should hear of it."""
        if isinstance(action, VerifySessions):
            self._settle_verification(action, outcome, now)
            return []
        if isinstance(action, FreeLease):
            self._settle_lease(action, outcome, now)
            return []
        decided_on = _subject(action)
        if isinstance(action, GrantExclusive):
            self._grant_settled(action.claim)
        entry = self._entry(type(decided_on), decided_on.key)
        if entry is not None and entry.fact.uid != decided_on.uid:
            entry = None
        if isinstance(outcome, Failed):
            if entry is not None:
                entry.busy = False
                entry.failures += 1
                entry.retry_at = now + outcome.retry_in
                if isinstance(entry, ClaimEntry):
                    entry.show_peers = True
                self._mark(entry, Priority.URGENT)
            if outcome.fact is not None:
                self.put(outcome.fact)
            return []
        if isinstance(outcome, Held):
            self._settle_held(entry, outcome.by, now)
            return []
        if isinstance(outcome, Gone) or isinstance(action, DeleteObject):
            self.drop(type(decided_on), decided_on.key, decided_on.uid)
            return []
        if entry is not None:
            entry.busy = False
            entry.failures = 0
            entry.retry_at = NO_FACTS
            if isinstance(entry, SessionEntry):
                entry.count_due = NEVER
            self._mark(entry, Priority.NORMAL)
        if isinstance(outcome, Done) and outcome.fact is not None:
            self.put(outcome.fact)
        if isinstance(action, GrantExclusive):
            self.lease_seen(action.claim.namespace, action.claim.resource, action.claim.uid)
        return news(action, now)

    # ---- inside

    def _entry(self, kind: type[Fact], key: Key) -> ClaimEntry | SessionEntry | None:
        return self._claims.get(key) if kind is Claim else self._sessions.get(key)

    def _put(self, fact: Fact, *, heard: bool, force: bool) -> bool:
        kind = type(fact)
        entry = self._entry(kind, fact.key)
        if fact.uid in self._buried:
            return False
        if entry is None:
            if heard and self._before_horizon(kind, fact):
                return False
        elif not force and not is_newer(fact.resource_version, entry.fact.resource_version):
            return False
        elif entry.fact.uid != fact.uid:
            self._remove(entry)
            entry = None
        before = entry.fact if entry else None
        if isinstance(fact, Claim):
            assert entry is None or isinstance(entry, ClaimEntry)
            self._put_claim(fact, entry)
        else:
            assert entry is None or isinstance(entry, SessionEntry)
            self._put_session(fact, entry)
        self.observer.changed(fact, before)
        return True

    def _put_claim(self, fact: Claim, entry: ClaimEntry | None) -> None:
        if entry is None:
            holder = self._holder((fact.namespace, fact.session))
            entry = self._claims[fact.key] = ClaimEntry(fact, holder, self._resource(fact))
            holder.claims[entry] = None
        was_active = entry.live and entry.fact.status.phase == kinds.ACTIVE
        entry.fact = fact
        live = _lives(fact, entry.holder)
        entry.resource.take(fact)
        self.limiter.note(entry)
        self._changed(entry.resource)
        self._set_live(entry, live)
        if was_active != (live and fact.status.phase == kinds.ACTIVE):
            self._recount_sessions(entry.holder)
        self._mark(entry, Priority.NORMAL if fact.status.phase == kinds.ACTIVE and live else Priority.URGENT)

    def _put_session(self, fact: Session, entry: SessionEntry | None) -> None:
        holder = self._holder((fact.namespace, fact.session_id)) if entry is None else entry.holder
        kind = holder.kind() if self.limiter.limits else ""
        if entry is None:
            entry = self._sessions[fact.key] = SessionEntry(fact, holder)
            holder.sessions[entry] = None
            holder.departed = None
            only_beat = False
        else:
            only_beat = _only_beat(entry.fact, fact)
        entry.fact = fact
        self._refresh_holder(holder)
        if self.limiter.limits and holder.kind() != kind:
            for claim in holder.claims:
                self._reconsider(claim)
        status = fact.status
        if only_beat and status.phase == kinds.ACTIVE:
            # The usual heartbeat: everything that it puts off is looked at again when it would have been due.
            deadline = fact.alive + fact.ttl
            if not promise_is_due(status.expires_at, deadline, fact.ttl, -NEVER):
                return
        self._mark(entry, Priority.URGENT if fact.state == kinds.COMPLETED else Priority.NORMAL)

    def _refresh_holder(self, holder: Holder) -> None:
        alive, completed = holder.alive, holder.completed
        holder.recount()
        if holder.completed != completed:
            for claim in holder.claims:
                self._set_live(claim, _lives(claim.fact, holder))
                self._mark(claim, Priority.URGENT)
            self._recount_sessions(holder)
        elif holder.alive < alive:
            for claim in holder.claims:
                self._mark(claim, Priority.URGENT)
        elif holder.alive > alive:
            for claim in holder.claims:
                fact = claim.fact
                if claim.live and promise_is_due(
                    fact.status.expires_at, max(fact.alive, holder.alive) + fact.ttl, fact.ttl, -NEVER
                ):
                    self._mark(claim, Priority.NORMAL)

    def _remove(self, entry: ClaimEntry | SessionEntry) -> None:
        entry.gone = True
        self._schedule.at(entry, NEVER)
        if entry.queued is not None:
            self._queues[entry.queued].pop(entry, None)
            entry.queued = None
        holder = entry.holder
        self._bury(entry.fact.uid)
        if isinstance(entry, ClaimEntry):
            del self._claims[entry.fact.key]
            entry.resource.drop(entry.fact)
            self.limiter.leave(entry)
            self._changed(entry.resource)
            self._set_live(entry, False)
            if not entry.resource.claims:
                self._schedule.at(entry.resource, NEVER)
                self._changed_resources.pop(entry.resource, None)
                self._granting.pop(entry.resource, None)
                del self._resources[entry.resource.key]
                self._consider_lease(entry.resource.key)
            del holder.claims[entry]
            holder.waiting.pop(entry, None)
            self._recount_sessions(holder)
            if not holder.claims:
                holder.departed = None
                # Sessions that have ended wait for their last claim to go first.
                for session in holder.sessions:
                    self._mark(session, Priority.LOW)
        else:
            del self._sessions[entry.fact.key]
            del holder.sessions[entry]
            if holder.claims and not holder.sessions:
                holder.departed = entry.fact
            self._refresh_holder(holder)
        if not holder.claims and not holder.sessions:
            self._holders.pop(holder.key, None)
            self._forget_unverified(holder)
        self.observer.gone(entry.fact)

    def _holder(self, key: Key) -> Holder:
        holder = self._holders.get(key)
        if holder is None:
            holder = self._holders[key] = Holder(key)
        return holder

    def _set_live(self, entry: ClaimEntry, live: bool) -> None:
        entry.live = live
        self._show(entry)

    def _show(self, entry: ClaimEntry) -> None:
        """Show it among those that hold the resource, or not."""
        held = entry.live and entry.resource.admitted(entry.fact.name)
        if held == (entry.group is not None):
            return
        group = entry.group
        if held:
            key = entry.resource.key
            group = entry.group = self._groups.get(key) or self._groups.setdefault(key, ResourceGroup(key))
            group.join(entry.fact)
        elif group is not None:
            entry.group = None
            group.leave(entry.fact)
            if not len(group):
                self._schedule.at(group, NEVER)
                del self._groups[group.key]
                self._stale_groups.pop(group, None)
                return
        if group is not None and group.stale:
            self._stale_groups[group] = None

    def _recount_sessions(self, holder: Holder) -> None:
        for session in holder.sessions:
            self._mark(session, Priority.LOW)

    def _mark(self, entry: ClaimEntry | SessionEntry, priority: Priority) -> None:
        queued = entry.queued
        if entry.gone or (queued is not None and queued <= priority):
            return
        if queued is not None:
            del self._queues[queued][entry]
        entry.queued = priority
        self._queues[priority][entry] = None

    def _wake(self, now: float) -> None:
        for group in self._stale_groups:
            group.stale = False
            if group.wake == NEVER:
                self._schedule.at(group, now + self.policy.coalesce)
        self._stale_groups.clear()
        for slots in self.limiter.stale:
            if slots.wake == NEVER:
                self._schedule.at(slots, now + self.policy.coalesce)
        self.limiter.stale.clear()
        for item in self._schedule.due(now):
            if isinstance(item, LeaseNote):
                self._unwanted_leases[item] = None
                continue
            if not isinstance(item, ResourceGroup | ResourceQueue | Slots):
                self._mark(item, Priority.URGENT)
                continue
            namespace = item.key[0]
            for name in item.refreshed() if isinstance(item, ResourceQueue) else item.names():
                entry = self._claims.get((namespace, name))
                if entry is not None:
                    entry.show_peers = True
                    self._mark(entry, Priority.NORMAL)

    def _decide(self, entry: ClaimEntry | SessionEntry, now: float) -> Decision:
        if isinstance(entry, SessionEntry):
            return self._decide_session(entry, now)
        holder, fact = entry.holder, entry.fact
        about = Circumstances(
            turn=self._turn(entry),
            deadline=max(self.shift(fact.alive), self.shift(holder.alive)) + fact.ttl,
            completed=holder.completed,
            verified=holder.verified,
            peers=entry.group.peers if entry.group else _nobody,
            show_peers=entry.show_peers,
            mirror=entry.mirror if self.policy.mirror_board == fact.namespace else None,
            mirror_due=entry.mirror_due,
            shift=self.shift,
        )
        return decide_claim(fact, about, now, self.policy, entry.failures)

    def _decide_session(self, entry: SessionEntry, now: float) -> Decision:
        holder = entry.holder
        active = holder.active()
        if active == entry.fact.status.active_claims:
            entry.count_due = NEVER
        elif entry.count_due == NEVER:
            entry.count_due = now + self.policy.count_coalesce
        return decide_session(
            entry.fact,
            active_claims=active,
            claims=len(holder.claims),
            count_due=entry.count_due,
            now=now,
            policy=self.policy,
            attempt=entry.failures,
            shift=self.shift,
        )

    # ---- queues and Leases

    def _resource(self, fact: Claim) -> ResourceQueue:
        key = (fact.namespace, fact.resource)
        return self._resources.get(key) or self._resources.setdefault(key, ResourceQueue(key))

    def _changed(self, resource: ResourceQueue) -> None:
        if resource.dirty or resource.stale:
            self._changed_resources[resource] = None
        self._consider_lease(resource.key)

    def _admit(self, now: float) -> None:
        """Let those in whose turn it is. It is done with all facts at hand: the first word is not always the whole."""
        while self._changed_resources or self.limiter.dirty:
            resources, self._changed_resources = self._changed_resources, {}
            for resource in resources:
                self._admit_to(resource, now)
            for namespace, name in self.limiter.admit():
                entry = self._claims[namespace, name]
                self._admit_to(entry.resource, now)
                if not entry.resource.admitted(name):
                    # Somebody else goes first by now, such as the one that the last holder named.
                    self.limiter.leave(entry)
        for note in self._idle_leases:
            self._schedule.at(note, now + self.policy.lease_idle)
        self._idle_leases.clear()

    def _admit_to(self, resource: ResourceQueue, now: float) -> None:
        namespace = resource.key[0]
        for name in resource.admit(lambda name: self.limiter.may(self._claims[namespace, name])):
            entry = self._claims[namespace, name]
            self.limiter.note(entry)
            self._show(entry)
            self._mark(entry, Priority.URGENT)
            if entry.fact.exclusive:
                self._granting[resource] = {}
        if resource.stale and resource.wake == NEVER:
            self._schedule.at(resource, now + self.policy.coalesce)

    def _reconsider(self, entry: ClaimEntry) -> None:
        """Other limits count the claim now."""
        if not entry.resource.admitted(entry.fact.name):
            self.limiter.leave(entry)
        self.limiter.note(entry)
        entry.resource.dirty = True
        entry.show_peers = True
        self._changed(entry.resource)
        self._mark(entry, Priority.NORMAL)

    def _step_back(self, entry: ClaimEntry) -> None:
        entry.resource.step_back(entry.fact.name)
        self.limiter.leave(entry)
        self._show(entry)
        self._changed(entry.resource)

    def _lets_grant_go_first(self, entry: ClaimEntry, now: float) -> bool:
        """Somebody waits for the next grant, and nobody for the word that a claim which was let go has ended."""
        courteous = self._granting.get(entry.resource)
        if courteous is None or entry in courteous or not (entry.fact.released and entry.fact.held):
            return False
        courteous[entry] = None
        self._schedule.at(entry, now + _GRANT_FIRST)
        return True

    def _grant_settled(self, claim: Claim) -> None:
        resource = self._resources.get((claim.namespace, claim.resource))
        if resource is not None:
            for entry in self._granting.pop(resource, {}):
                self._mark(entry, Priority.URGENT)

    def _turn(self, entry: ClaimEntry) -> Turn:
        resource, name = entry.resource, entry.fact.name
        if entry.fact.over:
            return Turn()
        if resource.admitted(name):
            # Another operator may have granted the resource to somebody else while this grant had to be tried again.
            if not entry.fact.exclusive or entry.fact.held or entry.fact.holds_on or resource.alone(name):
                return Turn(contested=resource.contested, overlap=resource.exclusive)
            self._step_back(entry)
        limited = self.limiter.turn(entry, lambda each: self._claims.get((entry.fact.namespace, each)))
        return limited or Turn(
            admitted=False,
            position=shown_position(resource.place(name)),
            ahead=resource.ahead(name),
            holders=resource.holders(),
        )

    def _settle_held(self, entry: ClaimEntry | SessionEntry | None, by: Claim, now: float) -> None:
        self.put(by)
        if not isinstance(entry, ClaimEntry) or entry.gone:
            return
        entry.busy = False
        entry.failures += 1
        resource = entry.resource
        holder = self._claims.get(by.key)
        if holder is not None and holder.fact.uid == by.uid and holder.resource is resource:
            resource.promise(by.name)
        if not entry.fact.held:
            self._step_back(entry)
        if not self.is_over(by.namespace, by.uid, by.name):
            entry.retry_at = now + min(_LONGEST_HELD_PAUSE, _HELD_PAUSE * 2.0 ** min(entry.failures, 16))
        self._mark(entry, Priority.URGENT)

    def _consider_lease(self, key: Key) -> None:
        """A Lease that names a claim which is over, and that nobody wants, is blanked some time later."""
        note = self._leases.get(key)
        if note is None:
            return
        resource = self._resources.get(key)
        if resource is not None and not resource.idle:
            self._forget_wishes(note)
        elif note.wake == NEVER and not note.busy and note not in self._unwanted_leases:
            self._idle_leases[note] = None

    def _free(self, actions: list[Action], limit: int) -> None:
        while self._unwanted_leases and len(actions) < limit:
            note = next(iter(self._unwanted_leases))
            del self._unwanted_leases[note]
            note.busy = True
            actions.append(FreeLease(*note.key, note.holder, note.failures))

    def _settle_lease(self, action: FreeLease, outcome: Outcome, now: float) -> None:
        note = self._leases.get((action.namespace, action.resource))
        if note is None:
            return
        note.busy = False
        if isinstance(outcome, Failed):
            note.failures += 1
            self._schedule.at(note, now + max(outcome.retry_in, 1.0))
        elif note.holder == action.holder:
            self._forget_wishes(note)
            del self._leases[note.key]
            return
        self._consider_lease(note.key)

    def _forget_wishes(self, note: LeaseNote) -> None:
        self._schedule.at(note, NEVER)
        self._idle_leases.pop(note, None)
        self._unwanted_leases.pop(note, None)

    def _notice_setting_back(self, now: float) -> None:
        if now < self._verified_until:
            # A read that began at a time still to come would count for heartbeats that it cannot have seen.
            for holder in self._holders.values():
                if holder.verified > now:
                    holder.verified = NO_FACTS
            self._verified_until = now
        if now >= self._latest - _SET_BACK:
            self._latest, self._back_since = max(self._latest, now), NEVER
        elif now < self._back_since + _SET_BACK:
            # One answer of a server whose clock is wrong is not worth the work.
            self._back_since = min(self._back_since, now)
        else:
            self._latest, self._back_since = now, NEVER
            self._verify_at.clear()
            entries: list[ClaimEntry | SessionEntry] = [*self._sessions.values(), *self._claims.values()]
            for entry in entries:
                entry.retry_at = min(entry.retry_at, now)
                if isinstance(entry, ClaimEntry):
                    entry.mirror_due = min(entry.mirror_due, now)
                else:
                    entry.count_due = NEVER
                self._mark(entry, Priority.NORMAL)
            for group in self._groups.values():
                if group.wake != NEVER:
                    self._schedule.at(group, now)

    # ---- sessions that have to be read again

    def _want_verified(self, entry: ClaimEntry) -> None:
        holder = entry.holder
        holder.waiting[entry] = None
        self._unverified.setdefault(holder.key[0], {})[holder] = None

    def _forget_unverified(self, holder: Holder) -> None:
        namespace = holder.key[0]
        waiting = self._unverified.get(namespace)
        if waiting is not None and holder in waiting:
            del waiting[holder]
            if not waiting:
                del self._unverified[namespace]

    def _verify(self, actions: list[Action], now: float) -> None:
        for namespace in [
            item
            for item in self._unverified
            if item not in self._verifying and self._verify_at.get(item, -NEVER) <= now
        ]:
            holders = self._unverified.pop(namespace)
            names: dict[str, str] = {}
            for holder in holders:
                if holder.sessions:
                    names.update((entry.fact.name, entry.fact.uid) for entry in holder.sessions)
                else:
                    names.setdefault(session_name(holder.key[1]), "")
            self._verifying.add(namespace)
            actions.append(
                VerifySessions(
                    namespace=namespace,
                    names=tuple(names),
                    uids=frozenset(names.values()),
                    session_ids=tuple(holder.key[1] for holder in holders),
                    sessions_there=len(self._sessions),
                    attempt=self._verify_failures.get(namespace, 0),
                )
            )

    def _settle_verification(self, action: VerifySessions, outcome: Outcome, now: float) -> None:
        namespace = action.namespace
        self._verifying.discard(namespace)
        holders = [self._holders.get((namespace, session_id)) for session_id in action.session_ids]
        if not isinstance(outcome, Verified):
            retry_in = outcome.retry_in if isinstance(outcome, Failed) else 1.0
            self._verify_failures[namespace] = self._verify_failures.get(namespace, 0) + 1
            self._verify_at[namespace] = now + retry_in
            for holder in holders:
                if holder is not None and holder.waiting:
                    self._unverified.setdefault(namespace, {})[holder] = None
            return
        self._verify_failures.pop(namespace, None)
        self._verify_at.pop(namespace, None)
        there = outcome.unparsable | {fact.name for fact in outcome.found}
        for fact in outcome.found:
            self.put(fact)
        for holder in holders:
            if holder is None:
                continue
            for entry in list(holder.sessions):
                if entry.fact.uid in action.uids and entry.fact.name not in there:
                    self._remove(entry)
            holder.verified = max(holder.verified, outcome.since)
            self._verified_until = max(self._verified_until, outcome.since)
            waiting = list(holder.waiting)
            holder.waiting.clear()
            for claim in waiting:
                self._mark(claim, Priority.URGENT)

    # ---- lists

    def _before_horizon(self, kind: type[Fact], fact: Fact) -> bool:
        horizon = max(self._horizon.get((kind, None), 0), self._horizon.get((kind, fact.namespace), 0))
        version = version_number(fact.resource_version)
        return version is not None and version <= horizon

    def _bury(self, uid: str) -> None:
        self._buried[uid] = None
        if not self._listings:
            while len(self._buried) > _BURIED:
                del self._buried[next(iter(self._buried))]


def _nobody(claim: Claim) -> tuple[Peer, ...]:  # noqa: ARG001 - a claim without a resource group has no peers
    return ()


def _lives(fact: Claim, holder: Holder) -> bool:
    return not (fact.status.ended or fact.released or fact.deleting or fact.lapsed is not None or holder.completed)


def _only_beat(before: Session, after: Session) -> bool:
    return (
        before.status == after.status
        and before.generation == after.generation
        and before.ttl == after.ttl
        and before.ttl_fault == after.ttl_fault
        and before.deleting == after.deleting
        and after.alive >= before.alive
    )


def _subject(action: WriteClaimStatus | GrantExclusive | WriteSessionStatus | DeleteObject) -> Fact:
    if isinstance(action, DeleteObject):
        return action.target
    return action.session if isinstance(action, WriteSessionStatus) else action.claim
