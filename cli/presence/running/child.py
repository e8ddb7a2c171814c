"""The processes of a command: find the program, start it in a group of its own, and end all that came of it.

On Linux the processes of a run are those of its process group, and those that carry its mark in the environment they
were started with, whatever group or session they moved to. Elsewhere only the group is known.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from presence.running import wire

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

#: The variable with the marks of all runs that a process is part of, separated by blanks.
MARK = "PRESENCE_RUN"

NOT_FOUND, NOT_EXECUTABLE = 127, 126
_PR_SET_PDEATHSIG = 1


class Unrunnable(Exception):  # noqa: N818 - it says what the command is
    """The command cannot be run; `code` is what a shell would exit with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def find_program(name: str, path: str) -> str:
    """The file that `name` means, searched for in `path` like a shell does.

    Raises:
        Unrunnable: there is none, or it may not be executed.
    """
    directories = [""] if "/" in name else path.split(os.pathsep)
    refused = False
    for directory in directories if name else ():
        candidate = os.path.join(directory or ".", name) if "/" not in name else name
        if not os.path.exists(candidate):
            continue
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
        refused = True
    if refused:
        raise Unrunnable(NOT_EXECUTABLE, f"{name} is not executable")
    raise Unrunnable(NOT_FOUND, f"there is no command {name!r}")


class Manners:
    """What signals did when this program was started, so that the command starts with the same."""

    __slots__ = ("_ignored", "_mask")

    def __init__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        # Python itself ignores these two.
        own = (signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE))
        self._ignored = [
            number
            for number in signal.valid_signals()
            if number not in own and signal.getsignal(number) == signal.SIG_IGN
        ]

    def restore(self) -> None:
        """Bring them back, in the child."""
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            wanted = signal.SIG_IGN if number in self._ignored else signal.SIG_DFL
            if signal.getsignal(number) not in (wanted, None):
                signal.signal(number, wanted)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def start(
    program: str,
    arguments: Sequence[str],
    env: Mapping[str, str],
    channel: socket.socket,
    manners: Manners,
    terminal: int | None,
) -> int:
    """Start the command in a process group of its own; its process id, which is the group's too.

    With `terminal` its group becomes the terminal's foreground.

    Raises:
        Unrunnable: the system refuses to execute it.
    """
    parent = os.getpid()
    die_with_parent = _loader()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            die_with_parent()
            if os.getppid() != parent:
                os._exit(1)
            if terminal is not None:
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
                os.tcsetpgrp(terminal, os.getpid())
            manners.restore()
            # From the child itself, so that the keeper knows of it even if the supervisor dies here.
            wire.send(channel, {"did": "started", "pid": os.getpid()})
            os.execve(program, list(arguments), dict(env))  # noqa: S606 - a shell would only stand in between
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        except BaseException:  # noqa: BLE001 - nothing of this program may go on in the child
            os.write(tell, b"0")
        os._exit(NOT_FOUND)
    os.close(tell)
    try:
        os.setpgid(child, child)
    except OSError:
        pass  # the child has done it, or is the command already
    problem = os.read(told, 16)
    os.close(told)
    if problem:
        os.waitpid(child, 0)
        number = int(problem)
        code = NOT_FOUND if number == errno.ENOENT else NOT_EXECUTABLE
        raise Unrunnable(code, f"cannot run {arguments[0]}: {os.strerror(number)}")
    return child


def _loader() -> Callable[[], None]:
    """A function that makes the kernel kill this process when its parent dies, where the kernel can."""
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    library = ctypes.CDLL(None)
    return lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def group_is_empty(group: int) -> bool:
    """True when no process, not even one that waits to be reaped, is in the group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def members(group: int, mark: str) -> list[int]:
    """The living processes of the group, and those that carry `mark` (none: empty). Linux only."""
    found = []
    wanted = mark.encode()
    myself = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == myself:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name of the program, in brackets, may hold anything.
                state, _, process_group = file.read().rpartition(b")")[2].split()[:3]
            if state in (b"Z", b"X"):
                continue
            if int(process_group) == group or (wanted and _carries(name, wanted)):
                found.append(int(name))
        except (OSError, ValueError):
            continue  # it ended meanwhile, or is somebody else's
    return found


def _carries(process: str, mark: bytes) -> bool:
    name = MARK.encode() + b"="
    with open(f"/proc/{process}/environ", "rb") as file:
        return any(entry.startswith(name) and mark in entry[len(name) :].split() for entry in file.read().split(b"\0"))


class Processes:
    """All processes of one run.

    Args:
        group: the process group of the command.
        mark: what its descendants carry in their environment.
    """

    def __init__(self, group: int, mark: str) -> None:
        self.group = group
        self._mark = mark
        self._proc = sys.platform == "linux" and os.path.exists("/proc/self/stat")
        #: True when some could not be signalled, because they belong to another user.
        self.refused = False

    def gone(self, *, detached: bool) -> bool:
        """True when nothing is left of the group, and with `detached` of those that moved out of it."""
        if not detached and group_is_empty(self.group):
            return True
        if not self._proc:
            return group_is_empty(self.group)
        return not members(self.group, self._mark if detached else "")

    def signal(self, number: int, *, detached: bool) -> None:
        """Send a signal to all of them."""
        try:
            os.killpg(self.group, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            self.refused = True
        if number == signal.SIGTERM:
            self._each(signal.SIGTERM, detached)
            # Stopped processes hear of it only when they go on.
            self._group(signal.SIGCONT)
        elif number == signal.SIGKILL:
            self._each(signal.SIGKILL, detached)

    def _group(self, number: int) -> None:
        try:
            os.killpg(self.group, number)
        except OSError:
            pass

    def _each(self, number: int, detached: bool) -> None:
        if not detached or not self._proc:
            return
        for process in members(-1, self._mark):
            try:
                # Those of the group have it already, and for some programs a second one means to hurry.
                if os.getpgid(process) != self.group or number == signal.SIGKILL:
                    os.kill(process, number)
            except ProcessLookupError:
                continue
            except PermissionError:
                self.refused = True
