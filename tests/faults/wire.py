"""A stretch of network between clients and the API server that can be cut or stalled, in a process of its own.

`python -m faults.wire HOST PORT FILE DELAY` passes bytes on each way DELAY seconds late, and writes its own
port to FILE. SIGUSR1 cuts all open
connections, watches too; SIGSTOP stalls them, as a network does that loses everything; SIGCONT lets them go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import deque
from pathlib import Path


class _Pump(asyncio.Protocol):
    """Passes what one side says on to the other, no faster than the other takes it."""

    def __init__(self, wire: Wire, other: _Pump | None = None) -> None:
        self.wire = wire
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.wire.open.add(self)
        if self.other is None:
            self.wire.connect(self)
        else:
            self.other.other = self
            self.other.pass_on()

    def data_received(self, data: bytes) -> None:
        self.early.append(data)
        if self.wire.delay:
            asyncio.get_running_loop().call_later(self.wire.delay, self.pass_on, 1)
        else:
            self.pass_on()

    def pass_on(self, count: int | None = None) -> None:
        if self.other is None or self.other.transport is None:
            return
        while self.early and count != 0:
            self.other.transport.write(self.early.popleft())
            count = None if count is None else count - 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a name of the base class
        self.wire.open.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class Wire:
    """All connections that pass."""

    def __init__(self, host: str, port: int, delay: float) -> None:
        self.delay = delay
        self.host = host
        self.port = port
        self.open: set[_Pump] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def connect(self, near: _Pump) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(near))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self, near: _Pump) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Pump(self, near), self.host, self.port)
        except OSError:
            if near.transport is not None:
                near.transport.abort()

    def cut(self) -> None:
        for each in list(self.open):
            if each.transport is not None:
                each.transport.abort()


async def _main(host: str, port: int, file: Path, delay: float) -> None:
    loop = asyncio.get_running_loop()
    wire = Wire(host, port, delay)
    loop.add_signal_handler(signal.SIGUSR1, wire.cut)
    server = await loop.create_server(lambda: _Pump(wire), "127.0.0.1", 0, backlog=512)
    draft = file.with_suffix(".draft")
    draft.write_text(str(server.sockets[0].getsockname()[1]))
    draft.rename(file)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
