from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence.output import (
    Column,
    Paint,
    age,
    bounded,
    clean,
    fit,
    fold,
    named,
    pad,
    quoted,
    room,
    table,
    wants_colour,
    width,
)

PLAIN = Paint(False)
anything = st.text(st.characters(), max_size=60)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ('it\'s "quoted"', 'it\'s "quoted"'),
        ("two\nlines\r\n and\ttabs", "two lines and tabs"),
        ("far \x1b\rapart", "far apart"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x9b31mred", "red"),
        ("bell\x07null\x00", "bellnull"),
        ("pay\u202eload", "payload"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("tag\U000e0041", "tag"),
        ("lone\ud800", "lone"),
        ("blank\u2800\u034f\u180c", "blank"),
        ("pile" + "\u0301" * 50, "pile" + "\u0301" * 3),
        ("漢字 naïve 🚧", "漢字 naïve 🚧"),
    ],
)
def test_text_of_others_is_shown_without_what_could_drive_a_terminal(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(anything)
def test_clean_text_is_one_line_of_visible_characters(text: str) -> None:
    shown = clean(text, 40)
    assert len(shown) <= 40
    assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\u2029\x1b\n")
    assert clean(shown, 40) == shown


@given(anything)
def test_quoted_text_cannot_end_its_own_quotes(text: str) -> None:
    inner = quoted(text, 40)
    assert inner[0] == inner[-1] == '"'
    assert '"' not in inner[1:-1].replace("\\\\", "").replace('\\"', "")


@given(anything)
def test_folding_is_stable_and_on_one_line(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert "\n" not in fold(text)
    assert fold(text) == fold(text).strip()


def test_long_text_is_bounded() -> None:
    assert clean("x" * 500) == "x" * 199 + "…"


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("🚧", 2), ("", 0), ("\uff46\uff55", 4)]
)
def test_columns_of_a_text(text: str, columns: int) -> None:
    assert width(text) == columns


@given(st.text(max_size=30), st.integers(0, 40))
def test_fitted_and_padded_text_has_its_width(text: str, columns: int) -> None:
    text = clean(text)
    assert width(fit(text, columns)) <= columns
    assert width(pad(fit(text, columns), columns)) == columns
    if width(text) <= columns:
        assert fit(text, columns) == text


COLUMNS = [
    Column("RESOURCE", least=18),
    Column("SESSION", least=14),
    Column("HOLDER", least=10, droppable=1),
    Column("PURPOSE", least=16),
    Column("SINCE"),
]
cells = st.text(st.sampled_from("abc漢🚧é :/@"), max_size=50)


@given(st.lists(st.tuples(cells, cells, cells, cells, st.just("12m")), min_size=1, max_size=6), st.integers(62, 200))
def test_a_table_never_is_wider_than_asked(rows: list[tuple[str, ...]], limit: int) -> None:
    lines = table(COLUMNS, rows, limit, PLAIN)
    assert len(lines) == len(rows) + 1
    assert max(width(line) for line in lines) <= limit
    assert all(line.rstrip().endswith("12m") for line in lines[1:])


def test_with_room_nothing_is_cut() -> None:
    row = ("stack:" + "v" * 40, "s" * 40, "user@host", "p" * 90, "12m")
    assert "…" not in "\n".join(table(COLUMNS, [row], None, PLAIN))


def test_at_80_columns_the_widest_gives_way_first() -> None:
    row = (
        "stack:vault",
        "7f3c9a52-0f5e-4b0e-9d5e-3f1f3f1c2d4e",
        "alice@laptop",
        "rotate the unseal keys, 10 minutes",
        "12m",
    )
    line = table(COLUMNS, [row], 80, PLAIN)[1]
    assert "stack:vault " in line
    assert "alice@laptop" in line
    assert width(line) <= 80


def test_when_space_is_short_the_holder_goes() -> None:
    row = ("stack:" + "v" * 40, "s" * 40, "h" * 40, "p" * 40, "12m")
    assert "HOLDER" not in table(COLUMNS, [row], 62, PLAIN)[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (119, "119s"),
        (120, "2m"),
        (3599, "59m"),
        (3600, "1h"),
        (12_000, "3h20m"),
        (90_000, "1d1h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert age(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_need_a_terminal_that_wants_them() -> None:
    assert wants_colour(Terminal(), {"TERM": "xterm"})
    assert not wants_colour(io.StringIO(), {"TERM": "xterm"})
    assert not wants_colour(Terminal(), {"TERM": "dumb"})
    assert not wants_colour(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"})


def test_columns_wins_and_pipes_have_no_width() -> None:
    assert room(io.StringIO(), {}) is None
    assert room(io.StringIO(), {"COLUMNS": "72"}) == 72
    assert room(io.StringIO(), {"COLUMNS": "0"}) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice@laptop@a1b2c3d4", "alice@laptop@a1b2c3d4"),
        ("naïve", "naïve"),
        ("", ""),
        ("Alice Smith", '"Alice Smith"'),
        ("bob (me)", '"bob (me)"'),
        ("(me)bob", '"(me)bob"'),
        ('bob"', '"bob\\""'),
        ("bob\u00a0(me)", '"bob\u00a0(me)"'),
        ("bob\n\x1b[31mDEFER", '"bob DEFER"'),
    ],
)
def test_a_name_that_is_no_single_word_is_quoted(text: str, shown: str) -> None:
    assert named(text) == shown


def test_lines_beyond_the_limit_are_counted() -> None:
    assert bounded(["a", "b"], 2, "see x") == ["a", "b"]
    assert bounded(["a", "b", "c"], 2, "see x") == ["a", "b", "presence: and 1 more; see x"]
