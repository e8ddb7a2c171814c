"""What a command works with: its arguments, its environment, who it is, and the board, opened on first use."""

from __future__ import annotations

import re

from presence import __version__
from presence.deadline import DEFAULT_SECONDS, Deadline, parse_limit
from presence.errors import UsageError
from presence.model.durations import DurationError
from presence.model.kinds import DEFAULT_BOARD

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from presence.board import Board


class Context:
    """One call of the command line."""

    __slots__ = ("_board", "arguments", "deadline", "env", "program")

    def __init__(self, arguments: argparse.Namespace, env: Mapping[str, str], program: str) -> None:
        self.arguments = arguments
        self.env = env
        self.program = program
        self.deadline = Deadline(_limit(arguments, env))
        self._board: Board | None = None

    @property
    def namespace(self) -> str:
        """The board's namespace."""
        name = self.arguments.namespace or self.env.get("PRESENCE_NAMESPACE") or DEFAULT_BOARD
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            raise UsageError(
                f"{name[:80]!r} is no namespace; write lower-case letters, digits and dashes, such as presence"
            )
        return str(name)

    def board(self) -> Board:
        """The board; the first call finds out how to reach it.

        Raises:
            BoardError: there is no way to reach it.
        """
        if self._board is None:
            self._board = self.open_board(self.deadline)
        return self._board

    def open_board(self, deadline: Deadline) -> Board:
        """The board over a connection of its own, with credentials read afresh: tokens of long runs are rotated.

        Raises:
            BoardError: there is no way to reach it.
        """
        # Imported here so that help, completion and wrong calls do not pay for TLS.
        from presence.board import Board
        from presence.credentials import obtain
        from presence.kubeconfig import find_access
        from presence.transport import Connection

        access = find_access(self.env, kubeconfig=self.arguments.kubeconfig, context=self.arguments.context)
        credentials = obtain(access, self.env, deadline)
        connection = Connection(access, credentials, deadline, self.env, f"presence/{__version__}")
        return Board(connection, self.namespace)

    def close(self) -> None:
        """End the connection to the board, if there is one."""
        if self._board is not None:
            self._board.close()


def _limit(arguments: argparse.Namespace, env: Mapping[str, str]) -> float:
    if getattr(arguments, "timeout", None) is not None:
        return float(arguments.timeout)
    text = env.get("PRESENCE_TIMEOUT")
    if not text:
        return DEFAULT_SECONDS
    try:
        return parse_limit(text)
    except DurationError as error:
        raise UsageError(f"PRESENCE_TIMEOUT: {error}") from None
