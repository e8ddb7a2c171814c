"""Where things live."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = REPOSITORY / "tools" / "go"


def user_cache() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/presence`: shared by all clones of one user."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "presence"


def clusters_root() -> Path:
    """The directory that holds one directory per cluster of this clone."""
    return REPOSITORY / ".cache" / "cluster"


def venv_bin() -> Path:
    return REPOSITORY / ".cache" / "venv" / "bin"
