"""The file with the limits, read again when it changes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from presence_operator.limits_file import LimitsError, parse_limits, read_text
from presence_operator.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from presence_operator.core.limits import Limits

_log = logging.getLogger(__name__)

#: Seconds between two looks at the file. A mounted ConfigMap takes up to a minute to arrive anyway.
_EVERY = 5.0


class LimitsFile:
    """Tells `use` of the limits in the file. One that cannot be used changes nothing, and is told of once."""

    def __init__(self, path: Path, use: Callable[[Limits], None]) -> None:
        self._path = path
        self._use = use
        self._text: str | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Look at the file for ever."""
        while True:
            await asyncio.sleep(_EVERY)
            self.look()

    def look(self) -> None:
        """Look at the file once."""
        trouble = ""
        try:
            text = read_text(self._path)
            if text != self._text:
                limits = parse_limits(text, str(self._path))
                self._text = text
                self._use(limits)
                shown = ",".join(f"{limit.name}={limit.max}" for limit in limits)
                _log.info("limits read", extra=fields(limits=shown or "none"))
        except LimitsError as error:
            trouble = "; ".join(error.errors)
        if trouble and trouble != self._trouble:
            _log.error("the limits stay as they were: the file cannot be used", extra=fields(error=trouble))
        self._trouble = trouble
