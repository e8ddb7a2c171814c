"""Resource labels: what is accepted, and what the refusal tells the writer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence.model.labels import LabelError, check_label, label_type, metric_type


@pytest.mark.parametrize(
    "label",
    [
        "node:k8s-node1",
        "host:proxmox-1",
        "stack:gpu-operator",
        "service:fire-planner",
        "db:pg-cluster",
        "pvc:prometheus/prom-data",
        "infra:smoke-test-a",
        "repo:github.com/acme/shop",
        "service:My_App.v2",
    ],
)
def test_labels_of_the_agreed_shape_are_accepted(label: str) -> None:
    assert check_label(label) == label


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("vault", "write <type>:<name>, for example service:vault"),
        ("", "write <type>:<name>"),
        ("Stack:vault", "the type is a lower-case word such as node, host"),
        ("stack:", "the name after stack: is missing"),
        ("stack:my vault", "letters, digits and . _ /"),
        ("stack:vault\n", "letters, digits"),
        ("stack:-x", "begins with a letter or digit"),
        ("pvc:data", "write pvc:<namespace>/<name>"),
        ("pvc:a/b/c", "write pvc:<namespace>/<name>"),
        ("infra:" + "a" * 250, "at most 255 characters"),
    ],
)
def test_other_texts_are_refused_with_what_to_write_instead(label: str, hint: str) -> None:
    with pytest.raises(LabelError) as refusal:
        check_label(label)

    assert hint in str(refusal.value)


@given(st.text(max_size=300))
def test_whatever_is_accepted_has_no_blank_quote_or_control_character(text: str) -> None:
    try:
        label = check_label(text)
    except LabelError:
        return
    assert label.isascii()
    assert label.isprintable()
    assert not set(label) & set(" '\"\\`$")


def test_types_of_ones_own_count_as_other_in_metrics() -> None:
    assert label_type("robot:arm-7") == "robot"
    assert metric_type("robot:arm-7") == "other"
    assert metric_type("stack:vault") == "stack"
