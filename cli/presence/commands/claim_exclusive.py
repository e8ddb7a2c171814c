"""`presence claim` where a claim may have to wait: exclusive ones, and shared ones behind an exclusive one.

All of the labels are claimed, or none: in sorted order, so that two callers never wait for each other.
"""

from __future__ import annotations

import signal
from time import monotonic

from presence.board import GoneError
from presence.commands.claim import Wish, place, report
from presence.commands.wait import Seat, check_wait
from presence.contention import Blockers, limited_by, obstacle
from presence.deadline import Deadline
from presence.errors import (
    BoardError,
    ClaimLostError,
    HeldByAnotherError,
    PresenceError,
    UnreachableError,
    WaitTimedOutError,
)
from presence.model.deadlines import ttl_of
from presence.model.durations import format_duration
from presence.model.kinds import EXCLUSIVE
from presence.output import clean, write, write_json
from presence.view import claim_row

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

    from presence.board import Board
    from presence.context import Context
    from presence.identity import Identity

    Object = dict[str, Any]

#: Seconds in which an operator answers; without --wait the claim waits no longer.
_MOMENT = 2.0
#: Seconds for one exchange with the board.
_LIMIT = 10.0
#: Seconds between two heartbeats when one of them failed.
_RETRY = 2.0


class _StoppedError(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(context: Context, identity: Identity, wish: Wish) -> int:
    """Claim the labels and wait for the grants."""
    wait = check_wait(context.arguments.wait)
    until = monotonic() + (wait or _MOMENT)
    if wait and context.arguments.timeout is None:
        context.deadline = Deadline(_LIMIT)
    board = context.board()
    fresh: list[Object] = []
    granted: list[Object] = []
    before = _turn_signals_into_errors() if wait else {}
    try:
        for label in sorted(wish.labels):
            one = Wish([label], wish.purpose, wish.ttl, wish.holder, wish.mode, wish.on_expiry, wish.priority)
            outcomes, new = place(context, identity, one)
            fresh += new
            claim = board.claim(identity.session, label)
            if claim is None:
                raise ClaimLostError(f"your claim on {label} was deleted from the board")
            if wish.mode != EXCLUSIVE and not Blockers(board, claim).claims:
                claim = _limited(context, board, claim, until)
                if not limited_by(claim):
                    report(context, outcomes)
                    continue
            granted.append(_await(context, board, identity, claim, wait, until))
    except BaseException as error:
        _withdraw(board, identity, fresh)
        if isinstance(error, _StoppedError):
            return 128 + error.number
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for claim in granted:
        _report(context, identity, claim)
    return 0


def refuse(context: Context, identity: Identity, fresh: list[Object], label: str) -> int:
    """Take back what was claimed, because others hold `label` exclusively or go first.

    Raises:
        HeldByAnotherError: always, with the words for it.
    """
    board = context.board()
    claim = board.claim(identity.session, label)
    blockers = Blockers(board, claim) if claim is not None else None
    _withdraw(board, identity, fresh)
    raise _held(context, label, blockers, "claim")


def _await(context: Context, board: Board, identity: Identity, claim: Object, wait: float, until: float) -> Object:
    label = claim["spec"]["resource"]
    seat = Seat(
        context,
        board,
        claim,
        quiet=context.arguments.json or not wait,
        beat=_Heart(board, identity, ttl_of(claim) / 3) if wait else None,
    )
    granted = seat.until_granted(until)
    if granted is not None:
        return granted
    board.limit(_LIMIT)
    blockers = Blockers(board, seat.claim)
    if not blockers.claims and not (seat.claim.get("status") or {}).get("phase"):
        raise UnreachableError(
            f"no operator granted the claim on {label} within {format_duration(wait or _MOMENT)};"
            " exclusive claims need a running operator"
        )
    if limited_by(seat.claim):
        raise _over_limit(context, board, seat.claim, wait)
    if not wait:
        raise _held(context, label, blockers, "claim --exclusive")
    _write_refusal(context, label, blockers, "defer")
    raise WaitTimedOutError(
        f"not claimed: waited {format_duration(wait)}, and {clean(label)} is held by"
        f" {blockers.first()}{blockers.more()}; DEFER: do not touch it, and tell the user who holds it and why"
    )


def _limited(context: Context, board: Board, claim: Object, until: float) -> Object:
    """A shared claim as an operator has seen it, if one does in a moment: a limit may keep it waiting."""
    seat = Seat(context, board, claim, quiet=True)
    return seat.until_granted(min(until, monotonic() + _MOMENT), looked_at=True) or seat.claim


def _over_limit(context: Context, board: Board, claim: Object, wait: float) -> HeldByAnotherError | WaitTimedOutError:
    label = clean(claim["spec"]["resource"])
    if context.arguments.json:
        action = "defer" if wait else "wait"
        write_json(
            {"resource_label": claim["spec"]["resource"], "claimed": None, "conflicts": [], "next_action": action}
        )
    why = f"{label} {obstacle(board, claim)}"
    defer = "DEFER: do not touch it, and tell the user"
    if wait:
        return WaitTimedOutError(f"not claimed: waited {format_duration(wait)}, and {why}; {defer}")
    exclusively = "--exclusive " if claim["spec"].get("mode") == EXCLUSIVE else ""
    return HeldByAnotherError(
        f"not claimed: {why}; WAIT with {context.program} claim {exclusively}{label} --wait 30m, or {defer}"
    )


class _Heart:
    """Keeps the session alive while it waits."""

    def __init__(self, board: Board, identity: Identity, every: float) -> None:
        self._board = board
        self._identity = identity
        self._every = every
        self._first = True

    def __call__(self) -> float:
        """Beat when it is time to; returns when to call again, on the monotonic clock."""
        if self._first:
            # The claim itself was a sign of life.
            self._first = False
            return monotonic() + self._every
        try:
            self._board.limit(_LIMIT)
            self._board.beat(self._identity, self._board.session(self._identity.session))
        except (BoardError, GoneError):
            return monotonic() + min(_RETRY, self._every)
        return monotonic() + self._every


def _held(context: Context, label: str, blockers: Blockers | None, verb: str) -> HeldByAnotherError:
    action = blockers.next_action() if blockers is not None else "wait"
    _write_refusal(context, label, blockers, action)
    who = blockers.first() + blockers.more() if blockers is not None and blockers.claims else "another session"
    ask = "ASK the user to look at it" if action == "ask" else "or DEFER and tell the user who holds it"
    wait = "" if action == "ask" else f"WAIT with {context.program} {verb} {clean(label)} --wait 30m, "
    return HeldByAnotherError(f"not claimed: {clean(label)} is held by {who}; {wait}{ask}")


def _write_refusal(context: Context, label: str, blockers: Blockers | None, action: str) -> None:
    if context.arguments.json:
        rows = blockers.rows if blockers is not None else []
        write_json({"resource_label": label, "claimed": None, "conflicts": rows, "next_action": action})


def _withdraw(board: Board, identity: Identity, fresh: list[Object]) -> None:
    for claim in fresh:
        try:
            board.limit(_LIMIT)
            board.release(identity.session, claim["spec"]["resource"])
        except PresenceError:
            continue  # it ends by itself; the caller hears of the first failure


def _report(context: Context, identity: Identity, claim: Object) -> None:
    label, status = claim["spec"]["resource"], claim.get("status") or {}
    token = status.get("fencingToken")
    if context.arguments.json:
        row = claim_row(claim, None, identity.session)
        write_json({"claimed": row, "conflicts": [], "next_action": "proceed", "fencing_token": token})
    elif token is None:
        write(f"presence: claimed {label}")
    else:
        write(f"presence: claimed {label}, exclusively (fencing token {token})")


def _turn_signals_into_errors() -> dict[int, Any]:
    def stop(number: int, _: object) -> None:
        raise _StoppedError(number)

    wanted = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    return {number: signal.signal(number, stop) for number in wanted if signal.getsignal(number) != signal.SIG_IGN}
