"""Requests to the API server: credentials, time limits, and the server's clock."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import shutil
import ssl
import tempfile
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTClientObject

from presence import __version__
from presence_operator.logs import fields
from presence_operator.metrics import outcome_of_status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv6Address

    from presence_operator.core.clock import ServerClock
    from presence_operator.metrics import Metrics
    from presence_operator.settings import Settings

_log = logging.getLogger(__name__)

USER_AGENT = f"presence-operator/{__version__}"
_DEFAULT_KUBECONFIG = "~/.kube/config"
#: Seconds between two attempts to get new credentials after the server refused the old ones.
_RELOAD_PAUSE = 5.0
#: Seconds that a kubeconfig's exec plugin may take.
LOAD_TIMEOUT = 15.0

_key_directories: list[str] = []


class UnavailableError(Exception):
    """No answer came: connection refused or lost, or too slow. `outcome` is the word for the metrics."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said, whatever the status."""

    status: int
    data: bytes
    retry_after: float | None

    def body(self) -> dict[str, Any]:
        """The parsed body; a proxy's page becomes a message."""
        try:
            parsed = json.loads(self.data)
        except ValueError:
            return {"message": self.data[:300].decode(errors="replace")}
        return parsed if isinstance(parsed, dict) else {"message": str(parsed)[:300]}

    @property
    def message(self) -> str:
        """Why it failed, in the server's words."""
        return str(self.body().get("message", ""))[:500]


def local_time() -> float:
    """Seconds of a clock that never goes back, and goes on while the process or the machine is suspended."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


async def load_configuration(settings: Settings) -> Configuration:
    """Address and credentials: the kubeconfig that is named, else the Pod's service account, else ~/.kube/config.

    Raises:
        Exception: of many kinds, because plugins may take part; a ConfigException when one did not end in time.
    """
    configuration = Configuration()
    named = settings.kubeconfig or os.environ.get("KUBECONFIG")
    if named is None and settings.context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await _load_kubeconfig(str(named or _DEFAULT_KUBECONFIG), settings.context, configuration)
    # One connection for each worker, and some for reads and the election; queueing is done by the workers.
    configuration.connection_pool_maxsize = settings.workers + 8
    configuration.retries = None
    # The environment's proxy is looked up once: aiohttp would do it in a thread for every single request.
    configuration.client_session_kwargs = {"trust_env": False}
    if not configuration.proxy:
        configuration.proxy = _proxy_of(configuration.host)
    return configuration


async def _load_kubeconfig(file: str, context: str | None, configuration: Configuration) -> None:
    loop = asyncio.get_running_loop()
    start = loop.subprocess_exec
    plugins: list[asyncio.SubprocessTransport] = []

    async def started(*arguments: Any, **options: Any) -> Any:
        transport, protocol = await start(*arguments, **options)
        plugins.append(transport)
        return transport, protocol

    # The client leaves an exec plugin running when it is not waited for any more.
    setattr(loop, "subprocess_exec", started)  # noqa: B010 - a plain assignment is none to mypy
    try:
        async with asyncio.timeout(LOAD_TIMEOUT):
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=file,
                context=context,
                client_configuration=configuration,
                persist_config=False,
                temp_file_path=_key_directory(),
            )
    except TimeoutError:
        raise kube_config.ConfigException(
            f"the exec plugin of {file} did not answer within {LOAD_TIMEOUT:.0f} s: run it by hand to see what it "
            "waits for"
        ) from None
    finally:
        setattr(loop, "subprocess_exec", start)  # noqa: B010
        for plugin in plugins:
            await _end(plugin)


def _key_directory() -> str:
    """A new directory only for us, in memory where there is such a place: keys shall not reach a disk."""
    places = [os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm", None]  # noqa: S108 - mkdtemp makes it private
    place = next(each for each in places if each is None or os.access(each, os.W_OK | os.X_OK))
    _key_directories.append(tempfile.mkdtemp(prefix="presence-operator-", dir=place))
    return _key_directories[-1]


def _forget_keys() -> None:
    """Remove the files into which the client wrote keys for OpenSSL to read. After SIGKILL nobody would."""
    # It would go on to use its files, and it registers this function anew with the next one.
    kube_config.kube_config._cleanup_temp_files()  # type: ignore[no-untyped-call]
    atexit.unregister(kube_config.kube_config._cleanup_temp_files)
    while _key_directories:
        shutil.rmtree(_key_directories.pop(), ignore_errors=True)


async def _end(plugin: asyncio.SubprocessTransport) -> None:
    if plugin.get_returncode() is None:
        plugin.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while plugin.get_returncode() is None:  # noqa: ASYNC110 - only the client that started it could wait
                await asyncio.sleep(0.01)
    plugin.close()


def is_tls_error(error: BaseException | None) -> bool:
    """Whether TLS is why: the server's certificate is not trusted (any more), or the server refused ours."""
    while error is not None:
        if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
            return True
        error = error.__cause__
    return False


