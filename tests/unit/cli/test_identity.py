from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence.errors import UsageError
from presence.identity import find_identity, find_session, git_toplevel, remembered_session, short_host

if TYPE_CHECKING:
    from pathlib import Path

WOODPECKER = {
    "CI": "woodpecker",
    "CI_REPO": "org/infra",
    "CI_PIPELINE_NUMBER": "12",
    "CI_WORKFLOW_NAME": "deploy",
    "CI_PIPELINE_URL": "https://ci.example.org/repos/1/pipeline/12",
    "CI_PIPELINE_AUTHOR": "alice",
}
GITHUB = {
    "GITHUB_REPOSITORY": "org/infra",
    "GITHUB_RUN_ID": "99",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_JOB": "deploy",
    "GITHUB_SERVER_URL": "https://github.example.org",
    "GITHUB_ACTOR": "bob",
}
GITLAB = {
    "CI_PROJECT_PATH": "org/infra",
    "CI_PIPELINE_ID": "7",
    "CI_JOB_NAME": "deploy",
    "CI_JOB_URL": "https://gitlab.example.org/org/infra/-/jobs/1",
    "GITLAB_USER_LOGIN": "carol",
}


def test_the_order_of_sources() -> None:
    env = {
        "PRESENCE_SESSION": "from-presence",
        "CLAUDE_CODE_SESSION_ID": "from-claude-code",
        "CLAUDE_SESSION_ID": "from-claude",
        **WOODPECKER,
        "HOME": "/proc/nonexistent",
    }
    assert find_session(env, "given") == ("given", "--session")
    for name in ("PRESENCE_SESSION", "CLAUDE_CODE_SESSION_ID", "CLAUDE_SESSION_ID"):
        assert find_session(env, None) == (env.pop(name), name)
    assert find_session(env, None) == ("woodpecker:org/infra#12/deploy", "pipeline")
    assert find_session({"HOME": "/proc/nonexistent"}, None)[1] == "login"


def test_an_empty_variable_counts_as_unset() -> None:
    assert find_session({"PRESENCE_SESSION": "", "CLAUDE_SESSION_ID": "c"}, None)[0] == "c"


@pytest.mark.parametrize(
    ("env", "session", "url", "user", "agent"),
    [
        (
            WOODPECKER,
            "woodpecker:org/infra#12/deploy",
            "https://ci.example.org/repos/1/pipeline/12",
            "alice",
            "woodpecker",
        ),
        (
            GITHUB,
            "github:org/infra#99.2/deploy",
            "https://github.example.org/org/infra/actions/runs/99/attempts/2",
            "bob",
            "github-actions",
        ),
        (GITLAB, "gitlab:org/infra#7/deploy", "https://gitlab.example.org/org/infra/-/jobs/1", "carol", "gitlab-ci"),
    ],
)
def test_pipelines_are_sessions_with_an_address(
    env: dict[str, str], session: str, url: str, user: str, agent: str
) -> None:
    identity = find_identity(env)
    assert identity.session == session
    assert identity.kind == "Pipeline"
    assert (identity.url, identity.user, identity.agent, identity.project) == (url, user, agent, "org/infra")


def test_an_agent_started_by_a_pipeline_is_an_agent() -> None:
    identity = find_identity({**WOODPECKER, "CLAUDE_CODE_SESSION_ID": "c"})
    assert (identity.session, identity.kind, identity.agent) == ("c", "Agent", "claude-code")
    assert identity.user != "alice"


def test_kinds_follow_the_source_unless_they_are_given(tmp_path: Path) -> None:
    assert find_identity({"CLAUDE_SESSION_ID": "c"}).kind == "Agent"
    assert find_identity({"PRESENCE_SESSION": "c"}).kind == "Agent"
    human = find_identity({"HOME": str(tmp_path)})
    assert (human.kind, human.agent) == ("Human", "human")
    assert find_identity({"HOME": str(tmp_path)}, kind="Agent").agent == "claude-code"
    assert find_identity({"PRESENCE_SESSION": "c", "PRESENCE_AGENT": "codex"}).agent == "codex"


