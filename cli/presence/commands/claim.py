"""`presence claim`: write, then read, so that of two simultaneous claimants at least one sees the other."""

from __future__ import annotations

from presence.board import ATTEMPTS, CACHED, GoneError, check_claim, holder_of, owner_of, session_over
from presence.commands.own import Own
from presence.errors import HeldByAnotherError, ServerError, UsageError
from presence.identity import find_identity
from presence.model.deadlines import has_ended, is_live
from presence.model.durations import DurationError, clamp, format_duration, parse_duration
from presence.model.kinds import (
    AGENT,
    CLAIM_PLURAL,
    EXCLUSIVE,
    HUMAN,
    MAX_TTL,
    MIN_TTL,
    ON_EXPIRY_HOLD,
    ON_EXPIRY_RELEASE,
    PIPELINE,
    PRIORITY_MAX,
    PURPOSE_MAX,
    SHARED,
    TTL_ANNOTATION,
)
from presence.model.labels import LabelError, check_label
from presence.model.queue import ahead_of, mode_of
from presence.notices import tell
from presence.output import (
    OTHERS_MAX,
    Paint,
    bounded,
    clean,
    fold,
    named,
    note,
    quoted,
    wants_colour,
    write,
    write_json,
)
from presence.view import claim_row, claim_rows

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from presence.board import Board
    from presence.context import Context
    from presence.identity import Identity

    Object = dict[str, Any]

DESCRIPTION = (
    "Say that you are working on resources, and see who else is. A claim is advisory:\n"
    "it never stops anybody, and it is made even when others hold the resource. They\n"
    "are then named, and the rule is to DEFER to them. A second claim on a resource\n"
    "updates the first: it keeps its place, and counts as a heartbeat.\n"
    "With --exclusive it is granted to one session at a time, in the order of a queue:\n"
    "held by another, nothing is claimed and the exit code is 3, or with --wait it waits\n"
    "for its turn. So does a shared claim on what somebody holds exclusively."
)
EXAMPLES = """examples:
  presence claim stack:vault --purpose "rotate the unseal keys, about 10 minutes"
  presence claim node:worker-1 pvc:monitoring/prom-data --ttl 2h --purpose "replace the disk"
  presence --strict claim stack:dns --purpose "pipeline 42" && terraform apply
  presence claim --exclusive stack:net --wait 20m --purpose "renumber the subnets\""""

#: Tells a model what to do, in its own words.
REMINDER = (
    "DEFER: do not touch {label}; release your claim ({program} release {label})"
    " and ask the user, naming who holds it and why"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "labels", metavar="LABEL", nargs="+", help="what you work on, as <type>:<name>: node:worker-1, stack:vault"
    )
    parser.add_argument(
        "--purpose", required=True, metavar="TEXT", help="what you do and why, in one line; everybody sees it"
    )
    parser.add_argument(
        "--ttl",
        metavar="TIME",
        help="how long the claim lives without a heartbeat: 90s, 15m, 2h or seconds; default 15m",
    )
    parser.add_argument(
        "--exclusive", action="store_true", help="hold it alone; fails (exit code 69) when the board is away"
    )
    parser.add_argument(
        "--wait", metavar="TIME", help="wait for the grant at most this long; exit code 4 when the time is out"
    )
    parser.add_argument(
        "--on-expiry",
        choices=("release", "hold"),
        help="what becomes of an exclusive resource when nobody renews the claim: release it to the next (the default),"
        " or hold it until a person has looked",
    )
    parser.add_argument(
        "--priority",
        metavar="NUMBER",
        help="where a limit lets only so many claims be active: the highest goes first, then the oldest; default 0",
    )
    parser.add_argument("--url", metavar="URL", help="where the work can be looked at; default: the pipeline's page")
    parser.add_argument(
        "--agent", metavar="NAME", help="the program that acts; default: PRESENCE_AGENT, else by the kind"
    )
    parser.add_argument("--model", metavar="NAME", help="the model the agent works with; default: PRESENCE_MODEL")
    parser.add_argument("--project", metavar="PATH", help="what you work in; default: PRESENCE_PROJECT, the repository")
    parser.add_argument(
        "--kind", choices=(AGENT, PIPELINE, HUMAN), help="what acts; default: by where the session id comes from"
    )


def fails_closed(arguments: argparse.Namespace) -> bool:
    """An exclusive claim that nobody granted is none."""
    return bool(arguments.exclusive)


class Wish:
    """What the caller wants: the labels, and what all of the claims shall say."""

    __slots__ = ("blocked", "holder", "labels", "mode", "on_expiry", "priority", "purpose", "ttl")

    def __init__(
        self,
        labels: list[str],
        purpose: str,
        ttl: str | None,
        holder: dict[str, str],
        mode: str = SHARED,
        on_expiry: str | None = None,
        priority: int | None = None,
    ) -> None:
        self.labels = labels
        self.purpose = purpose
        self.ttl = ttl
        self.holder = holder
        self.mode = mode
        self.on_expiry = on_expiry
        self.priority = priority
        #: Labels on which others go first, as it turned out.
        self.blocked: list[str] = []


