from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from presence.errors import UsageError
from presence.parser import VERBS, command_parser, overview, parse, program_name, split_verb

if TYPE_CHECKING:
    from pathlib import Path


def test_help_names_all_verbs() -> None:
    for verb in ("claim", "heartbeat", "release", "list", "peek", "session", "completion", "version"):
        assert verb in overview("presence")


def test_every_verb_and_option_explains_itself() -> None:
    for verb in VERBS:
        parser = command_parser(verb)
        assert parser.description
        assert all(action.help for action in parser._actions)


@pytest.mark.parametrize(
    ("arguments", "split"),
    [
        (["list"], ([], "list", [])),
        (["--json", "list", "--mine"], (["--json"], "list", ["--mine"])),
        (["-n", "list", "list"], (["-n", "list"], "list", [])),
        (["--context", "peek", "--json", "peek", "x"], (["--context", "peek", "--json"], "peek", ["x"])),
        (["--namespace=claim", "list"], (["--namespace=claim"], "list", [])),
        (["--help"], (["--help"], None, [])),
        ([], ([], None, [])),
        (["--", "list"], (["--", "list"], None, [])),
    ],
)
def test_the_verb_is_found_between_options(
    arguments: list[str], split: tuple[list[str], str | None, list[str]]
) -> None:
    assert split_verb(arguments) == split


@pytest.mark.parametrize("arguments", [["--json", "list"], ["list", "--json"], ["--strict", "list", "--json"]])
def test_common_options_stand_before_or_after_the_verb(arguments: list[str]) -> None:
    assert parse(arguments, "presence").json is True


def test_an_option_before_the_verb_survives_the_verbs_own_parser() -> None:
    parsed = parse(["-n", "board", "--session", "me", "--timeout", "1.5s", "peek", "x:y"], "presence")
    assert (parsed.namespace, parsed.session, parsed.timeout, parsed.label) == ("board", "me", 1.5, "x:y")


@pytest.mark.parametrize("text", ["0", "0.0s", "soon", "-1"])
def test_impossible_limits_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse([f"--timeout={text}", "list"], "presence")


def test_abbreviations_are_not_guessed() -> None:
    with pytest.raises(UsageError):
        parse(["list", "--js"], "presence")


def test_the_name_it_was_called_by() -> None:
    assert program_name("/usr/bin/kubectl-presence") == "kubectl presence"
    assert program_name("/usr/bin/presence") == "presence"
    assert program_name("/x/presence/__main__.py") == "presence"


def test_completion_for_bash(tmp_path: Path) -> None:
    from presence.commands.completion import bash

    helper = tmp_path / "presence"
    mine, every = "echo stack:mine", "printf 'stack:\\nstack:vault\\nstack:vpn\\nnode:n1\\n'"
    helper.write_text(f'#!/bin/sh\nif [ "$3" = mine ]; then {mine}; else {every}; fi\n')
    helper.chmod(0o755)
    (tmp_path / "script").write_text(bash())

    def complete(line: str) -> list[str]:
        program = (
            f"PATH={tmp_path}:$PATH; source {tmp_path}/script; COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; "
            '_presence presence; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=10, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("presence cl") == ["claim"]
    assert "--kubeconfig" in complete("presence --")
    assert complete("presence list --mi") == ["--mine"]
    assert complete("presence --json list --mi") == ["--mine"]
    assert complete("presence -n list li") == ["list"]
    assert complete("presence session ") == ["list"] or "list" in complete("presence session l")
    assert complete("presence session list --phase Pa") == ["Paused"]
    assert complete("presence peek node:") == ["n1"]
    assert sorted(complete("presence peek stack:v")) == ["vault", "vpn"]
    assert complete("presence release st") == ["stack:mine"]
    assert complete("presence completion z") == ["zsh"]


def test_completion_without_a_board_still_knows_the_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from presence.__main__ import run

    assert run(["completion", "--labels", "all"], {"HOME": str(tmp_path)}) == 0
    assert "stack:\n" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from presence.__main__ import run

    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert run(["completion", shell], {"HOME": str(tmp_path)}) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    subprocess.run([shell, "-n", str(script)], check=True, timeout=10)


def test_completion_for_zsh_and_fish_names_every_option() -> None:
    from presence.commands.completion import fish, zsh

    for_zsh, for_fish = zsh(), fish()
    for verb in VERBS:
        for action in command_parser(verb)._actions:
            for name in action.option_strings if action.help != "==SUPPRESS==" else ():
                assert name in for_zsh
                assert (f"-l {name[2:]} " if name.startswith("--") else f"-s {name[1:]} ") in for_fish
