"""`presence once`: a command that runs once for its key, on whatever machine it is called."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from time import monotonic, sleep

from presence import once
from presence.board import ATTEMPTS, GoneError, holder_of
from presence.deadline import Deadline
from presence.errors import BoardError, HeldByAnotherError, PresenceError, ServerError, UsageError
from presence.identity import find_identity
from presence.model.deadlines import claim_deadline
from presence.model.durations import DurationError, format_duration, parse_duration
from presence.model.kinds import MAX_TTL, MIN_TTL
from presence.model.times import format_time
from presence.output import clean, named, write_json

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

    from presence.context import Context
    from presence.keys import Keys

    Object = dict[str, Any]

DESCRIPTION = (
    "Run a command once: of all calls with the same hook and context, on all machines,\n"
    "the first runs it. The others return its exit code without running it, until the ttl\n"
    "has passed since the first began; they do not extend it. That holds for a failure\n"
    "too, unless --retry-failed is given. A run that crashed is repeated by the next call.\n"
    "Exit codes besides the command's: 3 the first still runs, 4 it still ran after --wait,\n"
    "69 board unreachable with --strict (else the command runs), 126 not executable,\n"
    "127 not found."
)
EXAMPLES = """examples:
  presence once session-start "$CLAUDE_SESSION_ID" -- ./announce.sh
  presence once stop "$PROJECT" --ttl 10m --wait 1m -- make report
  presence once --hook="$hook" --input="$text" -- ./notify.sh     # texts that may begin with a dash"""

#: What follows -- is the command.
TAKES_COMMAND = True

