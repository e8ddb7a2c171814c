"""A candidate in a process of its own: stands for election and writes down every moment at which it acts.

Usage: elector_program.py KUBECONFIG NAMESPACE IDENTITY FILE LEASE_DURATION RENEW_DEADLINE RETRY_PERIOD
Lines of FILE: `<seconds of the machine's monotonic clock> started|stopped|act`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

from kubernetes.aio import client, config

from presence_operator import logs
from presence_operator.metrics import Metrics
from presence_operator.settings import Settings
from presence_operator.shell.health import Health
from presence_operator.shell.leader import Elector


async def main() -> None:
    kubeconfig, namespace, identity, file, duration, deadline, period = sys.argv[1:]
    settings = Settings.load(
        {
            "--lease-namespace": namespace,
            "--identity": identity,
            "--lease-duration": duration,
            "--renew-deadline": deadline,
            "--retry-period": period,
        },
        {},
    )
    logs.setup(settings)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    configuration = client.Configuration()
    await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)  # type: ignore[no-untyped-call]
    with Path(file).open("a", buffering=1) as diary:  # noqa: ASYNC230 - a line now and then

        def note(what: str) -> None:
            diary.write(f"{time.monotonic():.6f} {what}\n")

        async with (
            client.ApiClient(configuration) as api,
            Elector(api, settings, Health(Metrics()), lambda: note("started"), lambda: note("stopped")) as elector,
        ):
            while not stop.is_set():
                if elector.leading:
                    note("act")
                await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main())
