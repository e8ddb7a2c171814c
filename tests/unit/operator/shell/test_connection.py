"""What the rest of the operator sees of a connection whose credentials are in trouble."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException

from devcluster import pki
from presence_operator.core.clock import ServerClock
from presence_operator.metrics import Metrics
from presence_operator.settings import Settings
from presence_operator.shell import connection as connections
from presence_operator.shell.connection import Connection, UnavailableError
from presence_operator.shell.watching import _Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def connected(
    use: Callable[[Connection], Awaitable[None]], hook: Callable[[Any], None] | None = None, settings: Any = None
) -> None:
    async def go() -> None:
        configuration = Configuration(host="http://127.0.0.1:1")
        configuration.refresh_api_key_hook = hook  # type: ignore[assignment]
        connection = Connection(configuration, settings or Settings(), Metrics(), ServerClock())
        try:
            await use(connection)
        finally:
            await connection.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    "error", [ConfigException("Token file exists but empty."), FileNotFoundError(2, "No such file"), ValueError("?")]
)
def test_a_token_that_cannot_be_read_is_an_api_server_out_of_reach(error: Exception) -> None:
    def hook(_: object) -> None:
        raise error

    async def use(connection: Connection) -> None:
        with pytest.raises(UnavailableError, match="no credentials") as caught:
            await connection.request("get", "Other", "GET", "/version")
        assert caught.value.outcome == "unreachable"

    connected(use, hook)


def test_a_token_that_cannot_be_read_does_not_end_the_watches() -> None:
    def hook(_: object) -> None:
        raise ConfigException("Token file exists but empty.")

    async def use(connection: Connection) -> None:
        told: dict[str, str] = {}
        session = _Session(connection, lambda _: None, lambda _: False, told.__setitem__)
        path = "/apis/presence.dev/v1alpha1/presenceclaims"
        # Of this error kopf knows that it passes.
        with pytest.raises(aiohttp.ClientConnectionError, match="no credentials"):
            await session.request("GET", f"http://127.0.0.1:1{path}?watch=true")
        assert "Token file exists but empty" in told[path]
        await session.close()

    connected(use, hook)


def embedded(directory: Path) -> Path:
    """A kubeconfig that holds a certificate and its key."""
    pki.make_authority(directory)
    pki.make_certificate(directory, "me", "me", "", "clientAuth")
    keys = {
        "client-certificate-data": pki.encoded(directory / "me.crt"),
        "client-key-data": pki.encoded(directory / "me.key"),
    }
    config = directory / "config"
    config.write_text(pki.kubeconfig("https://127.0.0.1:1", directory / "ca.crt", {"me": keys}, "c"))
    return config


def test_keys_of_a_kubeconfig_stay_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, made = tmp_path / "memory", tmp_path / "made"
    memory.mkdir()
    made.mkdir()
    settings = Settings(kubeconfig=str(embedded(made)))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(memory))
    monkeypatch.setattr(connections, "_RELOAD_PAUSE", 0.0)

    async def go() -> None:
        configuration = await connections.load_configuration(settings)
        [directory] = memory.iterdir()
        assert configuration.key_file is not None
        assert Path(configuration.key_file).parent == directory
        assert directory.stat().st_mode & 0o077 == 0
        connection = Connection(configuration, settings, Metrics(), ServerClock())
        assert list(memory.iterdir()) == []
        before = connection.tls
        await connection.reload()
        assert connection.tls is not before
        assert list(memory.iterdir()) == []
        await connection.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("host", "exceptions", "direct"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("192.168.1.1", "10.0.0.0/8", False),
        ("[fd00::1]", "fd00::/8", True),
        ("[fd00::1]", "fd00::1", True),
        ("[fd00::1]", "[fd00::1]:6443", True),
        ("[fd00::1]", "fd00::2", False),
        ("api.example.com", ".example.com", True),
        ("api.example.com", "example.com", True),
        ("api.example.org", "example.com", False),
        ("api.example.org", "*", True),
    ],
)
def test_no_proxy_may_name_networks_and_ipv6_addresses(
    host: str, exceptions: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", f"unrelated, {exceptions}")
    assert connections._proxy_of(f"https://{host}:6443") == (None if direct else "http://proxy:3128")
