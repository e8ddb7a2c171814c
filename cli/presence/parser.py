"""The command line's grammar: the verbs, their options, and help.

A call pays for its own verb only: the verb is found first, then one parser is made for it. Options that all verbs share
are accepted before and after the verb.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib import import_module

from presence.deadline import parse_limit
from presence.errors import UsageError
from presence.model.durations import DurationError

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn

#: Verb, and its summary in the overview. Each is a module in `presence.commands`.
VERBS = {
    "claim": "say that you are working on a resource, and see who else is",
    "heartbeat": "keep all of your claims alive",
    "release": "let go of resources, pass them on, or take them away",
    "handoff": "pass a claim on to another session",
    "wait": "wait until a resource is free, or a claim of yours is granted",
    "run": "run a command while holding resources, and stop it if they are lost",
    "once": "run a command once for a key, on whatever machine it is called",
    "list": "show who is working on what",
    "peek": "show who is working on one resource",
    "session": "show the sessions behind the claims",
    "completion": "print a completion script for a shell",
    "version": "print the version",
}

#: Options before the verb that take a value.
_WITH_VALUE = ("-n", "--namespace", "--kubeconfig", "--context", "--session", "--timeout")


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of exiting, so that all errors leave by one door."""

    def error(self, message: str) -> NoReturn:
        """Raise the error with the way to get help."""
        raise UsageError(f"{message}; see {self.prog} --help")


def help_width() -> int:
    """Columns for help text, at most 100."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 20:
        return min(int(given), 100)
    try:
        return max(40, min(os.get_terminal_size().columns, 100))
    except OSError:
        return 80


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width: the default looks at the terminal with a module that costs 3 ms to import."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=help_width(), max_help_position=28)


def program_name(argv0: str) -> str:
    """How the user calls this program: `kubectl presence` when kubectl runs it as its plugin."""
    return "kubectl presence" if os.path.basename(argv0).startswith("kubectl-") else "presence"


def split_verb(arguments: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """The options before the verb, the verb, and what follows it."""
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word in _WITH_VALUE:
            at += 2
            continue
        if word == "--" or not word.startswith("-"):
            break
        at += 1
    if at >= len(arguments) or arguments[at] == "--":
        return list(arguments), None, []
    return list(arguments[:at]), arguments[at], list(arguments[at + 1 :])


def add_common(parser: argparse.ArgumentParser, *, session: bool = True) -> None:
    """Add the options that every verb has."""
    group = parser.add_argument_group("common options (before or after the verb)")
    group.add_argument("--json", action="store_true", help="machine-readable output")
    group.add_argument(
        "--strict",
        action="store_true",
        help="fail (exit code 69) when the board is unreachable, instead of going on without it",
    )
    if session:
        group.add_argument(
            "--session", metavar="ID", help="who you are; default: PRESENCE_SESSION, the agent's or pipeline's id"
        )
    group.add_argument("-n", "--namespace", metavar="NS", help="the board; default: PRESENCE_NAMESPACE, else presence")
    group.add_argument(
        "--kubeconfig", metavar="FILE", help="default: KUBECONFIG, else ~/.kube/config, else the pod's account"
    )
    group.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    group.add_argument(
        "--timeout",
        metavar="TIME",
        type=duration,
        help="limit for the whole call; default: PRESENCE_TIMEOUT, else 2.5s",
    )


def duration(text: str) -> float:
    """Seconds of an option's value such as `2.5s`, `10` or `1m`."""
    try:
        return parse_limit(text)
    except DurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def command_module(verb: str) -> ModuleType:
    """The module of a verb."""
    return import_module(f"presence.commands.{verb}")


def takes_command(verb: str) -> bool:
    """True when what follows `--` is a command to run."""
    return bool(getattr(command_module(verb), "TAKES_COMMAND", False))


def fails_closed(module: ModuleType, arguments: argparse.Namespace) -> bool:
    """True for calls that mean nothing without the board, so that they fail when it is away."""
    test = getattr(module, "fails_closed", None)
    return bool(test and test(arguments))


def command_parser(verb: str, program: str = "presence") -> Parser:
    """The parser of one verb, with its common options."""
    module = command_module(verb)
    parser = Parser(
        prog=f"{program} {verb}",
        description=module.DESCRIPTION,
        epilog=module.EXAMPLES.replace("presence ", f"{program} ") if module.EXAMPLES else None,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    # A duration below zero is a value, to be refused as such, though it looks like an option.
    parser._negative_number_matcher = re.compile(r"-\d")
    module.add_arguments(parser)
    # After some verbs --session names somebody else.
    add_common(parser, session=not getattr(module, "SESSION_IS_AN_ARGUMENT", False))
    if takes_command(verb):
        parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " -- COMMAND [ARGUMENT ...]"
    return parser


def common_parser(program: str) -> Parser:
    """The parser of what stands before the verb."""
    parser = Parser(prog=program, formatter_class=_Formatter, add_help=False, allow_abbrev=False)
    add_common(parser)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    return parser


def overview(program: str) -> str:
    """The text of `presence --help`."""
    verbs = "\n".join(f"  {verb:<12}{summary}" for verb, summary in VERBS.items())
    return (
        f"usage: {program} [options] <verb> ...\n\n"
        "A claim board that agents, pipelines and people all see and respect.\n\n"
        f"verbs:\n{verbs}\n\n"
        "examples:\n"
        f'  {program} claim stack:vault --purpose "rotate the unseal keys, about 10 minutes"\n'
        f"  {program} list\n"
        f"  {program} release stack:vault\n\n"
        f"{program} <verb> --help explains a verb and the options that all of them share.\n"
    )


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """The parsed call. `verb` is None for a call without one; then `help` or `version` may be set.

    Raises:
        UsageError: the call is wrong.
    """
    before, verb, after = split_verb(arguments)
    namespace = argparse.Namespace()
    if before or verb is None:
        common_parser(program).parse_args(before, namespace)
        if namespace.version:
            namespace.verb = "version"
            return namespace
        if verb is None or namespace.help:
            if verb in VERBS:
                after = ["--help"]
            else:
                namespace.verb = None
                return namespace
    assert verb is not None
    if verb == "help":
        if after and after[0] in VERBS:
            verb, after = after[0], ["--help"]
        else:
            namespace.verb, namespace.help = None, True
            return namespace
    if verb not in VERBS:
        raise UsageError(f"there is no verb {verb[:40]!r}; there are {', '.join(VERBS)}")
    if takes_command(verb) and "--" in after:
        at = after.index("--")
        after, namespace.command = after[:at], after[at + 1 :]
    else:
        namespace.command = []
    command_parser(verb, program).parse_args(after, namespace)
    namespace.verb = verb
    return namespace


def write_overview(program: str) -> None:
    """Print the overview."""
    sys.stdout.write(overview(program))
