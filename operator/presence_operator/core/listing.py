"""Complete lists, compared with what the Board knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence_operator.core.facts import Claim, version_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from presence_operator.core.board import Board
    from presence_operator.core.entries import ClaimEntry, SessionEntry
    from presence_operator.core.facts import Fact, Key


class Listing:
    """A complete list of one kind, page by page: whatever the watch missed is found by it, deletions as well.

    Events and answers may come in between the pages. A list is a picture of its own revision: what is newer stays, and
    what was deleted meanwhile does not come back. `namespace` is None for a list across all of them; `revision` is the
    list's resourceVersion.
    """

    def __init__(self, board: Board, kind: type[Fact], namespace: str | None, revision: str) -> None:
        self._board = board
        self._kind = kind
        self._namespace = namespace
        self._revision = version_number(revision)
        self._seen: set[str] = set()
        horizon = board._horizon.get((kind, namespace), 0)
        # A server that was restored from a backup counts from an earlier revision again: its list is all there is.
        self._rebase = self._revision is not None and self._revision < horizon
        if self._rebase:
            # What was deleted since that backup was made exists again, under its old uid.
            board._buried.clear()
        self.added = self.changed = self.removed = 0
        board._listings += 1

    def known(self, key: Key, uid: str, resource_version: str) -> bool:
        """Note an item of the list; true when it need not be parsed because it is no news."""
        self._seen.add(uid)
        if self._rebase:
            return False
        entry = self._board._entry(self._kind, key)
        return entry is not None and entry.fact.uid == uid and self._board.knows(self._kind, key, resource_version)

    def put(self, facts: Iterable[Fact]) -> None:
        """Take in items of the list."""
        for fact in facts:
            self._seen.add(fact.uid)
            existed = self._board.get(self._kind, fact.key) is not None
            if self._board._put(fact, heard=False, force=self._rebase):
                if existed:
                    self.changed += 1
                else:
                    self.added += 1

    def finish(self) -> None:
        """The list is complete: what it should have held and did not is gone."""
        board = self._board
        entries: list[ClaimEntry | SessionEntry] = []
        entries += board._claims.values() if self._kind is Claim else board._sessions.values()
        for entry in entries:
            fact = entry.fact
            if self._namespace not in (None, fact.namespace) or fact.uid in self._seen:
                continue
            version = version_number(fact.resource_version)
            newer = self._revision is not None and version is not None and version > self._revision
            if newer and not self._rebase:
                continue
            board._remove(entry)
            self.removed += 1
        if self._revision is not None:
            board._horizon[(self._kind, self._namespace)] = self._revision
        self.abandon()

    def abandon(self) -> None:
        """The list could not be completed; what it has told so far stands."""
        self._board._listings -= 1
