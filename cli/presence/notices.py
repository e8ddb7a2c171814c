"""Telling a session, once, that a claim of it was taken away: on the next call that it makes."""

from __future__ import annotations

import sys

from presence.board import CACHED, GoneError
from presence.errors import PresenceError
from presence.model.kinds import GROUP
from presence.output import clean, named, quoted, write

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from presence.board import Board

    Object = dict[str, Any]

#: Written by the holder's own program once it has said that the claim was taken away.
TOLD_ANNOTATION = f"{GROUP}/told"


def tell(board: Board, session: str, claims: Iterable[Object] | None = None) -> None:
    """Say on standard error which claims of `session` were taken away since its last call.

    `claims` are all of its claims where the caller has them. Failing to find out is no failure of the call.
    """
    try:
        found = claims if claims is not None else board.claims(session=session, ended=True, not_older_than=CACHED)
        for claim in found:
            details = claim["spec"].get("release") or {}
            told = (claim["metadata"].get("annotations") or {}).get(TOLD_ANNOTATION)
            if not details.get("forced") or details.get("by") == session or told:
                continue
            board.patch_claim(claim, {"metadata": {"annotations": {TOLD_ANNOTATION: "true"}}})
            write(f"presence: {_notice(claim, details)}", sys.stderr)
    except (PresenceError, GoneError):
        return


def _notice(claim: Object, details: dict[str, Any]) -> str:
    label = clean(claim["spec"]["resource"])
    who = named(details.get("by") or "somebody")
    user = f" ({named(details['user'])})" if details.get("user") else ""
    why = f", reason {quoted(details['reason'])}" if details.get("reason") else ""
    return f"you lost {label}: {who}{user} took it away{why}; do not touch it without a new claim"
