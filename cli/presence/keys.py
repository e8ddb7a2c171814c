"""The keys of `presence once` in the Kubernetes API."""

from __future__ import annotations

from presence import once
from presence.board import Board, GoneError
from presence.model.kinds import CLAIM_PLURAL, CLI_MANAGER

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

    Object = dict[str, Any]

_PAGE = 500
#: From this share of the limit on, the keys are counted again when the command has ended.
_CROWDED = 0.9


class Keys(Board):
    """A board, seen by what it holds of keys.

    Args:
        board: where it is; its connection is used.
        most: how many keys the board holds.
    """

    def __init__(self, board: Board, most: int = once.MOST_KEYS) -> None:
        super().__init__(board._connection, board.namespace)
        self.now = board.now
        self._most = most

    def create(self, body: Object) -> Object | None:
        """Create a key; None when there is one already.

        Raises:
            BoardError: the board cannot be asked, or refuses.
        """
        response = self._ask("POST", self._paths[CLAIM_PLURAL], {"fieldManager": CLI_MANAGER}, body)
        return None if response.status == 409 else self._body(response)

    def discard(self, claim: Object, *, unchanged: bool) -> None:
        """Delete exactly this key; fine when it is gone already.

        Raises:
            GoneError: with `unchanged`: it changed since it was read.
        """
        metadata = claim["metadata"]
        conditions = {"uid": metadata["uid"]}
        if unchanged:
            conditions["resourceVersion"] = metadata["resourceVersion"]
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        response = self._ask("DELETE", f"{self._paths[CLAIM_PLURAL]}/{metadata['name']}", None, body)
        if response.status == 409 and unchanged:
            raise GoneError
        if response.status not in (404, 409):
            self._body(response)

    def prune(self, version: str) -> bool:
        """Delete what the board holds too many of; True when it is nearly full.

        `version` is the resourceVersion of one's own write; nothing older is looked at.
        """
        # A list without a selector says how much was left out: one claim tells how many there are.
        fresh: dict[str, str | int] = {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"}
        counted = self._body(self._ask("GET", self._paths[CLAIM_PLURAL], {**fresh, "limit": 1}))
        rest = counted["metadata"].get("remainingItemCount") or 0
        if len(counted["items"]) + rest <= self._most * _CROWDED:
            return False
        found = self._keys(fresh)
        for claim in once.surplus(found, self.now, self._most):
            self.discard(claim, unchanged=False)
        return len(found) > self._most * _CROWDED

    def _keys(self, fresh: dict[str, str | int]) -> list[Object]:
        query: dict[str, str | int] = {**fresh, "labelSelector": f"{once.LABEL}=true", "limit": _PAGE}
        found: list[Object] = []
        while True:
            body = self._body(self._ask("GET", self._paths[CLAIM_PLURAL], query))
            found += body["items"]
            token = body["metadata"].get("continue")
            if not token:
                return found
            query = {name: value for name, value in query.items() if not name.startswith("resourceVersion")}
            query["continue"] = token
