"""`presence peek`: who is working on one resource, read afresh."""

from __future__ import annotations

import sys

from presence.commands.claim import check_labels
from presence.identity import find_session
from presence.notices import tell
from presence.output import LINES_MAX, Paint, bounded, named, quoted, wants_colour, write, write_json
from presence.view import claim_rows

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse

    from presence.context import Context

DESCRIPTION = "Show everybody who is working on one resource now, yourself included, the oldest claim first."
EXAMPLES = """examples:
  presence peek stack:vault"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("label", metavar="LABEL", help="the resource, as <type>:<name>")


def run(context: Context) -> int:
    """Show the claims on one resource."""
    label = check_labels([context.arguments.label])[0]
    me, _ = find_session(context.env, context.arguments.session)
    board = context.board()
    rows = claim_rows(board.live(board.claims(resource=label), exact=True), me)
    tell(board, me)
    if context.arguments.json:
        write_json(rows)
        return 0
    if not rows:
        write(f"presence: no active claim on {label}")
        return 0
    paint = Paint(wants_colour(sys.stdout, context.env))
    write(f"presence: active claims on {label}:")
    lines = []
    for row in rows:
        mine = paint(" (me)", "mine") if row["is_me"] else ""
        lines.append(
            f"  {named(row['session_id'])}{mine}  {named(row['user'])}@{named(row['host'])}  {quoted(row['purpose'])}"
            f"  since {row['claimed_at']}  expires {row['expires_at']}"
        )
    write("\n".join(bounded(lines, LINES_MAX, "read all of them with --json")))
    return 0
