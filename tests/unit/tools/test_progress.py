"""The time left is measured against what this machine did so far, and never nonsense."""

import io

from devcluster.progress import Progress, human, remaining_seconds


def test_at_first_the_reference_figures_count() -> None:
    assert remaining_seconds([], 60, 0, [150, 30]) == 240


def test_a_machine_half_as_fast_doubles_what_is_left() -> None:
    assert remaining_seconds([(60, 120)], 150, 100, [30]) == 200 + 60


def test_a_step_that_takes_longer_than_thought_does_not_count_below_zero() -> None:
    assert remaining_seconds([], 60, 500, [30]) == 30


def test_a_tiny_first_step_says_nothing_about_the_machine() -> None:
    assert remaining_seconds([(1, 30)], 60, 0, []) == 60


def test_one_step_from_a_warm_compiler_cache_does_not_promise_the_same_for_the_rest() -> None:
    assert remaining_seconds([(60, 1)], 100, 0, []) == 25


def test_a_step_that_takes_longer_than_thought_says_so() -> None:
    out = io.StringIO()
    progress = Progress([("etcd", 0), ("dolt", 150)], out=out, line_every=0)
    progress.start()
    progress.tick()
    assert out.getvalue().splitlines()[1] == (
        "[1/2] etcd: building, 0 s, longer than the expected 0 s; then about 2 min 30 s more"
    )


def test_durations_read_like_durations() -> None:
    assert [human(seconds) for seconds in (0, 59.4, 60, 200)] == ["0 s", "59 s", "1 min 0 s", "3 min 20 s"]


def test_each_step_is_named_and_numbered_with_the_time_left() -> None:
    out = io.StringIO()
    progress = Progress([("etcd", 60), ("dolt", 150)], out=out)
    progress.start()
    progress.finish()
    progress.start()
    progress.skip("built meanwhile by another process")
    lines = out.getvalue().splitlines()
    assert lines[0] == "[1/2] etcd: building, 0 s, about 3 min 30 s left in all"
    assert lines[1].startswith("[1/2] etcd: built in ")
    assert lines[2].startswith("[2/2] dolt: building, 0 s, about")
    assert lines[3] == "[2/2] dolt: built meanwhile by another process"
