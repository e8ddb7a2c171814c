"""The peer: nothing but status patches through kubernetes.aio.

`python bare_client.py NAMESPACE CONCURRENCY api|rest`; standard input is a JSON document {"names": […], "status": {…}}.
`api` calls the generated CustomObjectsApi, `rest` the REST client below it, which saves the generated layers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration, CustomObjectsApi

_GROUP, _VERSION, _PLURAL = "presence.dev", "v1alpha1", "presenceclaims"
_MERGE = "application/merge-patch+json"

Patch = Callable[[str], Awaitable[None]]


def _through_api(client: ApiClient, namespace: str, body: dict[str, Any]) -> Patch:
    custom = CustomObjectsApi(client)

    async def patch(name: str) -> None:
        await custom.patch_namespaced_custom_object_status(
            _GROUP, _VERSION, namespace, _PLURAL, name, body, _content_type=_MERGE
        )

    return patch


def _through_rest(client: ApiClient, namespace: str, body: dict[str, Any]) -> Patch:
    base = f"{client.configuration.host}/apis/{_GROUP}/{_VERSION}/namespaces/{namespace}/{_PLURAL}"
    headers = {"Accept": "application/json", "Content-Type": _MERGE}

    async def patch(name: str) -> None:
        answer = await client.rest_client.request(  # type: ignore[no-untyped-call]
            "PATCH", f"{base}/{name}/status", headers=headers, body=body
        )
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {await answer.read()!r}")
        json.loads(await answer.read())

    return patch


async def _main(namespace: str, concurrency: int, way: str) -> None:
    work = json.load(sys.stdin)
    configuration = Configuration()
    await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    names = iter(work["names"])
    async with ApiClient(configuration) as client:
        make = _through_api if way == "api" else _through_rest
        patch = make(client, namespace, {"status": work["status"]})

        async def worker() -> None:
            for name in names:
                await patch(name)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
