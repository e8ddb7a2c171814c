"""`presence release`: let go. The claim stays visible for a while as part of the history."""

from __future__ import annotations

from presence.board import ATTEMPTS, GoneError
from presence.commands.claim import check_labels
from presence.errors import ServerError, UsageError
from presence.identity import check_session, find_identity, find_session
from presence.model.deadlines import has_ended
from presence.model.kinds import PENDING, REASON_MAX
from presence.model.queue import holds_on
from presence.notices import tell
from presence.output import fold, named, write, write_json
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
    "error when there was nothing to let go of; with --json, the claims that were released.\n"
    "With --to, another session that waits goes next. With --force, the claim of somebody\n"
    "else is taken away, which is recorded with your name and the reason, and which its\n"
    "holder is told; a command that runs under it is stopped."
)
EXAMPLES = """examples:
  presence release stack:vault
  presence release --all-mine
  presence release stack:vault --to bob@pc@0f1e2d3c
  presence release --force stack:vault --reason "the runner was switched off\""""

SESSION_IS_AN_ARGUMENT = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("labels", metavar="LABEL", nargs="*", help="what to let go of, as <type>:<name>")
    parser.add_argument("--all-mine", action="store_true", help="let go of everything that you hold")
    parser.add_argument("--to", metavar="SESSION", help="hand over: this session, which waits already, goes next")
    parser.add_argument("--force", action="store_true", help="take it away from whoever holds it; needs --reason")
    parser.add_argument("--reason", metavar="TEXT", help="why; everybody sees it")
    parser.add_argument(
        "--session",
        dest="of_session",
        metavar="ID",
        help="who you are; with --force: whose claim to take away (write who you are before the verb, then)",
    )


def run(context: Context) -> int:
    """Release the labels, or all."""
    arguments = context.arguments
    if arguments.all_mine == bool(arguments.labels):
        raise UsageError("release needs either labels, for example release stack:vault, or --all-mine")
    labels = check_labels(arguments.labels)
    given = getattr(arguments, "session", None)
    if arguments.force:
        return _take_away(context, labels, given)
    me = arguments.of_session if arguments.of_session is not None else given
    session, _ = find_session(context.env, me)
    details = _details(context, me)
    board = context.board()
    if arguments.all_mine:
        released = [letgo for claim in board.claims(session=session) if (letgo := _let_go(board, claim))]
    elif details:
        found = [claim for label in labels if (claim := board.claim(session, label))]
        released = [letgo for claim in found if (letgo := _let_go(board, claim, details))]
    else:
        released = [letgo for label in labels for letgo in board.release(session, label)]
    tell(board, session)
    if arguments.json:
        # As they stood before: what had run out was not ended by this call.
        before = [{**claim, "spec": {**claim["spec"], "released": False}} for claim in released]
        write_json(claim_rows(board.live(before, exact=True), session))
    return 0


def _details(context: Context, me: str | None) -> dict[str, Any]:
    """`spec.release` of a release that says more than that it is one; empty for any other."""
    arguments = context.arguments
    to, reason = arguments.to, arguments.reason
    if to is None and reason is None:
        return {}
    if arguments.all_mine:
        raise UsageError("--to and --reason go with labels, not with --all-mine")
    identity = find_identity(context.env, session=me)
    details: dict[str, Any] = {"by": identity.session, "user": identity.user}
    if to is not None:
        details["to"] = check_session(to, "--to")
    if reason is not None:
        details["reason"] = check_reason(reason)
    return details


def check_reason(text: str) -> str:
    """The reason as the board takes it.

    Raises:
        UsageError: it says nothing, or too much.
    """
    reason = fold(text)
    if not reason:
        raise UsageError('--reason is empty; say why, for example "the runner was switched off"')
    if len(reason) > REASON_MAX:
        raise UsageError(f"--reason has {len(reason)} characters; at most {REASON_MAX} fit: say it shorter")
    return reason


def _take_away(context: Context, labels: list[str], me: str | None) -> int:
    arguments = context.arguments
    if arguments.all_mine or arguments.to is not None:
        raise UsageError("--force goes with labels and --reason, not with --all-mine or --to")
    if arguments.reason is None:
        raise UsageError('--force needs --reason, which the holder is told, for example "the runner was switched off"')
    reason = check_reason(arguments.reason)
    wanted = check_session(arguments.of_session, "--session") if arguments.of_session is not None else None
    identity = find_identity(context.env, session=me)
    details = {"by": identity.session, "user": identity.user, "reason": reason, "forced": True}
    board = context.board()
    released = []
    for label in labels:
        for claim in _targets(board, label, wanted, identity.session):
            gone = _let_go(board, claim, details, also_expired=True)
            if gone is not None:
                released.append(gone)
    tell(board, identity.session)
    if arguments.json:
        write_json(claim_rows([(claim, None) for claim in released], identity.session))
        return 0
    for claim in released:
        write(f"presence: took {claim['spec']['resource']} away from {named(claim['spec']['session'])}")
    if not released:
        write("presence: nobody to take it away from")
    return 0


def _targets(board: Board, label: str, wanted: str | None, me: str) -> list[Object]:
    """The claims to take away: those of the session that was named, else of the only other one that holds it."""
    claims = [claim for claim in board.claims(resource=label, ended=True) if holds_on(claim) or not has_ended(claim)]
    if wanted is not None:
        return [claim for claim in claims if claim["spec"]["session"] == wanted]
    others = [claim for claim in claims if claim["spec"]["session"] != me]
    holding = [claim for claim in others if (claim.get("status") or {}).get("phase") != PENDING]
    if len(holding) > 1:
        sessions = ", ".join(sorted(named(claim["spec"]["session"]) for claim in holding)[:10])
        raise UsageError(f"several sessions hold {label}: {sessions}; name one with --session")
    return holding


def _let_go(
    board: Board, claim: Object, details: dict[str, Any] | None = None, *, also_expired: bool = False
) -> Object | None:
    change: dict[str, Any] = {"released": True}
    if details:
        change["release"] = details
    for _ in range(ATTEMPTS):
        if has_ended(claim) and not (also_expired and holds_on(claim)):
            return None
        try:
            return board.patch_claim(claim, {"spec": change})
        except GoneError:
            found = board.claim(claim["spec"]["session"], claim["spec"]["resource"])
            if found is None:
                return None
            claim = found
    raise ServerError(f"others changed the claim on {claim['spec']['resource']} again and again; try again")
