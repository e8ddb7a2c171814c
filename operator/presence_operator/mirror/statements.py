"""Splitting an SQL file into its statements, as the server would read it."""

from __future__ import annotations

import re

# What may hold a semicolon that ends nothing: quoted texts and names, and comments. In texts (not in names) a backslash
# escapes; a doubled quote needs no case of its own, because it reads as two quoted parts side by side. `--` begins a
# comment only before white space, so that 5--3 stays arithmetic.
_TOKEN = re.compile(
    r"""
      (?P<text>   '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | `[^`]*` )
    | (?P<comment> --(?=\s|\Z)[^\n]* | \#[^\n]* | /\*(?!M?!).*?\*/ )
    | (?P<hint>   /\*M?!.*?\*/ )
    | (?P<open>   ['"`] | /\* )
    | (?P<end>    ; )
    """,
    re.VERBOSE | re.DOTALL,
)
_DELIMITER = re.compile(r"\s*DELIMITER\b", re.IGNORECASE)


class StatementError(ValueError):
    """The text is no sequence of SQL statements; the message names the line."""


def split_statements(text: str) -> tuple[str, ...]:
    """The statements of `text` without comments and without their semicolons; empty ones are left out.

    Comments that servers execute (`/*! ... */`, `/*M! ... */`) are kept.

    Raises:
        StatementError: a quote or comment is never closed, or the text uses the DELIMITER command of the mysql client.
    """
    found: list[str] = []
    current: list[str] = []

    def finish() -> None:
        statement = "".join(current).strip()
        current.clear()
        if not statement:
            return
        if _DELIMITER.match(statement):
            raise StatementError("DELIMITER is a command of the mysql client, not SQL: write one plain statement each")
        found.append(statement)

    position = 0
    for match in _TOKEN.finditer(text):
        current.append(text[position : match.start()])
        position = match.end()
        if match["open"]:
            line = text.count("\n", 0, match.start()) + 1
            raise StatementError(f"line {line}: {match['open']} is never closed")
        if match["end"]:
            finish()
        elif match["comment"]:
            current.append(" ")
        else:
            current.append(match[0])
    current.append(text[position:])
    finish()
    return tuple(found)
