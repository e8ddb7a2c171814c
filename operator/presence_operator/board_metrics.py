"""The figures that are counted from the board whenever Prometheus asks.

There is nothing to keep in step per object, and no series of things that are gone. Labels take their values from the
fixed sets below, except for the names of limits and boards, which come from the operator's own settings.
"""

from __future__ import annotations

import logging
from collections import Counter as Tally
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from presence.model import kinds
from presence.model.labels import KNOWN_TYPES, metric_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from presence_operator.core.facts import Claim, Session
    from presence_operator.core.limits import Limit

    Board = tuple[Sequence[Claim], Sequence[Session]]
    #: Values of the labels, in order, and the value of the series.
    Sample = tuple[tuple[str, ...], float]

_log = logging.getLogger(__name__)

#: An object that the operator has not written a status for yet.
NEW = "New"

TYPES = (*KNOWN_TYPES, "other")
CLAIM_PHASES = (NEW, kinds.PENDING, kinds.ACTIVE, kinds.EXPIRED, kinds.RELEASED, "Other")
SESSION_PHASES = (NEW, kinds.ACTIVE, kinds.STALE, kinds.PAUSED, kinds.COMPLETED, kinds.EXPIRED, "Other")
#: What acts in a session; `Other` also when a claim's session has no object that says.
SESSION_KINDS = (kinds.AGENT, kinds.PIPELINE, kinds.HUMAN, "Other")
LIVE_PHASES = (kinds.PENDING, kinds.ACTIVE)


@dataclass(frozen=True, slots=True)
class Figure:
    """What the documentation says of one metric: the name as Prometheus stores it, its type, labels and meaning."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


def bounded(value: str, allowed: tuple[str, ...]) -> str:
    """`value` if it is allowed, else the last of those that are."""
    return value if value in allowed else allowed[-1]


class BoardCollector(Collector):
    """Counts the board when it is asked. `now` is the API server's time; LookupError: it is not known yet."""

    figures = (
        Figure("presence_claims", "gauge", ("phase", "type"), "Claims that exist, by phase and type of resource."),
        Figure("presence_claims_waiting", "gauge", ("type",), "Claims that wait for their turn, by type of resource."),
        Figure("presence_sessions", "gauge", ("phase", "kind"), "Sessions that exist, by phase and kind."),
        Figure(
            "presence_session_claims",
            "gauge",
            ("kind", "phase"),
            "Claims that are Pending or Active, by the kind of their session.",
        ),
        Figure("presence_conflicted_resources", "gauge", (), "Resources that more than one session claims right now."),
        Figure(
            "presence_claim_oldest_wait_seconds", "gauge", ("type",), "Age of the oldest claim that waits; 0 when none."
        ),
        Figure(
            "presence_claim_oldest_hold_seconds",
            "gauge",
            ("type",),
            "Time since the grant of the claim that has been Active for longest; 0 when none is.",
        ),
        Figure(
            "presence_claim_overdue_seconds",
            "gauge",
            (),
            "Time since the deadline of the claim that should have ended first and has not; 0 when none is late.",
        ),
        Figure(
            "presence_claim_unseen_seconds",
            "gauge",
            (),
            "Age of the oldest claim that no operator has written a phase for; 0 when none.",
        ),
    )

    def __init__(self) -> None:
        self.snapshot: Callable[[], Board] = lambda: ((), ())
        self.now: Callable[[], float] = lambda: 0.0

    def describe(self) -> list[Metric]:
        """The metrics without values."""
        return [GaugeMetricFamily(each.name, each.help) for each in self.figures]

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        try:
            claims, sessions = self.snapshot()
            samples = [*_counts(claims, sessions), *_ages(claims, self._known_now())]
        except Exception:  # noqa: BLE001 - a figure that cannot be had must not hide all the others
            _log.exception("the board could not be counted")
            return
        for figure, values in zip(self.figures, samples, strict=True):
            family = GaugeMetricFamily(figure.name, figure.help, labels=figure.labels)
            for labels, value in values:
                family.add_metric(labels, value)
            yield family

    def _known_now(self) -> float:
        try:
            return self.now()
        except LookupError:
            return 0.0


def _counts(claims: Sequence[Claim], sessions: Sequence[Session]) -> Iterator[list[Sample]]:
    by_phase = Tally((_phase(each.status.phase, CLAIM_PHASES), metric_type(each.resource)) for each in claims)
    yield [((phase, kind), by_phase[phase, kind]) for phase in CLAIM_PHASES for kind in TYPES]
    yield [((kind,), by_phase[kinds.PENDING, kind]) for kind in TYPES]
    by_state = Tally(
        (_phase(each.status.phase, SESSION_PHASES), bounded(each.kind, SESSION_KINDS)) for each in sessions
    )
    yield [((phase, kind), by_state[phase, kind]) for phase in SESSION_PHASES for kind in SESSION_KINDS]
    # Of several objects for one session the newest counts.
    kind_of = {
        (each.namespace, each.session_id): bounded(each.kind, SESSION_KINDS)
        for each in sorted(sessions, key=lambda each: (each.created, each.name))
    }
    by_kind = Tally(
        (kind_of.get((each.namespace, each.session), SESSION_KINDS[-1]), each.status.phase) for each in claims
    )
    yield [((kind, phase), by_kind[kind, phase]) for kind in SESSION_KINDS for phase in LIVE_PHASES]
    conflicted = {
        (each.namespace, each.resource) for each in claims if each.status.conflicts_with and not each.status.ended
    }
    yield [((), len(conflicted))]


def _ages(claims: Sequence[Claim], now: float) -> Iterator[list[Sample]]:
    waits = dict.fromkeys(TYPES, 0.0)
    holds = dict.fromkeys(TYPES, 0.0)
    overdue = unseen = 0.0
    for each in claims:
        status = each.status
        if status.ended or each.deleting:
            continue
        kind = metric_type(each.resource)
        if status.phase == kinds.PENDING:
            waits[kind] = max(waits[kind], now - each.created)
        elif status.phase == kinds.ACTIVE and status.granted_at is not None:
            holds[kind] = max(holds[kind], now - status.granted_at)
        elif not status.phase:
            unseen = max(unseen, now - each.created)
        if status.expires_at is not None:
            overdue = max(overdue, now - status.expires_at)
    yield [((kind,), seconds) for kind, seconds in waits.items()]
    yield [((kind,), seconds) for kind, seconds in holds.items()]
    yield [((), overdue)]
    yield [((), unseen)]


class LimitCollector(Collector):
    """Counts the slots of the limits when it is asked."""

    figures = (
        Figure("presence_limit_max", "gauge", ("board", "limit"), "Claims, or sessions, that a limit lets be Active."),
        Figure("presence_limit_in_use", "gauge", ("board", "limit"), "Slots of a limit that are taken."),
        Figure("presence_limit_waiting", "gauge", ("board", "limit"), "Claims that wait for a slot of a limit."),
    )

    def __init__(self) -> None:
        self.limits: Callable[[], Iterable[tuple[str, Limit, int, int]]] = tuple

    def describe(self) -> list[Metric]:
        """The metrics without values."""
        return [GaugeMetricFamily(each.name, each.help) for each in self.figures]

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        families = [GaugeMetricFamily(each.name, each.help, labels=each.labels) for each in self.figures]
        for board, limit, used, waiting in self.limits():
            for family, value in zip(families, (limit.max, used, waiting), strict=True):
                family.add_metric([board, limit.name], value)
        return families


def _phase(phase: str, allowed: tuple[str, ...]) -> str:
    return bounded(phase or NEW, allowed)