def run(context: Context) -> int:
    """Claim the labels."""
    arguments = context.arguments
    labels = check_labels(arguments.labels)
    purpose = check_purpose(arguments.purpose)
    ttl = check_ttl(arguments.ttl)
    identity = find_identity(
        context.env,
        session=arguments.session,
        agent=arguments.agent,
        model=arguments.model,
        project=arguments.project,
        url=arguments.url,
        kind=arguments.kind,
    )
    on_expiry = {"hold": ON_EXPIRY_HOLD, "release": ON_EXPIRY_RELEASE, None: None}[arguments.on_expiry]
    if on_expiry is not None and not arguments.exclusive:
        raise UsageError("--on-expiry goes with --exclusive")
    mode = EXCLUSIVE if arguments.exclusive else SHARED
    wish = Wish(labels, purpose, ttl, holder_of(identity), mode, on_expiry, check_priority(arguments.priority))
    if arguments.exclusive or arguments.wait is not None:
        # Imported here: a shared claim waits for nobody.
        from presence.commands import claim_exclusive

        return claim_exclusive.run(context, identity, wish)
    outcomes, fresh = place(context, identity, wish)
    if wish.blocked:
        from presence.commands import claim_exclusive

        return claim_exclusive.refuse(context, identity, fresh, wish.blocked[0])
    if arguments.strict and any(others for _, others in outcomes):
        # All or nothing: what this call put on the board goes again, what was there before stays.
        for claim in fresh:
            context.board().release(identity.session, claim["spec"]["resource"])
        raise HeldByAnotherError(_held(outcomes))
    warn_of_bounds(labels, ttl)
    report(context, outcomes)
    return 0


def place(
    context: Context, identity: Identity, wish: Wish
) -> tuple[list[tuple[dict[str, Any], list[dict[str, Any]]]], list[Object]]:
    """Put the claims on the board, then read who else is there.

    Returns a pair of the caller's row and the rows of others for each label, and the claims that are new.

    Raises:
        ServerError: others got in the way again and again.
    """
    fresh: list[Object] = []
    board = context.board()
    for attempt in range(ATTEMPTS):
        mine = Own(board, identity.session)
        wish.blocked.clear()
        try:
            # What the API server has at hand will do at first: where it is too old, a write fails and all is read anew.
            mine.settle(cached=attempt == 0)
            tell(board, identity.session, mine.claims)
            # A session lives as long as the longest of its claims would.
            ttl = max(mine.longest(), parse_duration(wish.ttl) if wish.ttl else 0.0)
            by_hand = None
            if not mine.in_usual_session():
                by_hand = board.session_by_hand(identity.session, not_older_than=CACHED)
            session = board.apply_session(identity, ttl) if by_hand is None else board.beat(identity, by_hand, ttl)
            if session_over(session):
                session = board.replace_session(session, identity, ttl)
                mine.reload()
            mine.settle_late(session)
            written = [_ensure(board, identity, session, mine.on(label), label, wish, fresh) for label in wish.labels]
            return [_look(board, session, claim, wish) for claim in written], fresh
        except GoneError:
            continue
    raise ServerError(f"others changed the claims of session {identity.session} again and again; try again")


def _ensure(
    board: Board, identity: Identity, session: Object, known: Object | None, label: str, wish: Wish, fresh: list[Object]
) -> Object:
    """Write the claim on `label` as wished, and return it; a new one is added to `fresh`.

    Raises:
        GoneError: it changed meanwhile.
    """
    if known is not None:
        check_claim(known, identity.session, label)
        if not has_ended(known) and is_live(known, board.now, session):
            if wish.mode == EXCLUSIVE and mode_of(known) != EXCLUSIVE:
                raise UsageError(
                    f"you hold {label} together with others; let go of it first, and then claim it exclusively"
                )
            # Written even where nothing differs: the read that follows sees all that was there before this write.
            return board.renew_claim(known, _difference(known, wish, session))
        board.delete(CLAIM_PLURAL, known)
    try:
        made = board.create_claim(
            identity,
            session,
            label,
            wish.purpose,
            wish.ttl,
            mode=wish.mode,
            on_expiry=wish.on_expiry,
            priority=wish.priority,
        )
    except GoneError:
        # One of the same name appeared meanwhile: another call of this session, or another session with this hash.
        board.claim(identity.session, label)
        raise
    fresh.append(made)
    return made


