"""Flags and environment of the operator."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from presence_operator import __main__ as program
from presence_operator.settings import Settings, SettingsError, options, split_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PASSWORD = "s3cr3t%2Fp"


def load(flags: dict[str, str | Sequence[str] | None] | None = None, **environ: str) -> Settings:
    return Settings.load(flags or {}, environ)


def faults(flags: dict[str, str | Sequence[str] | None] | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.load(flags or {}, environ)
    return "\n".join(caught.value.errors)


def test_without_any_setting_all_boards_are_looked_after_and_nothing_is_mirrored() -> None:
    settings = load()
    assert settings.namespaces == ()
    assert settings.mirror_dsn is None
    assert (settings.min_ttl, settings.max_ttl, settings.retention) == (5, 86_400, 3600)
    assert settings.listen == "0.0.0.0:8080"
    assert not settings.leader_elect


def test_a_flag_wins_over_its_variable() -> None:
    assert load({"--min-ttl": "3s"}, PRESENCE_MIN_TTL="7s").min_ttl == 3
    assert load(PRESENCE_MIN_TTL="7s").min_ttl == 7
    assert load(PRESENCE_MIN_TTL="").min_ttl == 5


def test_namespaces_may_be_repeated_or_separated_by_commas() -> None:
    assert load({"--namespace": ["a", "b,c", "a"]}).namespaces == ("a", "b", "c")
    assert load(PRESENCE_NAMESPACES="x, y").namespaces == ("x", "y")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("0.5", 0.5), ("0", 0), ("250", 250)])
def test_durations_are_written_as_in_claims(text: str, seconds: float) -> None:
    assert load({"--retention": text}).retention == seconds


def test_the_only_board_is_the_one_that_is_mirrored() -> None:
    assert load().mirror_namespace == "presence"
    assert load({"--namespace": ["team"]}).mirror_namespace == "team"
    assert load({"--namespace": ["a", "b"], "--mirror-namespace": "b"}).mirror_namespace == "b"


def test_the_lease_lives_in_the_operators_own_namespace() -> None:
    assert load(POD_NAMESPACE="system").lease_namespace == "system"
    assert load({"--lease-namespace": "other"}, POD_NAMESPACE="system").lease_namespace == "other"


def test_two_processes_have_two_identities() -> None:
    assert load().identity != load().identity
    assert load({"--identity": "me"}).identity == "me"


def test_all_faults_are_reported_at_once_each_with_what_to_write() -> None:
    text = faults(
        {
            "--namespace": ["Not-A-Namespace"],
            "--min-ttl": "soon",
            "--workers": "0",
            "--listen": "8080",
            "--leader-elect": "maybe",
            "--log-format": "xml",
            "--event-rate": "nan",
            "--identity": "a\nb",
        },
        PRESENCE_RETENTION="-1",
        PRESENCE_DSN="postgres://u:p@h/d",
        KUBECONFIG="/nonexistent/config",
    )
    for expected in (
        "--namespace: 'Not-A-Namespace' is no namespace: write",
        "--min-ttl: 'soon' is no duration: write for example 90s",
        "--workers: '0' is no whole number within 1 to 256",
        "--listen: '8080' is no address: write for example 0.0.0.0:8080",
        "--leader-elect: 'maybe' is neither yes nor no: write true or false",
        "--log-format: 'xml' is unknown: write text or json",
        "--event-rate: 'nan' is no number",
        "--identity: ",
        "PRESENCE_RETENTION: '-1'",
        "PRESENCE_DSN: ",
        "KUBECONFIG: '/nonexistent/config' does not exist",
    ):
        assert expected in text
    assert len(text.splitlines()) == 11


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--min-ttl": "10s", "--max-ttl": "5s"}, "--min-ttl 10s is above --max-ttl 5s"),
        ({"--renew-deadline": "10s"}, "two operators could act at once"),
        ({"--retry-period": "6s"}, "no second chance to renew"),
        ({"--namespace": ["a"], "--mirror-namespace": "b"}, "--mirror-namespace b is not among --namespace a"),
        ({"--min-ttl": "1.5"}, "has a fraction: write whole seconds"),
        ({"--max-ttl": "90d"}, "is not within 1s to 30d"),
        ({"--listen-file": "/nonexistent/dir/file"}, "the directory of '/nonexistent/dir/file' does not exist"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    flags: dict[str, str | Sequence[str] | None], message: str
) -> None:
    assert message in faults(flags)


def test_with_several_boards_and_a_mirror_the_mirrored_one_must_be_named() -> None:
    dsn = "mysql://u:p@db/beads"
    assert "which board is mirrored?" in faults({"--namespace": ["a", "b"]}, PRESENCE_DSN=dsn)
    assert load({"--namespace": ["a", "presence"]}, PRESENCE_DSN=dsn).mirror_namespace == "presence"


def test_the_mirrors_address_comes_from_the_environment_or_a_mounted_secret(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text(f"mysql://agent%40x:{PASSWORD}@db.example:3307/beads\n")
    for settings in (load({"--dsn-file": str(file)}), load(PRESENCE_DSN_FILE=str(file))):
        assert settings.mirror_dsn is not None
        assert settings.mirror_dsn.user == "agent@x"
        assert settings.mirror_dsn.password == "s3cr3t/p"
        assert (settings.mirror_dsn.host, settings.mirror_dsn.port) == ("db.example", 3307)
    over = load({"--dsn-file": str(file)}, PRESENCE_DSN="mysql://u:p@elsewhere/beads")
    assert over.mirror_dsn is not None
    assert over.mirror_dsn.host == "db.example"


def test_no_text_of_the_settings_shows_the_password() -> None:
    settings = load(PRESENCE_DSN=f"mysql://u:{PASSWORD}@db/beads")
    for text in (str(settings), repr(settings), str(settings.mirror_dsn)):
        assert "s3cr3t" not in text


@pytest.mark.parametrize(
    "dsn",
    [
        "nonsense", "mysql://", "mysql://db/beads", f"mysql://u:{PASSWORD}@/beads", f"mysql://u:{PASSWORD}@db",
        f"mysql://u:{PASSWORD}@db:port/beads", f"postgres://u:{PASSWORD}@db/beads", f"mysql://u:{PASSWORD}/x@db:99999/b",
        f"mysql://u:{PASSWORD}@db/beads?tls=maybe", f"mysql://u:{PASSWORD}@db/beads?ca=/nonexistent",
    ],
)  # fmt: skip
def test_a_bad_address_of_the_mirror_is_explained_without_its_password(dsn: str) -> None:
    text = faults(PRESENCE_DSN=dsn)
    assert text.startswith("PRESENCE_DSN: ")
    assert "s3cr3t" not in text


def test_a_missing_or_empty_secret_is_explained(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in faults({"--dsn-file": str(tmp_path / "none")})
    (tmp_path / "empty").write_text("\n")
    assert "the file is empty" in faults({"--dsn-file": str(tmp_path / "empty")})
    assert "both set" in faults(PRESENCE_DSN="mysql://u:p@h/d", PRESENCE_DSN_FILE=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        (":8080", ("", 8080)),
        ("[::1]:9000", ("::1", 9000)),
        ("localhost:65535", ("localhost", 65_535)),
    ],
)
def test_addresses_to_listen_on(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["8080", "::1:8080", "host:65536", "host:", "http://x:80", "a b:80"])
def test_what_is_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        split_address(text)


def test_every_setting_has_its_own_flag_and_variable_with_help_and_a_reason() -> None:
    known = options()
    assert len({option.flag for option in known.values()}) == len(known)
    assert len({option.env for option in known.values()}) == len(known)
    for option in known.values():
        assert option.help.endswith(".")
        assert option.reason.endswith(".")
        assert option.default


def test_the_command_line_reports_every_fault_and_ends_with_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRESENCE_DSN", raising=False)
    assert program.main(["run", "--min-ttl", "soon", "--workers", "none"]) == 2
    said = capsys.readouterr().err
    assert "presence-operator: --min-ttl: 'soon' is no duration" in said
    assert "presence-operator: --workers: 'none' is no whole number" in said


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 2
    assert "run, migrate or version" in capsys.readouterr().err


def test_version_and_help_load_neither_kopf_nor_the_client_nor_the_database_driver() -> None:
    check = (
        "import sys\nfrom presence_operator.__main__ import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'kopf', 'kubernetes', 'aiohttp', 'pymysql', 'prometheus_client', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    for arguments in (["version"], ["--version"], ["--help"], ["run", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", check, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "presence-operator" in done.stdout


def test_the_file_of_the_address_is_known_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text("mysql://u:p@h/d")
    assert Settings.load({"--dsn-file": str(file)}, {}).mirror_dsn_file == str(file)
    assert Settings.load({}, {"PRESENCE_DSN_FILE": str(file)}).mirror_dsn_file == str(file)
    assert Settings.load({}, {"PRESENCE_DSN": "mysql://u:p@h/d"}).mirror_dsn_file is None
