"""A proxy in front of the API server that answers with errors, drops connections or holds things up when told to."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class FaultyServer:
    """Speaks HTTP on loopback to one client and TLS to the API server, as the administrator.

    With `front` it speaks TLS to the client too, who is to trust the `ca.crt` in `directory`.
    """

    def __init__(
        self, url: str, token: str, ca_file: str, directory: Path, front: ssl.SSLContext | None = None
    ) -> None:
        self._upstream = urlsplit(url)
        self._token = token
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._faults: dict[str, int] = {}
        self._unanswered = ""
        self.refused = 0
        self.requests: list[tuple[str, str]] = []
        self.arrivals: list[float] = []
        """When each of `requests` came, in seconds of the monotonic clock."""
        self._flows = threading.Event()
        self._flows.set()
        self._open: set[socket.socket] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._serve(self)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any  # noqa: N815 - names of the base class

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.kubeconfig = directory / "faulty.kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}
        if front is not None:
            # The handshake is left to the thread of each connection.
            self._server.socket = front.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            cluster = {"server": cluster["server"].replace("http", "https"), "certificate-authority": "ca.crt"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "faulty", "cluster": cluster}],
            "users": [{"name": "faulty", "user": {}}],
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "faulty"}}],
            "current-context": "faulty",
        }
        self.kubeconfig.write_text(json.dumps(config))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flows.set()
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def fail(self, status: int, containing: str = "") -> None:
        """Answer requests whose path contains this text with `status`; 0 drops the connection instead."""
        self._faults[containing] = status

    def lose_answers(self, method: str) -> None:
        """Carry requests with this method out, and drop the connection instead of passing the answer on."""
        self._unanswered = method

    def stall(self) -> None:
        """Pass nothing on in either direction, and tell nobody, as a network does that loses everything."""
        self._flows.clear()

    def heal(self) -> None:
        """Let everything pass again, also what was held up."""
        self._flows.set()
        self._faults.clear()
        self._unanswered = ""

    def cut(self) -> None:
        """Break all connections, watches too."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.arrivals.append(time.monotonic())
        self.requests.append((handler.command, handler.path))
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        fault = next((status for text, status in list(self._faults.items()) if text in handler.path), None)
        if fault is not None:
            self.refused += 1
            handler.close_connection = True
            if fault == 0:
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            text = json.dumps({"kind": "Status", "code": fault, "message": "a fault of the test"}).encode()
            handler.send_response(fault)
            if fault == 429:
                handler.send_header("Retry-After", "1")
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)
            return
        self._pass_on(handler, body)

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self._flows.wait(120)
        # One upstream connection for each request: slow, and always right.
        address = (self._upstream.hostname or "", self._upstream.port or 443)
        try:
            plain = socket.create_connection(address, timeout=10)
            upstream = self._tls.wrap_socket(plain, server_hostname=self._upstream.hostname)
        except OSError:
            handler.close_connection = True
            return
        upstream.settimeout(None)
        self._open |= {upstream, handler.connection}
        try:
            lines = [
                f"{handler.command} {handler.path} HTTP/1.1",
                f"Host: {self._upstream.netloc}",
                "Connection: close",
            ]
            lines.append(f"Authorization: Bearer {self._token}")
            lines += [
                f"{name}: {value}"
                for name, value in handler.headers.items()
                if name.lower() not in ("host", "connection", "authorization", "accept-encoding")
            ]
            upstream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
            handler.close_connection = True
            while True:
                ready, _, _ = select.select([upstream, handler.connection], [], [], 60)
                if handler.connection in ready and not upstream.pending():
                    break
                data = upstream.recv(65536)
                if not data or handler.command == self._unanswered:
                    break
                self._flows.wait(120)
                handler.wfile.write(data)
                handler.wfile.flush()
        except OSError:
            pass
        finally:
            self._open -= {upstream, handler.connection}
            upstream.close()
