"""Following one claim: a thread that watches it and says what becomes of it, through every break of the connection."""

from __future__ import annotations

import threading
from time import sleep

from presence.deadline import Deadline
from presence.errors import BoardError, PresenceError, ServerError

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from presence.board import Board

    Object = dict[str, Any]
    OpenBoard = Callable[[Deadline], Board]

#: Seconds without a word after which a watch is made anew. The API server sends a bookmark every minute.
_SILENCE = 90.0
#: Seconds for connecting and for the list in front of a watch.
_LIMIT = 10.0
_PAUSE_MAX = 5.0


class Follower:
    """Calls `emit` with the claim as it is and after every change, None when it is gone; from a thread of its own.

    Args:
        open_board: opens the board over a connection of its own.
        name: the claim's object name.
        version: a resourceVersion of the claim; nothing older is told.
        emit: called with the claim.
        trouble: called with the reason when the board cannot be followed at the moment.
    """

    def __init__(
        self,
        open_board: OpenBoard,
        name: str,
        version: str,
        emit: Callable[[Object | None], None],
        trouble: Callable[[PresenceError], None],
    ) -> None:
        self._open_board = open_board
        self._name = name
        self._version = version
        self._emit = emit
        self._trouble = trouble
        self._over = threading.Event()

    def start(self) -> Follower:
        """Begin."""
        threading.Thread(target=self._run, name=f"follow {self._name}", daemon=True).start()
        return self

    def stop(self) -> None:
        """Tell nothing any more."""
        self._over.set()

    def _run(self) -> None:
        board: Board | None = None
        pause = 0.1
        while not self._over.is_set():
            try:
                if board is None:
                    board = self._open_board(Deadline(_LIMIT))
                board.limit(_LIMIT)
                for claim in board.follow(self._name, self._version, _SILENCE):
                    pause = 0.1
                    if claim is not None:
                        self._version = claim["metadata"]["resourceVersion"]
                    self._emit(claim)
                    if self._over.is_set():
                        return
            except PresenceError as error:
                # Credentials are read afresh with the next connection.
                board = None
                if not isinstance(error, BoardError):
                    self._trouble(error)
                    return
                self._trouble(error)
            except Exception as error:  # noqa: BLE001 - nobody would hear of it in this thread, and somebody waits
                board = None
                self._trouble(ServerError(f"the watch failed: {type(error).__name__}: {error}"))
            sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX)
