"""Writes the tables of docs/operations.md from the code: `python tools/operations_reference.py docs/operations.md`.

With `--check` it changes nothing and ends with 1 when the page is not what the code says.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rendered(page: str) -> str:
    """`page` with each generated part, between its two comments, as the code has it now.

    Raises:
        LookupError: the page lacks a part.
    """
    return _replaced(_replaced(page, "settings", _settings()), "metrics", _metrics())


def _replaced(page: str, name: str, lines: list[str]) -> str:
    begin, end = f"<!-- begin generated: {name} -->", f"<!-- end generated: {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise LookupError(f"the page needs the comments {begin} and {end} once each")
    before, _, rest = page.partition(begin)
    return before + "\n".join((begin, *lines, end)) + rest.partition(end)[2]


def _settings() -> list[str]:
    from presence_operator.settings import options

    lines = ["| flag | variable | default | meaning, and why this default |", "|---|---|---|---|"]
    for option in options().values():
        value = option.value.replace("|", r"\|")
        flag = f"`{option.flag}[={value}]`" if option.implied else f"`{option.flag} {value}`"
        default = option.default if "`" in option.default or " " in option.default else f"`{option.default}`"
        lines.append(f"| {flag} | `{option.env}` | {default} | {option.help} *{option.reason}* |")
    return lines


def _metrics() -> list[str]:
    from prometheus_client import CollectorRegistry

    from presence_operator.metrics import Metrics

    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for figure in Metrics(CollectorRegistry()).figures:
        labels = ", ".join(f"`{label}`" for label in figure.labels)
        lines.append(f"| `{figure.name}` | {figure.type} | {labels} | {figure.help} |")
    return lines


def main(arguments: list[str]) -> int:
    """Write or check the page; the exit code."""
    sys.path[:0] = [str(ROOT / "cli"), str(ROOT / "operator")]
    page = Path(next((each for each in arguments if not each.startswith("--")), ROOT / "docs" / "operations.md"))
    before = page.read_text(encoding="utf-8")
    after = rendered(before)
    if after == before:
        return 0
    if "--check" in arguments:
        print(f"{page} is not what the code says: run python tools/operations_reference.py", file=sys.stderr)
        return 1
    page.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
