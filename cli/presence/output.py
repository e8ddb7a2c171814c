"""Text for people, and for the agents that read over their shoulder.

What others wrote is data: control characters, escape sequences and characters that reorder text are removed, it is
bounded and quoted, so that it can neither drive a terminal nor pass for a word of this program.
"""

from __future__ import annotations

import os
import re
import sys

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TextIO

#: Characters of another's text that are shown at most.
TEXT_MAX = 200

# Compiled on first use, by `re`'s own cache: nearly all text is plain.
_ESCAPES = (
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)"  # titles, links, device strings
    r"|\x1b[ -/]*[0-~]"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
#: Control characters, lone surrogates, and characters that hide or reorder others.
_HIDDEN = (
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
#: Marks that are drawn over the letter before them; a pile of them covers the lines above and below.
_MARKS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_PILE = f"({_MARKS}{{3}}){_MARKS}+"
_BLANK = r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029 ]+"

ELLIPSIS = "…"

#: Lines about claims that one call shows at most, and about others on a resource that one wants to claim.
LINES_MAX, OTHERS_MAX = 500, 20


def clean(text: object, limit: int = TEXT_MAX) -> str:
    """`text` of others on one line: without anything that is not plainly visible, and at most `limit` characters."""
    plain = str(text)
    if not (plain.isascii() and plain.isprintable()):
        plain = fold(plain)
    plain = plain.strip()
    return plain if len(plain) <= limit else plain[: limit - 1].rstrip() + ELLIPSIS


def quoted(text: object, limit: int = TEXT_MAX) -> str:
    """`clean` text between double quotes; quotes and backslashes inside are escaped."""
    inner = clean(text, limit).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner}"'


def named(text: object, limit: int = TEXT_MAX) -> str:
    """`clean` text in the place of one word, such as a session id: as it is, or `quoted` unless it is one word.

    Otherwise a session that calls itself `bob (me)` would pass for one's own.
    """
    word = clean(text, limit)
    return quoted(word, limit) if re.search(r'[\s"()\\]', word) else word


def fold(text: str) -> str:
    """One's own text as the board takes it: on one line, white space folded, without invisible characters."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    without_escapes = re.sub(_ESCAPES, "", text, flags=re.DOTALL)
    # Blanks meet when what stood between them is removed.
    plain = re.sub(" +", " ", re.sub(_HIDDEN, "", re.sub(_BLANK, " ", without_escapes))).strip()
    return re.sub(_PILE, r"\1", plain)


def width(text: str) -> int:
    """Columns that `text` takes on a terminal: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    import unicodedata  # only for text that is not ASCII

    total = 0
    for letter in text:
        if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
            continue
        total += 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1
    return total


def fit(text: str, columns: int) -> str:
    """`text` cut to `columns` columns, with an ellipsis where something is missing."""
    if width(text) <= columns:
        return text
    if columns <= 0:
        return ""
    kept, used = "", 0
    for letter in text:
        size = width(letter)
        if used + size > columns - 1:
            break
        kept += letter
        used += size
    return kept + ELLIPSIS


def pad(text: str, columns: int) -> str:
    """`text` filled up with blanks to `columns` columns."""
    return text + " " * max(0, columns - width(text))


#: Columns that a cell shrinks to on a very narrow terminal.
_TIGHT = 5