def test_long_names_of_pipelines_stay_apart(tmp_path: Path) -> None:
    one, two = ({**WOODPECKER, "CI_REPO": "r" * 200, "CI_PIPELINE_NUMBER": number} for number in ("1", "2"))
    first, second = find_session(one, None)[0], find_session(two, None)[0]
    assert len(first) == len(second) == 128
    assert first != second


def test_a_login_is_remembered(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    session = remembered_session(env)
    assert re.fullmatch(rf"[^@]+@{re.escape(short_host())}@[0-9a-f]{{8}}", session)
    assert remembered_session(env) == session
    (file,) = (tmp_path / ".cache" / "presence").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_calls_in_sessions_of_their_own_share_the_id(tmp_path: Path) -> None:
    # Agents give every command a process group and terminal session of its own.
    def in_new_session() -> str:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            os.write(writer, remembered_session({"HOME": str(tmp_path)}).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as file:
            return file.read()

    assert in_new_session() == in_new_session() == remembered_session({"HOME": str(tmp_path)})


def test_simultaneous_first_calls_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        ids = set(pool.map(lambda _: remembered_session({"HOME": str(tmp_path)}), range(64)))
    assert len(ids) == 1
    assert len(list((tmp_path / ".cache" / "presence").iterdir())) == 1


def test_two_homes_are_two_ids(tmp_path: Path) -> None:
    homes = [tmp_path / "a", tmp_path / "b"]
    assert len({remembered_session({"HOME": str(home)}) for home in homes}) == 2


def test_the_runtime_directory_comes_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    remembered_session({"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(run)})
    assert (run / "presence").is_dir()
    assert not (tmp_path / ".cache").exists()


def test_where_nothing_can_be_stored_the_id_is_still_the_same() -> None:
    env = {"HOME": "/proc/nonexistent"}
    assert remembered_session(env) == remembered_session(env)


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"somebody@else@12345678", b"x" * 5000])
def test_a_damaged_memory_is_replaced(tmp_path: Path, damage: bytes) -> None:
    env = {"HOME": str(tmp_path)}
    remembered_session(env)
    (file,) = (tmp_path / ".cache" / "presence").iterdir()
    file.write_bytes(damage)
    session = remembered_session(env)
    assert f"@{short_host()}@" in session
    assert remembered_session(env) == session


def test_a_link_laid_by_somebody_is_not_followed(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    remembered_session(env)
    (file,) = (tmp_path / ".cache" / "presence").iterdir()
    target = tmp_path / "target"
    target.write_text("precious")
    file.unlink()
    file.symlink_to(target)
    remembered_session(env)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("bad", ["", "  ", "x" * 129, "a\nb", "a\x1b[31m", " padded", "a\u202eb"])
def test_impossible_ids_are_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        find_session({}, bad)


@given(st.text(min_size=1, max_size=128))
def test_every_printable_id_is_taken_as_it_is(text: str) -> None:
    if text.isprintable() and text == text.strip():
        assert find_session({}, text) == (text, "--session")
    else:
        with pytest.raises(UsageError):
            find_session({}, text)


def test_the_project_is_the_repository(tmp_path: Path) -> None:
    inner = tmp_path / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "repo" / ".git").write_text("gitdir: elsewhere\n")
    assert git_toplevel(str(inner)) == str(tmp_path / "repo")
    assert git_toplevel("/") == ""
    env = {"PRESENCE_SESSION": "s"}
    assert find_identity(env, directory=str(inner)).project == str(tmp_path / "repo")
    assert find_identity(env, directory=str(inner), project="mine").project == "mine"


def test_odd_texts_of_a_pipelines_software_do_not_stop_a_claim() -> None:
    identity = find_identity(
        {**WOODPECKER, "CI_PIPELINE_URL": "not an address", "CI_PIPELINE_AUTHOR": "a\x1b[31m" + "b" * 99}
    )
    assert identity.url == ""
    assert identity.user == "a[31m" + "b" * 59


def test_addresses_are_checked() -> None:
    with pytest.raises(UsageError, match="write for example https://"):
        find_identity({"PRESENCE_SESSION": "s"}, url="ftp://x")
    with pytest.raises(UsageError, match="at most 1024"):
        find_identity({"PRESENCE_SESSION": "s"}, url="https://" + "x" * 1024)
