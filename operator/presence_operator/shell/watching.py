"""kopf, embedded: it watches, and hands every event to the Board.

There are event handlers only. So kopf keeps nothing on the objects: no finalizers, no annotations, no timers, and an
operator that is away holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit
from weakref import WeakSet

import aiohttp
import kopf

from presence.model import kinds
from presence_operator.core.facts import Claim, Session
from presence_operator.logs import fields
from presence_operator.shell.connection import UnavailableError, is_tls_error, local_time
from presence_operator.shell.effects import backoff
from presence_operator.shell.paths import PAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from presence_operator.shell.connection import Connection
    from presence_operator.shell.intake import Intake

_log = logging.getLogger(__name__)

#: Longest pause in seconds between two attempts to set up the watches.
_LONGEST_BACKOFF = 10.0

#: Seconds that kopf has to end by itself, and then again by force.
_TEARDOWN = 5.0
#: How often it is told meanwhile.
_TELL = 10

_inside_kopf: ContextVar[bool] = ContextVar("inside_kopf", default=False)


class StuckError(Exception):
    """Tasks that were cancelled go on all the same."""


class _Patience:
    """kopf's pauses between attempts: short ones, then 5 s for as long as it takes."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0, 2.0, 3.0)
        while True:
            yield 5.0


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no copy of what was handled last: nothing here asks for differences."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:  # noqa: ARG002 - kopf's signature
        return {}

    def fetch(self, *, body: Any) -> Any:  # noqa: ARG002
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None: ...


class _NoProgress(kopf.ProgressStorage):
    """Keeps no progress of handlers: event handlers are run once and have none."""

    def fetch(self, *, key: Any, body: Any) -> Any:  # noqa: ARG002 - kopf's signature
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None: ...

    def purge(self, *, key: Any, body: Any, patch: Any) -> None: ...

    def touch(self, *, body: Any, patch: Any, value: Any) -> None: ...

    def clear(self, *, essence: Any) -> Any:
        return essence


class _Session:
    """The HTTP session that kopf uses: our credentials, and word of every list that it begins anew."""

    def __init__(
        self,
        connection: Connection,
        listed: Callable[[str], None],
        is_echo: Callable[[str], bool],
        watched: Callable[[str, str], None],
    ) -> None:
        self._connection = connection
        self._listed = listed
        self._is_echo = is_echo
        self._watched = watched
        self._session = self._opened()

    def _opened(self) -> aiohttp.ClientSession:
        self._configuration = self._connection.configuration
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._connection.tls),
            proxy=self._configuration.proxy or None,
            trust_env=False,
            read_bufsize=2**20,
        )

    async def _follow_credentials(self) -> None:
        """Go on with a new session once certificates or keys were replaced; its watches begin anew by that."""
        if self._configuration is not self._connection.configuration and not self._session.closed:
            old, self._session = self._session, self._opened()
            await old.close()

    @property
    def headers(self) -> Any:
        return self._session.headers

    @property
    def closed(self) -> bool:
        return self._session.closed

    async def close(self) -> None:
        await self._session.close()

    async def request(self, method: str, url: str, headers: Any = None, **options: Any) -> aiohttp.ClientResponse:
        await self._follow_credentials()
        parts = urlsplit(url)
        try:
            token = await self._connection.token()
        except UnavailableError as error:
            self._tell(parts.path, str(error))
            raise aiohttp.ClientConnectionError(str(error)) from error  # which kopf tries again
        headers = {**(headers or {}), **({"Authorization": token} if token else {})}
        if self._configuration.tls_server_name:
            options["server_hostname"] = self._configuration.tls_server_name
        sent = local_time()
        try:
            response = await self._session.request(method, url, headers=headers, **options)
        except aiohttp.ClientError as error:
            if is_tls_error(error):
                self._tell(parts.path, str(error))
                await self._connection.reload()
            raise
        self._connection.observe_date(response.headers, sent, local_time())
        self._tell(parts.path, f"the API server answers {response.status}" if response.status in (401, 403) else "")
        if response.status == 200:
            query = parse_qs(parts.query)
            plural = parts.path.rpartition("/")[2]
            if plural in (kinds.CLAIM_PLURAL, kinds.SESSION_PLURAL) and not {"watch", "continue"} & query.keys():
                self._listed(parts.path)
            elif "watch" in query:
                response.content = _WithoutEchoes(response.content, self._is_echo)  # type: ignore[assignment]
        elif response.status == 401:
            await self._connection.reload()
        return response

    def _tell(self, path: str, trouble: str) -> None:
        if path.endswith((f"/{kinds.CLAIM_PLURAL}", f"/{kinds.SESSION_PLURAL}")):
            self._watched(path, trouble)


#: Where the API server writes it: between the name and the uid. Inside of texts the quotes would be escaped.
_VERSION = re.compile(rb'"resourceVersion":"([0-9]+)","uid":"')


class _WithoutEchoes:
    """The lines of a watch without those that only tell what the operator has just written itself.

    kopf spends more on an event than the whole rest of the operator, and the Board knows these already.
    """

    def __init__(self, stream: aiohttp.StreamReader, is_echo: Callable[[str], bool]) -> None:
        self._stream = stream
        self._is_echo = is_echo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in self._stream.iter_chunked(size):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            kept = [line for line in lines if not self._echo(line)]
            if kept:
                yield b"\n".join(kept) + b"\n"
        if rest:
            yield rest

    def _echo(self, line: bytes) -> bool:
        found = _VERSION.search(line)
        return found is not None and self._is_echo(found[1].decode()) and not line.startswith(b'{"type":"DELETED"')


