"""Leader election: of several operators one acts, held together by one Lease.

It works as in client-go: a candidate takes the Lease when nobody holds it or when it has seen it unchanged for a whole
lease duration on its own clock; the holder renews it and stops by itself when it could not for the renew deadline.
Every write names the resourceVersion that was read, so of two candidates one wins.

`kubernetes.aio.leaderelection` (37.0) is not used: it measures with the wall clock, stamps local time as UTC, ends on
any error of the connection, goes on leading for the renew deadline after another one has taken the Lease, leaves its
work running when cancelled, never gives the Lease back and never stands again. To mend that is to replace all of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from presence.model.times import format_micro_time
from presence_operator.metrics import outcome_of_status
from presence_operator.shell.connection import is_tls_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from kubernetes.aio.client import ApiClient

    from presence_operator.settings import Settings
    from presence_operator.shell.health import Health

    Lease = dict[str, Any]

_log = logging.getLogger(__name__)

#: Seconds that giving the Lease back may take; whoever waits for it has the lease duration to fall back on.
_RELEASE_TIMEOUT = 2.0
_LATE = "the lease could not be renewed in time"


class Leadership(Protocol):
    """What the shell sees of an election."""

    @property
    def leading(self) -> bool:
        """Whether this operator may act right now; ask right before every write."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_elector(
    api: ApiClient,
    settings: Settings,
    health: Health,
    on_started: Callable[[], None],
    on_stopped: Callable[[], None],
    reload: Callable[[], Awaitable[None]] | None = None,
) -> Leadership:
    """The election that the settings ask for; for `reload` see `Elector`."""
    if settings.leader_elect:
        return Elector(api, settings, health, on_started, on_stopped, reload)
    return AlwaysLeading(health, on_started, on_stopped)


class AlwaysLeading:
    """No election: leads from entering the block until leaving it."""

    def __init__(self, health: Health, on_started: Callable[[], None], on_stopped: Callable[[], None]) -> None:
        self._health = health
        self._on_started = on_started
        self._on_stopped = on_stopped
        self.leading = False

    async def __aenter__(self) -> Self:
        self.leading = True
        self._health.set_leader(True)
        self._on_started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leading = False
        self._health.set_leader(False)
        self._on_stopped()


class LeaseError(Exception):
    """The Lease could not be read or written this time; the message says why."""


