"""Connections to the mirror's database, and what their errors mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import ER

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

    from presence_operator.mirror.dsn import Dsn

    Connection = pymysql.connections.Connection[Cursor]

CONNECT_TIMEOUT = 3.0
"""Seconds until a server counts as unreachable."""
QUERY_TIMEOUT = 10.0
"""Seconds that one answer of the server may take."""

#: What pymysql raises for a server that cannot be used: its own errors, broken sockets, and RuntimeError when a log-in
#: method needs a package that is not installed.
FAILURES = (pymysql.err.Error, OSError, RuntimeError)

_AUTH = {
    ER.DBACCESS_DENIED_ERROR,
    ER.ACCESS_DENIED_ERROR,
    ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR,
    ER.SPECIFIC_ACCESS_DENIED_ERROR,
    ER.PROCACCESS_DENIED_ERROR,
    1698,  # access denied, without a password
    3118,  # account locked
}
_READ_ONLY = {ER.OPTION_PREVENTS_STATEMENT, 1792, 1836}
_SCHEMA = {ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.BAD_DB_ERROR, ER.NO_DB_ERROR}
#: Two transactions met; the same one may well succeed now.
_RETRY = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, 1020}


def connect(dsn: Dsn, *, database: bool = True, timeout: float = QUERY_TIMEOUT) -> Connection:
    """An open connection in UTC and strict mode that commits nothing by itself.

    `timeout` is in seconds and bounds each answer. Without `database` no database is selected.

    Raises:
        FAILURES: the server cannot be reached or does not let us in.
    """
    return pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        database=dsn.database if database else None,
        charset="utf8mb4",
        autocommit=False,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=timeout,
        write_timeout=timeout,
        ssl=dsn.ssl_context(),
        # Servers differ in their defaults; a value too long must be an error everywhere and a time must mean the same.
        init_command="SET time_zone = '+00:00', sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'",
    )


def is_dolt(connection: Connection) -> bool:
    """True when the server is Dolt, which keeps a history of commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@version_comment")
        row = cursor.fetchone()
    return row is not None and "dolt" in str(row[0]).lower()


def error_code(error: BaseException) -> int:
    """The server's (or client library's) number of an error; 0 when it has none."""
    code = error.args[0] if error.args else 0
    return code if isinstance(code, int) else 0


def error_text(error: BaseException) -> str:
    """The error in one line for people, without any secret: neither the driver nor a server repeats passwords."""
    parts: tuple[Any, ...] = error.args
    if isinstance(error, pymysql.err.Error) and len(parts) > 1:
        text = f"{parts[1]} (error {parts[0]})"
    else:
        text = str(error) or type(error).__name__
    return re.sub(r"\s+", " ", text).strip()[:500]


def reason_of(error: BaseException) -> str:
    """The cause of a failure as the metrics name it: connect, auth, timeout, read_only, schema, rejected or other."""
    if not isinstance(error, FAILURES):
        return "other"
    code, text = error_code(error), str(error).lower()
    if code in _AUTH or isinstance(error, RuntimeError) or "denied" in text:
        return "auth"  # Dolt has no number of its own for most refusals
    if code in _READ_ONLY or "read only" in text or "read-only" in text or "readonly" in text:
        return "read_only"
    if code in _SCHEMA or "could not be found in any table" in text:
        return "schema"  # Dolt has no number for a missing column in most places
    if "timed out" in text:
        return "timeout"
    if "garbage collection" in text:
        return "connect"  # Dolt's dolt_gc() makes the connections of its time useless
    if isinstance(error, OSError) or code in (2002, 2003, 2005, 2006, 2013, 2055, 0):
        return "connect"
    if isinstance(error, (pymysql.err.DataError, pymysql.err.IntegrityError)) or "too large for column" in text:
        return "rejected"  # the words are Dolt's, for which it has no number either
    return "other"


def is_retryable(error: BaseException) -> bool:
    """True when another writer came in between and the same transaction may be tried again on this connection."""
    return error_code(error) in _RETRY or "serialization failure" in str(error).lower()
