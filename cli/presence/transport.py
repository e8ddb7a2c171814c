"""A small HTTP/1.1 client over one kept-alive connection to the API server.

Why not `http.client`: importing it (it brings the email package) costs 12 ms, a quarter of what a whole `presence list`
may take; measured on Python 3.11: bare interpreter 9 ms, socket+ssl+json 26 ms, with http.client 39 ms. What the API
server sends is plain: a status line, headers, and a body with Content-Length or in chunks.

Every wait respects one `Deadline` for the whole call, however the time is lost: looking up the name (in a thread,
because the C library cannot be interrupted), connecting, the TLS handshake, a proxy, or an answer that never comes or
comes byte by byte.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from time import sleep

from presence.errors import ConfigError, ServerError, UnreachableError
from presence.model.durations import format_duration

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from presence.credentials import Credentials
    from presence.deadline import Deadline
    from presence.kubeconfig import Access

_HEAD_MAX = 64 * 1024
_READ = 256 * 1024
#: Bytes of one answer, and of one line of a stream. Not even a page of the longest claims comes near, unless somebody
#: fattens them with annotations.
_BODY_MAX = 64 * 1024 * 1024
_VISIBLE = re.compile(r"[!-~]+")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
#: The API server, or what stands in front of it, is busy or restarting: worth another try within the deadline.
_BUSY = frozenset({429, 502, 503, 504})


class Response:
    """An answer: the status code, the headers in lower case, and the decoded JSON body (None without one)."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class _LostError(Exception):
    """The connection ended in the middle of an exchange."""


def quote(text: str) -> str:
    """`text` as one part of a path or of a query."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def split_url(url: str, what: str) -> tuple[str, str, int, str]:
    """Scheme, host without brackets, port and path (without a slash at its end) of `url`.

    Raises:
        ConfigError: it is no http or https address; `what` names it in the message.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator:
        scheme, rest = "https", url
    authority, slash, path = rest.partition("/")
    host, _, port = authority.rpartition("@")[2].rpartition(":")
    if not host or "]" in port:
        host, port = authority.rpartition("@")[2], ""
    host = host.removeprefix("[").removesuffix("]")
    if scheme not in ("http", "https") or not host or (port and not port.isdecimal()):
        # It may hold a password, and what is wrong with it may be that part.
        raise ConfigError(f"{what} {url.rpartition('@')[2]!r} is no address; write for example https://host:6443")
    number = int(port) if port else 443 if scheme == "https" else 80
    try:
        host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        host = ""
    if number > 65535 or not _VISIBLE.fullmatch(f"{host}{path}"):
        raise ConfigError(f"{what} has no right host, port or path; write for example https://host:6443")
    return scheme, host, number, (slash + path.partition("?")[0]).rstrip("/")


