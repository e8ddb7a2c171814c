"""`presence handoff`: let go of a resource in favour of one session in its queue."""

from __future__ import annotations

from presence.commands import release
from presence.errors import UsageError

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse

    from presence.context import Context

DESCRIPTION = (
    "Let go of resources in favour of another session: its claim goes first, whatever\n"
    "the order of the queue. It must be waiting already (presence claim --exclusive\n"
    "--wait). The same as release --to."
)
EXAMPLES = """examples:
  presence handoff stack:vault --to bob@pc@0f1e2d3c --reason "yours, the keys are rotated\""""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("labels", metavar="LABEL", nargs="+", help="what to pass on, as <type>:<name>")
    parser.add_argument("--to", metavar="SESSION", required=True, help="the session that goes next")
    parser.add_argument("--reason", metavar="TEXT", help="a word on it; everybody sees it")


def run(context: Context) -> int:
    """Pass the labels on."""
    arguments = context.arguments
    if not arguments.to.strip():
        raise UsageError("--to is empty; name a session that waits, as presence list shows it")
    arguments.all_mine = arguments.force = False
    arguments.of_session = None
    return release.run(context)
