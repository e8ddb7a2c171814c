"""The operator's log."""

from __future__ import annotations

import io
import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from presence_operator import logs
from presence_operator.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Lines = Callable[[], list[str]]

STYLES = ["text", "json"]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def lines(style: str, emit: Callable[[logging.Logger], object], *secrets: str, level: str = "info") -> list[str]:
    stream = io.StringIO()
    logs.configure(style, level, secrets, stream)
    emit(logging.getLogger("presence_operator.shell.test"))
    return stream.getvalue().splitlines()


def only(style: str, emit: Callable[[logging.Logger], object], *secrets: str) -> str:
    [line] = lines(style, emit, *secrets)
    return line


def test_text_is_a_time_in_utc_a_level_a_source_a_message_and_pairs() -> None:
    def emit(log: logging.Logger) -> None:
        record = log.makeRecord(
            log.name, logging.INFO, "", 0, "claim granted", (), None, None,
            fields(resource="stack:vault", purpose="two words", lag=0.25, name="a", missing=None),
        )  # fmt: skip
        record.created = 1_795_168_800.5
        log.handle(record)

    assert only("text", emit) == (
        "2026-11-20T10:00:00.500Z INFO    test: claim granted "
        'resource=stack:vault purpose="two words" lag=0.25 name=a missing=null'
    )


def test_json_has_one_object_per_line() -> None:
    line = only(
        "json", lambda log: log.warning("claim granted", extra=fields(resource="stack:vault", message="x", n=3))
    )
    body = json.loads(line)
    assert body["level"] == "warning"
    assert body["message"] == "claim granted"
    assert body["message_"] == "x"
    assert (body["resource"], body["n"]) == ("stack:vault", 3)
    assert body["time"].endswith("Z")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "hostile",
    [
        "fix\n2026-11-20T10:00:00.000Z INFO    test: claim granted", "a\rb", "\x1b[2J", "\u202eevil", "a\u2028b",
        "null\x00", '" level="error', "\ud800", "emoji \U0001f600 fine", "tag \U000e0041",
    ],
)  # fmt: skip
def test_nobody_can_forge_a_record_through_a_purpose(style: str, hostile: str) -> None:
    line = only(style, lambda log: log.info("claim granted", extra=fields(purpose=hostile)))
    assert line.isprintable()
    line.encode()
    if style == "json":
        assert json.loads(line)["purpose"] == hostile
    else:
        assert json.loads(line.partition("purpose=")[2]) == hostile


@pytest.mark.parametrize("style", STYLES)
def test_a_traceback_stays_on_its_line(style: str) -> None:
    def emit(log: logging.Logger) -> None:
        try:
            raise RuntimeError("first\nsecond")
        except RuntimeError:
            log.exception("it failed")

    line = only(style, emit)
    assert "RuntimeError: first\\nsecond" in line
    assert "Traceback" in line


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("text", "secret", "kept"),
    [
        ("cannot reach mysql://root:hunter2secret@db:3306/beads", "hunter2secret", "mysql://root:***@db:3306/beads"),
        ("mysql://root:p@ss/w#rd-x@db/beads", "w#rd-x", "@db/beads"),
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678", "Authorization: Bearer ***"),
        ("{'Authorization': 'bearer abcdefgh12345678'}", "abcdefgh12345678", "bearer ***"),
        ("token eyJhbGciOiJSUzI1.eyJzdWIiOiJhYmMi.c2lnbmF0dXJl", "c2lnbmF0dXJl", "***"),
        ('{"password": "hunter2secret", "host": "db"}', "hunter2secret", "db"),
        ("connect(password=hunter2secret, host=db)", "hunter2secret", "host=db"),
    ],
)
def test_passwords_and_tokens_never_reach_the_log(style: str, text: str, secret: str, kept: str) -> None:
    def in_message(log: logging.Logger) -> None:
        log.info("%s", text)

    def in_field(log: logging.Logger) -> None:
        log.info("failed", extra=fields(error=text))

    def in_traceback(log: logging.Logger) -> None:
        try:
            raise OSError(text)
        except OSError:
            log.exception("failed")

    for emit in (in_message, in_field, in_traceback):
        line = only(style, emit)
        assert secret not in line
        assert kept.replace('"', "") in line


def _tell(text: str, log: logging.Logger) -> None:
    log.info("failed", extra=fields(error=text))


@pytest.mark.parametrize("style", STYLES)
def test_the_mirrors_password_is_hidden_wherever_and_however_it_stands(style: str) -> None:
    password = 'o"dd\\ pass/w@rd'
    for form in (password, repr(password), "o%22dd%5C%20pass%2Fw%40rd", f"Access denied ({password})"):
        line = only(style, partial(_tell, form), password)
        assert "pass/w" not in line
        assert "pass%2Fw" not in line


@pytest.mark.parametrize("style", STYLES)
def test_ordinary_text_is_left_alone(style: str) -> None:
    text = "see https://ci.example/job/7?x=1 about the bearer of the token ring"
    assert text in only(style, lambda log: log.info("note", extra=fields(purpose=text)))


def test_libraries_are_quiet_even_at_debug() -> None:
    def emit(_: logging.Logger) -> None:
        for name in (
            "kopf.objects",
            "aiohttp.access",
            "kubernetes.aio.client.rest",
            "urllib3.connectionpool",
            "asyncio",
        ):
            logging.getLogger(name).debug("chatter of %s", name)
            logging.getLogger(name).info("chatter of %s", name)
        logging.getLogger("kopf.objects").error("trouble")

    assert [line.partition(": ")[2] for line in lines("text", emit, level="debug")] == ["trouble"]


def test_whole_object_references_of_kopf_are_left_out() -> None:
    extra: dict[str, Any] = {"k8s_ref": {"name": "x"}, "k8s_skip": False, "settings": object()}
    assert only("text", lambda log: log.info("note", extra=extra)).endswith("note")


def test_an_attempt_of_kopf_that_failed_is_told_without_its_traceback_and_a_broken_handler_with_it() -> None:
    def emit(_: logging.Logger) -> None:
        try:
            raise OSError("refused")
        except OSError:
            logging.getLogger("kopf._cogs.clients.watching").exception("attempt failed: refused")
            logging.getLogger("kopf.objects").exception("handler failed")

    attempt, handler = lines("text", emit)
    assert attempt.endswith("attempt failed: refused")
    assert "Traceback" in handler


@pytest.mark.parametrize("style", STYLES)
def test_a_secret_learnt_later_is_hidden_from_then_on(style: str) -> None:
    def emit(log: logging.Logger) -> None:
        logs.hide("the-second")
        log.warning("connected", extra=fields(first="the-first", second="the-second"))

    line = only(style, emit, "the-first")
    assert "the-first" not in line
    assert "the-second" not in line
