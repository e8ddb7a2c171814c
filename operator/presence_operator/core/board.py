"""The Board: everything the operator knows, and what is to be done about it.

Facts come in from watches, lists and the answers to the operator's own writes, in any order and as often as they like:
`put`, `drop`, `Listing`. `decide` hands out actions, at most one at a time for each object; `settle` takes their
outcomes. What failed is decided again from the facts as they are then. Nothing here waits, reads a clock or does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from presence.model import kinds
from presence.model.names import session_name
from presence.model.times import format_time
from presence_operator.core import status as statuses
from presence_operator.core.actions import (
    DeleteObject,
    Done,
    EmitEvent,
    Failed,
    Gone,
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
    as_stamped,
    decide_claim,
    decide_session,
    promise_is_due,
)
from presence_operator.core.facts import Claim, Key, Peer, Session
from presence_operator.core.schedule import NEVER, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from presence_operator.core.actions import Action, Outcome

#: Claims of this age that are seen for the first time are history to be caught up with, not news.
NEWS_SECONDS = 60.0
#: The uids of this many objects that were deleted last are remembered against events that come late.
_BURIED = 8192
#: Objects looked at by one call of `decide`, so that the loop around it stays responsive.
_LOOKS = 2000
_NO_FACTS = -NEVER
#: Seconds that the time goes back before everything is looked at anew; less is made up for by waiting.
_SET_BACK = 2.0

Fact = Claim | Session


class Observer(Protocol):
    """Who wants to hear of every change of the facts, such as the mirror."""

    def changed(self, fact: Fact, before: Fact | None) -> None:
        """An object is new or different."""

    def gone(self, fact: Fact) -> None:
        """An object does not exist any more; `fact` is the last that was known of it."""


class _Deaf:
    def changed(self, fact: Fact, before: Fact | None) -> None: ...

    def gone(self, fact: Fact) -> None: ...


class _Entry:
    """What claims and sessions have in common: at most one action in flight, and a time to look again."""

    __slots__ = ("busy", "failures", "gone", "queued", "retry_at", "wake")

    def __init__(self) -> None:
        self.wake = NEVER
        self.busy = False
        self.gone = False
        self.failures = 0
        self.retry_at = _NO_FACTS
        self.queued: Priority | None = None


class _ClaimEntry(_Entry):
    __slots__ = ("fact", "group", "holder", "live", "mirror", "mirror_due", "show_peers")

    def __init__(self, fact: Claim, holder: _Holder) -> None:
        super().__init__()
        self.fact = fact
        self.group: ResourceGroup | None = None
        self.holder = holder
        self.live = False
        # After a start, every list of others is compared with what is shown.
        self.show_peers = True
        self.mirror: statuses.MirrorNote | None = None
        self.mirror_due = NEVER


class _SessionEntry(_Entry):
    __slots__ = ("count_due", "fact", "holder")

    def __init__(self, fact: Session, holder: _Holder) -> None:
        super().__init__()
        self.fact = fact
        self.holder = holder
        self.count_due = NEVER


class _Holder:
    """One session id of one board: its claims, and the session objects that keep them alive."""

    __slots__ = ("alive", "claims", "completed", "departed", "key", "sessions", "verified", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.claims: dict[_ClaimEntry, None] = {}
        self.sessions: dict[_SessionEntry, None] = {}
        # A heartbeat keeps what it renewed also when the session object is deleted afterwards.
        self.departed: Session | None = None
        self.alive = _NO_FACTS
        self.completed = False
        self.verified = _NO_FACTS
        self.waiting: dict[_ClaimEntry, None] = {}

    def recount(self) -> None:
        facts = [entry.fact for entry in self.sessions]
        # A session that was begun anew under the same id holds its claims whatever became of the one before.
        newest = max(facts, key=lambda fact: (fact.created, fact.name), default=self.departed)
        self.completed = newest is not None and newest.state == kinds.COMPLETED
        if self.departed is not None:
            facts.append(self.departed)
        self.alive = max((_sign_of_life(fact) for fact in facts), default=_NO_FACTS)

    def active(self) -> int:
        return sum(entry.live and entry.fact.status.phase == kinds.ACTIVE for entry in self.claims)


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
        self._latest = self._verified_until = _NO_FACTS
        self._back_since = NEVER
        self._claims: dict[Key, _ClaimEntry] = {}
        self._sessions: dict[Key, _SessionEntry] = {}
        self._holders: dict[Key, _Holder] = {}
        self._groups: dict[Key, ResourceGroup] = {}
        self._stale_groups: dict[ResourceGroup, None] = {}
        self._schedule: Schedule[_ClaimEntry | _SessionEntry | ResourceGroup] = Schedule()
        self._queues: tuple[dict[_ClaimEntry | _SessionEntry, None], ...] = ({}, {}, {})
        self._unverified: dict[str, dict[_Holder, None]] = {}
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
        return known == resource_version or not _newer(resource_version, known)

    def get(self, kind: type[Fact], key: Key) -> Fact | None:
        """The facts of an object, if it is known."""
        entry = self._entry(kind, key)
        return entry.fact if entry else None

    def snapshot(self) -> tuple[list[Claim], list[Session]]:
        """All facts."""
        return [entry.fact for entry in self._claims.values()], [entry.fact for entry in self._sessions.values()]

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
                if now < entry.retry_at:
                    self._schedule.at(entry, entry.retry_at)
                    continue
                decision = self._decide(entry, now)
                if decision.verify:
                    assert isinstance(entry, _ClaimEntry)
                    self._want_verified(entry)
                elif decision.action is None:
                    self._schedule.at(entry, decision.look_at)
                    if isinstance(entry, _ClaimEntry):
                        entry.show_peers = False
                elif decision.priority > priority:
                    self._mark(entry, decision.priority)
                else:
                    entry.busy = True
                    self._schedule.at(entry, NEVER)
                    if isinstance(entry, _ClaimEntry):
                        # Whatever is written shows the others as they are now.
                        entry.show_peers = False
                    actions.append(decision.action)
            if queue:
                break
        self._verify(actions, now)
        return actions

    def next_wake(self) -> float:
        """When `decide` has something to do if nothing else happens: a time, -inf for at once, inf for never."""
        if any(self._queues) or self._stale_groups:
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
        decided_on = action.target if isinstance(action, DeleteObject) else _subject(action)
        entry = self._entry(type(decided_on), decided_on.key)
        if entry is not None and entry.fact.uid != decided_on.uid:
            entry = None
        if isinstance(outcome, Failed):
            if entry is not None:
                entry.busy = False
                entry.failures += 1
                entry.retry_at = now + outcome.retry_in
                if isinstance(entry, _ClaimEntry):
                    entry.show_peers = True
                self._mark(entry, Priority.URGENT)
            if outcome.fact is not None:
                self.put(outcome.fact)
            return []
        if isinstance(outcome, Gone) or isinstance(action, DeleteObject):
            self.drop(type(decided_on), decided_on.key, decided_on.uid)
            return []
        if entry is not None:
            entry.busy = False
            entry.failures = 0
            entry.retry_at = _NO_FACTS
            if isinstance(entry, _SessionEntry):
                entry.count_due = NEVER
            self._mark(entry, Priority.NORMAL)
        if isinstance(outcome, Done) and outcome.fact is not None:
            self.put(outcome.fact)
        return _news(action, now)

    # ---- inside

    def _entry(self, kind: type[Fact], key: Key) -> _ClaimEntry | _SessionEntry | None:
        return self._claims.get(key) if kind is Claim else self._sessions.get(key)

    def _put(self, fact: Fact, *, heard: bool, force: bool) -> bool:
        kind = type(fact)
        entry = self._entry(kind, fact.key)
        if fact.uid in self._buried:
            return False
        if entry is None:
            if heard and self._before_horizon(kind, fact):
                return False
        elif not force and not _newer(fact.resource_version, entry.fact.resource_version):
            return False
        elif entry.fact.uid != fact.uid:
            self._remove(entry)
            entry = None
        before = entry.fact if entry else None
        if isinstance(fact, Claim):
            assert entry is None or isinstance(entry, _ClaimEntry)
            self._put_claim(fact, entry)
        else:
            assert entry is None or isinstance(entry, _SessionEntry)
            self._put_session(fact, entry)
        self.observer.changed(fact, before)
        return True

    def _put_claim(self, fact: Claim, entry: _ClaimEntry | None) -> None:
        if entry is None:
            holder = self._holder((fact.namespace, fact.session))
            entry = self._claims[fact.key] = _ClaimEntry(fact, holder)
            holder.claims[entry] = None
        was_active = entry.live and entry.fact.status.phase == kinds.ACTIVE
        entry.fact = fact
        live = _lives(fact, entry.holder)
        self._set_live(entry, live)
        if was_active != (live and fact.status.phase == kinds.ACTIVE):
            self._recount_sessions(entry.holder)
        self._mark(entry, Priority.NORMAL if fact.status.phase == kinds.ACTIVE and live else Priority.URGENT)

    def _put_session(self, fact: Session, entry: _SessionEntry | None) -> None:
        if entry is None:
            holder = self._holder((fact.namespace, fact.session_id))
            entry = self._sessions[fact.key] = _SessionEntry(fact, holder)
            holder.sessions[entry] = None
            holder.departed = None
            only_beat = False
        else:
            holder = entry.holder
            only_beat = _only_beat(entry.fact, fact)
        entry.fact = fact
        self._refresh_holder(holder)
        status = fact.status
        if only_beat and status.phase == kinds.ACTIVE:
            # The usual heartbeat: everything that it puts off is looked at again when it would have been due.
            deadline = fact.alive + fact.ttl
            if not promise_is_due(status.expires_at, deadline, fact.ttl, -NEVER):
                return
        self._mark(entry, Priority.URGENT if fact.state == kinds.COMPLETED else Priority.NORMAL)

    def _refresh_holder(self, holder: _Holder) -> None:
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

    def _remove(self, entry: _ClaimEntry | _SessionEntry) -> None:
        entry.gone = True
        self._schedule.at(entry, NEVER)
        if entry.queued is not None:
            self._queues[entry.queued].pop(entry, None)
            entry.queued = None
        holder = entry.holder
        self._bury(entry.fact.uid)
        if isinstance(entry, _ClaimEntry):
            del self._claims[entry.fact.key]
            self._set_live(entry, False)
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

    def _holder(self, key: Key) -> _Holder:
        holder = self._holders.get(key)
        if holder is None:
            holder = self._holders[key] = _Holder(key)
        return holder

    def _set_live(self, entry: _ClaimEntry, live: bool) -> None:
        if entry.live == live:
            return
        entry.live = live
        group = entry.group
        if live:
            key = (entry.fact.namespace, entry.fact.resource)
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

    def _recount_sessions(self, holder: _Holder) -> None:
        for session in holder.sessions:
            self._mark(session, Priority.LOW)

    def _mark(self, entry: _ClaimEntry | _SessionEntry, priority: Priority) -> None:
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
        for item in self._schedule.due(now):
            if not isinstance(item, ResourceGroup):
                self._mark(item, Priority.URGENT)
                continue
            namespace = item.key[0]
            for name in item.names():
                entry = self._claims.get((namespace, name))
                if entry is not None:
                    entry.show_peers = True
                    self._mark(entry, Priority.NORMAL)

    def _decide(self, entry: _ClaimEntry | _SessionEntry, now: float) -> Decision:
        if isinstance(entry, _SessionEntry):
            return self._decide_session(entry, now)
        holder, fact = entry.holder, entry.fact
        about = Circumstances(
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

    def _decide_session(self, entry: _SessionEntry, now: float) -> Decision:
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

    def _notice_setting_back(self, now: float) -> None:
        if now < self._verified_until:
            # A read that began at a time still to come would count for heartbeats that it cannot have seen.
            for holder in self._holders.values():
                if holder.verified > now:
                    holder.verified = _NO_FACTS
            self._verified_until = now
        if now >= self._latest - _SET_BACK:
            self._latest, self._back_since = max(self._latest, now), NEVER
        elif now < self._back_since + _SET_BACK:
            # One answer of a server whose clock is wrong is not worth the work.
            self._back_since = min(self._back_since, now)
        else:
            self._latest, self._back_since = now, NEVER
            self._verify_at.clear()
            entries: list[_ClaimEntry | _SessionEntry] = [*self._sessions.values(), *self._claims.values()]
            for entry in entries:
                entry.retry_at = min(entry.retry_at, now)
                if isinstance(entry, _ClaimEntry):
                    entry.mirror_due = min(entry.mirror_due, now)
                else:
                    entry.count_due = NEVER
                self._mark(entry, Priority.NORMAL)
            for group in self._groups.values():
                if group.wake != NEVER:
                    self._schedule.at(group, now)

    # ---- sessions that have to be read again

    def _want_verified(self, entry: _ClaimEntry) -> None:
        holder = entry.holder
        holder.waiting[entry] = None
        self._unverified.setdefault(holder.key[0], {})[holder] = None

    def _forget_unverified(self, holder: _Holder) -> None:
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
        version = _number(fact.resource_version)
        return version is not None and version <= horizon

    def _bury(self, uid: str) -> None:
        self._buried[uid] = None
        if not self._listings:
            while len(self._buried) > _BURIED:
                del self._buried[next(iter(self._buried))]


class Listing:
    """A complete list of one kind, page by page: whatever the watch missed is found by it, deletions as well.

    Events and answers may come in between the pages. A list is a picture of its own revision: what is newer stays, and
    what was deleted meanwhile does not come back. `namespace` is None for a list across all of them; `revision` is the
    list's resourceVersion.
    """

    def __init__(self, board: Board, kind: type[Fact], namespace: str | None, revision: str) -> None:
        self._board = board
        self._kind = kind
        self._namespace = namespace
        self._revision = _number(revision)
        self._seen: set[str] = set()
        horizon = board._horizon.get((kind, namespace), 0)
        # A server that was restored from a backup counts from an earlier revision again: its list is all there is.
        self._rebase = self._revision is not None and self._revision < horizon
        if self._rebase:
            # What was deleted since that backup was made exists again, under its old uid.
            board._buried.clear()
        self.added = self.changed = self.removed = 0
        board._listings += 1

    def known(self, key: Key, uid: str, resource_version: str) -> bool:
        """Note an item of the list; true when it need not be parsed because it is no news."""
        self._seen.add(uid)
        if self._rebase:
            return False
        entry = self._board._entry(self._kind, key)
        return entry is not None and entry.fact.uid == uid and self._board.knows(self._kind, key, resource_version)

    def put(self, facts: Iterable[Fact]) -> None:
        """Take in items of the list."""
        for fact in facts:
            self._seen.add(fact.uid)
            existed = self._board.get(self._kind, fact.key) is not None
            if self._board._put(fact, heard=False, force=self._rebase):
                if existed:
                    self.changed += 1
                else:
                    self.added += 1

    def finish(self) -> None:
        """The list is complete: what it should have held and did not is gone."""
        board = self._board
        entries: list[_ClaimEntry | _SessionEntry] = []
        entries += board._claims.values() if self._kind is Claim else board._sessions.values()
        for entry in entries:
            fact = entry.fact
            if self._namespace not in (None, fact.namespace) or fact.uid in self._seen:
                continue
            version = _number(fact.resource_version)
            newer = self._revision is not None and version is not None and version > self._revision
            if newer and not self._rebase:
                continue
            board._remove(entry)
            self.removed += 1
        if self._revision is not None:
            board._horizon[(self._kind, self._namespace)] = self._revision
        self.abandon()

    def abandon(self) -> None:
        """The list could not be completed; what it has told so far stands."""
        self._board._listings -= 1


def _nobody(claim: Claim) -> tuple[Peer, ...]:  # noqa: ARG001 - a claim without a resource group has no peers
    return ()


def _lives(fact: Claim, holder: _Holder) -> bool:
    return not (fact.status.ended or fact.released or fact.deleting or fact.lapsed is not None or holder.completed)


def _sign_of_life(fact: Session) -> float:
    # A heartbeat after the session's end does not revive what it held.
    ended = fact.status.ended_at if fact.status.ended else None
    return fact.alive if ended is None else min(fact.alive, ended)


def _only_beat(before: Session, after: Session) -> bool:
    return (
        before.status == after.status
        and before.generation == after.generation
        and before.ttl == after.ttl
        and before.ttl_fault == after.ttl_fault
        and before.deleting == after.deleting
        and after.alive >= before.alive
    )


def _number(resource_version: str) -> int | None:
    return int(resource_version) if resource_version.isdecimal() else None


def _newer(candidate: str, known: str) -> bool:
    first, second = _number(candidate), _number(known)
    if first is None or second is None:
        return candidate != known
    return first > second


def _subject(action: WriteClaimStatus | WriteSessionStatus) -> Fact:
    return action.claim if isinstance(action, WriteClaimStatus) else action.session


def _news(action: Action, now: float) -> list[EmitEvent]:
    """What changed for people, told by comparing the status before and after the write."""
    if isinstance(action, WriteSessionStatus):
        fault = action.session.ttl_fault
        if fault and not statuses.fault_shown(action.session.status.conditions, statuses.ALIVE, fault):
            return [EmitEvent(action.session, "InvalidTTL", fault, warning=True)]
        return []
    if not isinstance(action, WriteClaimStatus):
        return []
    claim, status = action.claim, action.status
    events = []
    if action.ended:
        condition = status.condition(statuses.GRANTED)
        reason = condition.reason if condition else ""
        if status.phase == kinds.EXPIRED:
            ended_at = format_time(status.ended_at or now)
            note = f"{claim.session} lost {claim.resource} at {ended_at}: {condition.message if condition else ''}"
            events.append(EmitEvent(claim, "Expired", note, warning=True))
        else:
            why = ": its session has completed" if reason == "SessionCompleted" else ""
            events.append(EmitEvent(claim, "Released", f"{claim.session} let {claim.resource} go{why}"))
        return events
    if status.ended:
        return []
    news = now - claim.created <= NEWS_SECONDS
    if action.began and news:
        events.append(EmitEvent(claim, "Claimed", f"{claim.session} holds {claim.resource}: {claim.purpose}"))
    conflict, before = status.condition(statuses.CONFLICTED), claim.status.condition(statuses.CONFLICTED)
    if conflict is not None and conflict.status == "True" and (before is None or before.status != "True"):
        events.append(EmitEvent(claim, "Conflicted", f"{claim.resource} is {conflict.message}", warning=True))
    if claim.ttl_fault and not statuses.fault_shown(claim.status.conditions, statuses.GRANTED, claim.ttl_fault):
        events.append(EmitEvent(claim, "InvalidTTL", claim.ttl_fault, warning=True))
    return events
