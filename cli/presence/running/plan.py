"""What to do about the processes of a command, and when to look again. Pure: times and facts in, one step out."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from presence.running.deadline import Terms

NOTHING, ASK, KILL = "nothing", "ask", "kill"

#: Seconds between two looks at processes that were killed and are still there.
_AGAIN = 0.05


class Ending:
    """How far the end of a command has come."""

    __slots__ = ("asked_at", "because")

    def __init__(self) -> None:
        #: Why it has to end; empty while it may run on.
        self.because = ""
        #: When it was asked to end.
        self.asked_at: float | None = None


class Step:
    """Do this now, and look again at `wake_at` at the latest."""

    __slots__ = ("act", "wake_at")

    def __init__(self, act: str, wake_at: float) -> None:
        self.act = act
        self.wake_at = wake_at


def next_step(ending: Ending, terms: Terms, grace: float, now: float) -> Step:
    """The step for processes that are alive at `now`.

    They are asked once, as soon as there is a reason or the deadline comes near, and killed after `grace` seconds, or
    at the deadline if that comes first, again and again until nothing is left.
    """
    if now >= terms.kill_at:
        return Step(KILL, now + _AGAIN)
    if ending.asked_at is not None:
        last = min(ending.asked_at + grace, terms.kill_at)
        return Step(KILL, now + _AGAIN) if now >= last else Step(NOTHING, last)
    if ending.because or now >= terms.term_at:
        return Step(ASK, min(now + grace, terms.kill_at))
    return Step(NOTHING, terms.term_at)
