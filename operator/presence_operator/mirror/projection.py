"""What the mirror should hold: facts of the board in, rows and events out.

Nothing here talks to a database. `difference` compares the facts with the rows that a database has and names the
changes that make them agree, without touching a row that somebody else wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from presence.model import kinds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from presence_operator.core.facts import Claim, Session

#: Primary key of presence_claims: (session_id, resource_label), cut to the columns.
RowKey = tuple[str, str]

CLAIMED, GRANTED, RENEWED = "claimed", "granted", "renewed"
RELEASED, EXPIRED, DELETED = "released", "expired", "deleted"

#: The phase that presence_sessions shows of a session whose object was deleted while it lived.
DELETED_PHASE = "Deleted"

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - DATETIME has no zone; the connection fixes it to UTC
_ENDINGS = {kinds.EXPIRED: EXPIRED, kinds.RELEASED: RELEASED}

_SESSION, _RESOURCE, _HOST, _USER, _AGENT, _REASON = 128, 255, 128, 64, 64, 64
_MODEL, _PROJECT, _URL, _PHASE, _KIND, _BOARD = 128, 1024, 1024, 16, 16, 63
_TEXT_BYTES = 65_535


class ClaimRow(NamedTuple):
    """A row of presence_claims."""

    session_id: str
    resource_label: str
    purpose: str
    claimed_at: datetime
    expires_at: datetime
    host: str
    user: str
    agent_name: str | None

    @property
    def key(self) -> RowKey:
        """The primary key."""
        return (self.session_id, self.resource_label)


class OwnedRow(NamedTuple):
    """A row of presence_owned: a claim that the mirror holds to be open."""

    claim_uid: str
    board: str
    session_id: str
    resource_label: str
    claimed_at: datetime
    phase: str
    ttl_seconds: int
    purpose: str
    user: str
    host: str
    agent: str
    has_row: int

    @property
    def key(self) -> RowKey:
        """The primary key of its row of presence_claims."""
        return (self.session_id, self.resource_label)


class EventRow(NamedTuple):
    """A row of presence_events."""

    event_id: str
    claim_uid: str
    kind: str
    at: datetime
    board: str
    session_id: str
    resource_label: str
    purpose: str
    user: str
    host: str
    agent: str
    reason: str
    expires_at: datetime | None
    token: int | None


class SessionRow(NamedTuple):
    """A row of presence_sessions."""

    session_uid: str
    board: str
    session_id: str
    kind: str
    user: str
    host: str
    agent: str
    model: str
    project: str
    url: str
    phase: str
    started_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Gone:
    """An object that no longer exists: its last known facts, and when its absence was seen (seconds)."""

    claim: Claim
    at: float


@dataclass(slots=True)
class Changes:
    """What makes a database agree with the board. Deletions come before upserts."""

    upserts: list[ClaimRow] = field(default_factory=list)
    deletes: list[tuple[RowKey, datetime]] = field(default_factory=list)
    """Key and claimed_at: a row that has another claimed_at by then is somebody else's."""
    owned_upserts: list[OwnedRow] = field(default_factory=list)
    owned_deletes: list[str] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    foreign: list[Claim] = field(default_factory=list)
    """Active claims without a row, because somebody else's row has their key."""

    @property
    def rows(self) -> int:
        """How many rows change, events aside."""
        return len(self.upserts) + len(self.deletes) + len(self.owned_upserts) + len(self.owned_deletes)


def row_key(claim: Claim) -> RowKey:
    """The primary key in presence_claims of a claim."""
    return (fit(claim.session, _SESSION), fit(claim.resource, _RESOURCE))


def content(claim: Claim) -> tuple[object, ...]:
    """All of a claim that the mirror shows. Facts with equal content need not be written again."""
    status = claim.status
    return (
        claim.uid,
        claim.session,
        claim.resource,
        claim.purpose,
        claim.created,
        int(claim.ttl),
        claim.user,
        claim.host,
        claim.agent,
        status.phase,
        status.granted_at,
        status.expires_at,
        status.ended_at,
    )


def overlong(claim: Claim) -> tuple[str, ...]:
    """Names of the fields that are longer than their columns and are cut. The schema of the API admits none."""
    limits = (
        ("session", claim.session, _SESSION),
        ("resource", claim.resource, _RESOURCE),
        ("user", claim.user, _USER),
        ("host", claim.host, _HOST),
        ("agent", claim.agent, _AGENT),
    )
    found = [name for name, text, limit in limits if fit(text, limit) != text]
    if fit_bytes(claim.purpose) != claim.purpose:
        found.append("purpose")
    return tuple(found)


