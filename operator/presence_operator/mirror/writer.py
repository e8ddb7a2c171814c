"""Writes the board to the database, a little behind and in batches, and catches up after any outage.

The loop's thread only takes in facts; every wait for the server happens in one worker thread. What an outage costs is
delay: after each connect, the whole board is compared with the tables and the difference written.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from presence_operator.logs import fields, hide
from presence_operator.mirror.backlog import Backlog
from presence_operator.mirror.connection import FAILURES, error_text, reason_of
from presence_operator.mirror.projection import CLAIMED, DELETED, EXPIRED, GRANTED, RELEASED, RENEWED, overlong, row_key
from presence_operator.mirror.schema import wanted_version
from presence_operator.mirror.store import Store, SupersededError
from presence_operator.mirror.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from presence_operator.core.facts import Claim, Key, Session
    from presence_operator.metrics import Metrics
    from presence_operator.mirror.dsn import Dsn
    from presence_operator.mirror.projection import RowKey
    from presence_operator.mirror.store import Batch, Written

_log = logging.getLogger(__name__)

# All in seconds, but the first.
_BATCH = 500
_LINGER = 0.2
"""How long a change waits for company: long enough to share a transaction, too short for anybody to notice."""
_COMMIT_INTERVAL, _COMMIT_LINGER = 5.0, 1.0
_DENIED_INTERVAL = 300.0
_RESYNC = 300.0
_FOREIGN_RECHECK = 15.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_LONGEST_PAUSE_REFUSED = 30.0
"""A server that refuses us wants a person; one that is away wants to be found soon after its return."""
_SUPERSEDED_PAUSE = 20.0
"""Longer than a Lease: an operator that no longer leads has learnt so, and is not mirroring, when this is over."""
_FLUSH_LIMIT = 2.0
_TOLD_AFTER = 2
"""Failures in a row until objects are told: one broken connection is mended before anybody could read of it."""

_EVENT_ORDER = (CLAIMED, GRANTED, RENEWED, RELEASED, EXPIRED, DELETED)


class MirrorState(enum.StrEnum):
    """How an object stands with the mirror. The values are reasons of the condition Mirrored."""

    MIRRORED = "Mirrored"
    SCHEMA_BEHIND = "SchemaBehind"
    SCHEMA_AHEAD = "SchemaAhead"
    UNAVAILABLE = "MirrorUnavailable"


@dataclass(frozen=True, slots=True)
class MirrorOutcome:
    """What `on_state` is told of one claim: its state, and of which facts that was said."""

    state: MirrorState
    phase: str
    """The claim's phase that is in the mirror (MIRRORED), or that waits."""
    resource_version: str
    message: str = ""
    """One line for people."""


class SchemaBehindError(Exception):
    """The database has not got the tables that this operator needs."""


