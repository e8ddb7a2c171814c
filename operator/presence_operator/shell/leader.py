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
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from presence.model.times import format_micro_time
from presence_operator.shell.election_lease import ElectionLease, LeaseError
from presence_operator.shell.health import ELECTION

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
#: A candidate that meets trouble waits at most for this share of the renew deadline until it looks again.
_BACKOFF_SHARE = 0.5
#: Fewer doublings than this reach every longest pause there is.
_DOUBLINGS = 16
#: Seconds by which a look at a Lease that has run out comes later than that, so that it is not in vain.
_SAFELY = 0.01
_LATE = "the lease could not be renewed in time"


class Leadership(Protocol):
    """What the shell sees of an election."""

    @property
    def leading(self) -> bool:
        """Whether this operator may act right now; ask right before every write."""
        ...

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What stands for election; when it ends, this operator never leads again. None without an election."""
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
        self.task = None

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


def pause_after(failures: int, shortest: float, longest: float) -> float:
    """Seconds until the next look at the Lease after so many failures in a row, be they hours of them."""
    return min(shortest * 2.0 ** min(max(failures - 1, 0), _DOUBLINGS), longest)


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
        self._lease = ElectionLease(api, settings, health.metrics, reload)
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
        self._free_at = float("inf")
        self._trouble = ""
        self.task: asyncio.Task[None] | None = None

    @property
    def leading(self) -> bool:
        """True only until the renew deadline after the last renewal, also when this process was paused meanwhile."""
        return self._led and self._clock() < self._until

    async def __aenter__(self) -> Self:
        self._health.tick(ELECTION)
        self.task = asyncio.create_task(self._stand(), name="leader election")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])
        self._stop("shutting down")
        if self._maybe_held:
            await self._release()

    async def _stand(self) -> None:
        failures = 0
        while True:
            self._health.tick(ELECTION)
            try:
                holds = await self._attempt() if self._able() else False
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

    def _able(self) -> bool:
        """Whether this operator could act if it led: one whose scheduler hangs leaves the Lease to others."""
        live, body = self._health.live()
        if not live:
            self._stop(str(body["reason"]))
        return live

    def _pause(self, failures: int) -> float:
        if self._led:
            return max(0.0, min(self._retry_period, self._until - self._clock()))
        # Followers back off from an API server in trouble, and never all come at the same moment. But not for long: it
        # may be the leader that died meanwhile.
        longest = max(self._retry_period, self._renew_deadline * _BACKOFF_SHARE)
        wait = pause_after(failures, self._retry_period, longest)
        wait *= random.uniform(1.0, 1.2)  # noqa: S311 - nothing depends on it being a secret
        if failures:
            return wait
        return min(wait, max(self._free_at - self._clock(), 0.0) + _SAFELY)

    async def _attempt(self) -> bool:
        """One try to take or renew the Lease; True when it is held afterwards."""
        begun = self._clock()
        if self._led and begun >= self._until:
            # Others may have led in between, so this is a new term and not the old one.
            self._stop(_LATE if self._trouble else "this process was paused for longer than the renew deadline")
        limit = self._until - begun if self._led else self._renew_deadline
        try:
            async with asyncio.timeout(max(limit, 0.0)):
                lease = await self._lease.read()
                self._note_transitions(lease)
                if lease is not None and not self._may_take(lease):
                    self._maybe_held = False
                    return False
                # From here on the Lease may be ours even if no answer comes.
                self._maybe_held = True
                claimed = self._claimed(lease)
                written = await self._lease.write("PUT" if lease else "POST", claimed)
        except TimeoutError:
            raise LeaseError(f"the API server did not answer within {limit:.1f} s") from None
        if not written:
            # Somebody else wrote at the same moment; the next look tells who. A leader has its deadline until then.
            if self._led:
                raise LeaseError("the lease was changed by somebody else at the same moment")
            return False
        self._note_transitions(claimed)
        self._until = begun + self._renew_deadline
        if not self._led:
            self._start()
        return True

    def _note_transitions(self, lease: Lease | None) -> None:
        spec = (lease or {}).get("spec") or {}
        self._health.metrics.leader_transitions(int(spec.get("leaseTransitions") or 0))

    def _may_take(self, lease: Lease) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        self._free_at = float("inf")
        if holder in ("", self._identity):
            return True
        seen = (holder, spec.get("renewTime"), spec.get("acquireTime"), lease["metadata"]["uid"])
        now = self._clock()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        # The holder's own duration counts when it is longer: it trusts in it.
        free_at = self._seen_at + max(self._duration, float(spec.get("leaseDurationSeconds") or 0))
        if now >= free_at:
            return True
        self._free_at = free_at
        return False

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
                lease = await self._lease.read()
                if lease is None or (lease.get("spec") or {}).get("holderIdentity") != self._identity:
                    return
                lease["spec"] |= {"holderIdentity": "", "renewTime": format_micro_time(time.time())}
                released = await self._lease.write("PUT", lease)
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


def _boot_clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system knows them."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
