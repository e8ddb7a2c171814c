"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence.model.durations import DurationError, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1d", 86_400), ("900", 900), (" 15m ", 900)],
)
def test_usual_forms_are_understood(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "15 m", "-5m", "1.5h", "m", "15M", "30m1h", "9" * 40, "٣s"])
def test_other_forms_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(DurationError, match="write for example 90s, 15m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", "0s", "0h0m"])
def test_no_time_at_all_is_refused(text: str) -> None:
    with pytest.raises(DurationError, match="no time at all"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**8))
def test_a_duration_survives_being_written_and_read(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
