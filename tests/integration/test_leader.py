"""Of several operators one acts, on the real API server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.aio import client, config

from presence_operator.metrics import Metrics
from presence_operator.settings import Settings
from presence_operator.shell import app
from presence_operator.shell.health import Health
from presence_operator.shell.leader import AlwaysLeading, Elector, make_elector, pause_after
from support.kube import ApiError
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devcluster import Cluster
    from support.kube import Kube

ROOT = Path(__file__).resolve().parents[2]
NAME = "presence-operator"
#: Lease duration, renew deadline, retry period. Never runs out in a test.
PATIENT = ("600", "400", "0.2")
#: Runs out within a test, and leaves a busy machine time to renew.
HASTY = ("6", "5", "0.4")


class Candidate:
    """A process that stands for election."""

    def __init__(
        self, kubeconfig: Path, namespace: str, identity: str, file: Path, times: tuple[str, str, str]
    ) -> None:
        self.identity = identity
        self._file = file
        file.touch()
        program = Path(__file__).with_name("elector_program.py")
        self.process = subprocess.Popen(
            [sys.executable, program, kubeconfig, namespace, identity, file, *times],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'cli'}{os.pathsep}{ROOT / 'operator'}"},
        )

    def diary(self) -> list[tuple[float, str]]:
        complete = self._file.read_text().rpartition("\n")[0].splitlines()
        return [(float(time), what) for time, what in (line.split() for line in complete)]

    def acts(self) -> list[float]:
        return [time for time, what in self.diary() if what == "act"]

    def turns(self) -> list[str]:
        return [what for _, what in self.diary() if what != "act"]

    def acts_again(self) -> None:
        before = len(self.acts())
        eventually(lambda: len(self.acts()) > before, f"{self.identity} acts", 40)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def stand(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Candidate]]:
    candidates: list[Candidate] = []

    def start(identity: str, times: tuple[str, str, str]) -> Candidate:
        candidates.append(Candidate(cluster.kubeconfig, namespace, identity, tmp_path / identity, times))
        return candidates[-1]

    yield start
    for candidate in candidates:
        candidate.end()


def lease(kube: Kube, namespace: str) -> dict[str, Any]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}"
    return kube.request("GET", path)


def test_one_of_two_acts_and_a_clean_stop_hands_over_without_waiting_for_the_lease(
    stand: Callable[..., Candidate], kube: Kube, namespace: str
) -> None:
    first = stand("first", PATIENT)
    first.acts_again()
    second = stand("second", PATIENT)
    spec = lease(kube, namespace)["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("first", 600)
    renewed = spec["renewTime"]
    eventually(lambda: lease(kube, namespace)["spec"]["renewTime"] > renewed, "the lease renewed")
    assert not second.acts()

    first.process.terminate()
    second.acts_again()
    assert first.process.wait(10) == 0
    assert first.turns() == ["started", "stopped"]
    assert max(first.acts()) < min(second.acts())
    spec = lease(kube, namespace)["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 1)


def test_a_killed_leader_is_followed_when_its_lease_has_run_out(stand: Callable[..., Candidate]) -> None:
    first = stand("first", HASTY)
    first.acts_again()
    second = stand("second", HASTY)
    first.process.kill()
    second.acts_again()
    assert max(first.acts()) < min(second.acts())


def test_a_paused_leader_does_not_act_once_more_when_another_has_taken_over(
    stand: Callable[..., Candidate], kube: Kube, namespace: str
) -> None:
    first = stand("first", HASTY)
    first.acts_again()
    second = stand("second", HASTY)
    first.process.send_signal(signal.SIGSTOP)
    second.acts_again()
    first.process.send_signal(signal.SIGCONT)
    eventually(lambda: first.turns() == ["started", "stopped"], "the first notices")
    second.acts_again()
    assert max(first.acts()) < min(second.acts())
    assert lease(kube, namespace)["spec"]["holderIdentity"] == "second"


def test_a_leader_whose_lease_was_taken_stops_long_before_its_renew_deadline(
    stand: Callable[..., Candidate], kube: Kube, namespace: str
) -> None:
    leader = stand("leader", PATIENT)
    leader.acts_again()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}"
    taken = {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 900}}
    kube.request("PATCH", path, taken, "application/merge-patch+json")
    eventually(lambda: leader.turns() == ["started", "stopped"], "the leader gives way")
    leader.process.terminate()
    assert leader.process.wait(10) == 0
    assert lease(kube, namespace)["spec"]["holderIdentity"] == "somebody"


def test_a_lease_deleted_by_hand_is_made_again(stand: Callable[..., Candidate], kube: Kube, namespace: str) -> None:
    leader = stand("leader", PATIENT)
    leader.acts_again()
    uid = lease(kube, namespace)["metadata"]["uid"]
    kube.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{NAME}")

    def made_again() -> bool:
        with contextlib.suppress(ApiError):
            return bool(lease(kube, namespace)["metadata"]["uid"] != uid)
        return False

    eventually(made_again, "a new lease")
    leader.acts_again()


def settings(namespace: str, times: tuple[str, str, str] = HASTY, **flags: str) -> Settings:
    duration, deadline, period = times
    return Settings.load(
        {
            "--lease-namespace": namespace,
            "--lease-duration": duration,
            "--renew-deadline": deadline,
            "--retry-period": period,
            "--identity": "me",
            **flags,
        },
        {},
    )


async def until(look: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(40):
        while not look():  # noqa: ASYNC110 - the API server tells nobody
            await asyncio.sleep(0.02)
    assert look(), what


async def configuration(cluster: Cluster) -> client.Configuration:
    made = client.Configuration()
    await config.load_kube_config(config_file=str(cluster.kubeconfig), client_configuration=made)  # type: ignore[no-untyped-call]
    return made


class Link:
    """A way to the API server that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self.whole = True

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.whole:
            writer.close()
            return
        there, onward = await asyncio.open_connection(*self._target)
        self._writers |= {writer, onward}
        await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()

    def cut(self) -> None:
        self.whole = False
        for writer in self._writers:
            writer.close()