def fit(text: str, limit: int) -> str:
    """`text` as a VARCHAR(`limit`) takes it: at most that many characters, and none that UTF-8 cannot carry."""
    return text[:limit].encode(errors="replace").decode()


def fit_bytes(text: str, limit: int = _TEXT_BYTES) -> str:
    """`text` as a TEXT takes it: at most `limit` bytes of UTF-8, never ending inside of a character."""
    return text.encode(errors="replace")[:limit].decode(errors="ignore")


def sql_time(seconds: float) -> datetime:
    """Seconds since the epoch as a DATETIME(3) in UTC."""
    return _EPOCH + timedelta(milliseconds=round(seconds * 1000))


def claim_row(claim: Claim) -> ClaimRow:
    """The row of an active claim. claimed_at is the creation, whatever was renewed since."""
    expires = claim.alive + claim.ttl if claim.status.expires_at is None else claim.status.expires_at
    session, resource = row_key(claim)
    return ClaimRow(
        session,
        resource,
        fit_bytes(claim.purpose),
        sql_time(claim.created),
        sql_time(expires),
        fit(claim.host, _HOST),
        fit(claim.user, _USER),
        fit(claim.agent, _AGENT),
    )


def session_row(session: Session, board: str, gone_at: float | None = None) -> SessionRow:
    """The row of a session. `gone_at`: its object no longer exists since then (seconds)."""
    status = session.status
    phase, ended = status.phase or kinds.ACTIVE, status.ended_at
    if gone_at is not None and not status.ended:
        phase, ended = DELETED_PHASE, gone_at
    return SessionRow(
        session.uid,
        fit(board, _BOARD),
        fit(session.session_id, _SESSION),
        fit(session.kind, _KIND),
        fit(session.user, _USER),
        fit(session.host, _HOST),
        fit(session.agent, _AGENT),
        fit(session.model, _MODEL),
        fit(session.project, _PROJECT),
        fit(session.url, _URL),
        fit(phase, _PHASE),
        sql_time(session.created if status.started_at is None else status.started_at),
        None if status.expires_at is None else sql_time(status.expires_at),
        None if ended is None else sql_time(ended),
    )


def difference(
    claims: Iterable[Claim],
    gone: Iterable[Gone],
    table: Mapping[RowKey, ClaimRow],
    owned: Collection[OwnedRow],
    *,
    board: str,
    now: float,
) -> Changes:
    """The changes that make the rows of some keys agree with the board.

    `claims` are all claims with these keys, ended ones too; `table` and `owned` all rows with them (`owned` of this
    board only). An owned claim among neither `claims` nor `gone` was deleted while nobody looked. `now` is in seconds.
    Events may repeat some that were recorded before: their ids tell.
    """
    changes = Changes()
    board = fit(board, _BOARD)
    known = {each.claim_uid: each for each in owned}
    facts = list(claims)
    active: dict[RowKey, list[Claim]] = {}
    for claim in facts:
        if claim.status.phase == kinds.ACTIVE:
            active.setdefault(row_key(claim), []).append(claim)
    holders = {key: min(group, key=lambda each: (each.created, each.name)) for key, group in active.items()}
    with_row = _place_rows(changes, holders, table, owned)

    for claim in facts:
        before = known.pop(claim.uid, None)
        changes.events += _events(claim, before, board, now)
        if claim.status.ended:
            if before is not None:
                changes.owned_deletes.append(claim.uid)
            continue
        entry = _owned_row(claim, board, has_row=claim.uid in with_row)
        if entry != before:
            changes.owned_upserts.append(entry)
    for lost in gone:
        before = known.pop(lost.claim.uid, None)
        changes.events += _events(lost.claim, before, board, lost.at)
        if not lost.claim.status.ended:
            changes.events.append(_farewell(lost, board))
        if before is not None:
            changes.owned_deletes.append(lost.claim.uid)
    for entry in known.values():
        changes.events.append(_unseen_deletion(entry, now))
        changes.owned_deletes.append(entry.claim_uid)
    return changes


