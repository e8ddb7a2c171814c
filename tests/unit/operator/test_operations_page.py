"""docs/operations.md says what the code does."""

from __future__ import annotations

import argparse
from pathlib import Path

import operations_reference
from presence_operator import __main__ as program
from presence_operator.metrics import SCHEMA_STATES, Metrics
from presence_operator.settings import options

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_tables_of_settings_and_metrics_are_current() -> None:
    assert operations_reference.rendered(text()) == text(), "run: python tools/operations_reference.py"


def test_every_setting_and_every_metric_is_on_the_page() -> None:
    page = text()
    for option in options().values():
        assert f"`{option.flag}" in page
        assert f"`{option.env}`" in page
    for figure in Metrics().figures:
        assert f"| `{figure.name}` |" in page


def test_every_flag_of_every_command_is_on_the_page() -> None:
    page = text()
    parser = program._parser(["migrate"])
    [commands] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        assert f"presence-operator {name} " in page
        for action in command._actions:
            for flag in action.option_strings:
                assert flag in ("-h", "--help") or f"`{flag}" in page


def test_metrics_named_in_the_advice_exist() -> None:
    known = {figure.name for figure in Metrics().figures}
    derived = {f"{name}{suffix}" for name in known for suffix in ("_bucket", "_count", "_sum")}
    words = {word for word in _words(text()) if word.startswith("presence_")}
    assert words - known - derived == set()
    assert "behind" in SCHEMA_STATES


def _words(page: str) -> set[str]:
    return set("".join(char if char.isalnum() or char == "_" else " " for char in page).split())
