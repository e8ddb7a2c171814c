"""stub"""

from pathlib import Path
from typing import Any

PROGRAMS: dict[str, str] = {}
PROCESS_NAMES: tuple[str, ...] = ()


class Node:
    def __init__(self, *a: Any) -> None: ...
    def up(self, scheduler: Any) -> None: ...
    def load_image(self, archive: Path) -> None: ...
