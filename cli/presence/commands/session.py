"""`presence session list`: the sessions behind the claims."""

from __future__ import annotations

import sys

from presence.identity import find_session
from presence.model.kinds import ACTIVE, AGENT, COMPLETED, EXPIRED, HUMAN, PAUSED, PIPELINE, STALE
from presence.model.times import parse_time
from presence.output import Column, Paint, age, named, room, table, wants_colour, write, write_json
from presence.view import claim_phase, session_row

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from presence.context import Context

    Row = dict[str, Any]

DESCRIPTION = (
    "Show sessions, the most recent heartbeat first. A session is Stale after three\n"
    "missed heartbeats and Expired after its whole ttl; the phase shown is the one that\n"
    "holds now, whether or not an operator wrote it down."
)
EXAMPLES = """examples:
  presence session list
  presence session list --phase Stale --phase Paused
  presence session list --project infra --json"""

_STYLES = {STALE: "warn", EXPIRED: "dim", COMPLETED: "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", metavar="list", choices=("list",), help="show sessions")
    parser.add_argument(
        "--phase",
        action="append",
        choices=(ACTIVE, STALE, PAUSED, COMPLETED, EXPIRED),
        help="only these phases; may be repeated",
    )
    parser.add_argument("--kind", choices=(AGENT, PIPELINE, HUMAN), help="only sessions of this kind")
    parser.add_argument("--project", metavar="PATH", help="only sessions in this directory (or below), or repository")
    parser.add_argument("--limit", metavar="N", type=_positive, help="at most this many")


def _positive(text: str) -> int:
    import argparse

    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of sessions; write for example 20")
    return int(text)


def run(context: Context) -> int:
    """List sessions."""
    arguments = context.arguments
    me, _ = find_session(context.env, arguments.session)
    board = context.board()
    found = board.sessions()
    known = {session["spec"]["sessionId"]: session for session in found}
    held = dict.fromkeys(known, 0)
    for claim in board.claims():
        session = known.get(claim["spec"]["session"])
        # The count in the status comes later, or never without an operator.
        if session is not None and claim_phase(claim, session, board.now) == ACTIVE:
            held[claim["spec"]["session"]] += 1
    rows = [session_row(session, board.now, me, held[session["spec"]["sessionId"]]) for session in found]
    rows = [row for row in rows if _wanted(row, arguments)]
    rows.sort(key=lambda row: row["session_id"])
    rows.sort(key=lambda row: row["last_heartbeat_at"], reverse=True)
    rows = rows[: arguments.limit]
    if arguments.json:
        write_json(rows)
    elif not rows:
        write("presence: no sessions")
    else:
        write("\n".join(_lines(context, rows, board.now)))
    return 0


def _wanted(row: Row, arguments: argparse.Namespace) -> bool:
    if arguments.phase and row["phase"] not in arguments.phase:
        return False
    if arguments.kind and row["kind"] != arguments.kind:
        return False
    if arguments.project:
        # By whole parts of the path: /a/proj does not hold /a/proj2.
        wanted = arguments.project.rstrip("/")
        return bool(row["project"] == wanted or row["project"].startswith(wanted + "/"))
    return True


def _lines(context: Context, rows: list[Row], now: float) -> list[str]:
    columns = [
        Column("SESSION", least=16),
        Column("KIND"),
        Column("PHASE"),
        Column("HOLDER", least=10),
        Column("AGENT", least=8, droppable=1),
        Column("PROJECT", least=10, droppable=2),
        Column("CLAIMS"),
        Column("SEEN"),
    ]
    cells = [
        [
            ("(me) " if row["is_me"] else "") + named(row["session_id"]),
            row["kind"],
            row["phase"],
            f"{named(row['user'])}@{named(row['host'])}",
            named(row["agent"]),
            named(row["project"]),
            str(row["active_claims"]),
            age(now - parse_time(row["last_heartbeat_at"])),
        ]
        for row in rows
    ]
    return table(columns, cells, room(sys.stdout, context.env), Paint(wants_colour(sys.stdout, context.env)))
