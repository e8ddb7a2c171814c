"""A local Kubernetes cluster with Dolt, from pinned sources: for the demo, the tests, the benchmarks and by hand."""

from .cluster import Cluster
from .errors import DevclusterError
from .process import Process
from .toolchain import Toolchain

__all__ = ["Cluster", "DevclusterError", "Process", "Toolchain"]