class Connection:
    """Requests to one API server, one after the other.

    Args:
        access: where and how.
        credentials: who.
        deadline: the limit for everything.
        env: HTTPS_PROXY and NO_PROXY are read when the kubeconfig names no proxy.
        user_agent: how the client calls itself.
    """

    def __init__(
        self, access: Access, credentials: Credentials, deadline: Deadline, env: Mapping[str, str], user_agent: str
    ) -> None:
        self._access = access
        self._deadline = deadline
        self._scheme, self._host, self._port, self._prefix = split_url(access.server, f"the server of {access.origin}")
        self._proxy = access.proxy_url or _proxy_of(env, self._scheme, self._host)
        self._client_pem = credentials.client_pem
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._line = b""
        default = 443 if self._scheme == "https" else 80
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = shown if self._port == default else f"{shown}:{self._port}"
        lines = [f"Host: {self._authority}", f"User-Agent: {user_agent}", "Accept: application/json"]
        if credentials.authorization:
            lines.append(f"Authorization: {credentials.authorization}")
        self._fixed = "\r\n".join(lines)

    @property
    def server(self) -> str:
        """The server's address for messages."""
        return f"{self._scheme}://{self._authority}{self._prefix}"

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Response:
        """Send one request and read its answer, whatever its status.

        A busy server is asked again, and a connection that is lost in the middle is made anew, within the deadline: so
        callers must be able to bear that a write happened twice.

        Raises:
            UnreachableError: no answer in time, or no connection.
            ServerError: the answer is no HTTP or no JSON.
        """
        target = self._prefix + path
        if query:
            target += "?" + "&".join(f"{quote(name)}={quote(str(value))}" for name, value in query.items())
        data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        head = f"{method} {target} HTTP/1.1\r\n{self._fixed}\r\n"
        if body is not None:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(data)}\r\n"
        message = head.encode("latin-1") + b"\r\n" + data
        pause = 0.05
        losses = 0
        while True:
            try:
                response = self._exchange(message)
            except _LostError as lost:
                self.close()
                losses += 1
                if losses > 3:
                    raise UnreachableError(
                        f"{self.server} drops the connection: {lost}; is it a Kubernetes API server?"
                    ) from None
                wait = pause
            else:
                if response.status not in _BUSY:
                    return response
                after = response.headers.get("retry-after", "")
                wait = float(after) if after.isdecimal() else pause
                if wait >= self._deadline.left():
                    raise UnreachableError(
                        f"{self.server} is busy (HTTP {response.status}); try again in {format_duration(max(wait, 1))}"
                    )
            sleep(min(wait, self._deadline.remaining(f"waiting for {self.server}")))
            pause *= 2

    def limit(self, deadline: Deadline) -> None:
        """Respect another deadline from now on."""
        self._deadline = deadline

    def open_stream(self, path: str, query: Mapping[str, str | int]) -> Response:
        """Send a GET whose answer never ends, such as a watch, on a new connection.

        With status 200 the body is left for `next_line`; any other answer is whole.

        Raises:
            UnreachableError: no answer in time, or no connection.
        """
        self.close()
        target = (
            self._prefix + path + "?" + "&".join(f"{quote(name)}={quote(str(value))}" for name, value in query.items())
        )
        message = f"GET {target} HTTP/1.1\r\n{self._fixed}\r\n\r\n".encode("latin-1")
        doing = f"waiting for {self.server}"
        try:
            return self._exchange(message, stream=True)
        except _LostError as lost:
            self.close()
            raise UnreachableError(f"{self.server} drops the connection while {doing}: {lost}") from None

    def next_line(self, seconds: float) -> bytes | None:
        """The next line of the stream; None when it has ended, was cut, or said nothing for `seconds`.

        After None the connection is closed.
        """
        from presence.deadline import Deadline

        self._deadline = Deadline(seconds)
        doing = "watching"
        try:
            while b"\n" not in self._line:
                if self._socket is None:
                    return None
                size = int(self._until(b"\r\n", doing).partition(b";")[0].strip(), 16)
                if size == 0:
                    self.close()
                    return None
                self._check_size(len(self._line) + size)
                self._line += self._exactly(size + 2, doing)[:size]
        except (OSError, ValueError, _LostError, UnreachableError, ServerError):
            self.close()
            return None
        line, _, self._line = self._line.partition(b"\n")
        return line

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer = b""
        self._line = b""

    def _exchange(self, message: bytes, *, stream: bool = False) -> Response:
        doing = f"waiting for {self.server}"
        if self._socket is None:
            self._socket = self._connect()
        try:
            self._socket.settimeout(self._deadline.remaining(doing))
            self._socket.sendall(message)
            return self._read_response(doing, stream=stream)
        except TimeoutError:
            raise self._deadline.passed(doing) from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise _LostError("closed") from None
        except ssl.SSLError as error:
            # With TLS 1.3 a server refuses a client certificate only after the handshake.
            raise UnreachableError(f"TLS with {self.server} failed: {_ssl_reason(error)}") from None
        except OSError as error:
            raise _LostError(error.strerror or type(error).__name__) from None

    def _read_response(self, doing: str, *, stream: bool = False) -> Response:
        while True:
            head = self._until(b"\r\n\r\n", doing)
            status, headers = _parse_head(head, self.server)
            if status >= 200:
                break
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "")
        if stream and status == 200 and chunked:
            return Response(status, headers, None)
        if status in (204, 304):
            data = b""
        elif chunked:
            data = self._chunks(doing)
        elif length.isdecimal():
            self._check_size(int(length))
            data = self._exactly(int(length), doing)
        else:
            data = self._rest(doing)
        if not data:
            body = None
        elif "json" in headers.get("content-type", "application/json"):
            try:
                body = json.loads(data)
            except ValueError:
                raise ServerError(
                    f"{self.server} sent JSON that cannot be read; is it a Kubernetes API server?"
                ) from None
        else:
            body = data[:300].decode("utf-8", "replace")
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Response(status, headers, body)

    def _more(self, doing: str) -> bytes:
        assert self._socket is not None
        self._socket.settimeout(self._deadline.remaining(doing))
        data = self._socket.recv(_READ)
        if not data:
            raise _LostError("closed")
        return data

    def _until(self, mark: bytes, doing: str) -> bytes:
        while mark not in self._buffer:
            if len(self._buffer) > _HEAD_MAX:
                raise ServerError(f"{self.server} sent no HTTP; is it a Kubernetes API server?")
            self._buffer += self._more(doing)
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, count: int, doing: str) -> bytes:
        parts, got = [self._buffer], len(self._buffer)
        while got < count:
            part = self._more(doing)
            parts.append(part)
            got += len(part)
        data = b"".join(parts)
        self._buffer = data[count:]
        return data[:count]

    def _chunks(self, doing: str) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            size_text = self._until(b"\r\n", doing).partition(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                raise ServerError(f"{self.server} sent a broken answer; is it a Kubernetes API server?") from None
            if size == 0:
                while self._until(b"\r\n", doing):
                    pass  # trailers say nothing that is needed
                return b"".join(parts)
            total += size
            self._check_size(total)
            parts.append(self._exactly(size + 2, doing)[:size])

    def _rest(self, doing: str) -> bytes:
        parts = [self._buffer]
        self._buffer = b""
        try:
            while True:
                parts.append(self._more(doing))
                self._check_size(sum(map(len, parts)))
        except _LostError:
            self.close()
            return b"".join(parts)

    def _check_size(self, size: int) -> None:
        if size > _BODY_MAX:
            self.close()
            raise ServerError(
                f"{self.server} answers with more than {_BODY_MAX // 1024**2} MiB at once;"
                " does somebody flood the board?"
            )

    def _connect(self) -> socket.socket:
        if self._proxy:
            scheme, host, port, _ = split_url(self._proxy, "the proxy")
            if scheme != "http":
                raise ConfigError(f"the proxy {host} speaks {scheme}; only http proxies are supported")
            raw = self._dial(host, port)
            if self._scheme == "https":
                self._tunnel(raw, host)
        else:
            raw = self._dial(self._host, self._port)
        if self._scheme == "http":
            return raw
        doing = f"setting up TLS with {self.server}"
        context = _tls_context(self._access, self._client_pem)
        try:
            raw.settimeout(self._deadline.remaining(doing))
            return context.wrap_socket(raw, server_hostname=_server_name(self._access.server_name or self._host))
        except TimeoutError:
            raw.close()
            raise self._deadline.passed(doing) from None
        except ssl.SSLCertVerificationError as error:
            raw.close()
            raise UnreachableError(
                f"the certificate of {self.server} does not hold: {error.verify_message};"
                f" check certificate-authority of {self._access.origin}"
            ) from None
        except (OSError, ValueError) as error:
            raw.close()
            reason = (
                _ssl_reason(error) if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None) or error
            )
            raise UnreachableError(f"TLS with {self.server} failed: {reason}; does this port speak TLS?") from None

    def _dial(self, host: str, port: int) -> socket.socket:
        addresses = _look_up(host, port, self._deadline)
        problem = "no address"
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            doing = f"connecting to {host}:{port}"
            try:
                candidate = socket.socket(family, kind, protocol)
            except OSError as error:
                problem = error.strerror or str(error)
                continue
            try:
                # A silent address must leave time for the others.
                candidate.settimeout(self._deadline.remaining(doing) / (len(addresses) - index))
                candidate.connect(_ascii(address))
                candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except TimeoutError:
                candidate.close()
                problem = "no answer"
            except OSError as error:
                candidate.close()
                problem = error.strerror or str(error)
            else:
                return candidate
        if problem == "no answer":
            raise self._deadline.passed(f"connecting to {host}:{port}")
        raise UnreachableError(
            f"cannot connect to {host}:{port}: {problem}; is the cluster running, and the kubeconfig right?"
        )

    def _tunnel(self, raw: socket.socket, proxy: str) -> None:
        doing = f"waiting for the proxy {proxy}"
        target = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        user = (self._proxy or "").partition("://")[2].partition("/")[0].rpartition("@")[0]
        if user:
            import binascii

            encoded = binascii.b2a_base64(_unquote(user), newline=False).decode()
            lines.append(f"Proxy-Authorization: Basic {encoded}")
        try:
            raw.settimeout(self._deadline.remaining(doing))
            raw.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            head = b""
            # Byte by byte: what follows the head belongs to TLS.
            while not head.endswith(b"\r\n\r\n"):
                raw.settimeout(self._deadline.remaining(doing))
                byte = raw.recv(1)
                if not byte or len(head) > _HEAD_MAX:
                    raise UnreachableError(f"the proxy {proxy} closed the connection to {target}")
                head += byte
        except TimeoutError:
            raw.close()
            raise self._deadline.passed(doing) from None
        except OSError as error:
            raw.close()
            raise UnreachableError(f"the proxy {proxy} failed: {error.strerror or error}") from None
        status, _ = _parse_head(head[:-4], f"the proxy {proxy}")
        if status != 200:
            raw.close()
            raise UnreachableError(f"the proxy {proxy} refused to connect to {target}: HTTP {status}")


