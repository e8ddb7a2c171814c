"""`presence run`: a command that runs only while its claims are held."""

from __future__ import annotations

import os
import socket
import sys

from presence.commands.claim import check_labels, check_priority, check_purpose
from presence.errors import UsageError
from presence.identity import find_identity
from presence.model.durations import DurationError, format_duration, parse_duration
from presence.model.kinds import EXCLUSIVE, MAX_TTL, MIN_TTL, PIPELINE, SESSION_MAX, SHARED

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from presence.context import Context
    from presence.running.keeper import Job

DESCRIPTION = (
    "Run a command while holding resources: wait for them in a fair queue, renew the\n"
    "claims while the command runs, and let go when it ends, however it ends. Should the\n"
    "claims be lost, the command is stopped before anybody else can get them. All of the\n"
    "labels are held, or none. Its exit code is the command's, or 3 held by another\n"
    "(--wait 0), 4 the wait timed out, 5 lost, 69 board unreachable, 126 not executable,\n"
    "127 not found."
)
EXAMPLES = """examples:
  presence run stack:vault --purpose "apply #812" -- terraform apply -auto-approve
  presence run stack:dns stack:net --wait 20m --ttl 2m -- make apply"""

#: What follows -- is the command.
TAKES_COMMAND = True

_WAIT = "1h"
_TTL = "5m"


def fails_closed(_: argparse.Namespace) -> bool:
    """Always: a command must not run without its claims."""
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("labels", metavar="LABEL", nargs="+", help="what the command works on, as <type>:<name>")
    parser.add_argument("--purpose", metavar="TEXT", help="what it does and why; default: the name of the program")
    parser.add_argument(
        "--wait",
        metavar="TIME",
        default=_WAIT,
        help=f"how long to wait for the grant; 0: not at all; default {_WAIT}",
    )
    parser.add_argument(
        "--ttl",
        metavar="TIME",
        default=_TTL,
        help="how long the claims live without a renewal, and so how long the board may be away before the command is"
        f" stopped; renewed at a third of it; default {_TTL}",
    )
    parser.add_argument("--shared", action="store_true", help="hold the resources together with other shared claims")
    parser.add_argument(
        "--priority",
        metavar="NUMBER",
        help="where a limit lets only so many claims be active: the highest goes first, then the oldest; default 0",
    )
    parser.add_argument("--url", metavar="URL", help="where the work can be looked at; default: the pipeline's page")
    parser.add_argument("--quiet", action="store_true", help="say nothing while waiting")


def run(context: Context) -> int:
    """Run the command."""
    from presence.running.child import Unrunnable, find_program
    from presence.running.supervisor import Command, write_line

    arguments = context.arguments
    if not arguments.command:
        raise UsageError("run needs a command after --, for example presence run stack:vault -- terraform apply")
    labels = sorted(check_labels(arguments.labels))
    _refuse_nesting(context, labels)
    try:
        # Before anything is claimed: a claim for nothing keeps others waiting.
        program = find_program(arguments.command[0], context.env.get("PATH", os.defpath))
    except Unrunnable as problem:
        write_line(str(problem))
        return problem.code
    job = _job(context, labels, os.path.basename(arguments.command[0]))
    return _supervise(context, job, Command(program, arguments.command, context.env, job.mark))


def _supervise(context: Context, job: Job, command: Any) -> int:
    from presence.running.supervisor import Supervisor, write_line

    mine, keepers = socket.socketpair()
    sys.stdout.flush()
    # Before any thread exists, and before anything was opened.
    keeper = os.fork()
    if keeper == 0:
        code = 1
        try:
            mine.close()
            from presence.running.keeper import keep

            keep(keepers, job, context.open_board, write_line)
            code = 0
        except BaseException as error:  # noqa: BLE001 - the last words of a process
            import traceback

            write_line(f"the process that keeps the claims failed: {type(error).__name__}: {error}")
            if context.env.get("PRESENCE_DEBUG"):
                traceback.print_exc()
        finally:
            os._exit(code)
    keepers.close()
    return Supervisor(mine, keeper, command, write_line).run()


def _job(context: Context, labels: list[str], program: str) -> Job:
    from presence.running.child import MARK
    from presence.running.keeper import Job

    arguments = context.arguments
    identity = find_identity(context.env, session=arguments.session, url=arguments.url)
    base = identity.session
    identity.session = run_session(base)
    identity.kind = PIPELINE
    purpose = check_purpose(arguments.purpose if arguments.purpose is not None else f"runs {program}")
    mark = os.urandom(8).hex()
    return Job(
        labels,
        identity,
        base,
        purpose,
        mode=SHARED if arguments.shared else EXCLUSIVE,
        ttl=_ttl(arguments.ttl),
        wait=0.0 if arguments.wait.strip() in ("0", "0s") else _duration("--wait", arguments.wait),
        mark=mark,
        marks=f"{context.env.get(MARK, '')} {mark}".strip(),
        quiet=arguments.quiet,
        priority=check_priority(arguments.priority),
    )


def run_session(base: str) -> str:
    """A session id of this run alone: two runs of one pipeline, at once or one after the other, share no claim."""
    return f"{base[: SESSION_MAX - 13]}/run-{os.urandom(4).hex()}"


def _ttl(text: str) -> float:
    seconds = _duration("--ttl", text)
    if not MIN_TTL <= seconds <= MAX_TTL:
        raise UsageError(
            f"--ttl {text} is out of bounds; write {format_duration(MIN_TTL)} to {format_duration(MAX_TTL)},"
            " mostly 2m to 15m"
        )
    return seconds


def _duration(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except DurationError as error:
        raise UsageError(f"{option}: {error}") from None


def _refuse_nesting(context: Context, labels: list[str]) -> None:
    """A run inside of a run would wait for itself."""
    from presence.running.child import MARK

    if not context.env.get(MARK):
        return
    held = [label for label in labels if label in context.env.get("PRESENCE_RESOURCE", "").split()]
    if held:
        raise UsageError(f"this already runs while holding {', '.join(held)}; call the command itself")