def _place_rows(
    changes: Changes, holders: Mapping[RowKey, Claim], table: Mapping[RowKey, ClaimRow], owned: Iterable[OwnedRow]
) -> set[str]:
    """Decide on the rows of presence_claims; returns the uids of the claims that have theirs."""
    ours = {(entry.key, entry.claimed_at) for entry in owned if entry.has_row}
    with_row = set()
    for key, claim in holders.items():
        wanted, current = claim_row(claim), table.get(key)
        if current is not None and (key, current.claimed_at) not in ours:
            changes.foreign.append(claim)
            continue
        with_row.add(claim.uid)
        if current == wanted:
            continue
        if current is not None and current.claimed_at != wanted.claimed_at:
            changes.deletes.append((key, current.claimed_at))
        changes.upserts.append(wanted)
    for key, current in table.items():
        if key not in holders and (key, current.claimed_at) in ours:
            changes.deletes.append((key, current.claimed_at))
    return with_row


def _owned_row(claim: Claim, board: str, *, has_row: bool) -> OwnedRow:
    session, resource = row_key(claim)
    return OwnedRow(
        claim.uid,
        board,
        session,
        resource,
        sql_time(claim.created),
        fit(claim.status.phase, _PHASE),
        int(claim.ttl),
        fit_bytes(claim.purpose),
        fit(claim.user, _USER),
        fit(claim.host, _HOST),
        fit(claim.agent, _AGENT),
        int(has_row),
    )


def _events(claim: Claim, before: OwnedRow | None, board: str, now: float) -> list[EventRow]:
    """What happened to `claim` since the mirror held it as `before` (None: the mirror does not hold it)."""
    status = claim.status
    events = []
    if before is None:
        events.append(_event(claim, CLAIMED, claim.created, board, "Claimed"))
    if status.granted_at is not None and (before is None or before.phase != kinds.ACTIVE):
        events.append(_event(claim, GRANTED, status.granted_at, board, "Granted"))
    if status.ended:
        ended = claim.alive + claim.ttl if status.ended_at is None else status.ended_at
        condition = status.condition("Granted")
        reason = condition.reason if condition and condition.reason else status.phase
        events.append(_event(claim, _ENDINGS[status.phase], ended, board, reason))
    elif before is not None and (before.purpose, before.ttl_seconds) != (fit_bytes(claim.purpose), int(claim.ttl)):
        # A heartbeat is no history; another purpose or ttl is. It is written in one transaction with the row that
        # remembers both, so its id need not be found again.
        reason = "PurposeChanged" if before.purpose != fit_bytes(claim.purpose) else "TtlChanged"
        events.append(_event(claim, RENEWED, now, board, reason, f"/{round(now * 1000)}"))
    return events


def _farewell(lost: Gone, board: str) -> EventRow:
    """The end of a claim whose object went before the operator had written an end."""
    claim = lost.claim
    if claim.lapsed is not None:
        return _event(claim, EXPIRED, claim.lapsed, board, "Expired")
    if claim.released:
        return _event(claim, RELEASED, lost.at, board, "Released")
    return _event(claim, DELETED, lost.at, board, "Deleted")


def _unseen_deletion(entry: OwnedRow, now: float) -> EventRow:
    return EventRow(
        event_id=f"{entry.claim_uid}/{DELETED}",
        claim_uid=entry.claim_uid,
        kind=DELETED,
        at=sql_time(now),
        board=entry.board,
        session_id=entry.session_id,
        resource_label=entry.resource_label,
        purpose=entry.purpose,
        user=entry.user,
        host=entry.host,
        agent=entry.agent,
        reason="DeletedUnseen",
        expires_at=None,
        token=None,
    )


def _event(claim: Claim, kind: str, at: float, board: str, reason: str, suffix: str = "") -> EventRow:
    session, resource = row_key(claim)
    return EventRow(
        event_id=f"{claim.uid}/{kind}{suffix}",
        claim_uid=claim.uid,
        kind=kind,
        at=sql_time(at),
        board=board,
        session_id=session,
        resource_label=resource,
        purpose=fit_bytes(claim.purpose),
        user=fit(claim.user, _USER),
        host=fit(claim.host, _HOST),
        agent=fit(claim.agent, _AGENT),
        reason=fit(reason, _REASON),
        expires_at=None if claim.status.expires_at is None else sql_time(claim.status.expires_at),
        token=claim.status.fencing_token,
    )
