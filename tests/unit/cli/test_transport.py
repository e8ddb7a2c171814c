"""The HTTP client against servers that can be told how to misbehave. A real one is used in the integration tests."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presence.board import Board, GoneError, escape, parse_http_date
from presence.credentials import Credentials
from presence.deadline import Deadline
from presence.errors import ConfigError, DeniedError, NotInstalledError, ServerError, UnreachableError, UsageError
from presence.kubeconfig import Access
from presence.model.times import format_time
from presence.transport import Connection, _proxy_of, quote, split_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[..., tuple["Script", Connection]]


class Script:
    """A server on loopback that answers each request with the next of its prepared pieces, byte for byte."""

    def __init__(self, *answers: bytes | list[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = client.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, rest = buffer.partition(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
            while len(rest) < length:
                rest += client.recv(65536)
            self.requests.append(head + b"\r\n\r\n" + rest[:length])
            buffer = rest[length:]
            answer = self.answers.pop(0) if self.answers else b""
            for piece in [answer] if isinstance(answer, bytes) else answer:
                if not piece:
                    return
                client.sendall(piece)

    def close(self) -> None:
        # shutdown wakes accept(); close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[tuple[Script, Connection]] = []

    def make(*answers: bytes | list[bytes]) -> tuple[Script, Connection]:
        script = Script(*answers)
        made.append((script, connect(script.port)))
        return made[-1]

    yield make
    for script, connection in made:
        connection.close()
        script.close()


def connect(port: int, seconds: float = 5.0) -> Connection:
    access = Access(f"http://127.0.0.1:{port}/prefix/", "context test")
    return Connection(access, Credentials("Bearer t", None), Deadline(seconds), {}, "presence/test")


def answer(body: object, status: str = "200 OK", *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def status(code: int, **fields: object) -> bytes:
    return answer({"kind": "Status", "code": code, **fields}, f"{code} X")


def test_a_request_as_it_goes_over_the_wire(serve: Serve) -> None:
    script, connection = serve(answer({"a": 1}), answer({"b": 2}))
    assert connection.request("GET", "/path", {"fieldSelector": "a=b c"}).body == {"a": 1}
    assert connection.request("POST", "/path", None, {"x": "ü"}).body == {"b": 2}
    head = script.requests[0].decode()
    assert head.startswith("GET /prefix/path?fieldSelector=a%3Db%20c HTTP/1.1\r\n")
    assert "\r\nAuthorization: Bearer t\r\n" in head
    assert f"\r\nHost: 127.0.0.1:{script.port}\r\n" in head
    assert script.requests[1].endswith(b'\r\n\r\n{"x":"\\u00fc"}')


CAUSE = {"field": "spec.x", "message": 'Invalid value: "v": do that'}
pieces = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(st.text(max_size=200), st.lists(st.integers(1, 50), min_size=1, max_size=8), pieces, st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_answer_is_understood_however_it_is_cut(
    text: str, chunks: list[int], cuts: list[int], trailer: bool
) -> None:
    data = json.dumps({"text": text}).encode()
    body, rest, at = b"", data, 0
    while rest:
        size = chunks[at % len(chunks)]
        part, rest, at = rest[:size], rest[size:], at + 1
        body += f"{len(part):x};ext=1\r\n".encode() + part + b"\r\n"
    body += b"0\r\n" + (b"X-Trailer: 1\r\n" if trailer else b"") + b"\r\n"
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n" + body
    whole = b"HTTP/1.1 100 Continue\r\n\r\n" + whole
    split, left, at = [], whole, 0
    while left:
        split.append(left[: cuts[at % len(cuts)]])
        left, at = left[cuts[at % len(cuts)] :], at + 1
    script = Script(split, answer({"next": True}))
    try:
        connection = connect(script.port)
        assert connection.request("GET", "/").body == {"text": text}
        assert connection.request("GET", "/").body == {"next": True}
        connection.close()
    finally:
        script.close()


def test_an_answer_without_length_ends_with_the_connection(serve: Serve) -> None:
    _, connection = serve([b"HTTP/1.1 200 OK\r\n\r\n", b'{"a":', b"1}", b""], answer({"b": 2}))
    assert connection.request("GET", "/").body == {"a": 1}
    assert connection.request("GET", "/").body == {"b": 2}


def test_a_lost_connection_is_made_anew(serve: Serve) -> None:
    script, connection = serve(b"", [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", b""], answer({"a": 1}))
    assert connection.request("GET", "/").body == {"a": 1}
    assert len(script.requests) == 3


def test_a_server_that_always_hangs_up_is_given_up(serve: Serve) -> None:
    _, connection = serve()
    with pytest.raises(UnreachableError, match="drops the connection"):
        connection.request("GET", "/")


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again(serve: Serve, code: int) -> None:
    _, connection = serve(status(code), status(code), answer({"a": 1}))
    assert connection.request("GET", "/").body == {"a": 1}


def test_a_server_that_asks_for_too_much_patience_is_left_alone(serve: Serve) -> None:
    _, connection = serve(answer({}, "429 X", "Retry-After: 60"))
    with pytest.raises(UnreachableError, match=r"is busy \(HTTP 429\); try again in 1m"):
        connection.request("GET", "/")


@pytest.mark.parametrize(
    "text", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"\x15\x03\r\n\r\n", b"x" * 70_000]
)
def test_what_is_no_http_is_named(serve: Serve, text: bytes) -> None:
    _, connection = serve(text)
    with pytest.raises(ServerError, match="is it a Kubernetes API server"):
        connection.request("GET", "/")


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: application/json\r\n\r\nnot",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_broken_answers_are_named(serve: Serve, text: bytes) -> None:
    _, connection = serve(text)
    with pytest.raises(ServerError):
        connection.request("GET", "/")


@pytest.mark.parametrize(
    ("reply", "error", "advice"),
    [
        (status(401, message="Unauthorized"), DeniedError, "log in again"),
        (status(403, message='User "x" cannot list'), DeniedError, "ask for a role on namespace 'ns'"),
        (answer("404 page not found", "404 X"), NotInstalledError, "install its definitions"),
        (
            status(404, message="the server could not find the requested resource", details={}),
            NotInstalledError,
            "kubectl apply",
        ),
        (status(404, details={"kind": "namespaces", "name": "ns"}), NotInstalledError, "no namespace 'ns'"),
        (status(500, message="etcd\nis\naway"), ServerError, "HTTP 500: etcd is away"),
        (
            status(
                422, message="no", details={"causes": [{"field": "spec.x", "message": 'Invalid value: "v": do that'}]}
            ),
            UsageError,
            "spec.x: do that",
        ),
    ],
)
def test_refusals_say_what_to_do(serve: Serve, reply: bytes, error: type[Exception], advice: str) -> None:
    _, connection = serve(reply)
    with pytest.raises(error) as caught:
        Board(connection, "ns").claims()
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_claim_that_was_replaced_while_it_was_written_to_is_another_one(serve: Serve) -> None:
    cause = {"field": "metadata.uid", "message": 'Invalid value: "u": field is immutable'}
    other = {"field": "spec.ttl", "message": "Invalid value: no"}
    _, connection = serve(
        status(422, details={"name": "c", "causes": [cause, cause]}),
        status(422, details={"name": "c", "causes": [cause, other]}),
    )
    board = Board(connection, "ns")
    claim = {"metadata": {"name": "c", "uid": "u"}}
    with pytest.raises(GoneError):
        board.patch_claim(claim, {})
    with pytest.raises(UsageError, match=r"spec\.ttl: no"):
        board.patch_claim(claim, {})


def page(*names: str, token: str = "") -> bytes:
    items = [{"metadata": {"name": name}, "spec": {"resource": "a:b", "session": name}} for name in names]
    return answer({"items": items, "metadata": {"continue": token}}, "200 OK", "Date: Fri, 20 Nov 2026 10:00:00 GMT")


def names(board: Board, **wanted: str) -> list[str]:
    return [claim["metadata"]["name"] for claim in board.claims(**wanted)]  # type: ignore[arg-type]


def test_a_list_whose_pages_grew_too_old_is_begun_again(serve: Serve) -> None:
    _, connection = serve(page("old", token="t"), status(410, reason="Expired"), page("a", token="u"), page("b"))
    assert names(Board(connection, "ns")) == ["a", "b"]


def test_a_list_that_never_holds_still_is_given_up(serve: Serve) -> None:
    _, connection = serve(*[page("x", token="t"), status(410)] * 5)
    with pytest.raises(ServerError, match="changes faster"):
        Board(connection, "ns").claims()


def test_a_server_that_cannot_select_by_field_sends_all(serve: Serve) -> None:
    refusal = status(400, message="field label not supported: spec.session")
    script, connection = serve(refusal, page("a", "b"))
    assert names(Board(connection, "ns"), session="b") == ["b"]
    assert b"fieldSelector" not in script.requests[1]


def test_the_clock_is_the_servers(serve: Serve) -> None:
    _, connection = serve(page())
    board = Board(connection, "ns")
    board.claims()
    assert format_time(board.now) == "2026-11-20T10:00:00Z"


def test_http_dates() -> None:
    assert parse_http_date("Thu, 01 Jan 1970 00:00:07 GMT") == 7
    for odd in ("", "yesterday", "Thu, 01 Foo 1970 00:00:00 GMT", "Thu, 41 Jan 1970 00:00:00 GMT"):
        assert parse_http_date(odd) is None


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://host:6443", ("https", "host", 6443, "")),
        ("https://host", ("https", "host", 443, "")),
        ("http://host/", ("http", "host", 80, "")),
        ("https://host/k8s/clusters/c-1/", ("https", "host", 443, "/k8s/clusters/c-1")),
        ("https://[::1]:6443", ("https", "::1", 6443, "")),
        ("https://[::1]", ("https", "::1", 443, "")),
        ("http://user:word@proxy:3128", ("http", "proxy", 3128, "")),
        ("host:6443", ("https", "host", 6443, "")),
        ("HTTPS://host", ("https", "host", 443, "")),
    ],
)
def test_addresses(url: str, parts: tuple[str, str, int, str]) -> None:
    assert split_url(url, "the server") == parts


@pytest.mark.parametrize("url", ["", "https://", "ftp://host", "https://host:port", "socks5://host:1080"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="write for example https://host:6443"):
        split_url(url, "the server")


def test_which_hosts_go_through_the_proxy() -> None:
    env = {"HTTPS_PROXY": "proxy:3128", "NO_PROXY": "internal, .example.org,10.0.0.0/8,*.wild.net"}
    for host in ("cluster.example.com", "11.0.0.1"):
        assert _proxy_of(env, "https", host) == "http://proxy:3128"
    for host in ("localhost", "127.0.0.1", "internal", "api.example.org", "10.1.2.3", "x.wild.net"):
        assert _proxy_of(env, "https", host) is None
    assert _proxy_of({**env, "NO_PROXY": "*"}, "https", "a.b") is None


@given(st.text(max_size=30))
def test_quoting_leaves_nothing_that_means_something(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert not set(quote(text)) & set(" /?&=#,\r\n\\")


def test_selectors_are_escaped() -> None:
    assert escape("a,b=c\\d") == "a\\,b\\=c\\\\d"
