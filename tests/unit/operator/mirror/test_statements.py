from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_operator.mirror.statements import StatementError, split_statements


def test_statements_end_at_semicolons() -> None:
    assert split_statements("CREATE TABLE a (b INT);\nDROP TABLE c;\n") == ("CREATE TABLE a (b INT)", "DROP TABLE c")


def test_the_last_statement_needs_no_semicolon_and_empty_ones_do_not_count() -> None:
    assert split_statements(";;SELECT 1;;  ;SELECT 2") == ("SELECT 1", "SELECT 2")


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t VALUES ('a;b')",
        "INSERT INTO t VALUES ('it''s; fine')",
        "INSERT INTO t VALUES ('a\\';b')",
        'INSERT INTO t VALUES ("a;\\"b")',
        "SELECT `odd;name` FROM t",
        "SELECT '-- no; comment', '# nor; this', '/* nor; this */'",
        "SELECT 5--3",
    ],
)
def test_quoted_semicolons_and_comment_signs_belong_to_the_statement(text: str) -> None:
    assert split_statements(f"{text}; SELECT 1") == (text, "SELECT 1")


def test_semicolons_and_quotes_in_comments_end_nothing() -> None:
    text = "-- it's; one\nSELECT 1 # don't; stop\n + 2 /* nor; 'here */ + 3; --\nSELECT 4"
    assert [statement.split() for statement in split_statements(text)] == [
        ["SELECT", "1", "+", "2", "+", "3"],
        ["SELECT", "4"],
    ]


def test_comments_that_servers_execute_are_kept() -> None:
    text = "CREATE TABLE t (a INT) /*!80017 COLLATE x */ /*M!100200 COLLATE y */"
    assert split_statements(text + ";") == (text,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT 1;\nSELECT 'oops;\n", "line 2: ' is never closed"),
        ("SELECT 1 /* oops", "line 1: /* is never closed"),
        ("DELIMITER //\nCREATE PROCEDURE p() BEGIN END //", "DELIMITER is a command of the mysql client"),
    ],
)
def test_a_text_that_is_no_sequence_of_statements_is_refused(text: str, says: str) -> None:
    with pytest.raises(StatementError, match=says.replace("*", "\\*")):
        split_statements(text)


@given(st.lists(st.sampled_from(["SELECT 1", "SELECT ';'", 'INSERT INTO t VALUES ("a;\'b")', "SELECT `;`"])))
def test_joining_and_splitting_gives_the_same_statements(statements: list[str]) -> None:
    assert split_statements("; -- and;\n".join(statements)) == tuple(statements)
