"""The server's time from whole seconds in `Date` headers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
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
    for second in range(10):
        clock.observe(1000 + second, float(second), second + 0.01)
    for local in (10.0, 11.0, 12.0):
        assert clock.now(local) < 1000 + local
        clock.observe(4990 + local, local, local + 0.01)
    assert 5001.9 <= clock.now(12.01) <= 5003.1


def running(offset: float = 1000.0) -> ServerClock:
    clock = ServerClock()
    for local in range(10):
        clock.observe(offset + local, local + 0.0, local + 0.01)
    return clock


def test_odd_answers_are_not_believed_while_others_contradict_them() -> None:
    clock = running()
    for local in range(10, 40, 3):
        for wait in (0.0, 1.0):
            clock.observe(4600 + local + wait, local + wait, local + wait + 0.01)
        clock.observe(1002 + local, local + 2.0, local + 2.01)
        assert not clock.doubtful
    assert 1039 < clock.now(40.0) < 1041
    assert clock.shift(1005.0) == 1005.0


def test_answers_of_one_moment_confirm_nothing() -> None:
    clock = running()
    for _ in range(20):
        clock.observe(4610, 10.0, 10.01)
    assert clock.doubtful
    assert clock.now(10.01) < 1011


def test_what_was_stamped_before_the_clock_was_set_forward_moves_along() -> None:
    clock = running()
    for local in (10.0, 11.0, 12.0):
        clock.observe(4600 + local, local, local + 0.01)
    assert 3600 <= clock.shift(1005.0) - 1005.0 <= 3603
    assert clock.shift(1005.0) % 1 == 0
    assert clock.shift(4611.0) == 4611.0


def test_setting_back_what_was_set_forward_takes_the_move_back() -> None:
    clock = running()
    for local in (10.0, 11.0, 12.0):
        clock.observe(4600 + local, local, local + 0.01)
    for local in (13.0, 14.0, 15.0):
        clock.observe(1000 + local, local, local + 0.01)
    assert 0 <= clock.shift(1005.0) - 1005.0 <= 5


@given(
    steps=st.lists(
        st.tuples(st.one_of(st.floats(-5000, -4), st.floats(4, 5000)), st.floats(3.0, 90.0)), min_size=1, max_size=6
    ),
)
@settings(deadline=None)
def test_however_the_clock_is_set_nothing_looks_older_than_it_is(steps: list[tuple[float, float]]) -> None:
    clock, local, offset = ServerClock(), 1000.0, 1e6
    stamps: list[tuple[float, float]] = []

    def asked(until: float) -> None:
        nonlocal local
        while local < until:
            local += 0.9
            date = math.floor(local + offset)
            clock.observe(date, local - 0.01, local + 0.01)
            stamps.append((local, date))
            for since, stamp in stamps:
                age = clock.now(local + 0.01) - clock.shift(stamp)
                assert age <= local - since + 1.05

    asked(local + 5)
    for step, pause in steps:
        offset += step
        asked(local + pause)


def test_before_the_first_answer_there_is_no_time() -> None:
    with pytest.raises(LookupError):
        ServerClock().now(0.0)
