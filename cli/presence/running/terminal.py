"""The terminal's foreground, handed to the command and taken back, as a shell does it."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The controlling terminal, if there is one.

    The command gets the foreground at once when standard input and output are this terminal. Otherwise, as in a pipe
    with a pager that needs the terminal too, it gets it when it is stopped for wanting it.
    """

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
            os.tcgetpgrp(self._file)
        except OSError:
            self._file = None

    @property
    def present(self) -> bool:
        """True when there is one."""
        return self._file is not None

    @property
    def ours(self) -> bool:
        """True when this program's group is its foreground."""
        return self._foreground() == os.getpgrp()

    def for_command(self) -> int | None:
        """The terminal, when the command shall have its foreground from the start."""
        return self._file if self.ours and os.isatty(0) and os.isatty(1) else None

    def give(self, group: int) -> None:
        """Make `group` its foreground."""
        self._set(group)

    def take_back(self, group: int) -> None:
        """Make this program's group its foreground if `group` is."""
        if self._foreground() == group:
            self._set(os.getpgrp())

    def _foreground(self) -> int:
        if self._file is None:
            return -1
        try:
            return os.tcgetpgrp(self._file)
        except OSError:
            return -1

    def _set(self, group: int) -> None:
        if self._file is None:
            return
        # From the background this stops the caller, unless the signal is blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            os.tcsetpgrp(self._file, group)
        except OSError:
            pass  # the group or the terminal is gone
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
