"""The only place that writes to Kubernetes: one action in, one outcome out."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

from presence.model import kinds
from presence_operator.core.actions import (
    DeleteObject,
    Done,
    Failed,
    FreeLease,
    Gone,
    GrantExclusive,
    Verified,
    VerifySessions,
    WriteClaimStatus,
    WriteSessionStatus,
)
from presence_operator.core.facts import Claim, Session
from presence_operator.core.status import claim_patch, session_patch
from presence_operator.logs import fields
from presence_operator.metrics import outcome_of_status
from presence_operator.shell.connection import UnavailableError, local_time
from presence_operator.shell.leases import Leases, RefusedError
from presence_operator.shell.paths import MERGE_PATCH, PAGE, is_gone, kind_name, list_path, object_path, status_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from presence_operator.core.actions import Action, Outcome
    from presence_operator.core.facts import ClaimStatus
    from presence_operator.metrics import Metrics
    from presence_operator.shell.connection import Answer, Connection
    from presence_operator.shell.intake import Intake

_log = logging.getLogger(__name__)

#: Seconds; what the server refuses as invalid will not be accepted a moment later either.
_REFUSED_PAUSE = 30.0
_REFUSED_LONGEST = 600.0
_LONGEST_PAUSE = 5.0
#: Single reads of sessions at the same time.
_READS = 8
#: One session read costs about as much as this many in a list.
_LIST_BARGAIN = 20


def backoff(attempt: int, longest: float = _LONGEST_PAUSE) -> float:
    """Seconds to wait before a further attempt: longer each time, and never the same for all."""
    wait = min(longest, 0.1 * 2.0 ** min(attempt, 16))
    return wait * random.uniform(0.5, 1.0)  # noqa: S311 - nothing depends on it being a secret


class Effects:
    """Carries out actions. `leading` is asked right before each write.

    While the server does not answer, or asks for patience (429), all requests wait together: a server that comes back
    is not met by everybody at once.
    """

    def __init__(
        self,
        connection: Connection,
        intake: Intake,
        metrics: Metrics,
        leading: Callable[[], bool],
        is_over: Callable[[str, str, str], bool],
    ) -> None:
        self._leases = Leases(connection, intake, metrics, leading, is_over, self._write_grant)
        self._connection = connection
        self._intake = intake
        self._metrics = metrics
        self._leading = leading
        self._pause_until = 0.0
        self._troubles = 0

    async def perform(self, action: Action) -> Outcome:
        """Carry out one action. Whatever happens is an outcome; it never raises."""
        try:
            pause = self._pause_until - local_time()
            if pause > 0:
                await asyncio.sleep(pause)
            if not self._leading():
                # Whoever leads now decides; should that be us again, from the state as it is then.
                return Failed(0.5)
            outcome = await self._perform(action)
        except RefusedError as error:
            return self._refused(action, error.answer)
        except UnavailableError as error:
            self._trouble(str(error))
            self._metrics.action_retried(_kind_of(action), error.outcome)
            return Failed(backoff(action.attempt))
        except Exception:  # noqa: BLE001 - one odd answer must not stop everything else
            _log.exception("action failed", extra=fields(action=type(action).__name__))
            self._metrics.action_retried(_kind_of(action), "other")
            return Failed(backoff(action.attempt + 3, _REFUSED_PAUSE))
        return outcome

    async def _perform(self, action: Action) -> Outcome:
        if isinstance(action, WriteClaimStatus):
            return await self._patch(action, action.claim, claim_patch(action.claim, action.status))
        if isinstance(action, WriteSessionStatus):
            return await self._patch(action, action.session, session_patch(action.session, action.status))
        if isinstance(action, DeleteObject):
            return await self._delete(action)
        if isinstance(action, GrantExclusive | FreeLease):
            outcome = await self._leases.perform(action)
            self._recovered()
            return outcome
        return await self._verify(action)

    async def _write_grant(self, action: GrantExclusive, claim: Claim, status: ClaimStatus) -> Outcome:
        return await self._patch(action, claim, claim_patch(claim, status))

    async def _patch(self, action: Action, target: Claim | Session, body: dict[str, Any]) -> Outcome:
        answer = await self._connection.request(
            "patch",
            kind_name(type(target)),
            "PATCH",
            status_path(target),
            body,
            MERGE_PATCH,
        )
        if answer.status == 200:
            self._recovered()
            fact = self._intake.parse(type(target), answer.body())
            if fact is not None:
                self._intake.written(fact)
            return Done(fact)
        return await self._failed(action, target, answer)

    async def _delete(self, action: DeleteObject) -> Outcome:
        target = action.target
        body = {
            "preconditions": {"uid": target.uid, "resourceVersion": target.resource_version},
            "propagationPolicy": "Background",
        }
        answer = await self._connection.request("delete", kind_name(type(target)), "DELETE", object_path(target), body)
        if answer.status in (200, 202):
            self._recovered()
            return Done()
        return await self._failed(action, target, answer)

    async def _verify(self, action: VerifySessions) -> Outcome:
        # What the server says after this moment includes every heartbeat before it.
        since = self._connection.server_now()
        found: list[Session] = []
        unparsable: set[str] = set()

        def take(name: str, body: dict[str, Any]) -> None:
            fact = self._intake.parse(Session, body)
            if isinstance(fact, Session):
                found.append(fact)
            else:
                unparsable.add(name)

        if len(action.names) > 4 and len(action.names) * _LIST_BARGAIN > action.sessions_there:
            wanted = set(action.names)
            path: str | None = f"{list_path(Session, action.namespace)}?limit={PAGE}"
            while path is not None:
                answer = await self._connection.request("list", kinds.SESSION_KIND, "GET", path)
                if answer.status != 200:
                    return self._unread(action, answer)
                page = answer.body()
                for item in page["items"]:
                    if (name := item["metadata"]["name"]) in wanted:
                        take(name, item)
                token = page["metadata"].get("continue")
                path = f"{list_path(Session, action.namespace)}?limit={PAGE}&continue={token}" if token else None
        else:
            gate = asyncio.Semaphore(_READS)

            async def read(name: str) -> Answer:
                async with gate:
                    path = f"{list_path(Session, action.namespace)}/{name}"
                    return await self._connection.request("get", kinds.SESSION_KIND, "GET", path)

            answers = await asyncio.gather(*map(read, action.names))
            for name, answer in zip(action.names, answers, strict=True):
                if answer.status == 200:
                    take(name, answer.body())
                elif not is_gone(answer):
                    return self._unread(action, answer)
        self._recovered()
        # Should the clock have been corrected meanwhile, the earlier of the two readings is the safe one.
        return Verified(min(since, self._connection.server_now()), tuple(found), frozenset(unparsable))

    def _unread(self, action: VerifySessions, answer: Answer) -> Outcome:
        self._metrics.action_retried(kinds.SESSION_KIND, outcome_of_status(answer.status))
        self._consider(answer)
        return Failed(answer.retry_after or backoff(action.attempt))

    async def _failed(self, action: Action, target: Claim | Session, answer: Answer) -> Outcome:
        if is_gone(answer):
            return Gone()
        self._metrics.action_retried(kind_name(type(target)), outcome_of_status(answer.status))
        if answer.status == 409:
            # Somebody else was quicker. Decide again from what is there now.
            fresh = await self._connection.request("get", kind_name(type(target)), "GET", object_path(target))
            if is_gone(fresh):
                return Gone()
            fact = self._intake.parse(type(target), fresh.body()) if fresh.status == 200 else None
            return Failed(0.0 if fact and not action.attempt else backoff(action.attempt), fact)
        return self._not_written(
            action, answer, fields(status=answer.status, namespace=target.namespace, object=target.name)
        )

    def _refused(self, action: Action, answer: Answer) -> Outcome:
        self._metrics.action_retried("Lease", outcome_of_status(answer.status))
        if isinstance(action, GrantExclusive):
            namespace, resource = action.claim.namespace, action.claim.resource
        else:
            assert isinstance(action, FreeLease)
            namespace, resource = action.namespace, action.resource
        where = fields(status=answer.status, namespace=namespace, resource=resource)
        return self._not_written(action, answer, where)

    def _not_written(self, action: Action, answer: Answer, where: dict[str, Any]) -> Outcome:
        where = {**where, **fields(error=answer.message)}
        if answer.status in (400, 422):
            _log.error("write refused as invalid", extra=where)
            wait = min(_REFUSED_LONGEST, _REFUSED_PAUSE * 2.0 ** min(action.attempt, 8))
            return Failed(wait * random.uniform(0.8, 1.0))  # noqa: S311
        if answer.status in (403, 404):
            _log.warning("write not possible", extra=where)
            return Failed(backoff(action.attempt + 3, _REFUSED_PAUSE))
        self._consider(answer)
        return Failed(answer.retry_after or backoff(action.attempt))

    def _consider(self, answer: Answer) -> None:
        if answer.status == 429 or answer.retry_after:
            self._pause_until = max(self._pause_until, local_time() + (answer.retry_after or 1.0))
        if answer.status != 401:
            self._trouble(f"{answer.status} {answer.message}")

    def _trouble(self, why: str) -> None:
        if not self._troubles:
            _log.warning("the API server is in trouble", extra=fields(error=why))
        self._troubles += 1
        pause = min(2.0, 0.05 * 2.0 ** min(self._troubles // 4, 8))
        self._pause_until = max(self._pause_until, local_time() + pause)

    def _recovered(self) -> None:
        if self._troubles:
            _log.info("the API server answers again", extra=fields(failures=self._troubles))
            self._troubles = 0


def _kind_of(action: Action) -> str:
    if isinstance(action, WriteClaimStatus):
        return kinds.CLAIM_KIND
    if isinstance(action, DeleteObject):
        return kind_name(type(action.target))
    if isinstance(action, GrantExclusive | FreeLease):
        return "Lease"
    return kinds.SESSION_KIND
