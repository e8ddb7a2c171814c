"""The log: one line per record with a constant message and key-value pairs, as text or JSON, without secrets.

Write `log.info("claim granted", extra=fields(resource=claim.resource, name=claim.name))`. What users wrote (purposes,
names) goes into fields, never into the message. Control characters, line breaks and the characters that reverse the
direction of writing come out escaped, so nobody can forge a second record.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from presence_operator.settings import Settings

_FIELDS = "presence_fields"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", _FIELDS}

#: Loggers of libraries and the least level that is of use. At DEBUG some of them print whole bodies and headers.
_TAMED = {
    "aiohttp": logging.WARNING,
    "aiohttp.access": logging.CRITICAL,
    "asyncio": logging.WARNING,
    "kopf": logging.WARNING,
    "kubernetes": logging.WARNING,
    "urllib3": logging.WARNING,
}

# A password ends at the last @ of its address, so that one with an unencoded @ is not told in part.
_IN_ADDRESS = re.compile(r"(?<=://)([^\s:/@\"']*):[^\s\"']*@")
_BEARER = re.compile(r"(?i)\b(bearer)(\s+|\\u0020)[A-Za-z0-9._~+/=-]{8,}")
_JSON_WEB_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
_NAMED = re.compile(r"(?i)\b(password|passwd|pwd|token|client_secret)(\\?[\"']?\s*[=:]\s*\\?[\"']?)[^\s\"'\\,;)}]+")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:@+~#%-]+")
#: Shorter passwords would turn half of every line into stars, and protect nothing.
_SHORTEST_SECRET = 4


def fields(**values: Any) -> dict[str, Any]:
    """Key-value pairs for `extra=`; unlike there, any name may be used (`name`, `module`, `args` too)."""
    return {_FIELDS: values}


def setup(settings: Settings, stream: TextIO | None = None) -> None:
    """Send the log to `stream` (standard error) as the settings want it. Call it once, before anything is logged."""
    secrets = [settings.mirror_dsn.password] if settings.mirror_dsn else []
    configure(settings.log_format, settings.log_level, secrets, stream)


def configure(style: str, level: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Like `setup`, for commands without full settings. `style` is text or json; `secrets` never reach the log."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(secrets) if style == "json" else TextFormatter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name, least in _TAMED.items():
        logging.getLogger(name).setLevel(max(least, root.level))


def hide(secret: str) -> None:
    """From now on `secret` does not reach the log either."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Formatter):
            handler.formatter.hide([secret])


class _Formatter(logging.Formatter):
    """What both formats have in common."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets: tuple[str, ...] = ()
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        known = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
        # The longest first: one form may be part of another.
        self._secrets = tuple(sorted({*known, *self._secrets}, key=len, reverse=True))

    def format(self, record: logging.LogRecord) -> str:
        values = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        # kopf hands over whole object references; its messages name the object already.
        values = {key: value for key, value in values.items() if not key.startswith("k8s_") and key != "settings"}
        values |= getattr(record, _FIELDS, {})
        # kopf's own inner parts add a traceback to every attempt that fails, though their messages tell the error.
        if record.exc_info and record.exc_info[0] is not None and not record.name.startswith("kopf._"):
            values["exception"] = self.formatException(record.exc_info)
        return self._redacted(self.line(record, values))

    def line(self, record: logging.LogRecord, values: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def _redacted(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, "***")
        line = _IN_ADDRESS.sub(r"\1:***@", line)
        line = _BEARER.sub(r"\1\2***", line)
        line = _JSON_WEB_TOKEN.sub("***", line)
        return _NAMED.sub(r"\1\2***", line)


class TextFormatter(_Formatter):
    """`2026-11-20T10:00:00.123Z INFO  leader: leading lease=presence-operator`."""

    def line(self, record: logging.LogRecord, values: Mapping[str, Any]) -> str:
        """One line for people."""
        source = record.name.removeprefix("presence_operator.").removeprefix("shell.")
        pairs = "".join(f" {_escaped(str(key))}={_as_text(value)}" for key, value in values.items())
        return f"{_time(record)} {record.levelname:<7} {_escaped(source)}: {_escaped(record.getMessage())}{pairs}"


class JsonFormatter(_Formatter):
    """One JSON object: time, level, logger, message and the fields (a field of such a name gets a trailing `_`)."""

    def line(self, record: logging.LogRecord, values: Mapping[str, Any]) -> str:
        """One line for a log store."""
        body: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in values.items():
            body[f"{key}_" if key in body else str(key)] = value
        return _json(body)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else _json(text)


def _json(value: Any) -> str:
    return _unprintable_escaped(json.dumps(value, ensure_ascii=False, default=str, allow_nan=True))


def _escaped(text: str) -> str:
    return text if text.isprintable() else _json(text)[1:-1]


def _unprintable_escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if code > 0xFFFF:  # as JSON wants it: two halves
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def _forms(secret: str) -> set[str]:
    """The ways in which a secret may stand in a line: as it is, quoted, percent-encoded, and these as JSON."""
    written = {secret, repr(secret)[1:-1], quote(secret, safe=""), quote(secret)}
    return written | {_json(form)[1:-1] for form in written}