class Watches:
    """Keeps kopf running, whatever happens to it.

    `namespaces` are those served, empty means all. `relisted` is called when kopf has begun all of its lists anew (it
    tells nothing of what was deleted before). `restore_signals` is called after kopf has taken the signal handlers.
    `watched` is told of each path that is watched why that is refused right now, or "" when it is not.
    """

    def __init__(
        self,
        connection: Connection,
        intake: Intake,
        namespaces: Sequence[str],
        relisted: Callable[[], None],
        restore_signals: Callable[[], None],
        watched: Callable[[str, str], None],
    ) -> None:
        self._connection = connection
        self._intake = intake
        self._namespaces = list(namespaces)
        self._relisted = relisted
        self._restore_signals = restore_signals
        self._watched = watched
        self._lists: set[str] = set()

    async def run(self) -> None:
        """Watch for ever; whenever kopf ends, begin anew."""
        failures = 0
        while True:
            begun = local_time()
            await self._kinds_served()
            try:
                await self._watch()
                _log.error("the watches ended and are begun anew")
            except StuckError:
                raise
            except Exception as error:  # noqa: BLE001 - without watches the operator is blind, whatever the reason
                _log.error("the watches failed and are begun anew", extra=fields(error=repr(error)))
            failures = 0 if local_time() - begun > 60 else failures + 1
            await asyncio.sleep(backoff(failures + 2, _LONGEST_BACKOFF))

    async def _kinds_served(self) -> None:
        """Wait until the API server knows both kinds: kopf would start without them and never look again."""
        attempt, told = 0, ""
        wanted = {kinds.CLAIM_PLURAL, kinds.SESSION_PLURAL}
        while True:
            try:
                answer = await self._connection.request("get", "Other", "GET", f"/apis/{kinds.API_VERSION}")
                served = {item.get("name") for item in answer.body().get("resources", [])}
                if wanted <= served:
                    return
                trouble = (
                    "the custom resource definitions are not installed: kubectl apply -k crds/"
                    if answer.status in (200, 404)
                    else f"{answer.status} {answer.message}"
                )
            except UnavailableError as error:
                trouble = str(error)
            if trouble != told:
                _log.warning("waiting for the API server", extra=fields(error=trouble))
                told = trouble
            attempt += 1
            await asyncio.sleep(backoff(attempt, _LONGEST_BACKOFF))

    async def _watch(self) -> None:
        self._lists.clear()
        task = asyncio.create_task(self._kopf(), name="kopf")
        try:
            await task
        finally:
            await _ended(task)

    async def _kopf(self) -> None:
        # Runs in a task, thus a context, of its own: every task made in here is known as one of kopf's.
        _inside_kopf.set(True)
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            standalone=True,
        )
        self._restore_signals()
        running = asyncio.create_task(kopf.run_tasks(tasks, ignored=_Others()))  # type: ignore[arg-type]
        await asyncio.wait({running, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        # The first part that ends, ends kopf; but a watch that is just being opened can swallow the word to stop and
        # go on for ever, and kopf would wait for it as long.
        await asyncio.wait({running}, timeout=_TEARDOWN)
        if not running.done():
            await _ended(running)
            if (failed := next((each for each in tasks if each.done() and not each.cancelled()), None)) is not None:
                failed.result()
            return
        running.result()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        intake = self._intake

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> Any:
            return kopf.AiohttpSession(
                server=self._connection.configuration.host,
                aiohttp_session=_Session(  # type: ignore[arg-type]
                    self._connection, self._listed, intake.is_echo, self._watched
                ),
            )

        @kopf.on.event(kinds.GROUP, kinds.VERSION, kinds.CLAIM_PLURAL, registry=registry)
        async def claim(event: Any, **_: Any) -> None:
            intake.heard(Claim, event)

        @kopf.on.event(kinds.GROUP, kinds.VERSION, kinds.SESSION_PLURAL, registry=registry)
        async def session(event: Any, **_: Any) -> None:
            intake.heard(Session, event)

        return registry

    def _listed(self, path: str) -> None:
        self._lists.add(path)
        if len(self._lists) == 2 * max(1, len(self._namespaces)):
            self._lists.clear()
            self._relisted()


async def _ended(task: asyncio.Task[Any]) -> None:
    """End `task` and every task of kopf's, however often they have to be told.

    Raises:
        StuckError: some of them do not end; a new process is the only remedy.

    """
    own = asyncio.current_task()
    for _ in range(_TELL):
        left = {each for each in {task, *_kopf_tasks} if not each.done() and each is not own}
        if not left:
            return
        for each in left:
            each.cancel()
        await asyncio.wait(left, timeout=_TEARDOWN / _TELL)
    stuck = sorted(each.get_name() for each in _kopf_tasks if not each.done() and each is not own)
    if stuck:
        raise StuckError(f"parts of kopf do not end: {', '.join(stuck)}")


class _Others:
    """All tasks that are not kopf's. At its end kopf cancels every task of the loop that is not in here."""

    def __contains__(self, task: object) -> bool:
        return task not in _kopf_tasks


_kopf_tasks: WeakSet[asyncio.Task[Any]] = WeakSet()


def mark_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop remember which tasks are kopf's. Call it once, before the watches are run."""

    def factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        context = options.get("context")
        if context.get(_inside_kopf, False) if context is not None else _inside_kopf.get():
            _kopf_tasks.add(task)
        return task

    loop.set_task_factory(factory)  # type: ignore[arg-type]


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = 0.5
    settings.queueing.exit_timeout = 0.5
    settings.queueing.error_delays = (1, 2, 5, 15, 30, 60)
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = _Patience()
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = PAGE
    settings.watching.inactivity_timeout = 70
    settings.execution.max_workers = 1
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    # Never written; named in our group in case a later kopf does.
    settings.persistence.finalizer = f"{kinds.GROUP}/unused"
    return settings
