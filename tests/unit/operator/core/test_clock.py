"""The server's time from whole seconds in `Date` headers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_operator.core.clock import ServerClock


@given(
    offset=st.floats(-1e6, 1e6),
    trips=st.lists(
        st.tuples(st.floats(0.0, 30.0), st.floats(0.0005, 0.3), st.floats(0.0, 1.0)), min_size=1, max_size=60
    ),
)
def test_the_time_is_never_ahead_of_the_servers(offset: float, trips: list[tuple[float, float, float]]) -> None:
    clock, local = ServerClock(), 5e6
    for pause, trip, part in trips:
        local += pause
        date = math.floor(local + trip * part + offset)
        clock.observe(date, local, local + trip)
        local += trip
        assert clock.now(local) <= local + offset + 1e-3
        assert clock.now(local) + clock.width(local) >= local + offset - 1e-3


def test_requests_at_the_turn_of_the_second_narrow_the_bounds() -> None:
    clock, local, offset = ServerClock(), 1000.25, 0.77
    for _ in range(8):
        clock.observe(math.floor(local + offset), local, local + 0.001)
        local = clock.next_probe(local)
    assert clock.width(local) < 0.02
    assert clock.now(local) == pytest.approx(local + offset, abs=0.03)


def test_a_clock_that_was_set_is_believed_anew() -> None:
    clock = ServerClock()
    for local in range(10):
        clock.observe(1000 + local, float(local), local + 0.01)
    clock.observe(5000, 10.0, 10.01)
    assert 4999.9 <= clock.now(10.01) <= 5001.1


def test_before_the_first_answer_there_is_no_time() -> None:
    with pytest.raises(LookupError):
        ServerClock().now(0.0)
