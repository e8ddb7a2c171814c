"""`make faults SEED=… MINUTES=…`: the long proof. Exit codes: 0 every promise was kept, 1 not, 2 usage."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import time
from pathlib import Path

from faults.checker import judge, report
from faults.experiment import ROOT, Experiment, Setting, arena, one_and_ten


def main() -> int:
    """Run one experiment and print its schedule, its course and the verdict."""
    options = _parser().parse_args()
    # What was started is ended in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    setting = Setting(
        seed, options.minutes * 60, one_and_ten(options.contenders), ttl=options.ttl, breakage=options.breakage,
        gap=(options.gap, 4 * options.gap), drain=options.drain,
        doubled=options.doubled,
    )  # fmt: skip
    print(f"seed {seed}; the schedule:", *setting.steps, sep="\n  ")
    directory = ROOT / ".cache" / "faults" / str(seed)
    with arena(options.cluster, ROOT / ".cache" / "cluster" / f"faults-{seed}") as cluster:
        begin = time.monotonic()
        with Experiment(setting, cluster, directory, lambda line: print(line, flush=True)) as experiment:
            history = experiment.run()
        print(f"{time.monotonic() - begin:.0f} s; the history is in {directory}/history.jsonl")
    print(report(history))
    return 1 if judge(history) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faults", description="Show that Exclusive claims exclude.")
    parser.add_argument("--seed", type=int, help="of everything that is up to chance (default: a new one)")
    parser.add_argument("--minutes", type=float, default=12.0, help="how long faults happen (default 12)")
    parser.add_argument("--contenders", type=int, default=100, help="on one resource, and as many on ten (default 100)")
    parser.add_argument("--gap", type=float, default=1.5, help="least seconds between two faults (default 1.5)")
    parser.add_argument("--ttl", default="9s", help="of the contenders' claims (default 9s)")
    parser.add_argument("--drain", type=float, default=300, help="seconds for those left at the end (default 300)")
    parser.add_argument("--doubled", action="store_true", help="a second operator acts all the time without asking")
    parser.add_argument("--breakage", type=Path, metavar="PATCH", help="break a copy of the product with this patch")
    parser.add_argument("--cluster", type=Path, metavar="DIR", help="a running devcluster whose parts may be killed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
