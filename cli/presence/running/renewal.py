"""Renewing in a thread of its own: one heartbeat of the session, then a look at every claim that it is to keep."""

from __future__ import annotations

import threading

from presence.board import GoneError
from presence.deadline import Deadline
from presence.errors import PresenceError, ServerError, UnreachableError
from presence.running.clock import now
from presence.running.deadline import attempt_limit, next_renewal, retry_pause

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from presence.board import Board
    from presence.following import OpenBoard
    from presence.identity import Identity

    Object = dict[str, Any]


class Renewed:
    """A renewal that was acknowledged: when it was sent, the session after it, and the claims after it, by name."""

    __slots__ = ("claims", "sent", "session")

    def __init__(self, sent: float, session: Object, claims: dict[str, Object | None]) -> None:
        self.sent = sent
        self.session = session
        self.claims = claims


class Renewal:
    """Renews at a third of the ttl, and after a failure again soon, until told to stop.

    Args:
        open_board: opens the board over a connection of its own.
        identity: whose session it is.
        session: its object.
        ttl: seconds that the claims live after a renewal.
        sent: when the session was last renewed, on the clock of `now`.
        emit: takes a `Renewed`, or the reason why it failed.
    """

    def __init__(
        self,
        open_board: OpenBoard,
        identity: Identity,
        session: Object,
        ttl: float,
        sent: float,
        emit: Callable[[Renewed | PresenceError], None],
    ) -> None:
        self._open_board = open_board
        self._identity = identity
        self._session = session
        self._ttl = ttl
        self._due = next_renewal(sent, ttl)
        self._emit = emit
        self._woken = threading.Condition()
        self._names: tuple[str, ...] = ()
        self._allowed = True
        self._over = False

    def start(self) -> Renewal:
        """Begin."""
        threading.Thread(target=self._run, name="renew", daemon=True).start()
        return self

    def keep(self, names: tuple[str, ...]) -> None:
        """Look at the claims of these names after each renewal."""
        self._names = names

    def allow(self, allowed: bool) -> None:
        """Renew only while allowed."""
        with self._woken:
            self._allowed = allowed
            self._woken.notify_all()

    def stop(self) -> None:
        """Renew no more."""
        with self._woken:
            self._over = True
            self._woken.notify_all()

    def _run(self) -> None:
        board: Board | None = None
        failures = 0
        while self._until_due():
            sent = now()
            limit = attempt_limit(self._ttl)
            try:
                if board is None:
                    board = self._open_board(Deadline(limit))
                board.limit(limit)
                session = board.beat(self._identity, self._session)
                names = self._names
                claims = {name: board.named_claim(name) for name in names}
            except (PresenceError, GoneError) as error:
                board = None
                failures += 1
                self._due = now() + retry_pause(failures, self._ttl)
                gone = UnreachableError("the session of this run was deleted from the board")
                self._emit(gone if isinstance(error, GoneError) else error)
            except Exception as error:  # noqa: BLE001 - without this thread nothing is renewed any more
                board = None
                failures += 1
                self._due = now() + retry_pause(failures, self._ttl)
                self._emit(ServerError(f"the renewal failed: {type(error).__name__}: {error}"))
            else:
                failures = 0
                self._due = next_renewal(sent, self._ttl)
                self._emit(Renewed(sent, session, claims))

    def _until_due(self) -> bool:
        with self._woken:
            while not self._over:
                left = self._due - now()
                if self._allowed and left <= 0:
                    return True
                # In short steps: the timer of a wait stands still while the machine is suspended.
                self._woken.wait(min(max(left, 0.0), 1.0) if self._allowed else 1.0)
            return False