def _parse_head(head: bytes, server: str) -> tuple[int, dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not code.isdecimal():
        raise ServerError(f"{server} sent no HTTP; is it a Kubernetes API server?")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(code), headers


def _look_up(host: str, port: int, deadline: Deadline) -> list[Any]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    import _thread  # already loaded; `threading` would join the thread at exit, and this one may hang

    outcome: list[Any] = []
    done = _thread.allocate_lock()
    done.acquire()

    def work() -> None:
        try:
            outcome.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            outcome.append(error)
        finally:
            done.release()

    doing = f"looking up {host}"
    left = deadline.remaining(doing)
    _thread.start_new_thread(work, ())
    if not done.acquire(timeout=left):
        raise deadline.passed(doing)
    found = outcome[0]
    if isinstance(found, Exception):
        reason = getattr(found, "strerror", None) or "no such host name"
        raise UnreachableError(f"cannot look up {host}: {reason}; check the server in the kubeconfig")
    return list(found)


def _ascii(address: Any) -> Any:
    # For text, the socket module loads its codec for international names, though addresses are numbers here.
    return (address[0].encode("ascii"), *address[1:])


def _server_name(host: str) -> str | bytes:
    # The same codec again; only names outside of ASCII need it.
    return host.encode("ascii") if host.isascii() else host


def _tls_context(access: Access, client_pem: bytes | None) -> ssl.SSLContext:
    # Not create_default_context: it reads the system's certificates, which a cluster's own CA replaces.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if access.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif access.ca_pem:
            context.load_verify_locations(cadata=access.ca_pem)
        elif access.ca_file:
            context.load_verify_locations(cafile=access.ca_file)
        else:
            context.load_default_certs()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds no PEM certificate"
        raise ConfigError(f"cannot use certificate-authority of {access.origin}: {reason}") from None
    if client_pem:
        try:
            _load_client(context, client_pem)
        except (OSError, ValueError) as error:
            reason = _ssl_reason(error) if isinstance(error, ssl.SSLError) else str(error)
            raise ConfigError(f"cannot use the client certificate of {access.origin}: {reason}") from None
    return context


def _load_client(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a certificate and key that the ssl module takes from files only, without leaving the key on a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("presence", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    else:
        path = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"presence-{os.urandom(12).hex()}")  # noqa: S108 (exclusive, 0600)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        view = memoryview(pem)
        while view:
            view = view[os.write(descriptor, view) :]
        context.load_cert_chain(path, password=_no_password)
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/"):
            os.unlink(path)


def _no_password() -> str:
    raise ValueError("its key is encrypted; store it without a passphrase, or use an exec plugin")


def _ssl_reason(error: ssl.SSLError) -> str:
    return (error.reason or error.strerror or str(error)).replace("_", " ").lower()


def _proxy_of(env: Mapping[str, str], scheme: str, host: str) -> str | None:
    """The proxy that the environment names for `host`, by the rules of Go's net/http as far as hosts go."""
    name = f"{scheme}_proxy"
    proxy = env.get(name.upper()) or env.get(name)
    if not proxy or host == "localhost" or host.startswith("127.") or host == "::1":
        return None
    for entry in (env.get("NO_PROXY") or env.get("no_proxy") or "").split(","):
        pattern = entry.strip().lower()
        if pattern == "*" or _matches(pattern, host.lower()):
            return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _matches(pattern: str, host: str) -> bool:
    if not pattern:
        return False
    if "/" in pattern:
        import ipaddress  # rare

        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(pattern, strict=False)
        except ValueError:
            return False
    pattern = pattern.removeprefix("*").partition(":")[0]
    return host == pattern.removeprefix(".") or host.endswith("." + pattern.removeprefix("."))


def _unquote(text: str) -> bytes:
    import re

    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