def test_a_leader_cut_off_from_the_api_server_stops_and_leads_again_when_it_is_back(
    cluster: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    health = Health(Metrics())
    turns: list[str] = []

    async def go() -> None:
        made = await configuration(cluster)
        host, _, port = made.host.rpartition("/")[2].rpartition(":")
        link = Link(host, int(port))
        async with await asyncio.start_server(link, "127.0.0.1", 0) as server:
            made.host = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            made.tls_server_name = host
            async with (
                client.ApiClient(made) as api,
                Elector(
                    api, settings(namespace), health, lambda: turns.append("on"), lambda: turns.append("off")
                ) as elector,
            ):
                await until(lambda: elector.leading, "leads")
                assert health.metrics.registry.get_sample_value("presence_leader") == 1
                link.cut()
                await until(lambda: turns == ["on", "off"], "stops")
                assert not elector.leading
                assert health.metrics.registry.get_sample_value("presence_leader") == 0
                link.whole = True
                await until(lambda: elector.leading, "leads again")
        assert turns == ["on", "off", "on", "off"]

    asyncio.run(go())
    reasons = [vars(record)["reason"] for record in caplog.records if hasattr(record, "reason")]
    assert reasons == ["the lease could not be renewed in time", "shutting down"]


def test_a_leader_whose_token_is_refused_gets_a_new_one_at_once(cluster: Cluster, namespace: str) -> None:
    turns: list[str] = []

    async def go() -> None:
        made = await configuration(cluster)
        good = f"Bearer {cluster.token}"
        made.cert_file = made.key_file = None
        made.api_key["BearerToken"] = good

        async def reload() -> None:
            made.api_key["BearerToken"] = good

        async with (
            client.ApiClient(made) as api,
            Elector(
                api,
                settings(namespace),
                Health(Metrics()),
                lambda: turns.append("on"),
                lambda: turns.append("off"),
                reload,
            ) as elector,
        ):
            await until(lambda: elector.leading, "leads")
            made.api_key["BearerToken"] = "Bearer replaced"
            await until(lambda: made.api_key["BearerToken"] == good, "the token is renewed")
            assert elector.leading
        assert turns == ["on", "off"]

    asyncio.run(go())


def test_a_missing_namespace_is_named_and_made_up_for_later(
    cluster: Cluster, kube: Kube, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    later = f"{namespace}-later"

    def reported() -> bool:
        return any("create the namespace" in str(vars(record).get("error")) for record in caplog.records)

    async def go() -> None:
        async with (
            client.ApiClient(await configuration(cluster)) as api,
            Elector(api, settings(later), Health(Metrics()), lambda: None, lambda: None) as elector,
        ):
            await until(reported, "the reason is told")
            assert not elector.leading
            kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": later}})
            await until(lambda: elector.leading, "leads")

    try:
        asyncio.run(go())
    finally:
        with contextlib.suppress(Exception):
            kube.request("DELETE", f"/api/v1/namespaces/{later}")


def test_a_callback_that_fails_does_not_end_the_election(cluster: Cluster, kube: Kube, namespace: str) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    async def go() -> None:
        async with (
            client.ApiClient(await configuration(cluster)) as api,
            Elector(api, settings(namespace), Health(Metrics()), broken, broken) as elector,
        ):
            await until(lambda: elector.leading, "leads")
            renewed = lease(kube, namespace)["spec"]["renewTime"]
            await until(lambda: lease(kube, namespace)["spec"]["renewTime"] > renewed, "renews")
        assert lease(kube, namespace)["spec"]["holderIdentity"] == ""

    asyncio.run(go())


def test_a_candidate_stands_again_however_long_there_was_no_lease_to_be_had() -> None:
    pauses = [pause_after(failures, 1.0, 3.5) for failures in (0, 1, 2, 3, 4, 1_000, 1_000_000)]
    assert pauses == [1, 1, 2, 3.5, 3.5, 3.5, 3.5]


def test_a_leader_that_is_stuck_leaves_the_lease_to_the_others(
    cluster: Cluster, kube: Kube, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now = [1000.0]
    health = Health(Metrics(), monotonic=lambda: now[0])

    async def go() -> None:
        async with (
            client.ApiClient(await configuration(cluster)) as api,
            Elector(api, settings(namespace), health, lambda: None, lambda: None) as elector,
        ):
            await until(lambda: elector.leading, "leads")
            now[0] += 200
            await until(lambda: not elector.leading, "gives way")
            renewed = lease(kube, namespace)["spec"]["renewTime"]
            health.tick()
            await until(lambda: elector.leading, "leads again")
            assert lease(kube, namespace)["spec"]["renewTime"] > renewed

    asyncio.run(go())
    reasons = [vars(record)["reason"] for record in caplog.records if hasattr(record, "reason")]
    assert reasons == ["the scheduler has not moved for 200 s; the limit is 120 s", "shutting down"]


def test_an_operator_whose_election_has_ended_ends_too_and_is_started_anew(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def die(_: Elector) -> None:
        raise OverflowError("a fault of the election's own")

    monkeypatch.setattr(Elector, "_stand", die)
    flags = {
        "--leader-elect": "true",
        "--namespace": namespace,
        "--kubeconfig": str(cluster.kubeconfig),
        "--listen": "127.0.0.1:0",
    }
    with pytest.raises(RuntimeError, match="leader election ended unexpectedly"):
        asyncio.run(asyncio.wait_for(app.run(Settings.load(flags, {})), 40))
    assert "a part of the operator ended" in caplog.text


def test_without_an_election_the_operator_leads_at_once(cluster: Cluster, namespace: str) -> None:
    turns: list[str] = []

    async def go() -> None:
        health = Health(Metrics())
        async with client.ApiClient(await configuration(cluster)) as api:
            alone = make_elector(
                api, settings(namespace), health, lambda: turns.append("on"), lambda: turns.append("off")
            )
            assert isinstance(alone, AlwaysLeading)
            async with alone:
                assert alone.leading
                assert health.ready()[1]["leading"]
            assert not alone.leading

    asyncio.run(go())
    assert turns == ["on", "off"]


def test_every_candidate_tells_how_often_the_lease_has_passed_on(cluster: Cluster, namespace: str) -> None:
    def passed(health: Health) -> float | None:
        return health.metrics.registry.get_sample_value("presence_leader_transitions")

    async def go() -> None:
        first, second = Health(Metrics()), Health(Metrics())
        async with client.ApiClient(await configuration(cluster)) as api:
            waits = Elector(api, settings(namespace, HASTY, **{"--identity": "b"}), second, lambda: None, lambda: None)
            async with Elector(
                api, settings(namespace, HASTY, **{"--identity": "a"}), first, lambda: None, lambda: None
            ) as leads:
                await until(lambda: leads.leading, "the first leads")
                assert passed(first) == 0
            async with waits:
                await until(lambda: waits.leading, "the second leads")
                assert passed(second) == 1
                async with Elector(
                    api, settings(namespace, HASTY, **{"--identity": "a"}), first, lambda: None, lambda: None
                ):
                    await until(lambda: passed(first) == 1, "the follower tells the same")

    asyncio.run(go())
