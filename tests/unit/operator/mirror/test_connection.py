from __future__ import annotations

import pymysql
import pytest

from presence_operator.mirror.connection import error_text, is_retryable, reason_of

_ERR = pymysql.err


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            _ERR.OperationalError(2003, "Can't connect to MySQL server on 'h' ([Errno 111] Connection refused)"),
            "connect",
        ),
        (_ERR.OperationalError(2013, "Lost connection to MySQL server during query"), "connect"),
        (_ERR.InterfaceError(0, ""), "connect"),
        (ConnectionResetError(104, "reset"), "connect"),
        (_ERR.OperationalError(2003, "Can't connect to MySQL server on 'h' (timed out)"), "timeout"),
        (_ERR.OperationalError(2013, "Lost connection to MySQL server during query (timed out)"), "timeout"),
        (_ERR.OperationalError(1045, "Access denied for user 'u'"), "auth"),
        (_ERR.OperationalError(1142, "INSERT command denied to user 'u'"), "auth"),
        (RuntimeError("'cryptography' package is required for caching_sha2_password"), "auth"),
        (_ERR.OperationalError(1290, "running with the --read-only option"), "read_only"),
        (_ERR.OperationalError(1105, "database server is set to read only mode"), "read_only"),
        (_ERR.ProgrammingError(1146, "table not found: presence_claims"), "schema"),
        (_ERR.OperationalError(1054, "Unknown column 'x'"), "schema"),
        (_ERR.DataError(1406, "Data too long"), "rejected"),
        (_ERR.OperationalError(1105, "no space left on device"), "other"),
        (KeyError("a mistake of ours"), "other"),
    ],
)
def test_each_failure_counts_under_its_cause(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_only_transactions_that_met_are_tried_again_at_once() -> None:
    assert is_retryable(_ERR.OperationalError(1213, "serialization failure: this transaction conflicts"))
    assert is_retryable(_ERR.OperationalError(1205, "Lock wait timeout exceeded"))
    assert not is_retryable(_ERR.OperationalError(1045, "Access denied"))


def test_an_error_is_told_in_one_bounded_line() -> None:
    assert error_text(_ERR.OperationalError(1064, "You have\nan error")) == "You have an error (error 1064)"
    assert len(error_text(ValueError("x" * 9999))) == 500
