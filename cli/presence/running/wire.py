"""Messages between supervisor and keeper: JSON objects, one a line, over a pair of sockets.

Keeper to supervisor, by `do`:
    start   term, kill, end, grace, env    the claims are granted
    terms   term, kill, end, grace, n      they were renewed
    stop                                   they are lost; the keeper says why on standard error
    over    code                           before a start: exit with this code; nothing is held any more
Supervisor to keeper, by `did`:
    started pid        written by the child itself, right before it becomes the command
    seen n             the new terms were taken note of
    stopping           the order to stop was taken note of
    suspended, resumed by job control
    ended              none of the command's processes is left
    withdraw           a signal came before the start
"""

from __future__ import annotations

import json

from presence.running.deadline import Terms

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import socket
    from typing import Any

    Message = dict[str, Any]


def send(channel: socket.socket, message: Message) -> bool:
    """Send a message; False when nobody is there to take it."""
    try:
        channel.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    except OSError:
        return False
    return True


class Inbox:
    """Takes messages out of the stream."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def receive(self, channel: socket.socket) -> list[Message] | None:
        """The next messages, at least one read's worth; None when the other side is gone."""
        try:
            data = channel.recv(65536)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def pack(terms: Terms, grace: float) -> Message:
    """Terms as parts of a message."""
    return {"term": terms.term_at, "kill": terms.kill_at, "end": terms.end, "grace": grace}


def unpack(message: Message) -> tuple[Terms, float]:
    """Terms and grace out of a message."""
    return Terms(message["term"], message["kill"], message["end"]), float(message["grace"])
