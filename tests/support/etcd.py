"""The cluster's etcd: where it listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devcluster import Cluster

_FLAG = "--listen-client-urls="


def etcd_endpoint(cluster: Cluster) -> str:
    """The address for `etcdctl --endpoints`."""
    return next(each.removeprefix(_FLAG) for each in cluster.etcd.record.argv if each.startswith(_FLAG))