class Connection:
    """One client of the API server, shared by all parts. `client` stays the same object when credentials change."""

    def __init__(
        self,
        configuration: Configuration,
        settings: Settings,
        metrics: Metrics,
        clock: ServerClock,
        timeout: float = 10.0,
    ) -> None:
        self.client = ApiClient(configuration)
        _forget_keys()
        self.client.user_agent = USER_AGENT
        self.clock = clock
        self._settings = settings
        self._metrics = metrics
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._reloading = asyncio.Lock()
        self._reloaded_at = local_time()

    @property
    def configuration(self) -> Configuration:
        """The address and credentials in use."""
        configuration: Configuration = self.client.configuration
        return configuration

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()  # type: ignore[no-untyped-call]

    @property
    def tls(self) -> ssl.SSLContext:
        """Whom to trust and what to show, as the credentials in use say."""
        context: ssl.SSLContext = self.client.rest_client.ssl_context
        return context

    async def token(self) -> str | None:
        """The bearer token to send now, with its scheme; None without one.

        Raises:
            UnavailableError: it cannot be read, say because its file is being replaced.
        """
        try:
            token: str | None = await self.configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:
            raise UnavailableError("unreachable", f"no credentials: {str(error) or type(error).__name__}") from error
        return token

    def server_now(self) -> float:
        """The earliest that the server's time can be, in seconds since the epoch."""
        return self.clock.now(local_time())

    async def request(
        self,
        verb: str,
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a limit of the request, in aiohttp's terms
    ) -> Answer:
        """One request; `verb` and `kind` name it in the metrics.

        Raises:
            UnavailableError: no answer came.
        """
        configuration = self.configuration
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": USER_AGENT}
        limit = self._timeout if timeout is None else aiohttp.ClientTimeout(total=timeout)
        sent = local_time()
        outcome = "unreachable"
        try:
            token = await self.token()
            if token:
                headers["authorization"] = token
            answer = await self.client.rest_client.request(  # type: ignore[no-untyped-call]
                method, configuration.host + path, headers=headers, body=body, _request_timeout=limit
            )
            received = local_time()
            data = await answer.read()
            outcome = outcome_of_status(answer.status)
        except TimeoutError:
            outcome = "timeout"
            raise UnavailableError(outcome, f"no answer within {limit.total:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            if is_tls_error(error):
                await self.reload()
            raise UnavailableError(outcome, str(error) or type(error).__name__) from error
        finally:
            self._metrics.api_request(verb, kind, outcome, local_time() - sent)
        self.observe_date(answer.headers, sent, received)
        if answer.status == 401:
            await self.reload()
        return Answer(answer.status, data, _retry_after(answer.headers))

    def observe_date(self, headers: Mapping[str, str], sent: float, received: float) -> None:
        """Learn the server's time from an answer; a proxy's own answers have no Audit-Id and tell nothing."""
        if "Audit-Id" not in headers and self.clock.known:
            return
        text = headers.get("Date")
        date = _date(text) if text else None
        if date is not None:
            self.clock.observe(date, sent, received)

    async def reload(self) -> None:
        """Get new credentials: a token or certificate may have been replaced, an exec plugin has a fresh one."""
        async with self._reloading:
            if local_time() - self._reloaded_at < _RELOAD_PAUSE:
                return
            self._reloaded_at = local_time()
            try:
                fresh = await load_configuration(self._settings)
                renewed = RESTClientObject(fresh)
            except Exception as error:  # noqa: BLE001 - plugins fail in every way there is
                _log.warning("credentials not renewed", extra=fields(error=str(error)))
                return
            finally:
                _forget_keys()
            old = self.client.rest_client
            self.client.configuration = fresh
            self.client.rest_client = renewed
            _log.info("credentials renewed")
            await old.close()


async def keep_time(connection: Connection, *, width: float = 0.05, pause: float = 60.0) -> None:
    """Keep the bounds of the server's clock narrow, for ever: `Date` has whole seconds, expiry wants better.

    A request sent when the server's second should just turn halves the bounds.
    """
    while True:
        while connection.clock.known and connection.clock.width(local_time()) > width:
            due = connection.clock.next_probe(local_time())
            await asyncio.sleep(max(0.0, due - local_time()))
            before = connection.clock.width(local_time())
            try:
                await connection.request("get", "Other", "GET", "/version")
            except UnavailableError:
                break
            if connection.clock.width(local_time()) > before * 0.9:
                # A round trip is longer than what is left to find out.
                break
        until = local_time() + (pause if connection.clock.known else 0.2)
        while local_time() < until:
            await asyncio.sleep(min(1.0, until - local_time()))
            if connection.clock.doubtful:
                with contextlib.suppress(UnavailableError):
                    await connection.request("get", "Other", "GET", "/version")


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment wants for `url` (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), by the rules of kubectl."""
    parts = urlsplit(url)
    proxies = getproxies()
    host = (parts.hostname or "").lower()
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return None
    if any(_excepts(each.strip().lower(), host, address) for each in proxies.get("no", "").split(",")):
        return None
    return proxies.get(parts.scheme)


def _excepts(pattern: str, host: str, address: IPv4Address | IPv6Address | None) -> bool:
    """Whether an entry of NO_PROXY (`*`, a network, an address or a domain, these with or without a port) is `host`."""
    if pattern == "*":
        return True
    if address is None:
        name = pattern.partition(":")[0].removeprefix("*").removeprefix(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    if "/" in pattern:
        try:
            return address in ip_network(pattern, strict=False)
        except ValueError:
            return False
    plain = pattern.partition("]")[0].removeprefix("[") if "[" in pattern else pattern
    return address in (_address(plain), _address(plain.partition(":")[0]))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


@lru_cache(maxsize=8)
def _date(text: str) -> float | None:
    # Hundreds of answers share one second.
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After")
    try:
        return None if text is None else min(max(float(text), 0.0), 60.0)
    except ValueError:
        return None
