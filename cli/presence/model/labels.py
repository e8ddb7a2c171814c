"""Resource labels: `<type>:<name>`, such as `stack:vault` or `pvc:monitoring/prom-data`."""

import re

from presence.model.kinds import RESOURCE_MAX

#: Types with an agreed meaning. Any other type of the same shape is accepted too.
KNOWN_TYPES = {
    "node": "a Kubernetes node or virtual machine",
    "host": "a machine outside the cluster",
    "stack": "a Terraform stack",
    "service": "a Kubernetes service or application",
    "db": "a database",
    "pvc": "a volume claim, as pvc:<namespace>/<name>",
    "infra": "anything else",
}

#: The shape of a label. The custom resource definition states the same pattern.
PATTERN = r"^[a-z][a-z0-9-]{0,30}:[A-Za-z0-9][A-Za-z0-9._/@:+~#=-]*$"
#: A volume claim is named by its namespace and its name.
PVC_PATTERN = r"^pvc:[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"

#: The type of the keys of `presence once`: resources that nobody works on.
ONCE_TYPE = "once"

_PATTERN = re.compile(PATTERN)
_PVC = re.compile(PVC_PATTERN)


class LabelError(ValueError):
    """A text that is no resource label; the message says what to write instead."""


def check_label(text: str) -> str:
    """Return `text` when it is a resource label.

    Raises:
        LabelError: it is not; the message names the fault and shows a right form.
    """
    if len(text) > RESOURCE_MAX:
        raise LabelError(f"a resource label has at most {RESOURCE_MAX} characters; this one has {len(text)}")
    if not _PATTERN.fullmatch(text):
        kind, colon, name = text.partition(":")
        if not colon:
            hint = f"write <type>:<name>, for example service:{_suggest(kind) or 'my-app'}"
        elif not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", kind):
            hint = f"the type is a lower-case word such as {', '.join(KNOWN_TYPES)}"
        elif not name:
            hint = f"the name after {kind}: is missing"
        else:
            hint = "the name begins with a letter or digit and holds letters, digits and . _ / @ : + ~ # = - only"
        raise LabelError(f"{text!r} is no resource label: {hint}")
    if text.startswith("pvc:") and not _PVC.fullmatch(text):
        raise LabelError(
            f"{text!r} is no volume claim: write pvc:<namespace>/<name>, for example pvc:monitoring/prom-data"
        )
    return text


def label_type(resource: str) -> str:
    """The part before the colon: `stack` for `stack:vault`."""
    return resource.partition(":")[0]


def metric_type(resource: str) -> str:
    """The type as a metric label: an agreed type or `other`, so that the label set stays bounded."""
    kind = label_type(resource)
    return kind if kind in KNOWN_TYPES else "other"


def _suggest(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:40]


def is_key(resource: str) -> bool:
    """True for the key of a `presence once`, which is no resource that anybody works on."""
    return resource.startswith(f"{ONCE_TYPE}:")
