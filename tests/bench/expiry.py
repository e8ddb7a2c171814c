"""Thousands of claims run out within a minute: how late does a watcher see it?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.arena import load_claims, load_sessions
from bench.observe import Usage, Watch, server_offset
from bench.report import Figure, Section, percentile
from presence.model import kinds
from presence.model.deadlines import claim_deadline
from presence.model.times import parse_time

if TYPE_CHECKING:
    from bench.arena import Arena

TITLE = "Expiry"
AIM = 1.0
_PER_SESSION = 10
METHOD = """
Claims of living sessions (ten claims each) run out, spread evenly over the window; deadlines fall on whole seconds,
so each second a whole group ends at the same instant. *Lag* is the moment at which a watcher outside of the operator
has read the event with phase Expired, minus the deadline (creation + ttl, both by the server's clock; checked against
`status.endedAt`). The watcher's clock is corrected to the server's by the `Date` headers of several hundred quick
answers before and after: each bounds the offset by [D - received, D + 1 s - asked], and all of them together leave a
few milliseconds. The lag includes the operator's read of the session (a heartbeat may have come), its write, and the
watch.
"""


def run(arena: Arena, section: Section, count: int, window: int) -> None:
    """Let `count` claims expire spread over `window` seconds."""
    with arena.board() as board, Watch(arena.cluster, board) as watch:
        operator = arena.operator(board)
        try:
            operator.start()
            sessions = -(-count // _PER_SESSION)
            load_sessions(board, sessions, "2h", heartbeatSeconds=3600)
            before = server_offset(arena.cluster)
            # All shall be granted before the first runs out: a trial tells how long that takes here and now.
            begin, trial = time.monotonic(), max(20, count // 20)
            load_claims(board, trial, "2h", _PER_SESSION, "trial")
            watch.until(kinds.ACTIVE, trial, 120)
            pace = (time.monotonic() - begin) / trial
            first = time.time() + before.middle + 10 + 1.5 * pace * count

            def ttl(i: int) -> str:
                return f"{round(first + window * i / count - time.time() - before.middle)}s"

            loaded = load_claims(board, count, ttl, _PER_SESSION)
            watch.until(kinds.ACTIVE, trial + count, 60 + 3 * pace * count)
            granted = time.time() + before.middle
            deadlines = {each["metadata"]["name"]: claim_deadline(each) for each in board.claims()}
            deadlines = {name: at for name, at in deadlines.items() if name.startswith("c-")}
            if granted > first:
                raise RuntimeError(
                    f"claims were granted {granted - first:.0f} s after the first deadline: too slow a load"
                )
            assert operator.process is not None
            time.sleep(max(0.0, first - 1 - time.time() - before.middle))
            idle = Usage.of(operator.process.pid)
            seen = watch.until(kinds.EXPIRED, count, window + 120)
            used = Usage.of(operator.process.pid)
            after = server_offset(arena.cluster)
        finally:
            operator.__exit__(None, None, None)
        wrong = [name for name, at in watch.ended_at.items() if parse_time(at) != deadlines[name]]
        if wrong:
            raise RuntimeError(f"{len(wrong)} claims have another endedAt than their deadline, such as {wrong[0]}")
    offset = (before.middle + after.middle) / 2
    lags = [at + offset - deadlines[name] for name, at in seen.items()]
    early = sum(lag < -max(before.error, after.error) for lag in lags)
    section.raw.update(
        claims=count,
        window_seconds=window,
        load_seconds=loaded,
        offset_seconds=[before.low, before.high, after.low, after.high],
        seen_before_deadline=early,
        operator_cpu_seconds=used.cpu - idle.cpu,
        lags=sorted(round(lag, 4) for lag in lags),
    )
    label = f"{count:,} claims within {window} s: lag"
    section.add(Figure(f"{label} p50", percentile(lags, 0.5), "s"))
    p99 = percentile(lags, 0.99)
    section.add(Figure(f"{label} p99", p99, "s", aim=f"≤ {AIM:g} s", met=p99 <= AIM))
    section.add(Figure(f"{label} max", max(lags), "s"))
    section.add(Figure("claims seen Expired before their deadline", early, "", aim="0", met=early == 0))
    section.add(Figure("the operator's CPU meanwhile", used.cpu - idle.cpu, "s"))
    section.add(Figure("uncertainty of the clocks", max(before.error, after.error), "s"))
