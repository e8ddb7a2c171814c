"""Runs as `python3 -m devcluster` (tools/ on the path) and as `python3 tools/devcluster/__main__.py`."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from devcluster.cli import main

sys.exit(main())
