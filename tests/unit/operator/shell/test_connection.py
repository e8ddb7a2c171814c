"""What the rest of the operator sees of a connection whose credentials are in trouble."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException

from presence_operator.core.clock import ServerClock
from presence_operator.metrics import Metrics
from presence_operator.settings import Settings
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
