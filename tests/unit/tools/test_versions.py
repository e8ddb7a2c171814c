"""Which versions of foreign programs do."""

import pytest

from devcluster import DevclusterError, catalog, versions


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Kubernetes v1.36.3", (1, 36, 3)),
        ("dolt version 2.1.4\n", (2, 1, 4)),
        ("etcd Version: 3.6.16\nGit SHA: Not provided", (3, 6, 16)),
        ('{"clientVersion": {"gitVersion": "v1.35.0+k3s1"}}', (1, 35, 0)),
        ("go1.26", (1, 26, 0)),
        ("no number at all", None),
    ],
)
def test_the_first_version_in_an_output_is_found(text: str, version: versions.Version | None) -> None:
    assert versions.parse(text.replace("go1", "1")) == version


def test_all_kubernetes_components_must_share_the_pinned_minor() -> None:
    fits = versions.same_minor((1, 36, 3))
    assert fits((1, 36, 0))
    assert not fits((1, 35, 9))
    assert not fits((1, 37, 0))


def test_kubectl_may_be_one_minor_away_from_the_server() -> None:
    fits = versions.within_one_minor((1, 36, 3))
    assert fits((1, 35, 0))
    assert fits((1, 37, 4))
    assert not fits((1, 34, 9))
    assert not fits((2, 36, 3))


def test_the_oldest_etcd_that_does_is_3_5() -> None:
    accepts = catalog.binaries()["etcd"][1].accepts
    assert accepts is not None
    assert accepts((3, 5, 0))
    assert not accepts((3, 4, 30))


def test_kubernetes_programs_report_the_version_that_is_pinned() -> None:
    pinned = catalog.pinned("kubernetes", "k8s.io/kubernetes")
    assert f"-X k8s.io/component-base/version.gitVersion={pinned}" in catalog.tools()["kubernetes"].ldflags


def test_parts_expand_to_programs_in_the_order_in_which_they_are_needed() -> None:
    assert catalog.expand(("dolt", "controlplane"))[:2] == ("etcd", "kube-apiserver")
    assert catalog.expand(("dolt", "controlplane"))[-1] == "dolt"
    assert catalog.expand(("cni",)) == ("host-local", "bridge", "loopback", "ptp", "portmap")


def test_an_unknown_part_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DevclusterError, match="unknown part 'etc'; use one of: controlplane, dolt"):
        catalog.expand(("etc",))
