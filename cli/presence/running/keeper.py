"""The process that keeps the claims: gets them, renews them, watches them, and lets go at the end.

Its main thread alone decides. The others (one reads what the supervisor says, one renews, one follows each claim) only
put events into its queue.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep

from presence.board import Board, GoneError
from presence.contention import GRANTED, OVER, Progress, obstacle, standing, why_over
from presence.deadline import Deadline
from presence.errors import BoardError, DeniedError, PresenceError, ServerError
from presence.following import Follower
from presence.model.deadlines import claim_deadline, has_ended
from presence.model.durations import format_duration
from presence.model.kinds import EXCLUSIVE, SHARED
from presence.model.queue import mode_of
from presence.model.times import format_time
from presence.output import clean, named
from presence.running import plan, wire
from presence.running.child import MARK, Processes
from presence.running.clock import now
from presence.running.deadline import attempt_limit, grace_of, retry_pause, terms_of, ttl_in_force
from presence.running.renewal import Renewal, Renewed

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from presence.following import OpenBoard
    from presence.identity import Identity

    Object = dict[str, Any]

HELD, TIMED_OUT, LOST, UNREACHABLE = 3, 4, 5, 69

#: Seconds for an exchange with the board where nothing else bounds it.
_LIMIT = 10.0
#: Seconds after which a claim that nobody has looked at means that no operator runs.
_OPERATOR = 5.0
#: Seconds that the supervisor has to take note of an order before the keeper acts itself.
_NOTE = 0.3
_LETTING_GO = 10.0
#: Signals that are the supervisor's business.
_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Job:
    """What to get and how: labels in the order of acquisition, and what the claims say.

    `base` is the session that the run was started from; `wait` is in seconds, 0: not at all. `mark` is this run's own,
    `marks` also has those of the runs around it.
    """

    __slots__ = ("base", "identity", "labels", "mark", "marks", "mode", "priority", "purpose", "quiet", "ttl", "wait")

    def __init__(
        self,
        labels: list[str],
        identity: Identity,
        base: str,
        purpose: str,
        *,
        mode: str,
        ttl: float,
        wait: float,
        mark: str,
        marks: str,
        quiet: bool,
        priority: int | None = None,
    ) -> None:
        self.labels = labels
        self.identity = identity
        self.base = base
        self.purpose = purpose
        self.mode = mode
        self.priority = priority
        self.ttl = ttl
        self.wait = wait
        self.mark = mark
        self.marks = marks
        self.quiet = quiet


class _OverError(Exception):
    """It ends before the command has started, with this exit code and these words; code None: a signal ended it."""

    def __init__(self, code: int | None, text: str = "") -> None:
        super().__init__(text)
        self.code = code


class _Kept:
    """One claim of the run."""

    __slots__ = ("body", "follower", "granted", "label", "name", "token", "uid")

    def __init__(self, label: str, body: Object) -> None:
        self.label = label
        self.name: str = body["metadata"]["name"]
        self.uid: str = body["metadata"]["uid"]
        self.body = body
        self.granted = False
        self.token: int | None = None
        self.follower: Follower | None = None


class Keeper:
    """See the module.

    Args:
        channel: to the supervisor.
        job: what to get.
        open_board: opens the board over a connection of its own.
        say: takes a line for the user.
    """

    def __init__(self, channel: socket.socket, job: Job, open_board: OpenBoard, say: Callable[[str], None]) -> None:
        self._channel = channel
        self._job = job
        self._open_board = open_board
        self._say = say
        self._events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._kept: dict[str, _Kept] = {}
        self._session: Object | None = None
        self._board: Board | None = None
        self._renewal: Renewal | None = None
        self._ttl = job.ttl
        self._sent = now()
        self._terms = terms_of(self._sent, job.ttl)
        self._number = 0
        self._suspended = False
        self._trouble = ""
        self._supervisor_gone = False
        self._withdraw = False
        self._started = False
        self._processes: Processes | None = None
        self._ended = False
        self._noted_stop = False
        self._heard = False

    def run(self) -> None:
        """Do all of it. Returns when nothing is left to do."""
        Thread(target=self._read, name="supervisor", daemon=True).start()
        try:
            self._get()
            self._begin()
            self._watch_over()
        except _OverError as over:
            if str(over):
                self._say(str(over))
            if over.code is not None:
                wire.send(self._channel, {"do": "over", "code": over.code})
        except PresenceError as error:
            # Before the start nothing runs, so there is nothing to stop.
            text = f"{error.what}, the command was not started: {error}" if isinstance(error, BoardError) else error
            self._say(clean(text, 1000))
            wire.send(self._channel, {"do": "over", "code": error.exit_code})
        self._let_go()

    # Getting the claims

    def _get(self) -> None:
        job = self._job
        board = self._ask(lambda board: board)
        self._sent = now()
        beat_every = max(5, min(3600, round(job.ttl / 3)))
        self._session = board.apply_session(job.identity, job.ttl, beat_every=beat_every)
        self._terms = terms_of(self._sent, self._ttl)
        self._renewal = Renewal(
            self._open_board, job.identity, self._session, job.ttl, self._sent, lambda told: self._put("renewal", told)
        ).start()
        until = now() + max(job.wait, 2.0)
        for label in job.labels:
            self._get_one(label, until)

    def _get_one(self, label: str, until: float) -> None:
        kept = _Kept(label, self._create(label))
        self._kept[kept.name] = kept
        assert self._renewal is not None
        self._renewal.keep(tuple(self._kept))
        version = kept.body["metadata"]["resourceVersion"]
        kept.follower = Follower(
            self._open_board,
            kept.name,
            version,
            lambda body: self._put("claim", (kept.name, body)),
            lambda error: self._put("trouble", error),
        ).start()
        self._take_over_own(label)
        progress = Progress(label)
        looked = False
        began = now()
        while not kept.granted:
            limit = until if looked else min(until, began + _OPERATOR)
            if not self._next(limit):
                if now() < until:
                    looked = True
                    if not (kept.body.get("status") or {}).get("phase"):
                        self._tell(
                            "no operator has looked at the claim yet; exclusive claims are granted by the operator"
                        )
                    continue
                self._give_up(kept)
            if self._supervisor_gone or self._withdraw:
                raise _OverError(None)
            lost = self._lost()
            if lost:
                raise _OverError(LOST, f"lost the place in the queue: {lost}; the command was not started")
            self._show(kept, progress)

    def _create(self, label: str) -> Object:
        job = self._job
        ttl = format_duration(job.ttl)
        assert self._session is not None
        owner = self._session

        def create(board: Board) -> Object:
            try:
                return board.create_claim(
                    job.identity, owner, label, job.purpose, ttl, mode=job.mode, priority=job.priority
                )
            except GoneError:
                # The answer to an attempt before this one was lost: the session's id is nobody else's.
                found = board.claim(job.identity.session, label)
                if found is None:
                    raise ServerError(f"the claim on {label} vanished; try again") from None
                return found

        made: Object = self._ask(create)
        return made

    def _take_over_own(self, label: str) -> None:
        """Let the claim go that the session which started this run has on `label` itself: it would wait for ever."""
        job = self._job
        if job.base == job.identity.session:
            return

        def release(board: Board) -> None:
            own = board.claim(job.base, label)
            if own is None or has_ended(own):
                return
            if mode_of(own) == SHARED and job.mode == SHARED:
                return
            details = {"by": job.identity.session, "user": job.identity.user, "to": job.identity.session}
            details["reason"] = "taken over by a run of the same session"
            try:
                board.patch_claim(own, {"spec": {"released": True, "release": details}})
            except GoneError:
                return
            self._tell(f"your own claim on {label} passes on to this run")

        self._ask(release)

    def _show(self, kept: _Kept, progress: Progress) -> None:
        if kept.granted or self._job.quiet:
            return
        try:
            line = self._ask(lambda board: progress.line(board, kept.body, now()), once=True)
        except PresenceError:
            return  # said after the next change
        if line:
            self._tell(line)

    def _give_up(self, kept: _Kept) -> None:
        if not (kept.body.get("status") or {}).get("phase"):
            raise _OverError(
                UNREACHABLE,
                f"nobody granted the claim on {kept.label}: no operator looks after this board;"
                " the command was not started",
            )
        try:
            why = self._ask(lambda board: obstacle(board, kept.body), once=True)
        except PresenceError:
            why = ""
        held = f"{kept.label} {why or 'was not granted'}"
        if self._job.wait == 0:
            raise _OverError(HELD, f"not run: {held}; wait for it with --wait 30m, or ask the holder")
        waited = format_duration(self._job.wait)
        raise _OverError(TIMED_OUT, f"not run: waited {waited}, and {held}; wait longer with --wait, or ask the holder")

    def _begin(self) -> None:
        job = self._job
        kept = [self._kept[name] for name in self._kept]
        assert self._session is not None
        env = {
            MARK: job.marks,
            "PRESENCE_SESSION": job.identity.session,
            "PRESENCE_RESOURCE": " ".join(item.label for item in kept),
            "PRESENCE_CLAIM": " ".join(item.name for item in kept),
            "PRESENCE_DEADLINE": format_time(min(claim_deadline(item.body, self._session) for item in kept)),
        }
        if all(item.token is not None for item in kept):
            env["PRESENCE_FENCING_TOKEN"] = " ".join(str(item.token) for item in kept)
        self._set_ttl()
        self._started = True
        wire.send(self._channel, {"do": "start", "env": env, **wire.pack(self._terms, grace_of(self._ttl))})

    # While the command runs

    def _watch_over(self) -> None:
        lost = ""
        while not self._ended:
            if self._supervisor_gone:
                self._end_alone("the process that runs the command has died, so the command was stopped")
                return
            if not self._next(self._terms.term_at):
                reason = f" ({clean(self._trouble, 300)})" if self._trouble else ""
                if self._awaits_note():
                    lost = "the process that runs the command does not answer, so its claims are not renewed"
                else:
                    lost = f"the claims could not be renewed in time{reason}"
            else:
                lost = self._lost()
            if lost:
                self._stop(lost)
                return

    def _stop(self, lost: str) -> None:
        if self._renewal is not None:
            self._renewal.stop()
        wire.send(self._channel, {"do": "stop"})
        self._say(f"lost: {lost}; stopping the command")
        self._say_who_is_next()
        # The supervisor ends the command; should it be stopped itself, it does not answer.
        noted = now() + _NOTE
        while not self._noted_stop and not self._ended and not self._supervisor_gone and now() < noted:
            self._next(noted)
        last = min(now() + grace_of(self._ttl), self._terms.kill_at)
        while self._noted_stop and not self._ended and not self._supervisor_gone and now() < last:
            self._next(last)
        if not self._ended:
            self._end_alone("")

    def _end_alone(self, text: str) -> None:
        """End the command's processes without the supervisor."""
        if text:
            self._say(text)
        if self._renewal is not None:
            self._renewal.stop()
        # Without a process id the mark finds what was started.
        processes = self._processes or Processes(-1, self._job.mark)
        if not self._started:
            return
        ending = plan.Ending()
        ending.because = "lost"
        if self._noted_stop:
            ending.asked_at = 0.0
        while not processes.gone(detached=True):
            step = plan.next_step(ending, self._terms, grace_of(self._ttl), now())
            if step.act == plan.ASK:
                ending.asked_at = now()
                processes.signal(signal.SIGTERM, detached=True)
            elif step.act == plan.KILL:
                processes.signal(signal.SIGKILL, detached=True)
            sleep(0.02)

    def _say_who_is_next(self) -> None:
        for kept in self._kept.values():
            if standing(kept.body, kept.uid) != OVER:
                continue
            try:
                others = self._ask(partial(Board.claims, resource=kept.label), once=True, limit=1.0)
            except PresenceError:
                return
            for other in others:
                if standing(other, other["metadata"]["uid"]) == GRANTED and mode_of(other) == EXCLUSIVE:
                    holder = other["spec"].get("holder") or {}
                    who = f"{named(other['spec']['session'])} ({named(holder.get('user', ''))})"
                    self._say(f"{kept.label} is held by {who} now")

    # Letting go

    def _let_go(self) -> None:
        """Release every claim and complete the session, so that the next one need not wait for a deadline."""
        if self._renewal is not None:
            self._renewal.stop()
        for kept in self._kept.values():
            if kept.follower is not None:
                kept.follower.stop()
        if self._session is None:
            return
        session = self._session
        limit = now() + _LETTING_GO
        todo = [kept.label for kept in self._kept.values()]
        failures = 0
        while True:
            try:
                board = self._ask(lambda board: board, once=True)
                while todo:
                    # Nobody makes claims by hand for the session of a run, and the next holder waits for this.
                    board.release(self._job.identity.session, todo[0], by_hand=False)
                    todo.pop(0)
                board.complete_session(session)
            except PresenceError as error:
                self._board = None
                failures += 1
                pause = retry_pause(failures, 60.0)
                if now() + pause >= limit:
                    labels = ", ".join(todo) or "the session"
                    self._say(
                        f"could not let go of {labels}: {clean(error, 300)};"
                        f" it ends by itself within {format_duration(self._ttl)}"
                    )
                    return
                sleep(pause)
            else:
                return

    # Events

    def _put(self, kind: str, what: Any) -> None:
        self._events.put((kind, what))

    def _read(self) -> None:
        inbox = wire.Inbox()
        while True:
            messages = inbox.receive(self._channel)
            if messages is None:
                self._put("gone", None)
                return
            for message in messages:
                self._put("said", message)

    def _next(self, until: float) -> bool:
        """Take one event in; False when none came before `until`."""
        while True:
            left = until - now()
            try:
                # In short steps: the timer of a wait stands still while the machine is suspended.
                kind, what = self._events.get(timeout=max(0.0, min(left, 0.5)))
                break
            except Empty:
                if now() >= until:
                    return False
        if kind == "gone":
            self._supervisor_gone = True
        elif kind == "said":
            self._hear(what)
        elif kind == "claim":
            name, body = what
            self._heard = True
            self._see(name, body, surely=False)
        elif kind == "trouble":
            # Later on, credentials are read afresh.
            if not isinstance(what, BoardError) or (isinstance(what, DeniedError) and not self._heard):
                raise what
            self._trouble = str(what)
        elif isinstance(what, Renewed):
            self._take_renewal(what)
        else:
            self._trouble = str(what)
        return True

    def _hear(self, message: dict[str, Any]) -> None:
        did = message.get("did")
        if did == "started":
            self._processes = Processes(message["pid"], self._job.mark)
        elif did == "seen":
            if message["n"] == self._number:
                self._seen = self._number
                self._allow()
        elif did == "stopping":
            self._noted_stop = True
        elif did in ("suspended", "resumed"):
            self._suspended = did == "suspended"
            self._allow()
        elif did == "ended":
            self._ended = True
        elif did == "withdraw":
            self._withdraw = True

    _seen = 0

    def _awaits_note(self) -> bool:
        return self._started and not self._suspended and self._seen != self._number

    def _allow(self) -> None:
        if self._renewal is not None:
            self._renewal.allow(not self._awaits_note())

    def _take_renewal(self, renewed: Renewed) -> None:
        for name, body in renewed.claims.items():
            self._see(name, body, surely=True)
        # One that was acknowledged too late may have come too late.
        if now() >= self._terms.term_at and self._started:
            return
        self._session = renewed.session
        if self._lost():
            return
        self._sent = renewed.sent
        self._trouble = ""
        self._set_ttl()
        if self._started:
            self._number += 1
            message = {"do": "terms", "n": self._number, **wire.pack(self._terms, grace_of(self._ttl))}
            wire.send(self._channel, message)
            self._allow()

    def _set_ttl(self) -> None:
        ttls = [ttl_in_force(kept.body, self._session) for kept in self._kept.values()]
        self._ttl = min([self._job.ttl, *ttls])
        self._terms = terms_of(self._sent, self._ttl)

    def _see(self, name: str, body: Object | None, *, surely: bool) -> None:
        """Take in how a claim is; `surely` when it was read after everything that is known of it."""
        kept = self._kept[name]
        if body is None:
            kept.body = {**kept.body, "metadata": {**kept.body["metadata"], "deletionTimestamp": "now"}}
            return
        if standing(kept.body, kept.uid) == OVER:
            return
        state = standing(body, kept.uid)
        if state == OVER:
            kept.body = body
            if body["metadata"]["uid"] != kept.uid:
                kept.body = {**body, "metadata": {**body["metadata"], "deletionTimestamp": "now"}}
        elif state == GRANTED:
            token = (body.get("status") or {}).get("fencingToken")
            if kept.granted and token != kept.token:
                # Not the grant that the command was started with.
                kept.body = {**body, "metadata": {**body["metadata"], "deletionTimestamp": "now"}}
                return
            if mode_of(body) == EXCLUSIVE and token is None:
                return
            kept.granted, kept.token, kept.body = True, token, body
        elif not kept.granted:
            kept.body = body
        elif surely:
            kept.body = {**body, "metadata": {**body["metadata"], "deletionTimestamp": "now"}}
        if self._started and kept.granted and state == GRANTED:
            before = self._ttl
            self._set_ttl()
            if self._ttl < before:
                message = {"do": "terms", "n": self._number, **wire.pack(self._terms, grace_of(self._ttl))}
                wire.send(self._channel, message)

    def _lost(self) -> str:
        """What was lost and why; empty while all stands."""
        parts = [
            f"{kept.label} {why_over(kept.body, kept.uid)}"
            for kept in self._kept.values()
            if standing(kept.body, kept.uid) == OVER
        ]
        return "; ".join(parts)

    # The board

    def _ask(self, question: Callable[[Board], Any], *, once: bool = False, limit: float = _LIMIT) -> Any:
        """Ask the board. Once something is on it, questions are repeated as long as it lives there.

        Raises:
            PresenceError: as the board answers.
        """
        failures = 0
        while True:
            try:
                if self._board is None:
                    self._board = self._open_board(Deadline(limit))
                self._board.limit(limit if not self._started else min(limit, attempt_limit(self._ttl)))
                return question(self._board)
            except BoardError:
                self._board = None
                failures += 1
                pause = retry_pause(failures, self._ttl)
                if once or not self._kept or now() + pause >= self._terms.term_at:
                    raise
                sleep(pause)

    def _tell(self, text: str) -> None:
        if not self._job.quiet:
            self._say(text)


def keep(channel: socket.socket, job: Job, open_board: OpenBoard, say: Callable[[str], None]) -> None:
    """Be the keeper: a process of its own, out of reach of the terminal, that holds nothing open of the caller's."""
    os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    mine = channel.fileno()
    os.closerange(3, mine)
    os.closerange(mine + 1, _highest_file())
    Keeper(channel, job, open_board, say).run()


def _highest_file() -> int:
    try:
        return max(map(int, os.listdir("/dev/fd"))) + 1
    except (OSError, ValueError):
        return 1024