class Column:
    """One column of a table: its heading, how far it may shrink, and whether it goes first when space is short."""

    __slots__ = ("droppable", "heading", "least", "style", "tight")

    def __init__(
        self, heading: str, *, least: int = 0, droppable: int = 0, style: str = "", tight: int = _TIGHT
    ) -> None:
        self.heading = heading
        #: 0 = never cut.
        self.least = least
        #: 0 = always shown; otherwise the column with the highest number goes first.
        self.droppable = droppable
        self.style = style
        #: What it shrinks to on a very narrow terminal.
        self.tight = tight


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], limit: int | None, paint: Paint) -> list[str]:
    """Lines of a table no wider than `limit` columns (None: as wide as it gets).

    Space is taken from the widest column first, down to what each needs at least; then whole columns are left out.
    """
    chosen = list(range(len(columns)))
    natural = [max([width(columns[at].heading), *(width(row[at]) for row in rows)]) for at in chosen]
    sizes = list(natural)
    if limit is not None:
        while True:
            sizes = _shrink([columns[at].least for at in chosen], [natural[at] for at in chosen], limit)
            if sum(sizes) + 2 * (len(chosen) - 1) <= limit:
                break
            droppable = [at for at in chosen if columns[at].droppable]
            if not droppable:
                # Better a table that is hard to read than one that breaks its lines.
                tight = [min(columns[at].least, columns[at].tight) for at in chosen]
                sizes = _shrink(tight, [natural[at] for at in chosen], limit)
                break
            chosen.remove(max(droppable, key=lambda at: columns[at].droppable))
    else:
        sizes = [natural[at] for at in chosen]
    lines = [_line([columns[at].heading for at in chosen], sizes, ["heading"] * len(chosen), paint)]
    styles = [columns[at].style for at in chosen]
    lines.extend(_line([row[at] for at in chosen], sizes, styles, paint) for row in rows)
    return lines


def _shrink(least: Sequence[int], natural: Sequence[int], limit: int) -> list[int]:
    sizes = list(natural)
    room = limit - 2 * (len(least) - 1)
    while sum(sizes) > room:
        flexible = [at for at, bound in enumerate(least) if bound and sizes[at] > bound]
        if not flexible:
            break
        widest = max(flexible, key=lambda at: sizes[at])
        second = max((sizes[at] for at in flexible if at != widest), default=0)
        spare = sum(sizes) - room
        step = min(spare, sizes[widest] - least[widest], max(1, sizes[widest] - second))
        sizes[widest] -= step
    return sizes


def _line(cells: Sequence[str], sizes: Sequence[int], styles: Sequence[str], paint: Paint) -> str:
    shown = [pad(fit(cell, size), size) for cell, size in zip(cells, sizes, strict=True)]
    shown[-1] = shown[-1].rstrip()
    return "  ".join(paint(cell, style) for cell, style in zip(shown, styles, strict=True)).rstrip()


_CODES = {"heading": "1", "mine": "32", "warn": "33", "bad": "31", "dim": "2", "strong": "1"}


class Paint:
    """Colours text where colours are wanted."""

    __slots__ = ("on",)

    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, text: str, style: str) -> str:
        """`text` in `style`: heading, mine, warn, bad, dim, strong, or the empty string for plain."""
        code = _CODES.get(style)
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and code and text else text


def wants_colour(stream: TextIO, env: Mapping[str, str]) -> bool:
    """True on a terminal that has colours, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not env.get("NO_COLOR") and env.get("TERM", "") not in ("", "dumb")


def room(stream: TextIO, env: Mapping[str, str]) -> int | None:
    """Columns that a table may take: COLUMNS, else the terminal's; None when the output goes elsewhere."""
    given = env.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def age(seconds: float) -> str:
    """A span as people read it, in at most two units: `45s`, `12m`, `3h20m`, `2d4h`."""
    rest = max(0, int(seconds))
    if rest < 120:
        return f"{rest}s"
    minutes = rest // 60
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours else f"{days}d"


def write(text: str, stream: TextIO | None = None) -> None:
    """Write lines to standard output, or to another stream."""
    target = stream or sys.stdout
    target.write(text if text.endswith("\n") else text + "\n")


def bounded(lines: list[str], limit: int, advice: str) -> list[str]:
    """The first `limit` lines, and one that tells how many are left out: a flooded board must not flood its reader."""
    rest = len(lines) - limit
    return lines if rest <= 0 else [*lines[:limit], f"presence: and {rest} more; {advice}"]


def note(text: str) -> None:
    """One line on standard error that changes nothing about the outcome."""
    write(f"presence: {clean(text, 1000)}", sys.stderr)


def write_json(value: Any) -> None:
    """Write one JSON value on one line, in ASCII: no text of others reaches a terminal raw."""
    import json

    sys.stdout.write(json.dumps(value) + "\n")
