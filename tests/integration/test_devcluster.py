"""The local cluster itself: side by side, hurt, killed half-way, and gone without a trace."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from devcluster import Cluster, DevclusterError, cgroups, cleanup, processes
from devcluster.cli import run_kubectl
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root")


def _launch(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(ROOT / "tools" / "devcluster" / "__main__.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "tools" / "devcluster" / "__main__.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def _traces(directory: Path, cluster_id: str) -> list[str]:
    """Whatever of a cluster is still on this machine."""
    found = [f"process {pid}" for pid in processes.marked(cluster_id)]
    for pid in (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            if str(directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and int(pid) != os.getpid():
                found.append(f"command line of {pid}")
        except OSError:
            continue
    found += [f"mount {point}" for point in cleanup.mounts_under(directory)]
    found += [f"link {link.name}" for link in Path("/sys/class/net").iterdir() if cluster_id in link.name]
    for root in cgroups.hierarchies():
        found += [f"cgroup {path}" for path in root.glob(f"*{cluster_id}*")]
    found += [f"namespace {path}" for path in Path("/run/netns").glob("*") if cluster_id in path.name]
    if directory.exists():
        found.append(f"directory {directory}")
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where a test may put one cluster; it is taken down whatever happens."""
    path = tmp_path / "c1"
    yield path
    Cluster(path).down()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for tests that leave it as they found it."""
    with Cluster(tmp_path_factory.mktemp("shared") / "c1") as cluster:
        cluster.up()
        yield cluster


def test_two_clusters_live_side_by_side_and_one_goes_without_the_other(shared: Cluster, directory: Path) -> None:
    other = Cluster(directory)
    other.up(dolt=False)
    run_kubectl(shared, "create", "namespace", "only-here")
    assert "only-here" in run_kubectl(shared, "get", "namespaces", "--output=name")
    assert "only-here" not in run_kubectl(other, "get", "namespaces", "--output=name")
    gone = other.id
    other.down()
    assert _traces(directory, gone) == []
    assert all(shared.processes().values())
    run_kubectl(shared, "delete", "namespace", "only-here", "--timeout=60s")


def test_the_kubeconfig_logs_in_with_a_certificate_or_with_a_token(shared: Cluster) -> None:
    for context in ("presence-c1", "presence-c1-token"):
        said = run_kubectl(shared, "--context", context, "auth", "whoami", "--output=json")
        assert "system:masters" in json.loads(said)["status"]["userInfo"]["groups"]


def test_env_sh_points_a_shell_at_the_cluster(shared: Cluster) -> None:
    script = f'. {shared.env_file} && kubectl get --raw /readyz && echo " $PRESENCE_DSN $PRESENCE_METRICS_URL"'
    answer = subprocess.run(
        ["sh", "-ec", script], capture_output=True, text=True, timeout=60, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert answer.stdout.split() == ["ok", shared.dolt.dsn, shared.metrics_url]


def test_the_mirrors_user_reads_no_other_database_and_needs_its_password(shared: Cluster) -> None:
    with _connected(shared.dolt.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE mine (a INT PRIMARY KEY)")
        cursor.execute("CALL dolt_commit('-Am', 'a table')")
        with pytest.raises(pymysql.MySQLError, match="Access denied"):
            cursor.execute("SELECT * FROM mysql.user")
        cursor.execute("DROP TABLE mine")
    with pytest.raises(pymysql.MySQLError, match="Access denied"):
        _connected(shared.dolt.dsn.replace("mysql://presence:", "mysql://presence:x")).close()


def _connected(dsn: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    parts = urllib.parse.urlsplit(dsn)
    return pymysql.connect(
        host=parts.hostname or "",
        port=parts.port or 0,
        user=parts.username or "",
        password=parts.password or "",
        database=parts.path.lstrip("/"),
        connect_timeout=5,
    )


def test_a_paused_server_answers_nothing_until_it_is_resumed(shared: Cluster) -> None:
    shared.dolt.pause()
    try:
        assert shared.dolt.running
        assert not shared.dolt.answers()
    finally:
        shared.dolt.resume()
    eventually(shared.dolt.answers, "Dolt greets again")


def test_a_guest_process_gets_the_clusters_settings_and_is_replaced_by_its_next_start(shared: Cluster) -> None:
    script = "import os, time; print(os.environ['KUBECONFIG'], os.environ['MINE'], flush=True); time.sleep(600)"
    guest = shared.spawn("guest", [sys.executable, "-c", script], {"MINE": "yes"})
    eventually(lambda: guest.log.read_text() == f"{shared.kubeconfig} yes\n", "the guest's log")
    assert Cluster(shared.directory).process("guest").pid == guest.pid
    first = guest.pid
    second = shared.spawn("guest", [sys.executable, "-c", "import time; time.sleep(600)"])
    assert processes.start_ticks(first) is None
    assert second.running
    second.stop()


def test_status_tells_what_runs_and_fails_when_something_does_not(shared: Cluster) -> None:
    shared.controller_manager.kill()
    answer = _run("status", "c1", "--dir", str(shared.directory))
    assert answer.returncode == 3
    assert "controller-manager   down" in answer.stdout
    shared.controller_manager.start()
    assert "controller-manager   running" in _run("status", "c1", "--dir", str(shared.directory)).stdout


def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(shared: Cluster) -> None:
    shared.dolt.stop()
    try:
        with (
            socket.create_server(("127.0.0.1", shared.dolt.port)),
            pytest.raises(DevclusterError, match=r"(?s)dolt ended before it was ready.*already in use"),
        ):
            shared.dolt.start()
    finally:
        shared.dolt.start()


def test_what_was_killed_comes_back_on_its_port_with_its_data(shared: Cluster) -> None:
    cluster = shared
    with _connected(cluster.dolt.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (a INT PRIMARY KEY)")
    run_kubectl(cluster, "create", "namespace", "kept")
    url, dsn = cluster.server_url, cluster.dolt.dsn
    for process in (cluster.dolt, cluster.apiserver, cluster.etcd, cluster.controller_manager):
        process.kill()
        assert not process.running
    cluster.up()
    assert all(process.running for process in (cluster.dolt, cluster.apiserver, cluster.controller_manager))
    assert (cluster.server_url, cluster.dolt.dsn) == (url, dsn)
    assert run_kubectl(cluster, "get", "namespace", "kept", "--output=name") == "namespace/kept\n"
    with _connected(dsn) as connection, connection.cursor() as cursor:
        assert cursor.execute("SHOW TABLES LIKE 'kept'") == 1


@pytest.mark.parametrize("started", [1, 4])
def test_down_removes_all_of_a_start_that_was_killed_half_way(started: int, directory: Path) -> None:
    launcher = _launch("up", "c1", "--dir", str(directory))
    try:
        eventually(lambda: _started(directory) >= started, "the first processes", timeout=60)
    finally:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
    cluster_id = json.loads((directory / "state.json").read_text())["id"]
    assert _traces(directory, cluster_id) != []
    done = _run("down", "c1", "--dir", str(directory))
    assert (done.returncode, done.stderr) == (0, "")
    assert _traces(directory, cluster_id) == []
    assert _run("down", "c1", "--dir", str(directory)).returncode == 0


def _started(directory: Path) -> int:
    try:
        known = json.loads((directory / "state.json").read_text())["processes"]
    except (OSError, ValueError):
        return 0
    return sum(record["pid"] is not None for record in known.values())


def test_up_finishes_what_a_killed_up_began(directory: Path) -> None:
    launcher = _launch("up", "c1", "--dir", str(directory))
    try:
        eventually(lambda: _started(directory) >= 2, "the first processes", timeout=60)
    finally:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
    cluster = Cluster(directory)
    cluster.up()
    assert run_kubectl(cluster, "get", "--raw", "/readyz") == "ok"
    assert _run("status", "c1", "--dir", str(directory)).returncode == 0


_POD = """
apiVersion: v1
kind: Pod
metadata: {name: probe, namespace: default}
spec:
  restartPolicy: Never
  containers:
  - name: probe
    image: localhost/presence/pause:1
    imagePullPolicy: Never
"""


@needs_root
def test_a_node_runs_a_pod_and_a_crash_of_everything_leaves_nothing_after_down(directory: Path, tmp_path: Path) -> None:
    cluster = Cluster(directory)
    cluster.up(node=True, dolt=False)
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(_POD)
    run_kubectl(cluster, "apply", "--filename", str(manifest))
    run_kubectl(cluster, "wait", "--for=condition=Ready", "pod/probe", "--timeout=60s")
    cluster_id = cluster.id
    assert f"link pr{cluster_id}" in _traces(directory, cluster_id)
    assert cgroups.members(f"presence-{cluster_id}") != set()
    for name in cluster.processes():
        cluster.process(name).kill()
    Cluster(directory).down()
    assert _traces(directory, cluster_id) == []


@needs_root
def test_a_node_whose_processes_were_all_killed_comes_back(directory: Path) -> None:
    cluster = Cluster(directory)
    cluster.up(dolt=False)
    assert not cluster.has_node
    cluster.up(node=True, dolt=False)
    for name in ("node", "kubelet", "containerd"):
        cluster.process(name).kill()
    cluster.up()
    assert all(cluster.processes().values())
    assert cluster.has_node
