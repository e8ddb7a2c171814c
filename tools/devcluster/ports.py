"""Free TCP ports and private subnets."""

import ipaddress
import secrets
import socket
import subprocess

from .errors import DevclusterError

# Below the range from which Linux takes the ports of outgoing connections (32768 and up): a server that is
# stopped and started again finds its port still free.
_LOWEST, _HIGHEST = 20000, 31999

# Reserved for tests of network devices (RFC 2544), so it meets no real network.
_TEST_NETWORK = ipaddress.ip_network("198.18.0.0/15")


def free(count: int) -> list[int]:
    """That many different ports on which nothing listens at 127.0.0.1 now."""
    found: list[int] = []
    for _ in range(2000):
        port = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST + 1)
        if port not in found and _is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise DevclusterError(f"no {count} free ports between {_LOWEST} and {_HIGHEST} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def free_subnet() -> ipaddress.IPv4Network:
    """A /30 that no interface or route of this machine uses."""
    try:
        routes = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        routes = ""
    base = int(_TEST_NETWORK.network_address)
    for _ in range(200):
        subnet = ipaddress.IPv4Network((base + 4 * secrets.randbelow(_TEST_NETWORK.num_addresses // 4), 30))
        if str(subnet) not in routes:
            return subnet
    raise DevclusterError(f"no free /30 in {_TEST_NETWORK}; take down clusters that are not needed")
