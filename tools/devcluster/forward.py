"""A TCP forwarder: gives the cluster's pods the servers that listen on loopback only.

`python3 forward.py LISTEN_HOST PORT…` forwards LISTEN_HOST:PORT to 127.0.0.1:PORT, for each port.
"""

import asyncio
import contextlib
import socket
import sys


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.write_eof()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    try:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    for side in (writer, upstream_writer):
        side.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))
    for side in (writer, upstream_writer):
        side.close()
        with contextlib.suppress(OSError):
            await side.wait_closed()


async def _main(host: str, ports: list[int]) -> None:
    servers = []
    for port in ports:

        def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> asyncio.Task[None]:
            return asyncio.create_task(_serve(reader, writer, port))

        servers.append(await asyncio.start_server(handle, host, port))
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], [int(port) for port in sys.argv[2:]]))
