"""`presence release`: let go. The claim stays visible for a while as part of the history."""

from __future__ import annotations

from presence.board import ATTEMPTS, GoneError
from presence.commands.claim import check_labels
from presence.errors import ServerError, UsageError
from presence.identity import find_session
from presence.model.deadlines import has_ended
from presence.output import write_json
from presence.view import claim_rows

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from presence.board import Board
    from presence.context import Context

    Object = dict[str, Any]

DESCRIPTION = (
    "Let go of resources, or of everything with --all-mine. Prints nothing, and is no\n"
    "error when there was nothing to let go of; with --json, the claims that were released."
)
EXAMPLES = """examples:
  presence release stack:vault
  presence release --all-mine"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("labels", metavar="LABEL", nargs="*", help="what to let go of, as <type>:<name>")
    parser.add_argument("--all-mine", action="store_true", help="let go of everything that you hold")


def run(context: Context) -> int:
    """Release the labels, or all."""
    arguments = context.arguments
    if arguments.all_mine == bool(arguments.labels):
        raise UsageError("release needs either labels, for example release stack:vault, or --all-mine")
    labels = check_labels(arguments.labels)
    session, _ = find_session(context.env, arguments.session)
    board = context.board()
    if arguments.all_mine:
        released = [letgo for claim in board.claims(session=session) if (letgo := _let_go(board, claim))]
    else:
        released = [letgo for label in labels for letgo in board.release(session, label)]
    if arguments.json:
        # As they stood before: what had run out was not ended by this call.
        before = [{**claim, "spec": {**claim["spec"], "released": False}} for claim in released]
        write_json(claim_rows(board.live(before, exact=True), session))
    return 0


def _let_go(board: Board, claim: Object) -> Object | None:
    if has_ended(claim):
        return None
    for _ in range(ATTEMPTS):
        try:
            return board.patch_claim(claim, {"spec": {"released": True}})
        except GoneError:
            found = board.claim(claim["spec"]["session"], claim["spec"]["resource"])
            if found is None or has_ended(found):
                return None
            claim = found
    raise ServerError(f"others changed the claim on {claim['spec']['resource']} again and again; try again")