def _difference(claim: Object, wish: Wish, session: Object) -> dict[str, Any]:
    """The merge patch that makes `claim` say what is wished; empty when it does."""
    change: dict[str, Any] = {}
    spec = claim["spec"]
    wanted: dict[str, Any] = {}
    if spec.get("purpose") != wish.purpose:
        wanted["purpose"] = wish.purpose
    if (spec.get("holder") or {}) != wish.holder:
        # In a merge patch, null removes what is not wished any more.
        wanted["holder"] = {**dict.fromkeys(spec.get("holder") or {}), **wish.holder}
    if wish.on_expiry is not None and spec.get("onExpiry", ON_EXPIRY_RELEASE) != wish.on_expiry:
        wanted["onExpiry"] = wish.on_expiry
    if wish.priority is not None and spec.get("priority", 0) != wish.priority:
        wanted["priority"] = wish.priority
    if wanted:
        change["spec"] = wanted
    metadata: dict[str, Any] = {}
    if wish.ttl is not None and (claim["metadata"].get("annotations") or {}).get(TTL_ANNOTATION) != wish.ttl:
        metadata["annotations"] = {TTL_ANNOTATION: wish.ttl}
    owners = claim["metadata"].get("ownerReferences") or []
    if not any(owner.get("uid") == session["metadata"]["uid"] for owner in owners):
        others = [owner for owner in owners if owner.get("kind") != session["kind"]]
        metadata["ownerReferences"] = [*others, owner_of(session)]
    if metadata:
        change["metadata"] = metadata
    return change


def _look(board: Board, own: Object, written: Object, wish: Wish) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of the claim that was just written, and the rows of the others that were on its resource by then."""
    me, version = own["spec"]["sessionId"], written["metadata"]["resourceVersion"]
    claims = board.claims(resource=written["spec"]["resource"], expired=True, not_older_than=version)
    if any(mode_of(claim) == EXCLUSIVE for claim in ahead_of(written, claims)):
        wish.blocked.append(written["spec"]["resource"])
    found = board.live(claims, exact=True, known=own)
    mine = [(claim, session) for claim, session in found if claim["spec"]["session"] == me]
    others = [(claim, session) for claim, session in found if claim["spec"]["session"] != me]
    if not mine:
        raise GoneError  # it ended or was taken away between the write and the read
    return claim_row(*mine[0], me), claim_rows(others, me)


def check_labels(texts: list[str]) -> list[str]:
    """Resource labels, each once.

    Raises:
        UsageError: one of them is none.
    """
    try:
        return list(dict.fromkeys(check_label(text) for text in texts))
    except LabelError as error:
        raise UsageError(str(error)) from None


def check_priority(text: str | None) -> int | None:
    """The priority as the board takes it; None when it is absent.

    Raises:
        UsageError: it is no whole number within its bounds.
    """
    if text is None:
        return None
    try:
        priority = int(text)
    except ValueError:
        priority = PRIORITY_MAX + 1
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise UsageError(f"--priority {clean(text)}: write a whole number within -{PRIORITY_MAX} to {PRIORITY_MAX}")
    return priority


def check_purpose(text: str) -> str:
    """The purpose as the board takes it.

    Raises:
        UsageError: it says nothing, or too much.
    """
    purpose = fold(text)
    if not purpose:
        raise UsageError(
            '--purpose is empty; say what you do and why, for example "rotate the unseal keys, about 10 minutes"'
        )
    if len(purpose) > PURPOSE_MAX:
        raise UsageError(f"--purpose has {len(purpose)} characters; at most {PURPOSE_MAX} fit: say it shorter")
    return purpose


def check_ttl(text: str | None) -> str | None:
    """The duration as the annotation holds it.

    Raises:
        UsageError: it is no duration.
    """
    if text is None:
        return None
    try:
        return format_duration(parse_duration(text))
    except DurationError as error:
        raise UsageError(f"--ttl: {error}") from None


def warn_of_bounds(labels: list[str], ttl: str | None) -> None:
    """Say so when the board does not take this ttl as it is. An operator may be configured with other bounds."""
    if ttl is None:
        return
    bounded = format_duration(clamp(parse_duration(ttl), MIN_TTL, MAX_TTL))
    if bounded != ttl:
        what = ", ".join(labels)
        note(f"the ttl of {what} is bounded: {bounded} instead of {ttl}, unless the operator is configured otherwise")


def report(context: Context, outcomes: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    """Say what was claimed and who else is there."""
    import sys

    paint = Paint(wants_colour(sys.stdout, context.env))
    for mine, others in outcomes:
        label = mine["resource_label"]
        if context.arguments.json:
            write_json({"claimed": mine, "conflicts": others, "next_action": "defer" if others else "proceed"})
            continue
        if not others:
            write(f"presence: claimed {label}")
            continue
        write(f"presence: claimed {label}" + paint(" -- ALSO CLAIMED BY:", "warn"))
        advice = f"see {context.program} peek {label}"
        write("\n".join(bounded(["  " + describe(row) for row in others], OTHERS_MAX, advice)))
        write("presence: " + paint(REMINDER.format(label=label, program=context.program), "warn"))


def describe(row: dict[str, Any]) -> str:
    """One line about a claim of somebody else: session id, user@host, purpose and since when."""
    return (
        f"{named(row['session_id'])}  {named(row['user'])}@{named(row['host'])}  {quoted(row['purpose'])}"
        f"  since {row['claimed_at']}"
    )


def _held(outcomes: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> str:
    parts = [
        f"{mine['resource_label']} is held by {describe(others[0])}{_more(len(others) - 1)}"
        for mine, others in outcomes
        if others
    ]
    return f"not claimed: {'; '.join(parts)}; wait for the release, or ask the holder"


def _more(count: int) -> str:
    return f" (and {count} more session{'' if count == 1 else 's'})" if count else ""
