"""`presence-operator run | migrate | version`.

Exit codes: 0 done, 1 failed, 2 wrong usage; `migrate` adds its own (see its help).
Whatever is heavy is imported where it is used: `version` and `--help` answer at once.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from typing import TYPE_CHECKING

from presence import __version__
from presence_operator.settings import Settings, SettingsError, load_dsn, options

if TYPE_CHECKING:
    from collections.abc import Sequence

_DSN_HELP = (
    "Read the mirror's address, mysql://<user>:<password>@<host>:3306/<database>, from FILE, such as a mounted Secret. "
    "Default: the file that PRESENCE_DSN_FILE names, else the address in PRESENCE_DSN"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (the process's arguments) names; its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    options_given = parser.parse_args(arguments)
    try:
        if options_given.command == "run":
            return _run(options_given)
        if options_given.command == "migrate":
            return _migrate(options_given)
    except SettingsError as error:
        for each in error.errors:
            print(f"presence-operator: {each}", file=sys.stderr)
        return 2
    if options_given.command == "version" or options_given.version:
        print(_versions())
        return 0
    parser.print_usage(sys.stderr)
    print("presence-operator: say what to do: run, migrate or version", file=sys.stderr)
    return 2


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="presence-operator",
        description="Keeps the claim board true: grants, conflicts, expiry, and the mirror in SQL.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    run = commands.add_parser(
        "run",
        help="look after the boards until SIGTERM",
        description="Look after the boards until SIGTERM. Every flag has a variable; a flag wins over it.",
        allow_abbrev=False,
    )
    for option in options().values():
        settings: dict[str, object] = {"metavar": option.value, "dest": option.flag}
        if option.flag == "--namespace":
            settings["action"] = "append"
        if option.implied is not None:
            settings |= {"nargs": "?", "const": option.implied}
        default = f"Default: {option.default.replace('`', '')}. Variable: {option.env}"
        run.add_argument(option.flag, help=f"{option.help.replace('`', '')} {default}", **settings)  # type: ignore[arg-type]
    run.add_argument("--dsn-file", dest="--dsn-file", metavar="FILE", help=f"{_DSN_HELP}. Without one, no mirror.")
    migrate = commands.add_parser(
        "migrate",
        help="bring the schema of the mirror up to date",
        description="Apply the migrations that the mirror's database lacks. Safe to run twice and in parallel.",
        allow_abbrev=False,
    )
    migrate.add_argument("--dsn-file", metavar="FILE", help=f"{_DSN_HELP}.")
    if "migrate" in arguments:
        from presence_operator import migrate as migration  # loads the database driver

        migration.add_arguments(migrate)
    commands.add_parser("version", help="print the version and exit", allow_abbrev=False)
    return parser


def _run(given: argparse.Namespace) -> int:
    settings = Settings.load({flag: value for flag, value in vars(given).items() if flag.startswith("--")}, os.environ)

    import asyncio
    import logging

    from presence_operator import logs

    logs.setup(settings)
    log = logging.getLogger("presence_operator")

    # Loads kopf and the Kubernetes client, which takes half a second.
    import yaml
    from kubernetes.aio.config import ConfigException

    from presence_operator.shell import app
    from presence_operator.shell.health import ListenError

    try:
        return asyncio.run(app.run(settings))
    except KeyboardInterrupt:
        return 0
    except ListenError as error:
        print(f"presence-operator: {error}", file=sys.stderr)
        return 1
    except (ConfigException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        print(
            f"presence-operator: no way to the API server: {reason}: name a kubeconfig with --kubeconfig or KUBECONFIG "
            "and one of its contexts with --context, or run inside of a cluster with a service account",
            file=sys.stderr,
        )
        return 2
    except Exception:
        log.exception("the operator failed")
        return 1


def _migrate(given: argparse.Namespace) -> int:
    from presence_operator import logs
    from presence_operator import migrate as migration

    dsn = None if given.print_hash else load_dsn(given.dsn_file, os.environ)
    logs.configure("text", "info", [dsn.password] if dsn else [])
    return migration.main(given, dsn)


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        kopf = version("kopf")
    except PackageNotFoundError:
        kopf = "missing: pip install 'presence[operator]'"
    return f"presence-operator {__version__} (Python {platform.python_version()}, kopf {kopf})"


if __name__ == "__main__":
    sys.exit(main())
