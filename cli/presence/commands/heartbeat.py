"""`presence heartbeat`: one write keeps all claims of the session alive."""

from __future__ import annotations

from presence.board import ATTEMPTS, GoneError, session_over
from presence.commands.own import Own
from presence.errors import ClaimLostError, ServerError
from presence.identity import find_identity
from presence.model.deadlines import last_sign_of_life
from presence.model.kinds import COMPLETED
from presence.notices import tell
from presence.output import clean, note, write_json
from presence.view import claim_rows

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from presence.board import Board
    from presence.context import Context
    from presence.identity import Identity

    Object = dict[str, Any]

DESCRIPTION = (
    "Keep all of your claims alive for their ttl from now on, with one write, however\n"
    "many they are. A claim that has run out stays ended: claim it anew. Prints\n"
    "nothing, but names such claims on standard error; with --json, the claims that live on."
)
EXAMPLES = """examples:
  presence heartbeat
  presence --strict heartbeat   # exit code 5 when a claim has run out since the last one"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: there are none."""


def run(context: Context) -> int:
    """Send one heartbeat."""
    identity = find_identity(context.env, session=context.arguments.session)
    board = context.board()
    claims, session, lost, begun = renew(board, identity, lambda found: tell(board, identity.session, found))
    if context.arguments.json:
        write_json(claim_rows([(claim, session) for claim in claims], identity.session))
    if begun and context.arguments.strict:
        note(f"session {clean(identity.session)} was not known; it has begun now")
    if lost:
        labels = ", ".join(sorted({claim["spec"]["resource"] for claim in lost}))
        text = f"these claims ran out before this heartbeat: {labels}; stop, and claim them anew"
        if context.arguments.strict:
            raise ClaimLostError(text)
        note(text)
    return 0


def renew(
    board: Board, identity: Identity, look: Callable[[list[Object]], None]
) -> tuple[list[Object], Object | None, list[Object], bool]:
    """Show a sign of life. `look` is shown the claims of the session as they were before it, ended ones included.

    Returns the claims that live on, the session, the claims that were found to have run out, and whether the session
    was not known before.

    Raises:
        ServerError: others got in the way again and again.
    """
    lost: list[Object] = []
    since = None
    for attempt in range(ATTEMPTS):
        mine = Own(board, identity.session)
        try:
            mine.settle(cached=attempt == 0)
            look(mine.claims)
            session = board.session(identity.session)
            if since is None and session is not None:
                since = last_sign_of_life(session)
            if session is not None and session["spec"].get("state") == COMPLETED:
                return [], session, lost + mine.lost, False
            if session is not None and session_over(session):
                session = board.replace_session(session, identity, mine.longest())
                mine.reload()
            else:
                session = board.beat(identity, session)
            mine.settle_late(session)
            return mine.standing(), session, lost + mine.lost + mine.expired_since(since), since is None
        except GoneError:
            lost += mine.lost
    raise ServerError(f"others changed the claims of session {identity.session} again and again; try again")
