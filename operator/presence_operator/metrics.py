"""Every figure the operator shows to Prometheus, and the only place that knows Prometheus.

Labels take their values from fixed sets: whatever a claim, a user or an exception says, a value outside of the set
counts as `Other` (or `other`), so the number of series is bounded by this file. Names of sessions, resources, purposes
and objects never become labels.

What the board holds is counted when somebody asks (`/metrics`), from the board itself: see `board_metrics`.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import disable_created_metrics

from presence import __version__
from presence.model import kinds
from presence.model.labels import metric_type
from presence_operator.board_metrics import SESSION_KINDS, TYPES, BoardCollector, Figure, LimitCollector, bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from presence_operator.board_metrics import Board
    from presence_operator.core.limits import Limit

_log = logging.getLogger(__name__)

# One `_created` series beside every counter and histogram would nearly double the scrape and tell nothing of use here.
disable_created_metrics()  # type: ignore[no-untyped-call]

RELEASE_REASONS = ("Released", "SessionCompleted", "Deleted", "Other")
BEATING = ("session", "claim", "other")
VERBS = ("get", "list", "create", "patch", "update", "delete", "other")
KINDS = (kinds.CLAIM_KIND, kinds.SESSION_KIND, "Lease", "Event", "Other")
OUTCOMES = (
    "ok",
    "conflict",
    "not_found",
    "denied",
    "invalid",
    "throttled",
    "server_error",
    "timeout",
    "unreachable",
    "other",
)
PRIORITIES = ("urgent", "normal", "low", "other")
DROP_REASONS = ("rate_limit", "queue_full", "error", "other")
REPAIRS = ("added", "changed", "removed", "other")
LEASE_RESULTS = ("created", "taken", "completed", "held", "conflict", "failed", "other")
MIRROR_ERRORS = ("connect", "auth", "timeout", "read_only", "schema", "rejected", "other")
SCHEMA_STATES = ("ok", "behind", "ahead", "unknown", "off")

_LAG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_WAIT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0)
_HOLD_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0)
_REQUEST_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PASS_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """All figures. Every method is cheap, never raises for an odd value, and may be called from any thread.

    `registry` is for tests; without it a new one is made that also shows this process (CPU, memory, open files).
    Times and durations are in seconds. `resource` is a resource label such as `stack:vault`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._figures: list[Figure] = []
        if registry is None:
            ProcessCollector(registry=self.registry)
        self._board_collector = BoardCollector()
        self.registry.register(self._board_collector)
        self._figures += self._board_collector.figures
        self._limit_collector = LimitCollector()
        self.registry.register(self._limit_collector)
        self._figures += self._limit_collector.figures

        self._granted = self._counter(
            "presence_claims_granted",
            "Claims that became Active.",
            "type",
            "kind",
        )
        self._expired = self._counter(
            "presence_claims_expired", "Claims that ended because nobody renewed them.", "type", "kind"
        )
        self._released = self._counter("presence_claims_released", "Claims that their holder ended.", "type", "reason")
        self._expiry_lag = self._histogram(
            "presence_claim_expiry_lag_seconds",
            "Time from a claim's deadline until its phase Expired was written.",
            _LAG_SECONDS,
        )
        self._hold = self._histogram(
            "presence_claim_hold_seconds",
            "Time from the grant of a claim to its end, for claims that ended.",
            _HOLD_SECONDS,
            "type",
        )
        self._conflicts = self._counter(
            "presence_conflicts", "Claims that began to share their resource with another session's.", "type"
        )
        self._overlaps = self._counter(
            "presence_overlaps", "Claims that held a resource together with an Exclusive one.", "type"
        )
        self._waits = self._histogram(
            "presence_claim_wait_seconds",
            "Time from the creation of a claim that had to wait, or is Exclusive, to its grant.",
            _WAIT_SECONDS,
            "type",
        )
        self._session_waits = self._histogram(
            "presence_session_wait_seconds",
            "The same times, by the kind of session.",
            _WAIT_SECONDS,
            "kind",
        )
        self._grant_delay = self._histogram(
            "presence_claim_grant_delay_seconds",
            "Time from the creation of a claim that nobody stood in the way of to its grant. Creation times are whole "
            "seconds, so up to one second of it is rounding.",
            _LAG_SECONDS,
        )
        self._lease_results = self._counter(
            "presence_lease_acquire",
            "Attempts to grant an Exclusive claim by the Lease of its resource, by what came of it; `conflict` counts "
            "each compare-and-swap that was lost, `completed` grants that another process had begun.",
            "result",
        )
        self._heartbeats = self._counter("presence_heartbeats", "Renewals that the operator saw.", "object")

        self._requests = self._histogram(
            "presence_api_request_duration_seconds",
            "Time that one request of the operator to the API server took, with its outcome.",
            _REQUEST_SECONDS,
            "verb",
            "kind",
            "outcome",
        )
        self._retries = self._counter(
            "presence_action_retries", "Actions decided again after a failed write, by the failure.", "kind", "outcome"
        )
        self._queue = self._gauge("presence_action_queue", "Actions that wait for a worker.", "priority")
        self._dropped = self._counter(
            "presence_events_dropped", "Kubernetes Events that were not recorded, by the cause.", "reason"
        )
        self._unparsable = self._counter(
            "presence_unparsable_objects", "Objects read that the operator cannot understand and leaves alone.", "kind"
        )

        self._resync = self._histogram(
            "presence_resync_duration_seconds", "Time that a full comparison with the API server took.", _PASS_SECONDS
        )
        self._resync_failures = self._counter("presence_resync_failures", "Full comparisons that failed.")
        self._resync_success = self._gauge(
            "presence_resync_last_success_timestamp_seconds",
            "Unix time of the last full comparison; 0 before the first.",
        )
        self._repairs = self._counter(
            "presence_resync_repairs",
            "Objects that a full comparison found different from what the watch had told.",
            "change",
        )

        self._mirror_lag = self._gauge(
            "presence_mirror_lag_seconds", "Age of the oldest change that is not in the mirror yet; 0 when none is."
        )
        self._mirror_pending = self._gauge(
            "presence_mirror_pending_rows", "Objects with changes that wait for the mirror."
        )
        self._mirror_row_lag = self._histogram(
            "presence_mirror_row_lag_seconds", "Time from a change on the board to its row in the mirror.", _LAG_SECONDS
        )
        self._mirror_rows = self._counter("presence_mirror_written_rows", "Changes written to the mirror.")
        self._mirror_errors = self._counter(
            "presence_mirror_errors", "Failures of the mirror, by their cause.", "reason"
        )
        self._mirror_commits = self._counter("presence_mirror_commits", "Commits to the history of Dolt.")
        self._mirror_foreign = self._gauge(
            "presence_mirror_foreign_rows",
            "Active claims without a row in the mirror, because somebody else's row has their key.",
        )
        self._mirror_up = self._gauge("presence_mirror_up", "1 while the mirror's database answers the leader, else 0.")
        self._schema_state = self._gauge(
            "presence_mirror_schema_state", "1 for the state that the mirror's schema is in, 0 for the others.", "state"
        )
        self._schema_version = self._gauge(
            "presence_mirror_schema_version", "Number of the newest migration in the mirror; 0 when unknown."
        )
        self._schema_wanted = self._gauge(
            "presence_mirror_schema_wanted_version", "Number of the migration that this operator needs."
        )

        self._leader = self._gauge("presence_leader", "1 while this operator acts, 0 while another one does.")
        self._leader_since = self._gauge(
            "presence_leader_since_timestamp_seconds", "Unix time since which this operator acts; 0 while it does not."
        )
        self._leader_transitions = self._gauge(
            "presence_leader_transitions",
            "How often the Lease of the election has passed to another operator; 0 without election.",
        )
        self._ready = self._gauge("presence_ready", "1 once the operator knows all objects, else 0.")
        self._tick = self._gauge(
            "presence_scheduler_last_tick_timestamp_seconds", "Unix time at which the scheduler last moved; 0 before."
        )
        self.build = {"version": __version__, "python": platform.python_version(), "kopf": _version_of("kopf")}
        Info("presence_build", "The versions that run; always 1.", registry=self.registry).info(self.build)
        self._note("presence_build_info", "gauge", tuple(self.build), "The versions that run; always 1.")
        self._start_at_zero()

    # The board

    def observe_board(self, snapshot: Callable[[], Board], now: Callable[[], float]) -> None:
        """Count claims and sessions from `snapshot()` at every scrape (called on the event loop's thread).

        `now()` is the API server's time in seconds; it may raise LookupError while that is not known.
        """
        self._board_collector.snapshot = snapshot
        self._board_collector.now = now

    def observe_limits(self, limits: Callable[[], Iterable[tuple[str, Limit, int, int]]]) -> None:
        """Tell of the slots of each limit at every scrape: namespace, limit, slots in use, claims that wait for one."""
        self._limit_collector.limits = limits

    def claim_granted(self, resource: str, kind: str = "") -> None:
        """A claim of a session of this kind (see SESSION_KINDS) became Active."""
        self._granted.labels(metric_type(resource), bounded(kind, SESSION_KINDS)).inc()

    def claim_expired(self, resource: str, kind: str = "", *, lag: float, held: float | None = None) -> None:
        """Expired was written `lag` after the deadline; the claim had been held for `held` until its deadline."""
        self._expired.labels(metric_type(resource), bounded(kind, SESSION_KINDS)).inc()
        self._expiry_lag.observe(_positive(lag))
        self._held(resource, held)

    def claim_released(self, resource: str, reason: str, *, held: float | None = None) -> None:
        """A claim was ended on purpose; `reason` (see RELEASE_REASONS): that of its condition Granted, or `Deleted`."""
        self._released.labels(metric_type(resource), bounded(reason, RELEASE_REASONS)).inc()
        self._held(resource, held)

    def conflict_started(self, resource: str) -> None:
        """A claim began to share its resource with another session's."""
        self._conflicts.labels(metric_type(resource)).inc()

    def overlap_started(self, resource: str) -> None:
        """A claim came to hold a resource together with an Exclusive one."""
        self._overlaps.labels(metric_type(resource)).inc()

    def claim_waited(self, resource: str, seconds: float, kind: str = "") -> None:
        """A claim that had to be granted was, so long after its creation."""
        self._waits.labels(metric_type(resource)).observe(_positive(seconds))
        self._session_waits.labels(bounded(kind, SESSION_KINDS)).observe(_positive(seconds))

    def grant_delayed(self, seconds: float) -> None:
        """A claim that nobody stood in the way of was granted, so long after its creation."""
        self._grant_delay.observe(_positive(seconds))

    def lease_acquired(self, result: str) -> None:
        """An attempt to grant an Exclusive claim ended; `result` is one of LEASE_RESULTS."""
        self._lease_results.labels(bounded(result, LEASE_RESULTS)).inc()

    def heartbeat(self, of: str) -> None:
        """A renewal was seen; `of` is `session` or `claim`."""
        self._heartbeats.labels(bounded(of, BEATING)).inc()

    def unparsable(self, kind: str) -> None:
        """An object of `kind` (PresenceClaim, AgentSession) could not be understood."""
        self._unparsable.labels(bounded(kind, KINDS)).inc()

    # Actions and requests

    def observe_queue(self, lengths: Callable[[], Mapping[str, int]]) -> None:
        """Show `lengths()` at every scrape: priority (`urgent`, `normal`, `low`) to number of waiting actions."""

        def reader(priority: str) -> Callable[[], float]:
            def read() -> float:
                waiting = lengths()
                if priority != "other":
                    return float(waiting.get(priority, 0))
                return float(sum(count for name, count in waiting.items() if name not in PRIORITIES[:-1]))

            return read

        for priority in PRIORITIES:
            self._queue.labels(priority).set_function(_guarded(reader(priority)))

    def api_request(self, verb: str, kind: str, outcome: str, seconds: float) -> None:
        """A request to the API server ended. VERBS, KINDS, OUTCOMES hold the values; see also `outcome_of_status`."""
        self._requests.labels(bounded(verb, VERBS), bounded(kind, KINDS), bounded(outcome, OUTCOMES)).observe(
            _positive(seconds)
        )

    def action_retried(self, kind: str, outcome: str) -> None:
        """An action on an object of `kind` is decided again because a write ended with `outcome`."""
        self._retries.labels(bounded(kind, KINDS), bounded(outcome, OUTCOMES)).inc()

    def event_dropped(self, reason: str) -> None:
        """A Kubernetes Event was not recorded; `reason` is one of DROP_REASONS."""
        self._dropped.labels(bounded(reason, DROP_REASONS)).inc()

    # Resync

    def resync_succeeded(self, seconds: float, *, added: int = 0, changed: int = 0, removed: int = 0) -> None:
        """A full comparison took `seconds` and found that many objects the watch had not told of."""
        self._resync.observe(_positive(seconds))
        self._resync_success.set(time.time())
        for change, count in (("added", added), ("changed", changed), ("removed", removed)):
            self._repairs.labels(change).inc(max(count, 0))

    def resync_failed(self) -> None:
        """A full comparison failed."""
        self._resync_failures.inc()

    # The mirror

    def observe_mirror(self, *, lag: Callable[[], float], pending: Callable[[], float]) -> None:
        """Show at every scrape the age of the oldest change not yet mirrored (0: none) and how many objects wait."""
        self._mirror_lag.set_function(_guarded(lag))
        self._mirror_pending.set_function(_guarded(pending))

    def mirror_written(self, rows: int, lags: Iterable[float] = ()) -> None:
        """`rows` changes reached the mirror; `lags` are the times from each change to its row."""
        self._mirror_rows.inc(max(rows, 0))
        for lag in lags:
            self._mirror_row_lag.observe(_positive(lag))

    def mirror_error(self, reason: str) -> None:
        """The mirror failed; `reason` is one of MIRROR_ERRORS."""
        self._mirror_errors.labels(bounded(reason, MIRROR_ERRORS)).inc()

    def mirror_committed(self) -> None:
        """What changed hands was committed to the history of Dolt."""
        self._mirror_commits.inc()

    def mirror_foreign(self, rows: int) -> None:
        """So many active claims have no row, because somebody else's row has their key."""
        self._mirror_foreign.set(rows)

    def mirror_up(self, up: bool) -> None:
        """The mirror's database answers, or not."""
        self._mirror_up.set(float(up))

    def mirror_schema(self, state: str, *, version: int | None = None, wanted: int | None = None) -> None:
        """What the mirror's schema is, one of SCHEMA_STATES; versions are numbers of migrations."""
        current = state if state in SCHEMA_STATES else "unknown"
        for each in SCHEMA_STATES:
            self._schema_state.labels(each).set(float(each == current))
        if version is not None:
            self._schema_version.set(version)
        if wanted is not None:
            self._schema_wanted.set(wanted)

    # The process

    def leader(self, leading: bool) -> None:
        """This operator acts (also when there is no election), or not."""
        self._leader.set(float(leading))
        self._leader_since.set(time.time() if leading else 0)
        if not leading:
            # Only the leader mirrors; what was waiting here is the next one's, and must not raise an alarm for ever.
            self.observe_mirror(lag=lambda: 0.0, pending=lambda: 0.0)
            self._mirror_up.set(0)

    def leader_transitions(self, count: int) -> None:
        """The Lease of the election says that it has passed on so often."""
        self._leader_transitions.set(count)

    def ready(self, ready: bool) -> None:
        """The operator knows all objects, or not yet."""
        self._ready.set(float(ready))

    def scheduler_ticked(self) -> None:
        """The scheduler moved just now."""
        self._tick.set_to_current_time()

    # Output

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All metrics of this file in the order of their definition, for the documentation."""
        return tuple(self._figures)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The scrape and its content type, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _held(self, resource: str, held: float | None) -> None:
        if held is not None:
            self._hold.labels(metric_type(resource)).observe(_positive(held))

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        self._note(f"{name}_total", "counter", labels, meaning)
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        self._note(name, "gauge", labels, meaning)
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self._note(name, "histogram", labels, meaning)
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)

    def _note(self, name: str, kind: str, labels: tuple[str, ...], meaning: str) -> None:
        self._figures.append(Figure(name, kind, labels, meaning))

    def _start_at_zero(self) -> None:
        """Known series exist from the start: rate() cannot see the first increment of a series that appears with it."""
        for kind in TYPES:
            for metric in (self._conflicts, self._overlaps, self._hold, self._waits):
                metric.labels(kind)
            for session in SESSION_KINDS:
                self._granted.labels(kind, session)
                self._expired.labels(kind, session)
            for reason in RELEASE_REASONS:
                self._released.labels(kind, reason)
        for metric, values in (
            (self._heartbeats, BEATING),
            (self._dropped, DROP_REASONS),
            (self._repairs, REPAIRS),
            (self._lease_results, LEASE_RESULTS),
            (self._mirror_errors, MIRROR_ERRORS),
            (self._session_waits, SESSION_KINDS),
        ):
            for value in values:
                metric.labels(value)
        for kind in (kinds.CLAIM_KIND, kinds.SESSION_KIND):
            self._unparsable.labels(kind)
            self._requests.labels("patch", kind, "ok")
        for kind in (kinds.CLAIM_KIND, kinds.SESSION_KIND, "Lease"):
            for outcome in OUTCOMES[1:]:
                self._retries.labels(kind, outcome)
        for priority in PRIORITIES:
            self._queue.labels(priority)
        self.mirror_schema("off")


def outcome_of_status(status: int) -> str:
    """The value of the label `outcome` for an HTTP status; 0 is for no answer at all."""
    known = {0: "unreachable", 401: "denied", 403: "denied", 404: "not_found", 408: "timeout", 409: "conflict"}
    known |= {410: "conflict", 429: "throttled", 504: "timeout"}
    if 200 <= status < 300:
        return "ok"
    if status in known:
        return known[status]
    return "server_error" if status >= 500 else "invalid" if status >= 400 else "other"


def _positive(seconds: float) -> float:
    """Two clocks may disagree a little, and one infinite observation would spoil a histogram's sum for ever."""
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _guarded(read: Callable[[], float]) -> Callable[[], float]:
    def guarded() -> float:
        try:
            return float(read())
        except Exception:  # noqa: BLE001 - a figure that cannot be had must not hide all the others
            _log.exception("a figure could not be read")
            return math.nan

    return guarded


def _version_of(distribution: str) -> str:
    try:
        return distribution_version(distribution)
    except PackageNotFoundError:
        return "unknown"
