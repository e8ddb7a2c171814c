"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler: how they are started and when they are ready."""

import http.client
import ipaddress
import json
import ssl
from pathlib import Path

from . import pki
from .state import State

SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
ADMIN = "admin"

USERS = {
    ADMIN: ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "kubelet": ("system:node:{node}", "system:nodes"),
}
"""Token owner to (user name, group)."""


def node_name(name: str) -> str:
    return f"{name}-node"


def host_address(state: State) -> str:
    """The host's end of the link to the node; it exists only while there is a node."""
    return str(ipaddress.IPv4Network(state.subnet)[1])


def node_address(state: State) -> str:
    return str(ipaddress.IPv4Network(state.subnet)[2])


def server_url(state: State, host: str = "127.0.0.1") -> str:
    return f"https://{host}:{state.ports['apiserver']}"


def write_credentials(directory: Path, state: State, cluster: str) -> None:
    """Certificates, tokens and kubeconfigs, once per cluster."""
    pki_dir = directory / "pki"
    pki_dir.mkdir(mode=0o700, exist_ok=True)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    addresses = ["127.0.0.1", host_address(state), SERVICE_ADDRESS]
    alternatives = [*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)]
    pki.make_authority(pki_dir)
    pki.make_certificate(pki_dir, "apiserver", "kube-apiserver", "", "serverAuth", alternatives)
    pki.make_certificate(pki_dir, ADMIN, "kubernetes-admin", "system:masters", "clientAuth")
    pki.make_signing_key(pki_dir / "service-accounts.key")
    rows = []
    for owner, (pattern, group) in USERS.items():
        user = pattern.format(node=node_name(state.name))
        rows.append(",".join([state.secrets[f"token-{owner}"], user, user, f'"{group}"' if group else ""]).rstrip(","))
    pki.write_private(pki_dir / "tokens.csv", "\n".join(rows) + "\n")
    certificate = {
        "client-certificate-data": pki.encoded(pki_dir / f"{ADMIN}.crt"),
        "client-key-data": pki.encoded(pki_dir / f"{ADMIN}.key"),
    }
    authority = pki_dir / "ca.crt"
    users = {cluster: certificate, f"{cluster}-token": {"token": state.secrets[f"token-{ADMIN}"]}}
    config = pki.kubeconfig(server_url(state), authority, users, cluster)
    pki.write_private(directory / "kubeconfig", config)
    for owner in USERS:
        host = host_address(state) if owner in ("kubelet", "proxy") else "127.0.0.1"
        token = {owner: {"token": state.secrets[f"token-{owner}"]}}
        config = pki.kubeconfig(server_url(state, host), authority, token, cluster)
        pki.write_private(pki_dir / f"{owner}.kubeconfig", config)


def etcd_argv(program: Path, directory: Path, state: State) -> list[str]:
    """Without fsync: fast, and right after a killed process; only a crash of the machine may lose data."""
    client = f"http://127.0.0.1:{state.ports['etcd']}"
    peer = f"http://127.0.0.1:{state.ports['etcd-peer']}"
    return [
        str(program),
        f"--data-dir={directory / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def apiserver_argv(program: Path, directory: Path, state: State) -> list[str]:
    pki_dir = directory / "pki"
    return [
        str(program),
        f"--etcd-servers=http://127.0.0.1:{state.ports['etcd']}",
        "--bind-address=127.0.0.1",
        f"--secure-port={state.ports['apiserver']}",
        f"--advertise-address={host_address(state)}",
        f"--cert-dir={pki_dir}",
        f"--tls-cert-file={pki_dir / 'apiserver.crt'}",
        f"--tls-private-key-file={pki_dir / 'apiserver.key'}",
        f"--client-ca-file={pki_dir / 'ca.crt'}",
        f"--token-auth-file={pki_dir / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki_dir / 'service-accounts.key'}",
        f"--service-account-signing-key-file={pki_dir / 'service-accounts.key'}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--kubelet-client-certificate={pki_dir / 'admin.crt'}",
        f"--kubelet-client-key={pki_dir / 'admin.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
    ]


def controller_manager_argv(program: Path, directory: Path, state: State) -> list[str]:
    pki_dir = directory / "pki"
    config = pki_dir / "controller-manager.kubeconfig"
    return [
        str(program),
        f"--kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={state.ports['controller-manager']}",
        f"--cert-dir={pki_dir / 'controller-manager'}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki_dir / 'service-accounts.key'}",
        f"--root-ca-file={pki_dir / 'ca.crt'}",
        "--profiling=false",
    ]


def scheduler_argv(program: Path, directory: Path, state: State) -> list[str]:
    pki_dir = directory / "pki"
    config = pki_dir / "scheduler.kubeconfig"
    return [
        str(program),
        f"--kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={state.ports['scheduler']}",
        f"--cert-dir={pki_dir / 'scheduler'}",
        "--leader-elect=false",
        "--profiling=false",
    ]


def etcd_ready(state: State) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", state.ports["etcd"], timeout=5)
    return _get(connection, "/health", {})[0] == 200


def component_ready(state: State, port: str) -> bool:
    """controller-manager and scheduler: they serve with certificates of their own making."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", state.ports[port], timeout=5, context=context)
    return _get(connection, "/healthz", {})[0] == 200


def api_get(directory: Path, state: State, path: str, timeout: float = 5) -> tuple[int, bytes]:
    """GET as the admin: (status, body); (0, b"") when there is no answer."""
    try:
        context = ssl.create_default_context(cafile=str(directory / "pki" / "ca.crt"))
    except OSError:
        return 0, b""
    connection = http.client.HTTPSConnection("127.0.0.1", state.ports["apiserver"], timeout=timeout, context=context)
    return _get(connection, path, {"Authorization": f"Bearer {state.secrets['token-admin']}"})


def apiserver_ready(directory: Path, state: State) -> bool:
    return api_get(directory, state, "/readyz")[0] == 200


def default_account_exists(directory: Path, state: State) -> bool:
    """Pods of the namespace `default` can be admitted: the controllers have made its service account."""
    return api_get(directory, state, "/api/v1/namespaces/default/serviceaccounts/default")[0] == 200


def node_ready(directory: Path, state: State) -> bool:
    status, body = api_get(directory, state, f"/api/v1/nodes/{node_name(state.name)}")
    if status != 200:
        return False
    conditions = json.loads(body).get("status", {}).get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _get(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
