"""The Lease of the election: read and written, with every failure put into words."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from presence_operator.metrics import outcome_of_status
from presence_operator.shell.connection import is_tls_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubernetes.aio.client import ApiClient

    from presence_operator.metrics import Metrics
    from presence_operator.settings import Settings

    Lease = dict[str, Any]


class LeaseError(Exception):
    """The Lease could not be read or written this time; the message says why."""


class ElectionLease:
    """One Lease in the API. `reload` gets new credentials for `api` when the server refuses those in use."""

    def __init__(
        self,
        api: ApiClient,
        settings: Settings,
        metrics: Metrics,
        reload: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._api = api
        self._metrics = metrics
        self._reload = reload
        self._name = settings.lease_name
        self._namespace = settings.lease_namespace
        self._timeout = settings.renew_deadline

    async def read(self) -> Lease | None:
        """The Lease; None when there is none.

        Raises:
            LeaseError: it cannot be read.
            TimeoutError: no answer came in time.
        """
        status, body = await self._request("GET", self._name)
        if status == 404:
            return None
        if status != 200:
            raise LeaseError(self._explain("read", status, body))
        return body

    async def write(self, method: str, lease: Lease) -> bool:
        """Create (POST) or replace (PUT) it: true when it was written, false when somebody else was quicker.

        Raises:
            LeaseError: it cannot be written.
            TimeoutError: no answer came in time.
        """
        status, body = await self._request(method, "" if method == "POST" else self._name, lease)
        if status in (200, 201):
            return True
        if status == 409 or (method == "PUT" and status == 404):
            return False
        raise LeaseError(self._explain("write", status, body))

    def _explain(self, verb: str, status: int, body: Lease) -> str:
        text = f"cannot {verb} lease {self._namespace}/{self._name}: {status} {str(body.get('message', ''))[:300]}"
        if status == 403:
            text += " (grant get, create and update on leases there)"
        elif status == 404:
            text += " (create the namespace or set --lease-namespace)"
        return text

    async def _request(self, method: str, name: str, body: Lease | None = None) -> tuple[int, Lease]:
        status, answer = await self._send(method, name, body)
        if status == 401 and self._reload is not None:
            # A leader has no time to wait until somebody else finds out.
            await self._reload()
            status, answer = await self._send(method, name, body)
        return status, answer

    async def _send(self, method: str, name: str, body: Lease | None) -> tuple[int, Lease]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"
        begun = time.monotonic()
        status, outcome = 0, "timeout"
        try:
            prepared = await self._api.param_serialize(
                method,
                f"{path}/{name}" if name else path,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(*prepared, _request_timeout=self._timeout)
            data: bytes = await answer.read()  # type: ignore[no-untyped-call]
            status, outcome = answer.status, outcome_of_status(answer.status)
        except TimeoutError:
            raise
        except Exception as error:
            outcome = "unreachable"
            if self._reload is not None and is_tls_error(error):
                await self._reload()
            raise LeaseError(f"the API server did not answer: {str(error) or type(error).__name__}") from error
        finally:
            verb = {"GET": "get", "POST": "create", "PUT": "update"}[method]
            self._metrics.api_request(verb, "Lease", outcome, time.monotonic() - begun)
        try:
            parsed = json.loads(data)
        except ValueError:
            # A proxy in front of the API server may answer in any language.
            parsed = {"message": data[:300].decode(errors="replace")}
        return status, parsed if isinstance(parsed, dict) else {"message": str(parsed)[:300]}
