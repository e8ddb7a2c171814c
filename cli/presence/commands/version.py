"""`presence version`."""

from __future__ import annotations

from presence import __version__
from presence.model.kinds import API_VERSION
from presence.output import write, write_json

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    import argparse

    from presence.context import Context

DESCRIPTION = "Print the version of this program and of the API it speaks."
EXAMPLES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: there are none."""


def run(context: Context) -> int:
    """Print the version."""
    if context.arguments.json:
        write_json({"version": __version__, "api": API_VERSION})
    else:
        write(f"presence {__version__} ({API_VERSION})")
    return 0
