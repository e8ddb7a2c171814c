"""On a terminal: tables that fit, and colours where they are wanted."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from presence.output import width
from support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path

    from devcluster import Cluster
    from support.kube import Board

SESSION = "7f3c9a52-0f5e-4b0e-9d5e-3f1f3f1c2d4e"


@pytest.fixture
def cli(cluster: Cluster, board: Board, tmp_path: Path) -> Cli:
    board.claim(
        "pvc:monitoring/prometheus-data-of-the-big-cluster-0", SESSION, purpose="grow the volume, 漢字 and so on " * 6
    )
    board.claim("stack:vault", "alice", purpose="rotate keys")
    return Cli(tmp_path, cluster.kubeconfig, board.namespace, "alice")


def on_terminal(cli: Cli, columns: int, *arguments: str, **env: str) -> list[str]:
    """The lines that a call prints on a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    child = subprocess.Popen(
        cli.command(*arguments),
        env=cli.environment({"TERM": "xterm-256color", **env}),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    data = b""
    try:
        while part := os.read(leader, 65536):
            data += part
    except OSError:
        pass  # the end, as Linux reports it for terminals
    os.close(leader)
    assert child.wait(20) == 0
    return data.decode().replace("\r\n", "\n").splitlines()


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 300])
def test_the_table_fits_the_terminal(cli: Cli, columns: int) -> None:
    lines = [plain(line) for line in on_terminal(cli, columns, "list")]
    assert len(lines) == 3
    assert max(width(line) for line in lines) <= columns
    assert any(line.startswith("stack:") for line in lines)


def test_at_80_columns_it_says_who_what_and_why(cli: Cli) -> None:
    text = "\n".join(plain(line) for line in on_terminal(cli, 80, "list"))
    assert re.search(r"pvc:monitoring/\S+…", text)
    assert SESSION[:10] in text
    assert "grow the volume" in text
    assert "(me) alice" in text


def test_at_40_columns_it_still_says_who(cli: Cli) -> None:
    text = "\n".join(plain(line) for line in on_terminal(cli, 40, "list"))
    assert "(me) alice" in text
    assert SESSION[:10] in text
    ended = [plain(line) for line in on_terminal(cli, 40, "list", "--ended")]
    assert max(width(line) for line in ended) <= 40


def test_colours_only_where_they_are_wanted(cli: Cli) -> None:
    assert any("\x1b[" in line for line in on_terminal(cli, 80, "list"))
    assert not any("\x1b[" in line for line in on_terminal(cli, 80, "list", NO_COLOR="1"))
    assert not any("\x1b[" in line for line in on_terminal(cli, 80, "list", TERM="dumb"))
    assert not any("\x1b[" in line for line in on_terminal(cli, 80, "list", "--json"))
    assert "\x1b[" not in cli("list").out


def test_piped_output_is_whole_unless_columns_says_otherwise(cli: Cli) -> None:
    assert SESSION in cli("list").out
    assert "big-cluster-0" in cli("list").out
    assert max(width(line) for line in cli("list", env={"COLUMNS": "70"}).out.splitlines()) <= 70


def test_a_terminal_without_unicode_gets_escapes_not_errors(cli: Cli) -> None:
    assert "\\u6f22" in cli("list", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}).out
