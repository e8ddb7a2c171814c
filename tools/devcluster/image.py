"""stub"""

from pathlib import Path


def build_operator() -> Path:
    raise NotImplementedError
