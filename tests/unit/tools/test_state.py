"""The record of what a cluster has made, and that only that is ever touched."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import DevclusterError, processes
from devcluster.cluster import Cluster
from devcluster.state import ProcessRecord, State, load, save
from devcluster.store import Store


def _state(**settings: object) -> State:
    return State(id="0badcafe", name="c", boot_id=processes.boot_id(), **settings)  # type: ignore[arg-type]


def _record(pid: int | None, ticks: int | None) -> ProcessRecord:
    return ProcessRecord(["sleep"], {}, "/", "/dev/null", pid, ticks)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    state = _state(ports={"etcd": 1}, links=["pr1"], cgroup="presence-1", processes={"etcd": _record(7, 9)})
    save(tmp_path / "state.json", state)
    assert load(tmp_path / "state.json") == state


def test_the_state_holds_passwords_so_only_its_owner_can_read_it(tmp_path: Path) -> None:
    save(tmp_path / "state.json", _state())
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_a_damaged_state_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format": 1, ')
    with pytest.raises(DevclusterError, match=r"damaged .*stop its processes by hand"):
        load(tmp_path / "state.json")


def test_after_a_reboot_no_process_number_is_believed(tmp_path: Path) -> None:
    state = _state(processes={"etcd": _record(os.getpid(), processes.start_ticks(os.getpid()))})
    state.boot_id = "another boot"
    save(tmp_path / "state.json", state)
    assert not processes.alive(Store(tmp_path).read().processes["etcd"])


def test_a_process_is_known_by_number_and_start(sleeper: "subprocess.Popen[bytes]") -> None:
    ticks = processes.start_ticks(sleeper.pid)
    assert ticks is not None
    assert processes.alive(_record(sleeper.pid, ticks))
    assert not processes.alive(_record(sleeper.pid, ticks + 1))


def test_a_recycled_process_number_is_never_signalled(sleeper: "subprocess.Popen[bytes]") -> None:
    ticks = processes.start_ticks(sleeper.pid)
    assert ticks is not None
    processes.signal_group(_record(sleeper.pid, ticks - 1), signal.SIGKILL)
    processes.kill_exact({sleeper.pid: ticks - 1})
    assert processes.start_ticks(sleeper.pid) == ticks


def test_a_process_that_was_started_but_not_yet_recorded_is_found_by_its_mark() -> None:
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    environment = {**os.environ, processes.MARKER: "feedf00d"}
    with subprocess.Popen(program, env=environment, start_new_session=True) as child:
        try:
            assert processes.wait_until(lambda: child.pid in processes.marked("feedf00d"), 10)
            assert child.pid not in processes.marked("feedf00")
        finally:
            child.kill()


def test_a_directory_of_somebody_else_is_neither_used_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(DevclusterError, match="holds no cluster; name another directory"):
        Cluster(tmp_path, "c").up()
    with pytest.raises(DevclusterError, match="nothing was removed"):
        Cluster(tmp_path, "c").down()
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_down_of_a_cluster_that_never_was_is_no_error(tmp_path: Path) -> None:
    Cluster(tmp_path / "none", "none").down()


def test_a_start_that_was_killed_before_its_first_process_leaves_nothing_after_down(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    (directory / "logs").mkdir(parents=True)
    (directory / "life.lock").touch()
    Cluster(directory).down()
    assert not directory.exists()


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "-a", "a" * 33])
def test_a_name_that_kubernetes_would_refuse_is_refused_first(name: str, tmp_path: Path) -> None:
    with pytest.raises(DevclusterError, match="use lower-case letters, digits and dashes"):
        Cluster(tmp_path / "x", name or "_")
