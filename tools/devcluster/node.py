"""A node that runs pods: containerd, kubelet and kube-proxy in a network and mount namespace of their own.

The first process of the node makes both namespaces and then only waits; the others join it. Whatever they mount or
configure therefore vanishes with the last of them. On the host there is one end of a veth pair, one control group
per hierarchy and nothing else. `/run`, `/var/log` and `/var/lib` are the node's own, because kubelet and containerd
have fixed paths there.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from . import catalog, cgroups, cleanup, controlplane, image, ports, processes
from .errors import DevclusterError
from .process import Process
from .state import State
from .store import Store
from .toolchain import Toolchain

PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "runc": "runc",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
"""Programs of the system that a node needs, with their Debian packages."""

PROCESS_NAMES = ("node", "forward", "containerd", "kubelet", "kube-proxy")
# Inside the node: short paths of its own, so that the cluster's directory may be as long as it likes.
_SOCKET = "/run/containerd/containerd.sock"
POD_NETWORK = "10.244.0.0/24"
PAUSE_IMAGE = "localhost/presence/pause:1"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HIDDEN = ("/run/", "/var/run/", "/var/log/", "/var/lib/")
_HOLD = """
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/log
mount -t overlay -o "lowerdir=/var/lib,upperdir=$1/upper,workdir=$1/work" overlay /var/lib
ip link set lo up
exec "$2"
"""


class Node:
    """The node of one cluster, called `<cluster>-node`."""

    def __init__(self, store: Store, toolchain: Toolchain) -> None:
        self._store = store
        self._toolchain = toolchain
        self._holder = Process(store, "node", self._separated)
        self._forward = Process(store, "forward", self._forwarding)
        self.containerd = Process(store, "containerd", self._containerd_answers)
        self.kubelet = Process(store, "kubelet")
        self.kube_proxy = Process(store, "kube-proxy")

    @property
    def name(self) -> str:
        return controlplane.node_name(self._store.read().name)

    @property
    def address(self) -> str:
        """The node's address; the kubelet listens there, and node ports are served there."""
        return controlplane.node_address(self._store.read())

    @property
    def host_address(self) -> str:
        """This machine, as pods see it."""
        return controlplane.host_address(self._store.read())

    @property
    def _home(self) -> Path:
        return self._store.directory / "node"

    def up(self, scheduler: Process) -> None:
        """Start what is missing and wait until the node is Ready. The control plane must be up."""
        directory = self._store.directory
        if f"{directory}/".startswith(_HIDDEN):
            raise DevclusterError(f"a cluster with a node cannot live in {directory}; use --dir with a path elsewhere")
        if not self._holder.running:
            self._clear()
        with self._store.change() as state:
            state.cgroup = f"presence-{state.id}"
            state.links = [_link(state)]
        state = self._store.read()
        cgroups.make(state.cgroup)
        self._start_holder()
        self._connect(state)
        self._start_forwarder(state)
        self._start_scheduler(scheduler, state)
        self._start_containerd()
        self.load_image(self._pause_archive())
        self._start_kubelet(state)
        self._start_kube_proxy(state)
        scheduler.wait_ready()
        if not processes.wait_until(lambda: controlplane.node_ready(directory, state), 120):
            raise DevclusterError(
                f"the node was not Ready after 120 s; {self.kubelet.log}:\n{processes.tail(self.kubelet.log)}"
            )

    def load_image(self, archive: Path) -> None:
        """Import every image of an OCI archive."""
        if not archive.exists():
            raise DevclusterError(f"{archive}: no such image archive; `devcluster image build-operator` makes one")
        with archive.open("rb") as content:
            answer = self._ctr("--namespace", "k8s.io", "images", "import", "-", content=content, timeout=300)
        if answer.returncode != 0:
            raise DevclusterError(f"{archive} was not imported: {(answer.stdout + answer.stderr).strip()[-1500:]}")

    def _clear(self) -> None:
        """After a crash of the namespace holder: its survivors live in a network that nobody can enter any more."""
        state = self._store.read()
        for process in (self._forward, self.kube_proxy, self.kubelet, self.containerd):
            process.kill()
        if state.cgroup:
            processes.wait_until(lambda: not _kill_members(state.cgroup), 20)
        for link in state.links:
            cleanup.remove_link(link)

    def _start_holder(self) -> None:
        overlay = self._home / "var-lib"
        for part in ("upper", "work"):
            (overlay / part).mkdir(parents=True, exist_ok=True)
        argv = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", _HOLD, "node"]
        pause = self._toolchain.path("pause")
        self._holder.define([*argv, str(overlay), str(pause)], {"PATH": _PATH})
        self._holder.start()

    def _separated(self) -> bool:
        pid = self._holder.pid
        return Path(f"/proc/{pid}/exe").readlink().name == "pause"

    def _connect(self, state: State) -> None:
        link, pid = _link(state), str(self._holder.pid)
        if cleanup.link_exists(link):
            return
        inside = ["nsenter", "--target", pid, "--net"]
        _run(["ip", "link", "add", "name", link, "type", "veth", "peer", "name", "eth0", "netns", pid])
        _run([*inside, "ip", "address", "add", f"{self.address}/30", "dev", "eth0"])
        _run([*inside, "ip", "link", "set", "eth0", "up"])
        _run(["ip", "address", "add", f"{self.host_address}/30", "dev", link])
        _run(["ip", "link", "set", link, "up"])
        _run([*inside, "ip", "route", "add", "default", "via", self.host_address])

    def _start_forwarder(self, state: State) -> None:
        script = Path(__file__).with_name("forward.py")
        served = [str(state.ports[name]) for name in ("apiserver", "dolt")]
        self._forward.define([sys.executable, str(script), self.host_address, *served], {"PATH": _PATH})
        self._forward.start()

    def _forwarding(self) -> bool:
        return ports.listening(self._store.read().ports["apiserver"], self.host_address)

    def _start_scheduler(self, scheduler: Process, state: State) -> None:
        program = self._toolchain.path("kube-scheduler")
        argv = controlplane.scheduler_argv(program, self._store.directory, state)
        scheduler.define(argv, {"PATH": _PATH, "HOME": str(self._home)})
        scheduler.start(wait=False)

    def _joined(self, *argv: str | Path) -> list[str]:
        return ["nsenter", "--target", str(self._holder.pid), "--mount", "--net", "--", *map(str, argv)]

    def _start_containerd(self) -> None:
        programs = self._toolchain.ensure(catalog.NODE)
        config = self._write_json("cni/net.d/10-presence.conflist", _cni(self._home))
        settings = _containerd_config(self._home, programs["ptp"].parent, config.parent)
        path = self._home / "containerd.toml"
        path.write_text(settings)
        search = f"{programs['containerd-shim-runc-v2'].parent}:{_PATH}"
        self.containerd.define(self._joined(programs["containerd"], "--config", path), {"PATH": search})
        self.containerd.start()

    def _containerd_answers(self) -> bool:
        return self._ctr("--timeout", "2s", "version", timeout=20).returncode == 0

    def _ctr(
        self, *arguments: str, timeout: float, content: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ctr inside the node, where containerd's socket is; `content` is its standard input."""
        command = self._joined(self._toolchain.path("ctr"), "--address", _SOCKET, *arguments)
        return subprocess.run(
            command,
            stdin=content or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def _pause_archive(self) -> Path:
        archive = self._home / "pause.tar"
        if not archive.exists():
            image.write_pause(archive, PAUSE_IMAGE, self._toolchain.path("pause"))
        return archive

    def _start_kubelet(self, state: State) -> None:
        pki_dir = self._store.directory / "pki"
        config = self._write_json("kubelet.json", _kubelet_config(self._store.directory, state))
        argv = self._joined(
            self._toolchain.path("kubelet"),
            f"--config={config}",
            f"--kubeconfig={pki_dir / 'kubelet.kubeconfig'}",
            "--root-dir=/var/lib/kubelet",
            f"--cert-dir={self._home / 'kubelet-pki'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        )
        self.kubelet.define(argv, {"PATH": _PATH, "HOME": str(self._home)})
        self.kubelet.start()

    def _start_kube_proxy(self, state: State) -> None:
        pki_dir = self._store.directory / "pki"
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(pki_dir / "proxy.kubeconfig")},
            "mode": "nftables",
            "clusterCIDR": POD_NETWORK,
            "hostnameOverride": controlplane.node_name(state.name),
            # The kernel lets these be set in the first network namespace only.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        config = self._write_json("kube-proxy.json", settings)
        argv = self._joined(self._toolchain.path("kube-proxy"), f"--config={config}")
        self.kube_proxy.define(argv, {"PATH": _PATH, "HOME": str(self._home)})
        self.kube_proxy.start()

    def _write_json(self, name: str, content: dict[str, Any]) -> Path:
        path = self._home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
        return path


def _link(state: State) -> str:
    return f"pr{state.id}"


def _kill_members(cgroup: str) -> bool:
    found = {pid: processes.start_ticks(pid) for pid in cgroups.members(cgroup)}
    processes.kill_exact({pid: ticks for pid, ticks in found.items() if ticks is not None})
    return bool(found)


def _cni(home: Path) -> dict[str, Any]:
    """Each pod has a routed link of its own, so no bridge netfilter module is needed for service addresses."""
    ranges = {"type": "host-local", "subnet": POD_NETWORK, "dataDir": str(home / "cni" / "addresses")}
    ptp = {
        "type": "ptp",
        "ipMasq": True,
        "ipMasqBackend": "nftables",
        "ipam": {**ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"}
    return {"cniVersion": "1.0.0", "name": "presence", "plugins": [ptp, portmap]}


def _containerd_config(home: Path, plugins: Path, cni: Path) -> str:
    snapshotter = "native" if _filesystem(home) == "overlay" else "overlayfs"
    return f"""version = 3
root = '{home / "containerd"}'
state = '/run/containerd'
imports = []
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.erofs',
  'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.blockfile',
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.zfs', 'io.containerd.internal.v1.opt',
  'io.containerd.tracing.processor.v1.otlp']

[grpc]
  address = '{_SOCKET}'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = '{snapshotter}'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{PAUSE_IMAGE}'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{plugins}']
    conf_dir = '{cni}'
"""


def _kubelet_config(directory: Path, state: State) -> dict[str, Any]:
    home = directory / "node"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(directory / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "podLogsDir": str(directory / "logs" / "pods"),
        "volumePluginDir": str(home / "volume-plugins"),
        "resolvConf": "",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{state.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "readOnlyPort": 0,
    }


def _filesystem(path: Path) -> str:
    """The type of the file system that holds `path`."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if f"{path}/".startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def _run(command: list[str]) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={"PATH": _PATH})
    if answer.returncode != 0:
        raise DevclusterError(f"{' '.join(command)}: {answer.stderr.strip()}")
