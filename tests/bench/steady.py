"""A calm day: sessions beat, nothing else happens. What does the operator use?"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.arena import load_claims, load_sessions
from bench.observe import Usage, Watch
from bench.report import Figure, Section
from presence.model import kinds
from presence.model.names import session_name

if TYPE_CHECKING:
    from bench.arena import Arena
    from support.kube import Board

TITLE = "Steady state"
AIM = 5.0
METHOD = """
Sessions with one claim each beat every 30 s (an annotation patch, evenly spread). CPU is the operator's, as a share
of one core over the window; writes are counted outside, as the changes that a watcher sees on both kinds minus the
beats. With the default ttl of 15 minutes no promise (`status.expiresAt`) is due within the window; with a ttl of 3
minutes every promise is renewed each minute, so that run has five times the writes of the default over the long run.
Peer: the naive operator (no sessions, so its claims are beaten at the same rate).
"""
_BEAT_EVERY = 30.0
_NAIVE = Path(__file__).resolve().parent / "naive_operator.py"


def run(arena: Arena, section: Section, count: int, window: float) -> None:
    """Measure `count` beating sessions over `window` seconds: default ttl, short ttl, and the peer."""
    naive, _ = _naive(arena, count, window)
    for ttl, label in (("15m", "default ttl"), ("3m", "ttl 3m")):
        share, writes = _ours(arena, count, window, ttl)
        section.raw[ttl] = {"cpu_percent": share, "writes": writes, "window_seconds": window, "sessions": count}
        name = f"{count:,} sessions beating, {label}:"
        aim = f"≤ {AIM:g} % of a core"
        section.add(
            Figure(f"{name} CPU", share, "%", "naive", naive, share / naive if naive else None, aim, share <= AIM)
        )
        section.add(Figure(f"{name} operator's writes", writes / window, "/s"))
    section.raw["naive_cpu_percent"] = naive


def _ours(arena: Arena, count: int, window: float, ttl: str) -> tuple[float, float]:
    with (
        arena.board() as board,
        Watch(arena.cluster, board) as claims,
        Watch(arena.cluster, board, kinds.SESSION_PLURAL) as sessions,
    ):
        operator = arena.operator(board)
        try:
            operator.start()
            load_sessions(board, count, ttl)
            load_claims(board, count, ttl)
            claims.until(kinds.ACTIVE, count, 60 + count / 50)
            sessions.until(kinds.ACTIVE, count, 60 + count / 50)
            for each in (claims, sessions):
                each.quiet(2.5, 30)
            assert operator.process is not None
            names = [session_name(f"s{i}") for i in range(count)]
            # Beats before the window, too: its first seconds shall be like all others.
            _beat(board, kinds.SESSION_PLURAL, names, 5.0)
            seen, before = claims.modified + sessions.modified, Usage.of(operator.process.pid)
            begin = time.monotonic()
            beats = _beat(board, kinds.SESSION_PLURAL, names, window)
            took, after = time.monotonic() - begin, Usage.of(operator.process.pid)
            writes = claims.modified + sessions.modified - seen - beats
        finally:
            operator.__exit__(None, None, None)
    return 100 * (after.cpu - before.cpu) / took, float(max(0, writes))


def _naive(arena: Arena, count: int, window: float) -> tuple[float, float]:
    with arena.board() as board, Watch(arena.cluster, board) as watch:
        load_claims(board, count)
        command = [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace", board.namespace, str(_NAIVE)]
        with arena.program("naive", command) as process:
            watch.until(kinds.ACTIVE, count, 60 + count / 20)
            watch.quiet(2.5, 60)
            names = [f"c-{i}" for i in range(count)]
            _beat(board, kinds.CLAIM_PLURAL, names, 5.0)
            before, begin = Usage.of(process.pid), time.monotonic()
            beats = _beat(board, kinds.CLAIM_PLURAL, names, window)
            took, after = time.monotonic() - begin, Usage.of(process.pid)
    return 100 * (after.cpu - before.cpu) / took, beats


def _beat(board: Board, plural: str, names: list[str], seconds: float) -> int:
    """Beat each name in turn, at the pace that visits every one each 30 s; how many beats were sent."""
    pace = _BEAT_EVERY / len(names)
    begin = time.monotonic()
    sent = 0
    while time.monotonic() - begin < seconds:
        value = {"metadata": {"annotations": {kinds.HEARTBEAT_ANNOTATION: f"{time.time():.3f}"}}}
        board.patch(plural, names[sent % len(names)], value, kinds.HEARTBEAT_MANAGER)
        sent += 1
        time.sleep(max(0.0, begin + sent * pace - time.monotonic()))
    return sent
