"""The peer: the same product as kopf's tutorial would have it. Run by `kopf run`, with kopf's defaults.

A create handler writes the status, and a timer for each object looks every ten seconds whether it has expired.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

_KIND = ("presence.dev", "v1alpha1", "presenceclaims")


@kopf.on.create(*_KIND)
async def granted(patch: kopf.Patch, **_: Any) -> None:
    """Grant a new claim."""
    now = datetime.now(UTC).replace(microsecond=0)
    patch.status["phase"] = "Active"
    patch.status["grantedAt"] = _text(now)
    patch.status["expiresAt"] = _text(now + timedelta(hours=2))


@kopf.timer(*_KIND, interval=10)
async def expired(status: kopf.Status, patch: kopf.Patch, **_: Any) -> None:
    """Expire a claim whose time is over."""
    now = _text(datetime.now(UTC))
    if status.get("phase") == "Active" and status.get("expiresAt", "") <= now:
        patch.status["phase"] = "Expired"
        patch.status["endedAt"] = now


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
