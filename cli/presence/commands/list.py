"""`presence list`: who is working on what."""

from __future__ import annotations

import sys

from presence.errors import UsageError
from presence.identity import check_session, find_session
from presence.model.kinds import DEFAULT_BOARD
from presence.model.labels import is_key
from presence.model.times import parse_time
from presence.notices import tell
from presence.output import (
    LINES_MAX,
    Column,
    Paint,
    age,
    bounded,
    clean,
    named,
    quoted,
    room,
    table,
    wants_colour,
    write,
    write_json,
)
from presence.view import claim_phase, claim_rows

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from presence.context import Context

    Row = dict[str, Any]

DESCRIPTION = (
    "Show who is working on what, the oldest claim first: only claims that are held now, unless --ended is given."
)
EXAMPLES = """examples:
  presence list
  presence list --mine
  presence list --type stack --json"""

#: On fewer columns, who it is matters more than since when.
_NARROW = 50


SESSION_IS_AN_ARGUMENT = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--mine", action="store_true", help="only your own claims")
    whose.add_argument("--all", action="store_true", help="everybody's claims (the default)")
    parser.add_argument("--type", metavar="TYPE", help="only resources of this type: node, stack, service and so on")
    parser.add_argument(
        "--session",
        dest="of_session",
        metavar="ID",
        help="only claims of this session (before the verb, --session says who you are)",
    )
    parser.add_argument("--resource", metavar="LABEL", help="only claims on this resource")
    parser.add_argument("--ended", action="store_true", help="also claims that ended a while ago, with their phase")


def run(context: Context) -> int:
    """List claims."""
    arguments = context.arguments
    me, _ = find_session(context.env, getattr(arguments, "session", None))
    wanted = check_session(arguments.of_session, "--session") if arguments.of_session is not None else None
    if arguments.mine and wanted not in (None, me):
        raise UsageError("--mine and --session name different sessions; leave one out")
    wanted = me if arguments.mine else wanted
    if arguments.resource is not None:
        from presence.commands.claim import check_labels  # only where it is needed: a bare list is to be quick

        check_labels([arguments.resource])
    prefix = check_type(arguments.type) + ":" if arguments.type is not None else ""
    board = context.board()
    claims = board.claims(session=wanted, resource=arguments.resource, ended=arguments.ended)
    if not arguments.type and arguments.resource is None and wanted is None:
        # Nobody works on the keys of `presence once`; --type once shows them.
        claims = [claim for claim in claims if not is_key(claim["spec"]["resource"])]
    if prefix:
        claims = [claim for claim in claims if claim["spec"]["resource"].startswith(prefix)]
    now = board.now
    found = board.live(claims, exact=wanted is not None)
    phases = {}
    if arguments.ended:
        live = {claim["metadata"]["uid"] for claim, _ in found}
        gone = [claim for claim in claims if claim["metadata"]["uid"] not in live]
        sessions = board.sessions_of({claim["spec"]["session"] for claim in gone})
        found += [(claim, sessions.get(claim["spec"]["session"])) for claim in gone]
        phases = {
            (claim["spec"]["session"], claim["spec"]["resource"]): claim_phase(claim, session, now)
            for claim, session in found
        }
    tell(board, me)
    rows = claim_rows(found, me)
    if arguments.json:
        write_json(rows)
    elif not rows:
        where = "" if board.namespace == DEFAULT_BOARD else f" on board {board.namespace}"
        write(("presence: no claims" if arguments.ended else "presence: no active claims") + where)
    else:
        head, *lines = _lines(context, rows[: LINES_MAX + 1], now, phases)
        left_out = [""] * (len(rows) - len(lines))
        advice = "narrow it with --type, --resource or --session, or read all of them with --json"
        write("\n".join([head, *bounded(lines + left_out, LINES_MAX, advice)]))
    return 0


def check_type(text: str) -> str:
    """The type of resource, without the colon that may follow it.

    Raises:
        UsageError: it is none.
    """
    import re

    kind = text.removesuffix(":")
    if not re.fullmatch("[a-z][a-z0-9-]{0,30}", kind):
        from presence.model.labels import KNOWN_TYPES

        raise UsageError(
            f"{text[:80]!r} is no type of resource: write a lower-case word such as {', '.join(KNOWN_TYPES)}"
        )
    return kind


def _lines(context: Context, rows: list[Row], now: float, phases: dict[tuple[str, str], str]) -> list[str]:
    columns = [
        Column("RESOURCE", least=18),
        Column("SESSION", least=12, tight=5 if phases else 12),
        Column("HOLDER", least=8, droppable=1),
        Column("PURPOSE", least=22),
        Column("SINCE"),
        Column("LEFT"),
    ]
    if phases:
        columns.insert(5, Column("PHASE"))
    cells = []
    for row in rows:
        left = parse_time(row["expires_at"]) - now
        phase = phases.get((row["session_id"], row["resource_label"]), "")
        line = [
            clean(row["resource_label"]),
            ("(me) " if row["is_me"] else "") + named(row["session_id"]),
            f"{named(row['user'])}@{named(row['host'])}",
            quoted(row["purpose"]),
            age(now - parse_time(row["claimed_at"])),
        ]
        if phases:
            line.append(phase)
        line.append(age(left) if phase in ("", "Active", "Pending") else "-")
        cells.append(line)
    paint = Paint(wants_colour(sys.stdout, context.env))
    limit = room(sys.stdout, context.env)
    if limit is not None and limit < _NARROW:
        del columns[4]
        for line in cells:
            del line[4]
    return table(columns, cells, limit, paint)
