"""`presence wait`: until a resource is free, or until a claim of one's own is granted. Woken by a watch."""

from __future__ import annotations

import sys
from queue import Empty, SimpleQueue
from time import monotonic

from presence.commands.claim import check_labels
from presence.contention import GRANTED, OVER, Progress, obstacle, standing, why_over
from presence.errors import BoardError, ClaimLostError, DeniedError, PresenceError, UsageError, WaitTimedOutError
from presence.following import Follower
from presence.identity import find_session
from presence.model.deadlines import has_ended
from presence.model.durations import DurationError, format_duration, parse_duration
from presence.model.queue import holds_on
from presence.notices import tell
from presence.output import clean, named, write, write_json
from presence.view import claim_row

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from presence.board import Board
    from presence.context import Context

    Object = dict[str, Any]

DESCRIPTION = (
    "Wait until nobody else holds a resource or waits for it, or, when you have a claim\n"
    "on it that waits, until that is granted. It claims nothing: somebody else may be\n"
    "quicker; to be sure, claim with --exclusive --wait. Exit code 4 when the time is out."
)
EXAMPLES = """examples:
  presence wait stack:vault --timeout 20m
  presence wait stack:vault && presence claim stack:vault --purpose "my turn\""""

_PATIENCE = "1h"
#: Seconds for one exchange with the board.
_LIMIT = 10.0
#: Seconds between two looks at all claims, for what no watch of one claim shows.
_LOOK = 15.0


def fails_closed(_: argparse.Namespace) -> bool:
    """Always: that nobody can be asked does not mean that the resource is free."""
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("label", metavar="LABEL", help="the resource, as <type>:<name>")


def run(context: Context) -> int:
    """Wait."""
    arguments = context.arguments
    label = check_labels([arguments.label])[0]
    me, _ = find_session(context.env, arguments.session)
    limit = float(arguments.timeout) if arguments.timeout is not None else parse_duration(_PATIENCE)
    until = monotonic() + limit
    context.deadline = _short()
    board = context.board()
    own = board.claim(me, label)
    tell(board, me)
    mine = own if own is not None and not has_ended(own) else None
    if mine is not None:
        seat = Seat(context, board, mine, quiet=arguments.json)
        granted = seat.until_granted(until)
        if granted is None:
            raise WaitTimedOutError(f"waited {format_duration(limit)}, and {label} {seat.obstacle()}")
        _report(context, label, claim_row(granted, None, me))
        return 0
    _until_free(context, board, label, me, until, limit)
    _report(context, label, None)
    return 0


def _short() -> Any:
    from presence.deadline import Deadline

    return Deadline(_LIMIT)


def _report(context: Context, label: str, granted: dict[str, Any] | None) -> None:
    if context.arguments.json:
        write_json({"resource_label": label, "claimed": granted, "next_action": "proceed"})
    else:
        write(f"presence: your claim on {label} is granted" if granted else f"presence: {label} is free")


class Seat:
    """A claim of one's own in a queue.

    Args:
        context: the call.
        board: where to ask.
        claim: the claim.
        quiet: say nothing about the wait.
        beat: called now and then while waiting; returns when it wants to be called again, on the monotonic clock.
    """

    def __init__(
        self,
        context: Context,
        board: Board,
        claim: Object,
        *,
        quiet: bool = False,
        beat: Callable[[], float] | None = None,
    ) -> None:
        self._context = context
        self._board = board
        self._quiet = quiet
        self._beat = beat
        self._label = clean(claim["spec"]["resource"])
        self._progress = Progress(self._label)
        #: The claim as it was seen last.
        self.claim = claim

    def until_granted(self, until: float, *, looked_at: bool = False) -> Object | None:
        """The claim once it is granted; None when the time is out.

        With `looked_at`, None also as soon as an operator has written that it has to wait.

        Raises:
            ClaimLostError: it ended before.
            BoardError: the board refuses to show it.
        """
        uid = self.claim["metadata"]["uid"]
        if standing(self.claim, uid) == GRANTED:
            return self.claim
        seen: SimpleQueue[Object | PresenceError | None] = SimpleQueue()
        version = self.claim["metadata"]["resourceVersion"]
        follower = Follower(self._context.open_board, self.claim["metadata"]["name"], version, seen.put, seen.put)
        follower.start()
        heard = False
        try:
            beat_at = self._beat() if self._beat else until
            while True:
                now = monotonic()
                if self._beat and now >= beat_at:
                    beat_at = self._beat()
                try:
                    news = seen.get(timeout=max(0.0, min(until, beat_at) - now))
                except Empty:
                    if monotonic() >= until:
                        return None
                    continue
                if isinstance(news, PresenceError):
                    # Later on, credentials are read afresh.
                    if not isinstance(news, BoardError) or (isinstance(news, DeniedError) and not heard):
                        raise news
                    continue
                heard = True
                state = standing(news, uid)
                if state == OVER:
                    raise ClaimLostError(f"your claim on {self._label} {why_over(news, uid)} while it waited")
                assert news is not None
                self.claim = news
                if state == GRANTED:
                    return news
                if looked_at and (news.get("status") or {}).get("phase"):
                    return None
                self._show()
        finally:
            follower.stop()

    def obstacle(self) -> str:
        """What it waits for, in a clause that follows its label."""
        self._board.limit(_LIMIT)
        return obstacle(self._board, self.claim) or "is held by another session"

    def _show(self) -> None:
        if self._quiet:
            return
        try:
            self._board.limit(_LIMIT)
            line = self._progress.line(self._board, self.claim, monotonic())
        except BoardError:
            return  # said after the next change
        if line:
            write(f"presence: {line}", sys.stderr)


def _until_free(context: Context, board: Board, label: str, me: str, until: float, limit: float) -> None:
    said = ""
    while True:
        board.limit(_LIMIT)
        held = [claim for claim in board.claims(resource=label, ended=True) if holds_on(claim) or not has_ended(claim)]
        others = [claim for claim in held if claim["spec"]["session"] != me]
        alive = [claim for claim in others if holds_on(claim)] + [claim for claim, _ in board.live(others, exact=True)]
        if not alive:
            return
        first = alive[0]
        who = named(first["spec"]["session"])
        more = f" and {len(alive) - 1} more" if len(alive) > 1 else ""
        line = f"{label} is held by {who}{more}"
        if line != said and not context.arguments.json:
            write(f"presence: waiting: {line}", sys.stderr)
            said = line
        _until_over(context, first, min(until, monotonic() + _LOOK))
        if monotonic() >= until:
            raise WaitTimedOutError(f"waited {format_duration(limit)}, and {line}")


def _until_over(context: Context, claim: Object, until: float) -> None:
    """Until this claim is over, or until `until`: claims without an operator run out with nobody to say so."""
    seen: SimpleQueue[Object | PresenceError | None] = SimpleQueue()
    metadata = claim["metadata"]
    follower = Follower(context.open_board, metadata["name"], metadata["resourceVersion"], seen.put, seen.put).start()
    try:
        while True:
            news = seen.get(timeout=max(0.0, until - monotonic()))
            if isinstance(news, PresenceError):
                continue
            if standing(news, metadata["uid"]) == OVER and not (news and holds_on(news)):
                return
    except Empty:
        return
    finally:
        follower.stop()


def check_wait(text: str | None) -> float:
    """Seconds of `--wait`; 0 when it is absent.

    Raises:
        UsageError: it is no duration.
    """
    if text is None:
        return 0.0
    try:
        return parse_duration(text)
    except DurationError as error:
        raise UsageError(f"--wait: {error}") from None
