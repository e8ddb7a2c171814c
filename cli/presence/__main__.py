"""The entry point of `presence` and `kubectl presence`: runs one verb and turns its outcome into an exit code."""

from __future__ import annotations

import errno
import os
import sys

from presence.errors import BoardError, PresenceError, UsageError
from presence.parser import VERBS, command_module, fails_closed, parse, program_name, write_overview

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What writing fails with when the disk is full, broken, or not for writing.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def main() -> None:
    """Run the program with the process's arguments and exit."""
    code = run(sys.argv[1:], os.environ, program_name(sys.argv[0]))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        code = _unwritten(error)
    sys.exit(code)


def run(arguments: Sequence[str], env: Mapping[str, str], program: str = "presence") -> int:
    """Run one call and return its exit code."""
    # A stream that the caller has closed is None.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (until the end)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # What others wrote must never end this program, whatever the terminal's encoding.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    strict = json = False
    try:
        parsed = parse(arguments, program)
        if parsed.verb is None:
            if not parsed.help:
                raise UsageError(f"a verb is required: {', '.join(VERBS)}; see {program} --help")
            write_overview(program)
            return 0
        module = command_module(parsed.verb)
        strict, json = parsed.strict or fails_closed(module, parsed), parsed.json
        from presence.context import Context

        context = Context(parsed, env, program)
        try:
            return int(module.run(context))
        finally:
            context.close()
    except BoardError as error:
        if strict:
            _complain(f"{error.what}: {error}")
            return error.exit_code
        _complain(f"{error.what}, going on without it: {error}")
        if json:
            sys.stdout.write("[]\n")
        return 0
    except PresenceError as error:
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        return _unwritten(error)
    except KeyboardInterrupt:
        return 130


def _unwritten(error: OSError) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _complain(f"cannot write the output: {error.strerror or error}")
    return 1


def _complain(text: str) -> None:
    from presence.output import clean

    sys.stderr.write(f"presence: {clean(text, 1000)}\n")


if __name__ == "__main__":
    main()
