"""The pages that probes and Prometheus read."""

from __future__ import annotations

import asyncio
import gzip
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest

from presence_operator.metrics import Metrics
from presence_operator.shell.health import ELECTION, Health, HealthServer, ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(Metrics(), limit=120, identity="me", monotonic=clock)


def serving(
    health: Health,
    use: Callable[[str, aiohttp.ClientSession], Awaitable[None]],
    listen: str = "127.0.0.1:0",
    listen_file: Path | None = None,
) -> None:
    async def go() -> None:
        async with (
            HealthServer(health, health.metrics, listen=listen, listen_file=listen_file) as server,
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=10)) as session,
        ):
            await use(f"http://{server.address}", session)

    asyncio.run(go())


def test_it_is_live_while_the_scheduler_moves(health: Health, clock: Clock) -> None:
    clock.now += 119
    assert health.live()[0]
    clock.now += 2
    assert not health.live()[0]
    health.tick()
    assert health.live()[0]


def test_a_stuck_scheduler_fails_the_probe_and_says_for_how_long(health: Health, clock: Clock) -> None:
    async def use(url: str, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        clock.now += 300
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 500
            assert "has not moved for 300 s" in (await answer.json())["reason"]

    serving(health, use)


def test_a_replica_that_waits_its_turn_is_live_only_while_it_stands_for_election(health: Health, clock: Clock) -> None:
    health.tick(ELECTION)
    health.set_ready(True)
    clock.now += 60
    health.tick()
    assert health.live()[0]
    assert health.ready()[0]
    clock.now += 61
    live, body = health.live()
    assert not live
    assert body["reason"] == "the election has not moved for 121 s; the limit is 120 s"
    health.tick(ELECTION)
    assert health.live()[0]


def test_it_is_ready_once_the_lists_are_in_whether_it_leads_or_not(health: Health) -> None:
    async def use(url: str, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["status"] == "starting"
        health.set_ready(True)
        async with session.get(f"{url}/readyz") as answer:
            assert answer.status == 200
            body = await answer.json()
            assert body["leading"] is False
            assert "not leading" in body["message"]
        health.set_leader(True)
        async with session.get(f"{url}/readyz") as answer:
            assert (await answer.json()) == {"status": "ready", "leading": True, "identity": "me"}

    serving(health, use)


def test_it_is_not_ready_while_watching_is_refused_for_longer_than_a_rotation_takes(
    health: Health, clock: Clock
) -> None:
    health.set_ready(True)
    health.set_watched("/claims", "certificate verify failed")
    clock.now += 10
    assert health.ready()[0]
    health.set_watched("/claims", "certificate verify failed")
    clock.now += 10
    health.set_watched("/sessions", "")
    ready, body = health.ready()
    assert not ready
    assert "certificate verify failed" in body["reason"]
    health.set_watched("/claims", "")
    assert health.ready()[0]


def test_metrics_come_as_text_or_openmetrics_and_compressed_when_asked(health: Health) -> None:
    health.set_leader(True)

    async def use(url: str, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/metrics", headers={"Accept-Encoding": "identity"}) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b"\npresence_leader 1.0\n" in await answer.read()
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "Accept-Encoding": "gzip"}
        async with session.get(f"{url}/metrics", headers=accept) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            assert answer.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await answer.read()).endswith(b"# EOF\n")
        async with session.get(f"{url}/metrics", headers={"Accept-Encoding": "gzip;q=0"}) as answer:
            assert "Content-Encoding" not in answer.headers

    serving(health, use)


def test_the_other_pages(health: Health) -> None:
    async def use(url: str, session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/version") as answer:
            assert set(await answer.json()) == {"version", "python", "kopf"}
        async with session.get(f"{url}/") as answer:
            assert set((await answer.text()).split()[1:]) == {"/metrics", "/healthz", "/livez", "/readyz", "/version"}
        async with session.get(f"{url}/nothing") as answer:
            assert answer.status == 404
        async with session.post(f"{url}/healthz") as answer:
            assert answer.status == 405
        async with session.head(f"{url}/healthz") as answer:
            assert answer.status == 200

    serving(health, use)


def test_the_bound_address_is_told_in_a_file(health: Health, tmp_path: Path) -> None:
    file = tmp_path / "listen"

    async def use(url: str, session: aiohttp.ClientSession) -> None:
        assert f"http://{file.read_text().strip()}" == url
        assert not url.endswith(":0")

    serving(health, use, listen_file=file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("listen", ["[::1]:0", ":0", "localhost:0", "0.0.0.0:0"])
def test_it_listens_on_either_family(health: Health, listen: str) -> None:
    if ":" in listen.rpartition(":")[0] and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")

    async def use(url: str, session: aiohttp.ClientSession) -> None:
        port = url.rpartition(":")[2]
        if listen == ":0":
            url = f"http://127.0.0.1:{port}"  # without a host, IPv4 reaches it as well
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200

    serving(health, use, listen=listen)


def test_an_address_in_use_is_explained(health: Health) -> None:
    async def use(_: str, __: aiohttp.ClientSession) -> None:
        raise AssertionError("it must not start")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"--listen {address}: Address already in use.*: choose another"):
            serving(health, use, listen=address)