TIMED_OUT = 4
_TTL = "5m"
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_PAUSE_MAX = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("hook", metavar="HOOK", nargs="?", help="what runs, such as session-start")
    parser.add_argument("input", metavar="CONTEXT", nargs="?", help="what it runs for: any text")
    parser.add_argument("--hook", dest="hook_option", metavar="TEXT", help="the same as HOOK")
    parser.add_argument("--input", dest="input_option", metavar="TEXT", help="the same as CONTEXT")
    parser.add_argument(
        "--ttl",
        metavar="TIME",
        default=_TTL,
        help=f"how long the command does not run again, counted from its first start; default {_TTL}",
    )
    parser.add_argument(
        "--wait", metavar="TIME", default="0", help="how long to wait for a first run that is still going; default 0"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run again when the recorded exit code is not 0")
    # For tests.
    parser.add_argument("--most-keys", type=int, default=once.MOST_KEYS, help=argparse.SUPPRESS)


class Wish:
    """What the caller wants: the texts and their key, the ttl and the wait in seconds."""

    __slots__ = ("context", "hook", "key", "retry_failed", "ttl", "wait")

    def __init__(self, hook: str, context: str, *, ttl: float, wait: float, retry_failed: bool) -> None:
        self.hook = hook
        self.context = context
        self.key = once.key_of(hook, context)
        self.ttl = ttl
        self.wait = wait
        self.retry_failed = retry_failed

    @property
    def shown(self) -> str:
        """The key as messages name it."""
        return clean(once.describe(self.hook, self.context), 120)


def run(context: Context) -> int:
    """Run the command, or return what became of it."""
    from presence.running.child import Unrunnable, find_program

    wish = _wish(context.arguments)
    try:
        # Before anything is written: a key for nothing would stand in the way of the repaired call.
        program = find_program(context.arguments.command[0], context.env.get("PATH", os.defpath))
    except Unrunnable as problem:
        _say(str(problem))
        return problem.code
    command = _Command(program, context)
    try:
        keys = _open(context)
        mine, outcome = _take(context, keys, wish)
    except BoardError as error:
        if context.arguments.strict:
            raise
        # A hook must not depend on the board.
        _say(f"{error.what}, running without a key: {error}")
        return command.alone()
    if mine is None:
        return _duplicate(context, wish, outcome)
    return _execute(context, keys, wish, mine, command)


def _wish(arguments: argparse.Namespace) -> Wish:
    texts = []
    words = [word for word in (arguments.hook, arguments.input) if word is not None]
    for name, given in (("HOOK", arguments.hook_option), ("CONTEXT", arguments.input_option)):
        if given is None and not words:
            raise UsageError(f"{name} is missing; write presence once <hook> <context> -- <command>")
        # Before Python 3.13, argparse makes an empty list of --hook=--.
        texts.append(words.pop(0) if given is None else given if isinstance(given, str) else "--")
    if words:
        raise UsageError("HOOK or CONTEXT is given twice; leave one out")
    if not arguments.command:
        raise UsageError("once needs a command after --, for example presence once stop my-project -- ./report.sh")
    ttl = _seconds("--ttl", arguments.ttl)
    if not MIN_TTL <= ttl <= MAX_TTL:
        bounds = f"{format_duration(MIN_TTL)} to {format_duration(MAX_TTL)}"
        raise UsageError(f"--ttl {arguments.ttl} is out of bounds; write {bounds}, mostly 5m")
    wait = 0.0 if arguments.wait.strip() in ("0", "0s") else _seconds("--wait", arguments.wait)
    return Wish(texts[0], texts[1], ttl=ttl, wait=wait, retry_failed=arguments.retry_failed)


def _seconds(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except DurationError as error:
        raise UsageError(f"{option}: {error}") from None


def _open(context: Context) -> Keys:
    from presence.keys import Keys

    return Keys(context.board(), context.arguments.most_keys)


# Taking the key


def _take(context: Context, keys: Keys, wish: Wish) -> tuple[Object | None, once.Outcome | None]:
    """The key as this call made it, or None and the outcome of the run that had it.

    Raises:
        BoardError: the board cannot be asked.
        HeldByAnotherError: another run has it, and goes on.
    """
    identity = find_identity(context.env, session=context.arguments.session)
    body = once.body_of(
        wish.key,
        wish.hook,
        wish.context,
        execution=os.urandom(4).hex(),
        holder=holder_of(identity),
        lease=once.lease_of(wish.ttl),
    )
    end = monotonic() + wish.wait
    pause = 0.01
    attempt = 0
    while attempt < ATTEMPTS * 4:
        attempt += 1
        keys.limit(context.deadline.seconds)
        made = keys.create(body)
        if made is not None:
            return made, None
        found = keys.named_claim(body["metadata"]["name"])
        if found is not None and found["spec"]["session"] == body["spec"]["session"]:
            # The answer to the first request was lost, and it was sent again.
            return found, None
        verdict, outcome = once.judge(found, keys.now)
        if found is not None and verdict == once.RUNNING:
            ended = _wait(context, wish, found, keys.now, end)
            if ended is not None:
                return None, ended
            attempt = 0
            continue
        if outcome is not None and not (wish.retry_failed and outcome.code):
            return None, outcome
        if found is not None:
            try:
                keys.discard(found, unchanged=True)
            except GoneError:
                sleep(pause)
                pause = min(pause * 2, _PAUSE_MAX)
    raise ServerError(f"others changed the key of {wish.shown} again and again; try again")


def _wait(context: Context, wish: Wish, found: Object, now: float, end: float) -> once.Outcome | None:
    """How the run of this key ends; None when the key is free, or another's, and has to be looked at again.

    Raises:
        HeldByAnotherError: it still runs at `end`, a point in monotonic time.
    """
    if wish.wait <= 0:
        raise HeldByAnotherError(f"{wish.shown} {_running(found)}; wait for its outcome with --wait, or call again")
    uid, version = found["metadata"]["uid"], found["metadata"]["resourceVersion"]
    deadline = monotonic() + max(0.0, claim_deadline(found) - now)
    pause = 0.1
    while True:
        left = end - monotonic()
        if left <= 0:
            raise _StillRunningError(f"{wish.shown} {_running(found)}, after {format_duration(wish.wait)} of waiting")
        # The run may crash in silence; then it is over at its deadline, rounded up because now is rounded down.
        quiet = deadline + 1 - monotonic()
        if quiet <= 0:
            return None
        silence = min(left, quiet)
        try:
            board = context.open_board(Deadline(max(0.1, min(left, context.deadline.seconds))))
            for claim in board.follow(found["metadata"]["name"], version, silence):
                if claim is None or claim["metadata"]["uid"] != uid:
                    return None
                outcome = once.read_outcome(claim)
                if outcome is not None:
                    # It ended while this call waited for it: its outcome counts, however short the ttl.
                    return None if wish.retry_failed and outcome.code else outcome
                if once.judge(claim, board.now)[0] != once.RUNNING:
                    return None
                version = claim["metadata"]["resourceVersion"]
                deadline = max(deadline, monotonic() + claim_deadline(claim) - board.now)
                if end - monotonic() < silence:
                    break
            pause = 0.1
        except BoardError:
            sleep(max(0.0, min(pause, end - monotonic())))
            pause = min(pause * 2, _PAUSE_MAX)


class _StillRunningError(PresenceError):
    """The first run goes on, though its end was waited for."""

    exit_code = TIMED_OUT


def _running(found: Object) -> str:
    holder = found["spec"].get("holder") or {}
    who = f"{named(holder.get('user', ''), 64)}@{named(holder.get('host', ''), 128)}"
    return f"is still running for {who} since {found['metadata']['creationTimestamp']}"


def _duplicate(context: Context, wish: Wish, outcome: once.Outcome | None) -> int:
    assert outcome is not None
    if context.arguments.json:
        write_json({"key": wish.key, "ran": False, "outcome": outcome.row()})
    where = f"{named(outcome.user, 64)}@{named(outcome.host, 128)}"
    _say(f"{wish.shown} already ran on {where} at {format_time(outcome.started)}, exit {outcome.code}")
    return outcome.code


# Running


def _execute(context: Context, keys: Keys, wish: Wish, mine: Object, command: _Command) -> int:
    beats = _Beats(context, keys, mine, once.lease_of(wish.ttl) / 3)
    received = monotonic()
    started = keys.now
    try:
        command.start()
    except BaseException:
        _free(keys, mine)
        raise
    crowded = beats.prune()
    code, ended = command.wait(beats)
    if not ended:
        # It did not come to its end: what a crash leaves undone may be tried again at once.
        _say(f"{wish.shown} was ended by signal {code - 128}; its key is free again")
        _free(keys, mine, context.deadline.seconds)
        return code
    holder = mine["spec"]["holder"]
    outcome = once.Outcome(code, started, started + monotonic() - received, holder["host"], holder["user"])
    try:
        keys.limit(context.deadline.seconds)
        recorded = keys.patch_claim(mine, once.end_patch(outcome, wish.ttl))
        if crowded:
            keys.prune(recorded["metadata"]["resourceVersion"])
    except GoneError:
        _say(f"the key of {wish.shown} was lost while the command ran; it may have run elsewhere too")
    except PresenceError as error:
        _say(f"the outcome of {wish.shown} could not be recorded, so it may run again: {error}")
    return code


def _free(keys: Keys, mine: Object, seconds: float | None = None) -> None:
    try:
        if seconds is not None:
            keys.limit(seconds)
        keys.discard(mine, unchanged=False)
    except PresenceError:
        pass  # it expires


class _Beats:
    """Keeps the key alive while the command runs; trouble with the board never troubles the command."""

    def __init__(self, context: Context, keys: Keys, mine: Object, every: float) -> None:
        self._keys = keys
        self._mine = mine
        self._every = every
        self._limit = min(context.deadline.seconds, every)
        self._next = monotonic() + every
        self._lost = False

    def prune(self) -> bool:
        """Make room on the board; True when it is nearly full."""
        try:
            self._keys.limit(self._limit)
            return self._keys.prune(self._mine["metadata"]["resourceVersion"])
        except PresenceError:
            return False

    def due(self) -> float:
        """Seconds until the next heartbeat."""
        return 3600.0 if self._lost else max(0.0, self._next - monotonic())

    def beat(self) -> None:
        """Renew the key."""
        self._next = monotonic() + self._every
        try:
            self._keys.limit(self._limit)
            self._keys.renew_claim(self._mine, {})
        except GoneError:
            self._lost = True
        except PresenceError:
            self._next = monotonic() + min(self._every, 1.0)


class _Command:
    """The command as a child process in this program's process group, with its standard streams."""

    def __init__(self, program: str, context: Context) -> None:
        self._program = program
        self._arguments = list(context.arguments.command)
        self._env = dict(context.env)
        self._child = 0
        self._early: list[int] = []
        self._wakeup = -1

    def alone(self) -> int:
        """Become the command: nothing of this program is needed any more."""
        sys.stdout.flush()
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execve(self._program, self._arguments, self._env)  # noqa: S606 - a shell would only stand in between
        except OSError as error:
            raise _not_executable(self._arguments[0], error) from None

    def start(self) -> None:
        """Start it.

        Raises:
            PresenceError: the system refuses to execute it.
        """
        sys.stdout.flush()
        self._wakeup, write_end = os.pipe()
        os.set_blocking(write_end, False)
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _PASSED_ON:
            # What the caller has this program ignore, such as a hang-up under nohup, stays ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._pass_on)
        try:
            self._child = os.posix_spawn(self._program, self._arguments, self._env, setsigdef=_IGNORED_BY_PYTHON)
        except OSError as error:
            raise _not_executable(self._arguments[0], error) from None
        for early in self._early:
            self._pass_on(early, None)

    def wait(self, beats: _Beats) -> tuple[int, bool]:
        """Its exit code once it has ended, 128 and more for a signal; and whether it ended by itself."""
        while True:
            process, status = os.waitpid(self._child, os.WNOHANG)
            if process:
                self._child = 0
                code = os.waitstatus_to_exitcode(status)
                return (code, True) if code >= 0 else (128 - code, False)
            ready, _, _ = select.select([self._wakeup], [], [], beats.due())
            if ready:
                os.read(self._wakeup, 512)
            elif not beats.due():
                beats.beat()

    def _pass_on(self, number: int, _: Any) -> None:
        if not self._child:
            self._early.append(number)
        # What comes from the terminal goes to the whole group already.
        elif not (number in _FROM_TERMINAL and _in_foreground()):
            try:
                os.kill(self._child, number)
            except ProcessLookupError:
                pass


_IGNORED_BY_PYTHON = (signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE))


class _NotExecutableError(PresenceError):
    """The system refuses to execute the command."""

    exit_code = 126


def _not_executable(name: str, error: OSError) -> PresenceError:
    return _NotExecutableError(f"cannot run {name}: {error.strerror}")


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _say(text: str) -> None:
    sys.stderr.write(f"presence: {clean(text, 1000)}\n")
    sys.stderr.flush()
