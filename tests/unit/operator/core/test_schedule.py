"""Deadlines against a plain model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from presence_operator.core.schedule import NEVER, Schedule


class Item:
    def __init__(self) -> None:
        self.wake = NEVER


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0, NEVER]), st.booleans())))
def test_each_item_is_due_once_at_its_latest_wish(steps: list[tuple[int, float, bool]]) -> None:
    items = [Item() for _ in range(6)]
    schedule: Schedule[Item] = Schedule()
    wanted: dict[int, float] = {}
    for index, when, take in steps:
        schedule.at(items[index], when)
        wanted[index] = when
        wanted = {key: value for key, value in wanted.items() if value != NEVER}
        assert schedule.next() == min(wanted.values(), default=NEVER)
        assert len(schedule) == len(wanted)
        if take:
            due = {items.index(item) for item in schedule.due(2.0)}
            assert due == {key for key, value in wanted.items() if value <= 2.0}
            wanted = {key: value for key, value in wanted.items() if value > 2.0}


def test_replacing_wishes_does_not_pile_up() -> None:
    item = Item()
    schedule: Schedule[Item] = Schedule()
    for when in range(50_000):
        schedule.at(item, float(when))
    assert schedule.due(NEVER - 1) == [item]
    assert schedule.due(NEVER - 1) == []
