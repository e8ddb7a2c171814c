"""What the mirror has yet to write: keys that changed, never a log of the changes.

So the memory that an outage costs is bounded by the number of objects, however often they change meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from presence_operator.mirror.projection import Gone, RowKey, content, row_key, session_row
from presence_operator.mirror.store import Batch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from presence_operator.core.facts import Claim, Key, Session

Item = TypeVar("Item")

#: Claims that may come and go unwritten during an outage before the oldest of them leave no history.
GONE_LIMIT = 10_000


@dataclass(slots=True)
class SessionBatch:
    """Sessions to write; of `gone` each with the time at which its absence was seen."""

    sessions: tuple[Session, ...]
    gone: tuple[tuple[Session, float], ...]


@dataclass(slots=True)
class Backlog:
    """The facts of one board and which keys the database may not agree with. Times `since` are monotonic seconds."""

    gone_limit: int = GONE_LIMIT
    forgotten: int = 0
    """How many claims that came and went unwritten were dropped."""
    claims: dict[Key, Claim] = field(default_factory=dict)
    sessions: dict[Key, Session] = field(default_factory=dict)
    changed: dict[RowKey, float] = field(default_factory=dict)
    """Keys with changes, and since when the oldest of them waits."""
    unverified: dict[RowKey, None] = field(default_factory=dict)
    """Keys to compare although nothing is known to have changed."""
    writing: dict[RowKey | Key, float] = field(default_factory=dict)
    """What is on its way to the database right now."""
    changed_sessions: dict[Key, float] = field(default_factory=dict)
    unverified_sessions: dict[Key, None] = field(default_factory=dict)
    _at: dict[RowKey, set[Key]] = field(default_factory=dict)
    _gone: dict[str, Gone] = field(default_factory=dict)
    _gone_at: dict[RowKey, list[str]] = field(default_factory=dict)
    _gone_sessions: dict[Key, dict[str, tuple[Session, float]]] = field(default_factory=dict)

    # What the board tells

    def offer(self, claim: Claim, since: float, seen: float) -> bool:
        """Take in a claim; true when it has something new for the mirror. `seen` is in seconds since the epoch."""
        before = self.claims.get(claim.key)
        if before is not None and before.uid != claim.uid:
            self.gone(before, since, seen)
            before = None
        self.claims[claim.key] = claim
        key = row_key(claim)
        self._at.setdefault(key, set()).add(claim.key)
        if before is not None and content(before) == content(claim):
            return False
        self.changed.setdefault(key, since)
        return True

    def gone(self, claim: Claim, since: float, seen: float, *, settled: bool = False) -> None:
        """Take in that the object of `claim` no longer exists; `settled`: its end is in the mirror already."""
        key = row_key(claim)
        known = self.claims.get(claim.key)
        if known is not None and known.uid == claim.uid:
            del self.claims[claim.key]
            keys = self._at[key]
            keys.discard(claim.key)
            if not keys:
                del self._at[key]
        if settled or claim.uid in self._gone:
            return
        self._gone[claim.uid] = Gone(claim, seen)
        self._gone_at.setdefault(key, []).append(claim.uid)
        self.changed.setdefault(key, since)
        if len(self._gone) > self.gone_limit:
            self._forget(next(iter(self._gone)))
            self.forgotten += 1

    def offer_session(self, session: Session, since: float, seen: float) -> bool:
        """Take in a session; true when it has something new for the mirror."""
        before = self.sessions.get(session.key)
        if before is not None and before.uid != session.uid:
            self.gone_session(before, since, seen)
            before = None
        self.sessions[session.key] = session
        if before is not None and session_row(before, "") == session_row(session, ""):
            return False
        self.changed_sessions.setdefault(session.key, since)
        return True

    def gone_session(self, session: Session, since: float, seen: float) -> None:
        """Take in that the object of `session` no longer exists."""
        known = self.sessions.get(session.key)
        if known is not None and known.uid == session.uid:
            del self.sessions[session.key]
        # Ended sessions are collected all day; their rows have their end already unless it still waits here.
        if session.status.ended and session.key not in self.changed_sessions:
            return
        self._gone_sessions.setdefault(session.key, {})[session.uid] = (session, seen)
        self.changed_sessions.setdefault(session.key, since)
        if len(self._gone_sessions) > self.gone_limit:
            oldest = next(iter(self._gone_sessions))
            del self._gone_sessions[oldest]

    def adopt(self, claims: Iterable[Claim], sessions: Iterable[Session], since: float, seen: float) -> None:
        """Take in all objects that exist, in case something was not told."""
        present = {claim.key: claim for claim in claims}
        for claim in [each for key, each in self.claims.items() if key not in present]:
            self.gone(claim, since, seen)
        for claim in present.values():
            self.offer(claim, since, seen)
        existing = {session.key: session for session in sessions}
        for session in [each for key, each in self.sessions.items() if key not in existing]:
            self.gone_session(session, since, seen)
        for session in existing.values():
            self.offer_session(session, since, seen)

    def verify_all(self, owned: Iterable[RowKey]) -> None:
        """Compare everything: all facts, and the keys that the database holds to be open."""
        self.unverified |= dict.fromkeys(self._at)
        self.unverified |= dict.fromkeys(owned)
        self.unverified_sessions |= dict.fromkeys(self.sessions)

    # What the writer takes

    def take(self, limit: int, now: float) -> tuple[Batch, dict[RowKey, float]]:
        """Up to `limit` keys to write, those with changes first, and since when each change waits."""
        since = {key: self.changed.pop(key) for key in _first(self.changed, limit)}
        for key in since:
            self.unverified.pop(key, None)
        more = _first(self.unverified, limit - len(since))
        for key in more:
            del self.unverified[key]
        keys = (*since, *more)
        claims = tuple(self.claims[name] for key in keys for name in sorted(self._at.get(key, ())))
        gone = tuple(self._gone[uid] for key in keys for uid in self._gone_at.get(key, ()))
        self.writing = dict(since)
        return Batch(keys, claims, gone, now), since

    def put_back(self, batch: Batch, since: dict[RowKey, float]) -> None:
        """The batch was not written."""
        self.writing = {}
        for key in batch.keys:
            if key in since:
                self.changed[key] = min(since[key], self.changed.get(key, since[key]))
            else:
                self.unverified[key] = None

    def written(self, batch: Batch) -> None:
        """The batch was written: what it says of deleted objects need not be kept."""
        self.writing = {}
        for gone in batch.gone:
            self._forget(gone.claim.uid)

    def take_sessions(self, limit: int) -> tuple[SessionBatch, dict[Key, float]]:
        """Up to `limit` sessions to write, and since when each change waits."""
        since = {key: self.changed_sessions.pop(key) for key in _first(self.changed_sessions, limit)}
        for key in since:
            self.unverified_sessions.pop(key, None)
        more = _first(self.unverified_sessions, limit - len(since))
        for key in more:
            del self.unverified_sessions[key]
        present = tuple(self.sessions[key] for key in (*since, *more) if key in self.sessions)
        gone = tuple(each for key in since for each in self._gone_sessions.get(key, {}).values())
        self.writing = dict(since)
        return SessionBatch(present, gone), since

    def put_back_sessions(self, batch: SessionBatch, since: dict[Key, float]) -> None:
        """The sessions were not written."""
        self.writing = {}
        for key, moment in since.items():
            self.changed_sessions[key] = min(moment, self.changed_sessions.get(key, moment))
        for session in batch.sessions:
            if session.key not in since:
                self.unverified_sessions[session.key] = None

    def written_sessions(self, batch: SessionBatch) -> None:
        """The sessions were written."""
        self.writing = {}
        for session, _ in batch.gone:
            kept = self._gone_sessions.get(session.key, {})
            kept.pop(session.uid, None)
            if not kept:
                self._gone_sessions.pop(session.key, None)

    def at(self, keys: Collection[RowKey]) -> list[Claim]:
        """The claims with these keys of presence_claims."""
        return [self.claims[name] for key in keys for name in sorted(self._at.get(key, ()))]

    @property
    def oldest(self) -> float | None:
        """Since when the oldest change waits."""
        return min((*self.writing.values(), *self.changed.values(), *self.changed_sessions.values()), default=None)

    def __len__(self) -> int:
        """How many keys and sessions have changes."""
        return len(self.writing) + len(self.changed) + len(self.changed_sessions)

    @property
    def unchecked(self) -> int:
        """How many keys and sessions are to be compared although nothing is known to have changed."""
        return len(self.unverified) + len(self.unverified_sessions)

    def _forget(self, uid: str) -> None:
        gone = self._gone.pop(uid, None)
        if gone is None:
            return
        key = row_key(gone.claim)
        uids = self._gone_at[key]
        uids.remove(uid)
        if not uids:
            del self._gone_at[key]


def _first(items: Iterable[Item], limit: int) -> list[Item]:
    return list(islice(items, max(limit, 0)))
