"""Contenders, killed and paused holders, doubled operators, cut networks, wrong clocks: and never two at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.checker import judge, report
from faults.experiment import ROOT, Experiment, Setting, arena, one_and_ten
from faults.nemesis import REPERTOIRE, plan

SEED = 1


@pytest.mark.timeout(240)
def test_every_promise_is_kept_through_faults_of_all_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting(SEED, 30, one_and_ten(15), gap=(0.7, 2.5), drain=90)
    with (
        arena(None, ROOT / ".cache" / "cluster" / "faults-test") as cluster,
        Experiment(setting, cluster, tmp_path / "experiment") as experiment,
    ):
        history = experiment.run()
    print(report(history))
    assert judge(history) == []
    assert len(history.stopped) >= 30, "too few commands ran to show anything"
    assert len(history.faults) >= 10, "too few faults happened to show anything"


def test_a_seed_is_a_schedule_that_undoes_what_it_does() -> None:
    for seed in range(50):
        steps = plan(seed, 60)
        assert steps == plan(seed, 60)
        assert {each[0] for each in REPERTOIRE} <= {step.what for step in steps}
        for what, undo, *_ in REPERTOIRE:
            if undo:
                turns = [step.what for step in steps if step.what in (what, undo)]
                assert turns == [what, undo] * (len(turns) // 2)


@pytest.mark.parametrize("patch", sorted((Path(__file__).parent / "breakages").glob("*.patch")), ids=lambda p: p.stem)
def test_the_breakages_that_prove_the_judge_still_fit_the_product(patch: Path, tmp_path: Path) -> None:
    from faults.experiment import broken_copy

    assert broken_copy(patch, tmp_path / "broken").is_dir()
