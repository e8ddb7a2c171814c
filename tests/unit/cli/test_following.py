"""The threads behind a waiting or running command, when they meet what nobody has foreseen."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from presence.errors import BoardError
from presence.following import Follower
from presence.running.clock import now
from presence.running.renewal import Renewal, Renewed

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAIM = {"metadata": {"name": "claim", "resourceVersion": "7"}}


class _Board:
    """Fails once in a way that no board should, and works from then on."""

    def __init__(self) -> None:
        self.failed = False

    def opened(self, _deadline: Any) -> Any:
        return self

    def limit(self, seconds: float) -> None: ...

    def follow(self, *_: Any) -> Iterator[Any]:
        self._fail()
        yield CLAIM

    def beat(self, *_: Any) -> Any:
        self._fail()
        return {}

    def named_claim(self, _name: str) -> Any:
        return CLAIM

    def _fail(self) -> None:
        if not self.failed:
            self.failed = True
            raise KeyError("spec")


def test_a_watch_that_failed_in_an_unknown_way_is_told_of_and_made_anew() -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    follower = Follower(_Board().opened, "claim", "1", told.put, told.put).start()
    trouble, claim = told.get(timeout=10), told.get(timeout=10)
    follower.stop()
    assert isinstance(trouble, BoardError)
    assert "the watch failed: KeyError: 'spec'" in str(trouble)
    assert claim == CLAIM


def test_a_renewal_that_failed_in_an_unknown_way_is_told_of_and_tried_again() -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    identity: Any = None
    renewal = Renewal(_Board().opened, identity, {}, 5.0, now() - 5.0, told.put)
    renewal.keep(("claim",))
    renewal.start()
    trouble, renewed = told.get(timeout=10), told.get(timeout=10)
    renewal.stop()
    assert isinstance(trouble, BoardError)
    assert "the renewal failed: KeyError: 'spec'" in str(trouble)
    assert isinstance(renewed, Renewed)
    assert renewed.claims == {"claim": CLAIM}
