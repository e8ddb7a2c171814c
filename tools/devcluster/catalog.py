"""The tools: which Go module holds each binary, how it is built, and which foreign version would do as well."""

import re
from dataclasses import dataclass
from functools import cache

from . import versions
from .errors import DevclusterError
from .paths import MODULES


@dataclass(frozen=True)
class Binary:
    """One program. `seconds` is a cold build on the 2-core reference machine, after those before it in its tool."""

    name: str
    package: str
    seconds: float
    version_args: tuple[str, ...] = ("--version",)
    accepts: versions.Rule | None = None


@dataclass(frozen=True)
class Tool:
    """One pinned Go module (`tools/go/<name>`) and the programs built from it."""

    name: str
    binaries: tuple[Binary, ...]
    ldflags: str = "-s -w"
    cgo: bool = False
    debian: tuple[str, ...] = ()


@cache
def pinned(tool: str, module: str) -> str:
    """The version (`v1.36.3`) that a tool's go.mod requires of `module`."""
    text = (MODULES / tool / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise DevclusterError(f"tools/go/{tool}/go.mod does not require {module}; restore it from the repository")
    return found[1]


def _kubernetes() -> Tool:
    text = pinned("kubernetes", "k8s.io/kubernetes")
    version = versions.parse(text)
    assert version is not None
    package = "k8s.io/kubernetes/cmd/"
    same = versions.same_minor(version)
    stamps = " ".join(
        f"-X {where}.gitVersion={text} -X {where}.gitMajor={version[0]} -X {where}.gitMinor={version[1]}"
        for where in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    )
    return Tool(
        "kubernetes",
        (
            Binary("kube-apiserver", package + "kube-apiserver", 150, accepts=same),
            Binary("kube-controller-manager", package + "kube-controller-manager", 35, accepts=same),
            Binary(
                "kubectl",
                package + "kubectl",
                20,
                ("version", "--client", "--output=json"),
                versions.within_one_minor(version),
            ),
            Binary("kubelet", package + "kubelet", 35, accepts=same),
            Binary("kube-scheduler", package + "kube-scheduler", 10, accepts=same),
            Binary("kube-proxy", package + "kube-proxy", 15, accepts=same),
        ),
        ldflags=f"-s -w {stamps}",
    )


def _cni() -> Tool:
    package = "github.com/containernetworking/plugins/plugins/"
    plugins = ("ipam/host-local", "main/bridge", "main/loopback", "main/ptp", "meta/portmap")
    return Tool("cni", tuple(Binary(path.rsplit("/", 1)[1], package + path, 1) for path in plugins))


@cache
def tools() -> dict[str, Tool]:
    """All tools by name, in the order in which they are needed."""
    containerd = "github.com/containerd/containerd/v2/cmd/"
    listed = (
        Tool(
            "etcd",
            (
                Binary("etcd", "go.etcd.io/etcd/server/v3", 40, accepts=versions.at_least(3, 5)),
                Binary("etcdctl", "go.etcd.io/etcd/etcdctl/v3", 4, ("version",), versions.at_least(3, 5)),
            ),
        ),
        _kubernetes(),
        Tool(
            "dolt",
            (Binary("dolt", "github.com/dolthub/dolt/go/cmd/dolt", 150, ("version",), versions.at_least(2, 0)),),
            cgo=True,
            debian=("libicu-dev", "gcc", "g++"),
        ),
        Tool(
            "terraform-provider-kubectl",
            (Binary("terraform-provider-kubectl", "github.com/gavinbunney/terraform-provider-kubectl", 62, ()),),
        ),
        Tool(
            "containerd",
            (
                Binary("containerd", containerd + "containerd", 30, accepts=versions.at_least(2, 0)),
                Binary("containerd-shim-runc-v2", containerd + "containerd-shim-runc-v2", 3, ("-v",)),
                Binary("ctr", containerd + "ctr", 3),
            ),
        ),
        _cni(),
        Tool("pause", (Binary("pause", "presence.dev/tools/pause", 1),)),
        Tool("opentofu", (Binary("tofu", "github.com/opentofu/opentofu/cmd/tofu", 150, ("version", "-json")),)),
        Tool(
            "helm",
            (Binary("helm", "helm.sh/helm/v4/cmd/helm", 75, ("version", "--short"), versions.at_least(3, 14)),),
            ldflags=f"-s -w -X helm.sh/helm/v4/internal/version.version={pinned('helm', 'helm.sh/helm/v4')}",
        ),
    )
    return {tool.name: tool for tool in listed}


@cache
def binaries() -> dict[str, tuple[Tool, Binary]]:
    """Every program by name, with its tool."""
    return {binary.name: (tool, binary) for tool in tools().values() for binary in tool.binaries}


CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
DOLT = ("dolt",)
NODE = (
    "kubelet",
    "kube-scheduler",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "host-local",
    "loopback",
    "ptp",
    "portmap",
    "pause",
)
TERRAFORM = ("terraform-provider-kubectl",)

PARTS: dict[str, tuple[str, ...]] = {
    "controlplane": CONTROL_PLANE,
    "dolt": DOLT,
    "terraform": TERRAFORM,
    "node": NODE,
    "tofu": ("tofu",),
    "helm": ("helm",),
}


def expand(names: tuple[str, ...]) -> tuple[str, ...]:
    """Programs for a mix of part names, tool names and program names, in catalogue order."""
    wanted: set[str] = set()
    for name in names:
        if name in PARTS:
            wanted.update(PARTS[name])
        elif name in binaries():
            wanted.add(name)
        elif name in tools():
            wanted.update(binary.name for binary in tools()[name].binaries)
        else:
            known = ", ".join([*PARTS, *tools(), *binaries()])
            raise DevclusterError(f"unknown part {name!r}; use one of: {known}")
    return tuple(name for name in binaries() if name in wanted)
