"""The file that says how many claims may be Active at once, for example in a mounted ConfigMap.

limits:
  - name: applies            # in conditions and metrics
    max: 3
    resourceType: stack      # any type when absent
    sessionKind: Agent       # Agent, Pipeline or Human; any when absent
    namespaces: [presence]   # boards, each counted on its own; every board when absent
    mode: Exclusive          # or Any, which counts Shared claims as well; Exclusive when absent
    per: Claim               # or Session: all claims of a session share one slot; Claim when absent
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from presence_operator.core.limits import Limit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from presence_operator.core.limits import Limits

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TYPE = re.compile(r"[a-z][a-z0-9-]{0,30}")
_FIELDS = ("name", "max", "resourceType", "sessionKind", "namespaces", "mode", "per")
_KINDS = ("Agent", "Pipeline", "Human")
_HIGHEST = 100_000
#: More of them than anybody reads.
_MOST = 100


class LimitsError(ValueError):
    """The file cannot be used; `errors` has one line for each fault, saying what to write instead."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = tuple(errors)


def read_limits(path: Path) -> Limits:
    """The limits in the file.

    Raises:
        LimitsError: with every fault of it.
    """
    return parse_limits(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of the file.

    Raises:
        LimitsError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise LimitsError([f"{path}: cannot be read ({reason}): mount the ConfigMap with the limits there"]) from None


def parse_limits(text: str, source: str) -> Limits:
    """The limits in `text`, YAML or JSON. `source` begins every error.

    Raises:
        LimitsError: with every fault.
    """
    import yaml  # an operator without limits starts sooner without it

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LimitsError([f"{source}: is no YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(found, dict) or set(found) != {"limits"} or not isinstance(found["limits"], list | None):
        raise LimitsError([f"{source}: write one key, limits, with a list of limits (empty for none)"])
    items = found["limits"] or []
    if len(items) > _MOST:
        raise LimitsError([f"{source}: holds {len(items)} limits: write at most {_MOST}"])
    errors: list[str] = []
    limits = []
    for number, item in enumerate(items, 1):
        faults = _faults(item)
        if faults:
            errors += [f"{source}: limit {number}: {fault}" for fault in faults]
        else:
            limits.append(_limit(item))
    names = [limit.name for limit in limits]
    errors += [
        f"{source}: two limits are named {name}: give each a name of its own"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if errors:
        raise LimitsError(errors)
    return tuple(limits)


def _faults(item: Any) -> list[str]:
    if not isinstance(item, dict):
        return ["write a mapping with at least name and max"]
    faults = [f"{str(key)[:40]!r} is unknown: write {', '.join(_FIELDS)}" for key in item if key not in _FIELDS]
    name, most = item.get("name"), item.get("max")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        faults.append("name: write lower-case letters, digits and - (at most 63), for example applies")
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= _HIGHEST:
        faults.append(f"max: write a whole number within 1 to {_HIGHEST}")
    kind = item.get("resourceType")
    if kind is not None and not (isinstance(kind, str) and _TYPE.fullmatch(kind)):
        faults.append("resourceType: write the part of a label before the colon, for example stack")
    spaces = item.get("namespaces")
    if spaces is not None and not (
        isinstance(spaces, list) and spaces and all(isinstance(each, str) and _NAME.fullmatch(each) for each in spaces)
    ):
        faults.append("namespaces: write a list of namespaces, or leave it out for every board")
    for field, allowed in (("sessionKind", _KINDS), ("mode", ("Exclusive", "Any")), ("per", ("Claim", "Session"))):
        if item.get(field) is not None and item[field] not in allowed:
            faults.append(f"{field}: write {', '.join(allowed[:-1])} or {allowed[-1]}")
    return faults


def _limit(item: dict[str, Any]) -> Limit:
    return Limit(
        name=item["name"],
        max=item["max"],
        namespaces=frozenset(item.get("namespaces") or ()),
        resource_type=item.get("resourceType") or "",
        session_kind=item.get("sessionKind") or "",
        exclusive_only=item.get("mode") != "Any",
        per_session=item.get("per") == "Session",
    )
