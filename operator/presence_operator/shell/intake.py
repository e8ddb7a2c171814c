"""How facts get onto the Board: from the watch, from lists and from answers, parsed once and without surprises."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from presence_operator.core.facts import Claim, Session, parse_claim, parse_session
from presence_operator.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from presence_operator.core.board import Board
    from presence_operator.core.facts import Bounds
    from presence_operator.metrics import Metrics

_log = logging.getLogger(__name__)

#: Objects that were reported as not understood, and writes whose echo is awaited; beyond that the oldest are forgotten.
_REMEMBERED = 10_000


class Intake:
    """Parses bodies and puts them on the Board.

    `wake` is called when there may be something to decide. `server_now` is the API server's time once it is known.
    """

    def __init__(
        self,
        board: Board,
        bounds: Bounds,
        metrics: Metrics,
        wake: Callable[[], None],
        server_now: Callable[[], float],
    ) -> None:
        self._board = board
        self._bounds = bounds
        self._metrics = metrics
        self._wake = wake
        self._server_now = server_now
        self._reported: dict[tuple[str, int], None] = {}
        self._written: dict[str, None] = {}

    def heard(self, kind: type[Claim | Session], event: Mapping[str, Any]) -> None:
        """Take in one event of a watch. Echoes of what is known already cost next to nothing."""
        body = event["object"]
        metadata = body["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if event["type"] == "DELETED":
            if self._board.drop(kind, key, metadata["uid"]):
                self._wake()
            return
        if self._board.knows(kind, key, metadata["resourceVersion"]):
            return
        fact = self.parse(kind, body)
        if fact is not None and self._board.put(fact, heard=True):
            self._wake()

    def written(self, fact: Claim | Session) -> None:
        """Note the answer to a write of our own: the watch will tell the same once more."""
        self._written[fact.resource_version] = None
        if len(self._written) > _REMEMBERED:
            del self._written[next(iter(self._written))]

    def is_echo(self, resource_version: str) -> bool:
        """True, once, for the state that a write of our own has made. Revisions are unique across all objects."""
        return self._written.pop(resource_version, self) is None

    def parse(self, kind: type[Claim | Session], body: Mapping[str, Any]) -> Claim | Session | None:
        """The facts of a body; None when they cannot be made out, which is logged once and counted."""
        try:
            latest = self._server_now() + self._bounds.highest
        except LookupError:
            latest = None
        try:
            parse = parse_claim if kind is Claim else parse_session
            return parse(body, self._bounds, latest)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self._report(kind, body, error)
            return None

    def _report(self, kind: type[Claim | Session], body: Mapping[str, Any], error: Exception) -> None:
        self._metrics.unparsable("PresenceClaim" if kind is Claim else "AgentSession")
        metadata = body.get("metadata") or {}
        seen = (str(metadata.get("uid", "")), int(metadata.get("generation") or 0))
        if seen in self._reported:
            return
        self._reported[seen] = None
        if len(self._reported) > _REMEMBERED:
            del self._reported[next(iter(self._reported))]
        _log.warning(
            "object left alone: it cannot be understood",
            extra=fields(
                kind=kind.__name__,
                namespace=metadata.get("namespace"),
                object=metadata.get("name"),
                error=f"{type(error).__name__}: {error}",
            ),
        )
