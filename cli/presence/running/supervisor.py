"""The process that the caller started: runs the command, and ends it in time. One thread, no connection."""

from __future__ import annotations

import os
import select
import signal
import sys

from presence.running import plan, wire
from presence.running.child import Manners, Processes, Unrunnable, group_is_empty, start
from presence.running.clock import now
from presence.running.terminal import Terminal

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from presence.running.deadline import Terms

LOST = 5
UNREACHABLE = 69

_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_END_THE_WAIT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_WANTS_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)

#: Seconds between two looks at the clock: the timer of a wait stands still while the machine is suspended.
_LOOK = 0.5
#: The same while the rest of a command's processes is to end; they are not this program's children.
_LOOK_FOR_REST = 0.05
#: Seconds that the keeper has to let go, before this program ends without it.
_LETTING_GO = 15.0


class Command:
    """What is to be run: the file, the arguments with the name first, the environment, and the mark of this run."""

    __slots__ = ("arguments", "env", "mark", "program")

    def __init__(self, program: str, arguments: Sequence[str], env: Mapping[str, str], mark: str) -> None:
        self.program = program
        self.arguments = arguments
        self.env = env
        self.mark = mark


class Supervisor:
    """Watches over one command.

    Args:
        channel: to the keeper.
        keeper: the keeper's process id.
        command: what to run once the keeper says so.
        say: takes a line for the user.
    """

    def __init__(self, channel: socket.socket, keeper: int, command: Command, say: Callable[[str], None]) -> None:
        self._channel = channel
        self._keeper = keeper
        self._command = command
        self._say = say
        self._inbox = wire.Inbox()
        self._manners = Manners()
        self._terminal = Terminal()
        self._eager = False
        self._keeper_gone = False
        self._processes: Processes | None = None
        self._terms: Terms | None = None
        self._grace = 0.0
        self._ending = plan.Ending()
        #: The command's own exit code, once it has one.
        self._code: int | None = None
        #: The exit code that an order of the keeper or a signal brings.
        self._ordered: int | None = None
        self._told_why = False
        self._late = False
        self._signals: list[int] = []

    def run(self) -> int:
        """Wait for the order to start, run the command, and return this program's exit code."""
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*_PASSED_ON, signal.SIGCHLD):
            # What was ignored from the start, as by nohup, stays ignored, here and in the command.
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)
        poller = select.poll()
        poller.register(woken, select.POLLIN)
        poller.register(self._channel, select.POLLIN)
        watching = True
        try:
            while True:
                wait = self._wait_time()
                for file, _ in poller.poll(wait * 1000):
                    if file == woken:
                        os.read(woken, 4096)
                    else:
                        self._listen()
                if self._keeper_gone and watching:
                    poller.unregister(self._channel)
                    watching = False
                self._take_signals()
                outcome = self._go_on()
                if outcome is not None:
                    return outcome
        finally:
            signal.set_wakeup_fd(-1)

    # What comes in

    def _note(self, number: int, _: object) -> None:
        self._signals.append(number)

    def _listen(self) -> None:
        messages = self._inbox.receive(self._channel)
        if messages is None:
            self._keeper_gone = True
            return
        for message in messages:
            order = message.get("do")
            if order == "start":
                self._terms, self._grace = wire.unpack(message)
                self._start(message["env"])
            elif order == "terms":
                self._terms, self._grace = wire.unpack(message)
                wire.send(self._channel, {"did": "seen", "n": message["n"]})
            elif order == "stop":
                self._ending.because = "lost"
                self._told_why = True
                wire.send(self._channel, {"did": "stopping"})
            elif order == "over":
                self._ordered = message["code"]

    def _drain(self) -> None:
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        while not self._keeper_gone and poller.poll(0):
            self._listen()

    def _take_signals(self) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number == signal.SIGCHLD:
                self._reap()
            elif self._processes is None:
                if number in _END_THE_WAIT:
                    if self._ordered is not None:
                        # Asked twice: the keeper lets go without being waited for.
                        os._exit(128 + number)
                    self._ordered = 128 + number
                    wire.send(self._channel, {"did": "withdraw"})
            elif self._code is not None:
                if number in _END_THE_WAIT:
                    self._ending.because = self._ending.because or "signal"
            elif number == signal.SIGCONT:
                self._resume()
            else:
                self._signal_group(number)

    # The command

    def _start(self, additions: Mapping[str, str]) -> None:
        assert self._terms is not None
        if self._ordered is not None:
            return
        if now() >= self._terms.term_at:
            self._ordered = LOST
            self._say("the claims ran out before the command could start; it was not started")
            wire.send(self._channel, {"did": "ended"})
            return
        env = {**self._command.env, **additions}
        terminal = self._terminal.for_command()
        self._eager = terminal is not None
        if self._terminal.present:
            signal.signal(signal.SIGTSTP, self._note)
            signal.signal(signal.SIGCONT, self._note)
        try:
            child = start(self._command.program, self._command.arguments, env, self._channel, self._manners, terminal)
        except Unrunnable as problem:
            self._terminal.take_back(-1)
            self._say(str(problem))
            self._ordered = problem.code
            wire.send(self._channel, {"did": "ended"})
            return
        self._processes = Processes(child, self._command.mark)

    def _reap(self) -> None:
        if self._processes is None:
            return
        while self._code is None:
            try:
                process, status = os.waitpid(self._processes.group, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                self._code = LOST
                return
            if process == 0:
                return
            if os.WIFSTOPPED(status):
                self._stopped(os.WSTOPSIG(status))
            else:
                self._code = os.waitstatus_to_exitcode(status)
                if self._code < 0:
                    self._code = 128 - self._code
                self._late = self._terms is not None and now() >= self._terms.end
                self._terminal.take_back(self._processes.group)

    def _stopped(self, number: int) -> None:
        assert self._processes is not None
        if not self._terminal.present or self._ending.asked_at is not None:
            return
        if number in _WANTS_TERMINAL and self._terminal.ours:
            self._terminal.give(self._processes.group)
            self._signal_group(signal.SIGCONT)
            return
        # The shell gets the terminal back only when its own job stops. Renewals go on meanwhile.
        self._terminal.take_back(self._processes.group)
        wire.send(self._channel, {"did": "suspended"})
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self) -> None:
        assert self._processes is not None
        wire.send(self._channel, {"did": "resumed"})
        if self._eager and self._terminal.ours:
            self._terminal.give(self._processes.group)
        self._signal_group(signal.SIGCONT)

    def _signal_group(self, number: int) -> None:
        assert self._processes is not None
        try:
            os.killpg(self._processes.group, number)
        except (ProcessLookupError, PermissionError):
            pass

    # What follows

    def _wait_time(self) -> float:
        if self._processes is None:
            return 60.0
        if self._code is not None and group_is_empty(self._processes.group):
            return 0.0
        assert self._terms is not None
        step = plan.next_step(self._ending, self._terms, self._grace, now())
        look = _LOOK if self._code is None else _LOOK_FOR_REST
        return max(0.0, min(look, step.wake_at - now())) if step.act == plan.NOTHING else 0.0

    def _go_on(self) -> int | None:
        """Do what is due; an exit code when all is done."""
        if self._processes is None:
            if self._keeper_gone:
                if self._ordered is None:
                    self._say("the process that keeps the claims has died; the command was not started")
                return UNREACHABLE if self._ordered is None else self._ordered
            return None
        assert self._terms is not None
        if now() >= self._terms.term_at and self._ending.asked_at is None:
            # New terms may have come while this program was stopped itself.
            self._drain()
        if self._keeper_gone and not self._ending.because:
            self._ending.because = "alone"
        if self._code is not None and not self._ending.because:
            # Whatever the command left running in its group ends with it.
            self._ending.because = "ended"
        # What moved out of the group on purpose is left alone when the command ends by itself.
        detached = self._ending.because != "ended"
        if self._code is not None and self._processes.gone(detached=detached):
            return self._finish()
        step = plan.next_step(self._ending, self._terms, self._grace, now())
        if step.act == plan.ASK:
            self._ending.because = self._ending.because or "deadline"
            self._ending.asked_at = now()
            self._processes.signal(signal.SIGTERM, detached=detached)
        elif step.act == plan.KILL:
            self._ending.because = self._ending.because or "deadline"
            if self._ending.asked_at is None:
                self._ending.asked_at = now()
            self._processes.signal(signal.SIGKILL, detached=detached)
            select.select((), (), (), 0.02)
        return None

    def _finish(self) -> int:
        assert self._code is not None
        wire.send(self._channel, {"did": "ended"})
        because = self._ending.because
        lost = because in ("lost", "alone", "deadline") or self._late
        if lost and not self._told_why:
            self._say(
                "the process that renews the claims has died, so the command was stopped"
                if because == "alone"
                else "the claims were not renewed in time, so the command was stopped"
            )
        self._wait_for_keeper()
        return LOST if lost else self._code

    def _wait_for_keeper(self) -> None:
        if self._keeper_gone:
            return
        if self._ending.because == "deadline":
            # It may have been stopped, and shall let go once it can.
            self._wake_keeper()
        limit = now() + _LETTING_GO
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        while now() < limit:
            for number in self._signals:
                if number in _END_THE_WAIT:
                    return
            if poller.poll(500) and self._inbox.receive(self._channel) is None:
                return
        self._wake_keeper()

    def _wake_keeper(self) -> None:
        try:
            os.kill(self._keeper, signal.SIGCONT)
        except OSError:
            pass


def write_line(text: str) -> None:
    """A line for the user on standard error, whatever became of it."""
    try:
        os.write(sys.stderr.fileno(), f"presence: {text}\n".encode("utf-8", "backslashreplace"))
    except (OSError, ValueError):
        pass