class Elector:
    """Stands for election from entering the `async with` block until leaving it, then gives the Lease back.

    `on_started` and `on_stopped` are called on the event loop's thread, in turn; they should only set things going.
    `reload` gets new credentials for `api`; it is awaited when the API server refuses those in use, or TLS fails.
    End what writes to the cluster before leaving the block: another operator may act a moment later.
    """

    def __init__(
        self,
        api: ApiClient,
        settings: Settings,
        health: Health,
        on_started: Callable[[], None],
        on_stopped: Callable[[], None],
        reload: Callable[[], Awaitable[None]] | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._api = api
        self._reload = reload
        self._health = health
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._clock = clock or _boot_clock
        self._name = settings.lease_name
        self._namespace = settings.lease_namespace
        self._identity = settings.identity
        self._duration = settings.lease_duration
        self._renew_deadline = settings.renew_deadline
        self._retry_period = settings.retry_period
        self._until = float("-inf")
        self._led = False
        self._maybe_held = False
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = 0.0
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def leading(self) -> bool:
        """True only until the renew deadline after the last renewal, also when this process was paused meanwhile."""
        return self._led and self._clock() < self._until

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._stand(), name="leader election")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        self._stop("shutting down")
        if self._maybe_held:
            await self._release()

    async def _stand(self) -> None:
        failures = 0
        while True:
            try:
                holds = await self._attempt()
                failures = 0
                self._recovered()
                if not holds:
                    self._stop("another operator holds the lease")
            except LeaseError as error:
                failures += 1
                self._report(str(error))
            except Exception:  # noqa: BLE001 - whatever it is, a candidate that is gone helps nobody
                failures += 1
                _log.exception("the election stumbled and goes on")
            if self._led and self._clock() >= self._until:
                self._stop(_LATE)
            await asyncio.sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        if self._led:
            return max(0.0, min(self._retry_period, self._until - self._clock()))
        # Followers back off from an API server in trouble, and never all come at the same moment.
        wait = min(self._retry_period * 2.0 ** max(failures - 1, 0), self._duration)
        return wait * random.uniform(1.0, 1.2)  # noqa: S311 - nothing depends on it being a secret

    async def _attempt(self) -> bool:
        """One try to take or renew the Lease; True when it is held afterwards."""
        begun = self._clock()
        if self._led and begun >= self._until:
            # Others may have led in between, so this is a new term and not the old one.
            self._stop(_LATE if self._trouble else "this process was paused for longer than the renew deadline")
        limit = self._until - begun if self._led else self._renew_deadline
        try:
            async with asyncio.timeout(max(limit, 0.0)):
                lease = await self._read()
                if lease is not None and not self._may_take(lease):
                    self._maybe_held = False
                    return False
                # From here on the Lease may be ours even if no answer comes.
                self._maybe_held = True
                written = await self._write("PUT" if lease else "POST", self._claimed(lease))
        except TimeoutError:
            raise LeaseError(f"the API server did not answer within {limit:.1f} s") from None
        if not written:
            # Somebody else wrote at the same moment; the next look tells who. A leader has its deadline until then.
            if self._led:
                raise LeaseError("the lease was changed by somebody else at the same moment")
            return False
        self._until = begun + self._renew_deadline
        if not self._led:
            self._start()
        return True

    def _may_take(self, lease: Lease) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        seen = (holder, spec.get("renewTime"), spec.get("acquireTime"), lease["metadata"]["uid"])
        now = self._clock()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        # The holder's own duration counts when it is longer: it trusts in it.
        return now >= self._seen_at + max(self._duration, float(spec.get("leaseDurationSeconds") or 0))

    def _claimed(self, lease: Lease | None) -> Lease:
        # The times are for people to read; no decision rests on this machine's wall clock.
        now = format_micro_time(time.time())
        if lease is None:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
            }
        old = lease.get("spec") or {}
        spec = {**old, "holderIdentity": self._identity, "leaseDurationSeconds": int(self._duration), "renewTime": now}
        if old.get("holderIdentity") != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(old.get("leaseTransitions") or 0) + (1 if old else 0)
        return {**lease, "spec": spec}

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                lease = await self._read()
                if lease is None or (lease.get("spec") or {}).get("holderIdentity") != self._identity:
                    return
                lease["spec"] |= {"holderIdentity": "", "renewTime": format_micro_time(time.time())}
                released = await self._write("PUT", lease)
        except (LeaseError, TimeoutError) as error:
            _log.warning("lease not given back", extra={"lease": self._name, "error": str(error) or "timeout"})
            return
        if released:
            _log.info("lease given back", extra={"lease": self._name, "namespace": self._namespace})

    def _start(self) -> None:
        self._led = True
        self._health.set_leader(True)
        _log.info("leading", extra={"lease": self._name, "identity": self._identity})
        self._call(self._on_started)

    def _stop(self, reason: str) -> None:
        if not self._led:
            return
        self._led = False
        self._until = float("-inf")
        self._health.set_leader(False)
        _log.info("not leading any more", extra={"lease": self._name, "identity": self._identity, "reason": reason})
        self._call(self._on_stopped)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - the election itself must go on
            _log.exception("a callback of the election failed")

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.warning("lease not available", extra={"lease": self._name, "error": trouble})
        self._trouble = trouble

    def _recovered(self) -> None:
        if self._trouble:
            _log.info("lease available again", extra={"lease": self._name})
        self._trouble = ""

    async def _read(self) -> Lease | None:
        status, body = await self._request("GET", self._name)
        if status == 404:
            return None
        if status != 200:
            raise LeaseError(self._explain("read", status, body))
        return body

    async def _write(self, method: str, lease: Lease) -> bool:
        """True when it was written, False when somebody else was quicker."""
        status, body = await self._request(method, "" if method == "POST" else self._name, lease)
        if status in (200, 201):
            return True
        if status == 409 or (method == "PUT" and status == 404):
            return False
        raise LeaseError(self._explain("write", status, body))

    def _explain(self, verb: str, status: int, body: Lease) -> str:
        text = f"cannot {verb} lease {self._namespace}/{self._name}: {status} {str(body.get('message', ''))[:300]}"
        if status == 403:
            text += " (grant get, create and update on leases there)"
        elif status == 404:
            text += " (create the namespace or set --lease-namespace)"
        return text

    async def _request(self, method: str, name: str, body: Lease | None = None) -> tuple[int, Lease]:
        status, answer = await self._send(method, name, body)
        if status == 401 and self._reload is not None:
            # A leader has no time to wait until somebody else finds out.
            await self._reload()
            status, answer = await self._send(method, name, body)
        return status, answer

    async def _send(self, method: str, name: str, body: Lease | None) -> tuple[int, Lease]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"
        begun = time.monotonic()
        status, outcome = 0, "timeout"
        try:
            prepared = await self._api.param_serialize(
                method,
                f"{path}/{name}" if name else path,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(*prepared, _request_timeout=self._renew_deadline)
            data: bytes = await answer.read()  # type: ignore[no-untyped-call]
            status, outcome = answer.status, outcome_of_status(answer.status)
        except TimeoutError:
            raise
        except Exception as error:
            outcome = "unreachable"
            if self._reload is not None and is_tls_error(error):
                await self._reload()
            raise LeaseError(f"the API server did not answer: {str(error) or type(error).__name__}") from error
        finally:
            verb = {"GET": "get", "POST": "create", "PUT": "update"}[method]
            self._health.metrics.api_request(verb, "Lease", outcome, time.monotonic() - begun)
        try:
            parsed = json.loads(data)
        except ValueError:
            # A proxy in front of the API server may answer in any language.
            parsed = {"message": data[:300].decode(errors="replace")}
        return status, parsed if isinstance(parsed, dict) else {"message": str(parsed)[:300]}


def _boot_clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system knows them."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
