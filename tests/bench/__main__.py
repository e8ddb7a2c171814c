"""`make bench ARGS='…'`: measure on real parts beside peers, and show whether the aims are met.

Exit codes: 0 measured (whether or not the aims are met), 1 a measurement failed, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from bench import cli, cold_start, expiry, locks, mirror, steady
from bench.arena import Arena, arena
from bench.observe import Noise
from bench.report import RESULTS, Section, machine, now, write_docs

if TYPE_CHECKING:
    from collections.abc import Callable

#: Cores that other programs may use before the figures are worth little.
QUIET = 0.1
BENCHES = {"cold-start": cold_start, "expiry": expiry, "steady": steady, "mirror": mirror, "cli": cli, "locks": locks}


def main() -> int:
    """Run what is asked for; the exit code."""
    options = _parser().parse_args()
    # Whoever ends the bench shall not leave a cluster behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by a signal"))
    if options.write_docs and options.quick:
        print("bench: --quick makes no figures worth writing down: leave out --write-docs or --quick", file=sys.stderr)
        return 2
    if options.command == "docs":
        return _docs()
    # It makes every start compile all modules anew, which no installed program does.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    names = list(BENCHES) if options.command == "all" else [options.command]
    load = os.getloadavg()[0]
    if load >= 1.0 and not options.quick:
        print(f"bench: the load average is {load:.2f}: others use this machine, and figures will suffer", flush=True)
    failed = []
    with arena(options.cluster) as where:
        for name in names:
            try:
                _one(name, where, options)
            except Exception:  # noqa: BLE001 - the other measurements are still worth having
                traceback.print_exc()
                failed.append(name)
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    elif options.write_docs:
        return _docs()
    return 1 if failed else 0


def _one(name: str, where: Arena, options: argparse.Namespace) -> None:
    bench = BENCHES[name]
    given = " ".join(map(shlex.quote, sys.argv[1:]))
    section = Section(
        bench=name,
        title=bench.TITLE,
        method=" ".join(bench.METHOD.split()),
        command=f"make bench ARGS={shlex.quote(given)}" if given else "make bench",
        date=now(),
        quick=options.quick,
        machine=machine(),
    )
    print(f"\n{name}", flush=True)
    begin, noise = time.monotonic(), Noise(where.cluster)
    _measures(options)[name](where, section)
    section.machine["cores_used_by_others"] = others = round(noise.cores(), 2)
    if others > QUIET:
        print(f"  other programs kept {others} cores busy meanwhile: run it again on a quiet machine", flush=True)
    path = section.save()
    print(f"  {time.monotonic() - begin:.0f} s; all figures in {path}", flush=True)


def _measures(options: argparse.Namespace) -> dict[str, Callable[[Arena, Section], None]]:
    quick = options.quick
    sizes = options.sizes or ([200] if quick else [1_000, 5_000, 20_000])
    naive_limit = max(sizes) if options.full else 5_000
    repeat = options.repeat or (1 if quick else 3)
    return {
        "cold-start": lambda where, section: cold_start.run(where, section, sizes, naive_limit, repeat),
        "expiry": lambda where, section: expiry.run(where, section, *((200, 6) if quick else (10_000, 60))),
        "steady": lambda where, section: steady.run(where, section, *((50, 10.0) if quick else (1_000, 90.0))),
        "mirror": lambda where, section: mirror.run(
            where, section, *((50.0, 6.0, 300) if quick else (100.0, 30.0, 10_000))
        ),
        "cli": lambda where, section: cli.run(where, section, *((5, [50]) if quick else (40, [500]))),
        "locks": lambda where, section: locks.run(
            where, section, *(([5], 4, 100) if quick else ([30, 100], 200, 10_000))
        ),
    }


def _docs() -> int:
    paths = [RESULTS / f"{name}.json" for name in BENCHES]
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        print(f"bench: no results yet of {', '.join(missing)}; the tables go without them", file=sys.stderr)
    write_docs([Section.load(path) for path in paths if path.exists()])
    print("bench: wrote docs/performance.md")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the product beside its peers.")
    parser.add_argument(
        "command",
        nargs="?",
        default="all",
        choices=["all", *BENCHES, "docs"],
        help="what to measure (default: all); docs writes the figures of the last runs into docs/performance.md",
    )
    parser.add_argument("--quick", action="store_true", help="small numbers: shows that the bench works, nothing else")
    parser.add_argument("--full", action="store_true", help="the naive operator at every size (minutes)")
    parser.add_argument("--write-docs", action="store_true", help="write the figures into docs/performance.md")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="cold-start: numbers of claims")
    parser.add_argument(
        "--repeat", type=int, metavar="N", help="cold-start: runs of each size below 20,000 (default 3)"
    )
    parser.add_argument("--cluster", type=Path, metavar="DIR", help="a running devcluster instead of a fresh one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