class Mirror:
    """Keeps the tables of one board in step with it. All methods belong to the event loop's thread.

    `board` is the namespace that is mirrored; objects of others are ignored. `snapshot` returns all claims and sessions
    and is called only while `run` runs, so start that when the board is complete: what is missing in it counts as
    deleted. `on_state` is told of each claim once for every content that was written, and once when it has to wait;
    heartbeats alone are no content. `server_now` is the API server's time in seconds since the epoch. `reread` returns
    what `dsn` is by now, or raises ValueError; it is called when the database refuses the password.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        board: str,
        snapshot: Callable[[], tuple[Sequence[Claim], Sequence[Session]]],
        on_state: Callable[[Key, str, MirrorOutcome], None],
        metrics: Metrics,
        server_now: Callable[[], float],
        reread: Callable[[], Dsn] | None = None,
    ) -> None:
        self._dsn = dsn
        self._reread = reread
        self._board = board
        self._snapshot = snapshot
        self._on_state = on_state
        self._metrics = metrics
        self._server_now = server_now
        self._store = Store(dsn, board)
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._wanted = wanted_version()
        self._newest = 0
        self._told: dict[Key, tuple[str, str, MirrorState, str]] = {}
        self._connected = False
        self._unknown_since: float | None = time.monotonic()
        self._failures = 0
        self._complaint = ""
        self._uncommitted: Counter[str] = Counter()
        self._commit_due = 0.0
        self._last_commit = float("-inf")
        self._resync_due = 0.0
        self._foreign: set[RowKey] = set()
        self._foreign_due = float("inf")
        self._oversize: set[str] = set()
        self._forgotten_told = 0

    def offer(self, claim: Claim) -> None:
        """Take in a claim that is new or has changed."""
        if claim.namespace != self._board:
            return
        cut = overlong(claim)
        if cut and claim.uid not in self._oversize:
            self._oversize.add(claim.uid)
            self._metrics.mirror_error("rejected")
            _log.warning("a claim is too long for the mirror and cut there", extra=fields(claim=claim.name, parts=cut))
        if self._backlog.offer(claim, time.monotonic(), self._server_now()):
            self._wake.set()

    def gone(self, claim: Claim) -> None:
        """Take in that a claim no longer exists; `claim` holds its last known facts."""
        if claim.namespace != self._board:
            return
        self._oversize.discard(claim.uid)
        told = self._told.get(claim.key)
        settled = False
        if told is not None and told[0] == claim.uid:
            del self._told[claim.key]
            settled = claim.status.ended and told[1:3] == (claim.status.phase, MirrorState.MIRRORED)
        self._backlog.gone(claim, time.monotonic(), self._server_now(), settled=settled)
        self._wake.set()

    def offer_session(self, session: Session) -> None:
        """Take in a session that is new or has changed."""
        if session.namespace == self._board and self._backlog.offer_session(
            session, time.monotonic(), self._server_now()
        ):
            self._wake.set()

    def gone_session(self, session: Session) -> None:
        """Take in that a session no longer exists; `session` holds its last known facts."""
        if session.namespace == self._board:
            self._backlog.gone_session(session, time.monotonic(), self._server_now())
            self._wake.set()

    def lag(self) -> float:
        """Age in seconds of the oldest change that is not written; 0 when all is."""
        since = self._backlog.oldest
        if self._unknown_since is not None:
            since = self._unknown_since  # nobody has compared yet, so the oldest change may be as old as this process
        return 0.0 if since is None else time.monotonic() - since

    def pending(self) -> float:
        """How many keys and sessions wait to be written."""
        return len(self._backlog) + (0 if self._unknown_since is None else self._backlog.unchecked)

    async def run(self) -> None:
        """Mirror until cancelled; then write what is left, for two seconds at most."""
        self._metrics.observe_mirror(lag=self.lag, pending=self.pending)
        self._metrics.mirror_schema("unknown", wanted=self._wanted)
        worker = Worker("presence-mirror")
        self._adopt()
        try:
            while True:
                try:
                    await self._connect(worker)
                    await self._follow(worker)
                except Exception as error:  # noqa: BLE001 - whatever goes wrong here, claims are served and we try again
                    await asyncio.sleep(self._failed(error))
        finally:
            try:
                if self._connected:
                    await self._flush(worker)
            finally:
                self._connected = False
                self._store.abort()
                worker.stop(self._store.close)

    # Connecting

    async def _connect(self, worker: Worker) -> None:
        version, newest = await worker.call(self._store.open)
        self._metrics.mirror_up(True)
        self._take_newest(newest)
        if version < self._wanted:
            self._metrics.mirror_schema("behind", version=version, wanted=self._wanted)
            raise SchemaBehindError(
                f"the database is at schema version {version}, this operator needs {self._wanted}: "
                "run presence-operator migrate"
            )
        self._metrics.mirror_schema(self._schema_state("ok"), version=version, wanted=self._wanted)
        now = self._server_now()
        await worker.call(lambda: self._store.take_over(now))
        await self._compare_all(worker)
        try:
            if await worker.call(self._store.has_uncommitted_events):
                self._count_history({"earlier changes": 1})
        except FAILURES as error:
            if reason_of(error) != "auth":
                raise
            self._history_denied(error)
        self._connected = True
        about = fields(mirror=str(self._dsn), dolt=self._store.dolt, schema=version, failures=self._failures)
        _log.info("the mirror answers", extra=about)
        self._complaint = ""

    def _take_newest(self, newest: int) -> None:
        """Newer migrations only add, so an older operator goes on with them: during an update, or after a step back."""
        if newest > max(self._wanted, self._newest):
            about = fields(schema=newest, wanted=self._wanted)
            _log.warning("the database's schema is newer than this operator, which goes on all the same", extra=about)
        self._newest = newest

    def _schema_state(self, otherwise: str) -> str:
        return "ahead" if self._newest > self._wanted else otherwise

    async def _compare_all(self, worker: Worker) -> None:
        """Mark everything for comparison: what the board has and what the database believes it has."""
        self._adopt()
        self._told = {key: said for key, said in self._told.items() if key in self._backlog.claims}
        self._backlog.verify_all(await worker.call(self._store.owned_keys))
        alive = [each.uid for each in self._backlog.sessions.values()]
        seen = self._server_now()
        self._account(await worker.call(lambda: self._store.close_sessions(alive, seen)))
        self._resync_due = time.monotonic() + _RESYNC

    def _adopt(self) -> None:
        claims, sessions = self._snapshot()
        self._backlog.adopt(
            [each for each in claims if each.namespace == self._board],
            [each for each in sessions if each.namespace == self._board],
            time.monotonic(),
            self._server_now(),
        )

    # Following

    async def _follow(self, worker: Worker) -> None:
        while True:
            self._wake.clear()
            if self._backlog.changed or self._backlog.unverified:
                await self._write(worker)
            if self._backlog.changed_sessions or self._backlog.unverified_sessions:
                await self._write_sessions(worker)
            await self._commit_if_due(worker)
            self._recheck_foreign()
            if self._backlog.unchecked or len(self._backlog) >= _BATCH:
                continue
            self._unknown_since = None
            self._failures = 0
            if time.monotonic() >= self._resync_due:
                await self._compare_all(worker)
            else:
                await self._wait()

    async def _wait(self) -> None:
        if not len(self._backlog):
            due = min(self._resync_due, self._foreign_due, self._commit_due if self._uncommitted else float("inf"))
            try:
                async with asyncio.timeout(max(due - time.monotonic(), 0.0)):
                    await self._wake.wait()
            except TimeoutError:
                return
        await asyncio.sleep(_LINGER)

    async def _write(self, worker: Worker) -> None:
        batch, since = self._backlog.take(_BATCH, self._server_now())
        try:
            written = await worker.call(lambda: self._store.write(batch))
        except BaseException:
            self._backlog.put_back(batch, since)
            raise
        self._backlog.written(batch)
        now = time.monotonic()
        self._account(written, [now - moment for moment in since.values()])
        self._tell_written(batch, written)
        if self._backlog.forgotten > self._forgotten_told:
            lost = self._backlog.forgotten
            _log.warning("claims that came and went during an outage left no history", extra=fields(claims=lost))
            self._forgotten_told = self._backlog.forgotten

    async def _write_sessions(self, worker: Worker) -> None:
        batch, since = self._backlog.take_sessions(_BATCH)
        try:
            written = await worker.call(lambda: self._store.write_sessions(batch.sessions, batch.gone))
        except BaseException:
            self._backlog.put_back_sessions(batch, since)
            raise
        self._backlog.written_sessions(batch)
        now = time.monotonic()
        self._account(written, [now - moment for moment in since.values()])

    def _account(self, written: Written, lags: Iterable[float] = ()) -> None:
        self._metrics.mirror_written(written.rows, lags)
        self._count_history(written.events | ({"session updates": written.sessions} if written.sessions else {}))

    def _recheck_foreign(self) -> None:
        """A row of somebody else goes without a word to us; then the place is free for our claim."""
        if time.monotonic() < self._foreign_due:
            return
        self._backlog.unverified |= dict.fromkeys(self._foreign)
        self._foreign_due = time.monotonic() + _FOREIGN_RECHECK if self._foreign else float("inf")

    # Dolt's history

    def _count_history(self, changes: Mapping[str, int]) -> None:
        if not changes or not self._store.dolt:
            return
        if not self._uncommitted:
            now = time.monotonic()
            self._commit_due = max(now + _COMMIT_LINGER, self._last_commit + _COMMIT_INTERVAL)
        self._uncommitted.update(changes)

    async def _commit_if_due(self, worker: Worker) -> None:
        if self._uncommitted and time.monotonic() >= self._commit_due:
            await self._commit(worker)

    async def _commit(self, worker: Worker) -> None:
        message = commit_message(self._uncommitted)
        try:
            done = await worker.call(lambda: self._store.commit_history(message))
        except FAILURES as error:
            if reason_of(error) != "auth":
                raise
            self._history_denied(error)
            return
        if done is None:
            _log.warning("the commit to Dolt's history waits: it would take along what somebody else has staged")
            self._commit_due = time.monotonic() + _COMMIT_INTERVAL
            return
        if done:
            self._metrics.mirror_committed()
        self._uncommitted.clear()
        self._last_commit = time.monotonic()

    def _history_denied(self, error: Exception) -> None:
        """The user may write rows but not make commits: the rows matter more."""
        self._metrics.mirror_error("auth")
        _log.error(
            "Dolt's history is not written: grant what docs/mirror.md names", extra=fields(error=error_text(error))
        )
        self._commit_due = time.monotonic() + _DENIED_INTERVAL

    async def _flush(self, worker: Worker) -> None:
        try:
            async with asyncio.timeout(_FLUSH_LIMIT):
                while self._backlog.changed:
                    await self._write(worker)
                while self._backlog.changed_sessions:
                    await self._write_sessions(worker)
                if self._uncommitted:
                    await self._commit(worker)
                await worker.call(self._store.close)
        except TimeoutError:
            _log.warning("the next start writes the rest to the mirror", extra=fields(changes=len(self._backlog)))
        except Exception as error:  # noqa: BLE001 - the end must not fail because the mirror does
            left = fields(changes=len(self._backlog), error=error_text(error))
            _log.warning("the next start writes the rest to the mirror", extra=left)

    # Telling

    def _tell_written(self, batch: Batch, written: Written) -> None:
        for key in batch.keys:
            known = key in self._foreign
            self._foreign.discard(key)
            if key in written.foreign:
                self._foreign.add(key)
                if not known:
                    about = fields(session=key[0], resource=key[1])
                    _log.warning("a row of presence_claims is somebody else's and stays as it is", extra=about)
            if key in written.rejected:
                self._metrics.mirror_error("rejected")
                about = fields(session=key[0], resource=key[1], error=written.rejected[key])
                _log.error("the mirror's database does not take a row", extra=about)
        self._metrics.mirror_foreign(len(self._foreign))
        if self._foreign and self._foreign_due == float("inf"):
            self._foreign_due = time.monotonic() + _FOREIGN_RECHECK
        for claim in batch.claims:
            key = row_key(claim)
            if key in written.rejected:
                self._tell(claim, MirrorState.UNAVAILABLE, f"the database does not take it: {written.rejected[key]}")
            elif key in written.foreign:
                message = "in the history only: its row of presence_claims is held by somebody else's"
                self._tell(claim, MirrorState.MIRRORED, message)
            else:
                self._tell(claim, MirrorState.MIRRORED, "")

    def _tell(self, claim: Claim, state: MirrorState, message: str) -> None:
        # The causes of one outage come in many words; once told is enough.
        said = (claim.uid, claim.status.phase, state, message if state is MirrorState.MIRRORED else "")
        known = self._backlog.claims.get(claim.key)
        if known is None or known.uid != claim.uid or self._told.get(claim.key) == said:
            return
        self._told[claim.key] = said
        self._on_state(claim.key, claim.uid, MirrorOutcome(state, claim.status.phase, claim.resource_version, message))

    def _failed(self, error: Exception) -> float:
        """Take in a failure; returns the seconds to wait before the next attempt."""
        self._connected = False
        self._failures += 1
        if isinstance(error, SchemaBehindError):
            reason, text = "schema", str(error)
        else:
            reason, text = reason_of(error), error_text(error)
            if reason == "schema":
                if self._schema_state("") == "ahead":
                    text = (
                        f"the database is at schema version {self._newest}, which this operator, made for "
                        f"{self._wanted}, cannot write: run the newer operator again ({text})"
                    )
                self._metrics.mirror_schema(self._schema_state("behind"), wanted=self._wanted)
            else:
                self._metrics.mirror_up(False)
                self._metrics.mirror_schema("unknown", wanted=self._wanted)
        self._metrics.mirror_error(reason)
        if text != self._complaint:
            self._complaint = text
            expected = isinstance(error, (*FAILURES, SchemaBehindError, SupersededError))
            about = fields(mirror=str(self._dsn), reason=reason, error=text)
            _log.warning("the mirror cannot be written", extra=about, exc_info=None if expected else error)
        if self._failures >= _TOLD_AFTER or reason == "schema":
            self._tell_waiting(reason, text)
        if isinstance(error, SupersededError):
            return _SUPERSEDED_PAUSE
        if reason == "auth" and self._replaced():
            return _FIRST_PAUSE
        longest = _LONGEST_PAUSE_REFUSED if reason in ("auth", "read_only") else _LONGEST_PAUSE
        pause: float = min(_FIRST_PAUSE * 2 ** min(self._failures - 1, 16), longest)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads attempts, guards nothing

    def _replaced(self) -> bool:
        """Whether there is another address or password by now, which the next attempt uses."""
        if self._reread is None:
            return False
        try:
            fresh = self._reread()
        except ValueError as error:
            _log.warning("the mirror's address cannot be read anew", extra=fields(error=str(error)))
            return False
        if fresh == self._dsn:
            return False
        hide(fresh.password)
        self._dsn = fresh
        self._store.use(fresh)
        _log.info("the mirror's address was replaced", extra=fields(mirror=str(fresh)))
        return True

    def _tell_waiting(self, reason: str, text: str) -> None:
        state = MirrorState.UNAVAILABLE
        if reason == "schema":
            ahead = self._schema_state("") == "ahead"
            state = MirrorState.SCHEMA_AHEAD if ahead else MirrorState.SCHEMA_BEHIND
        for claim in self._backlog.at(tuple(self._backlog.changed)):
            # At the start nothing says that a claim changed since it was mirrored; what its condition says stands.
            before = claim.status.condition("Mirrored")
            if self._unknown_since is not None and before is not None and before.status == "True":
                continue
            self._tell(claim, state, text)


def commit_message(changes: Mapping[str, int]) -> str:
    """The message of a Dolt commit: what changed, counted."""
    order = [*(kind for kind in _EVENT_ORDER if kind in changes), *sorted(set(changes) - set(_EVENT_ORDER))]
    return "presence: " + ", ".join(
        kind if kind == "earlier changes" else f"{changes[kind]} {kind}" for kind in order if changes[kind]
    )
