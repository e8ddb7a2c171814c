"""The reference of the command line as Markdown, made from the parsers, so that it says what they do.

    python -m presence.reference docs/cli.md

rewrites the part between the marks of that file; a test compares the two.
"""

from __future__ import annotations

import argparse
import sys

from presence.parser import VERBS, command_module, command_parser, overview

BEGIN = "<!-- begin generated: verbs (python -m presence.reference docs/cli.md) -->"
END = "<!-- end generated: verbs -->"


def markdown() -> str:
    """One section for each verb, and one for the options that all verbs share."""
    parts = ["```", overview("presence").rstrip(), "```", ""]
    for verb in VERBS:
        parts += [*_section(verb), ""]
    parts += ["### Options of every verb", "", *_table(_common(command_parser("version")))]
    return "\n".join(parts)


def updated(page: str) -> str:
    """`page` with its generated part made anew.

    Raises:
        ValueError: the marks are missing.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no marks {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{markdown()}\n{END}{tail}"


def _section(verb: str) -> list[str]:
    parser = command_parser(verb)
    common = {id(action) for action in _common(parser)}
    own = [action for action in parser._actions if id(action) not in common and action.help != argparse.SUPPRESS]
    own = [action for action in own if action.dest != "help"]
    lines = [f"### {verb}", "", (parser.description or "").replace("\n", " "), "", "```", _usage(verb, own), "```", ""]
    if own:
        lines += [*_table(own), ""]
    examples = command_module(verb).EXAMPLES.removeprefix("examples:\n")
    if examples:
        lines += ["```", *(line.removeprefix("  ") for line in examples.splitlines()), "```"]
    return lines


def _usage(verb: str, actions: list[argparse.Action]) -> str:
    words = [f"presence {verb}"]
    for action in actions:
        text = _form(action)
        if action.option_strings:
            words.append(text if action.required else f"[{text}]")
        else:
            words.append({"+": f"{text}...", "*": f"[{text}...]", "?": f"[{text}]"}.get(str(action.nargs), text))
    return " ".join(words)


def _form(action: argparse.Action) -> str:
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest)
    if not action.option_strings:
        return str(value)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _table(actions: list[argparse.Action]) -> list[str]:
    rows = [f"| `{_form(action)}` | {_escaped(action.help or '')} |" for action in actions]
    return ["| argument | meaning |", "|---|---|", *rows]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("%%", "%")


def _common(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    groups = [group for group in parser._action_groups if (group.title or "").startswith("common options")]
    return [action for group in groups for action in group._group_actions]


def main() -> None:
    """Rewrite the page named on the command line."""
    with open(sys.argv[1], encoding="utf-8") as file:
        page = file.read()
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(updated(page))


if __name__ == "__main__":
    main()
