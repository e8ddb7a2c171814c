"""Leases of resources: carries out the requests of `core.granting` one after the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from presence.model import kinds
from presence_operator.core import granting
from presence_operator.core.actions import Done, Failed, FreeLease, GrantExclusive, Held
from presence_operator.core.facts import Claim
from presence_operator.core.status import touch_patch
from presence_operator.shell.paths import (
    MERGE_PATCH,
    PAGE,
    is_gone,
    lease_path,
    leases_path,
    list_path,
    object_path,
    status_path,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from presence_operator.core.actions import Outcome
    from presence_operator.core.facts import ClaimStatus, Key
    from presence_operator.metrics import Metrics
    from presence_operator.shell.connection import Answer, Connection
    from presence_operator.shell.intake import Intake

#: Leases whose last known state is remembered; it spares a read, nothing depends on it.
_REMEMBERED = 10_000
#: Claims changed at the same time.
_WRITES = 8


class RefusedError(Exception):
    """The API server gave an answer that the protocol has no use for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.message}")
        self.answer = answer


class DeposedError(Exception):
    """This operator does not lead any more; the write was not sent."""


class Leases:
    """Grants Exclusive claims and blanks the Leases of those that are over.

    `is_over(namespace, uid, name)` tells what the API has shown already; `write_grant` writes the status of a grant.
    """

    def __init__(
        self,
        connection: Connection,
        intake: Intake,
        metrics: Metrics,
        leading: Callable[[], bool],
        is_over: Callable[[str, str, str], bool],
        write_grant: Callable[[GrantExclusive, Claim, ClaimStatus], Awaitable[Outcome]],
    ) -> None:
        self._connection = connection
        self._intake = intake
        self._metrics = metrics
        self._leading = leading
        self._is_over = is_over
        self._write_grant = write_grant
        self._known: OrderedDict[Key, granting.Lease] = OrderedDict()

    async def perform(self, action: GrantExclusive | FreeLease) -> Outcome:
        """Carry out an action.

        Raises:
            UnavailableError: no answer came.
            RefusedError: the API server refused a request.
        """
        if isinstance(action, FreeLease):
            key = (action.namespace, action.resource)
            return await self._run(granting.free(action, self._known.get(key)), action, key, [])
        claim = action.claim
        key = (claim.namespace, claim.resource)
        is_over = partial(self._is_over, claim.namespace)
        program = granting.grant(action, self._known.get(key), is_over, self._connection.server_now)
        won: list[str] = []
        result = "failed"
        try:
            outcome = await self._run(program, action, key, won)
            if isinstance(outcome, Done):
                result = won[0] if won else "completed"
            elif isinstance(outcome, Held):
                result = "held"
            return outcome
        finally:
            self._metrics.lease_acquired(result)

    async def _run(
        self,
        program: Generator[granting.Request, Any, Outcome],
        action: GrantExclusive | FreeLease,
        key: Key,
        won: list[str],
    ) -> Outcome:
        answer: Any = None
        try:
            while True:
                request = program.send(answer)
                answer = await self._carry_out(request, action, won)
                if isinstance(request, granting.ReadLease | granting.PutLease):
                    self._remember(key, answer)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        except DeposedError:
            return Failed(0.0)
        except BaseException:
            # Whether a write has arrived is not known.
            self._known.pop(key, None)
            raise
        finally:
            program.close()

    async def _carry_out(self, request: granting.Request, action: GrantExclusive | FreeLease, won: list[str]) -> Any:
        if isinstance(request, granting.ReadLease):
            return await self._read_lease(request.namespace, request.resource)
        if isinstance(request, granting.ReadClaim):
            path = f"{list_path(Claim, request.namespace)}/{request.name}"
            return self._claim(await self._connection.request("get", kinds.CLAIM_KIND, "GET", path))
        if isinstance(request, granting.ListClaims):
            return await self._list(request)
        if not self._leading():
            raise DeposedError
        if isinstance(request, granting.PutLease):
            stored = await self._put(request.lease)
            if stored is None:
                self._metrics.lease_acquired("conflict")
            else:
                won.append("taken" if request.lease.resource_version else "created")
            return stored
        if isinstance(request, granting.Touch):
            gate = asyncio.Semaphore(_WRITES)
            return await asyncio.gather(*(self._touch(claim, request.position, gate) for claim in request.claims))
        assert isinstance(action, GrantExclusive)
        return await self._write_grant(action, request.claim, request.status)

    async def _read_lease(self, namespace: str, resource: str) -> granting.Lease | None:
        answer = await self._connection.request("get", "Lease", "GET", lease_path(namespace, resource))
        if answer.status == 200:
            return granting.parse_lease(answer.body(), namespace, resource)
        if is_gone(answer):
            return None
        raise RefusedError(answer)

    async def _put(self, lease: granting.Lease) -> granting.Lease | None:
        body = granting.lease_body(lease)
        if lease.resource_version:
            path = lease_path(lease.namespace, lease.resource)
            answer = await self._connection.request("update", "Lease", "PUT", _managed(path), body)
        else:
            path = leases_path(lease.namespace)
            answer = await self._connection.request("create", "Lease", "POST", _managed(path), body)
        if answer.status in (200, 201):
            return granting.parse_lease(answer.body(), lease.namespace, lease.resource)
        if answer.status == 409 or (lease.resource_version and is_gone(answer)):
            return None
        raise RefusedError(answer)

    async def _list(self, request: granting.ListClaims) -> list[Claim]:
        path = list_path(Claim, request.namespace) + f"?fieldSelector={quote(f'spec.resource={request.resource}')}"
        if request.not_older_than:
            # Without pages: the API server takes this from its memory as soon as that has come so far.
            path += f"&resourceVersion={request.not_older_than}&resourceVersionMatch=NotOlderThan"
        else:
            path += f"&limit={PAGE}"
        found: list[Claim] = []
        token = ""
        while True:
            answer = await self._connection.request(
                "list", kinds.CLAIM_KIND, "GET", path + (f"&continue={quote(token)}" if token else "")
            )
            if answer.status != 200:
                raise RefusedError(answer)
            page = answer.body()
            for item in page["items"]:
                fact = self._intake.parse(Claim, item)
                if not isinstance(fact, Claim):
                    raise RefusedError(answer)
                found.append(fact)
            token = page["metadata"].get("continue") or ""
            if not token:
                return found

    async def _touch(self, claim: Claim, position: int, gate: asyncio.Semaphore) -> Claim | None:
        async with gate:
            if not self._leading():
                raise DeposedError
            answer = await self._connection.request(
                "patch", kinds.CLAIM_KIND, "PATCH", status_path(claim), touch_patch(claim, position), MERGE_PATCH
            )
            if answer.status == 409:
                answer = await self._connection.request("get", kinds.CLAIM_KIND, "GET", object_path(claim))
        return self._claim(answer)

    def _claim(self, answer: Answer) -> Claim | None:
        if is_gone(answer):
            return None
        fact = self._intake.parse(Claim, answer.body()) if answer.status == 200 else None
        if not isinstance(fact, Claim):
            raise RefusedError(answer)
        return fact

    def _remember(self, key: Key, lease: granting.Lease | None) -> None:
        self._known.pop(key, None)
        if lease is not None:
            self._known[key] = lease
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


def _managed(path: str) -> str:
    return f"{path}?fieldManager={kinds.OPERATOR_MANAGER}"
