"""Writes the pages that follow from other files: the API reference from the CRDs, the tables of the Terraform module.

python tools/docs/generate.py            write them
python tools/docs/generate.py --check    fail when one of them is not current
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
CRDS = ("presenceclaims", "agentsessions")


def api_reference() -> str:
    """docs/api-reference.md."""
    head = (
        "# API reference\n\n"
        "Group `presence.dev`, version `v1alpha1`. This page is made from the definitions in [crds/](../crds); "
        "`kubectl explain presenceclaim.spec` shows the same texts. Install them with `kubectl apply -k crds/`.\n"
    )
    return "\n".join([head, *(_kind(yaml.safe_load((ROOT / "crds" / f"{each}.yaml").read_text())) for each in CRDS)])


def _kind(definition: dict[str, Any]) -> str:
    spec = definition["spec"]
    names, version = spec["names"], spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    example = {"PresenceClaim": "claim", "AgentSession": "session"}[names["kind"]]
    selectable = _code(each["jsonPath"].removeprefix(".") for each in version["selectableFields"])
    words = _code([names["plural"], names["singular"], *names["shortNames"]])
    lines = [
        f"## {names['kind']}",
        "",
        schema["description"],
        "",
        f"- **Names:** {words}; all kinds together: {_code(names['categories'])}",
        f"- **Selectable fields:** {selectable}",
        f"- **Columns:** NAME {_columns(version, wide=False)}; with `-o wide` also {_columns(version, wide=True)}",
        f"- **Example:** [crds/examples/{example}.yaml](../crds/examples/{example}.yaml)",
        "",
    ]
    rules = list(_rules(schema, ""))
    for title, key in (("Spec", "spec"), ("Status", "status")):
        node = schema["properties"][key]
        lines += [f"### {title}", "", node["description"], "", "| Field | Type | Meaning |", "|---|---|---|"]
        lines += [f"| `{path}` | {kind} | {text} |" for path, kind, text in _fields(node, "")]
        lines.append("")
    lines += ["### What the API server refuses", "", "| Field | Message |", "|---|---|"]
    lines += [f"| `{path}` | {_cell(message)} |" for path, message in rules]
    return "\n".join(lines) + "\n"


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _columns(version: dict[str, Any], *, wide: bool) -> str:
    columns = version["additionalPrinterColumns"]
    return " ".join(each["name"].upper() for each in columns if bool(each.get("priority")) == wide)


def _fields(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    required = set(node.get("required", ()))
    for name, child in node["properties"].items():
        path = f"{prefix}{name}"
        kind = child["type"]
        inner = child.get("items", child)
        if child["type"] == "array":
            kind, path = f"list of {inner['type']}s", f"{path}[]"
        yield path, kind, _cell(child["description"] + _limits(child, required=name in required))
        if inner.get("properties"):
            yield from _fields(inner, f"{path}.")


def _limits(child: dict[str, Any], *, required: bool) -> str:
    facts = ["Required"] if required else []
    if "enum" in child:
        facts.append("one of " + ", ".join(f"`{each}`" for each in child["enum"]))
    if "default" in child:
        facts.append(f"default `{child['default']}`")
    if "maxLength" in child:
        facts.append(f"at most {child['maxLength']:,} characters")
    if "maximum" in child:
        facts.append(f"{child['minimum']} to {child['maximum']}")
    if "maxItems" in child:
        facts.append(f"at most {child['maxItems']}")
    if child.get("format") == "date-time":
        facts.append("RFC 3339, such as `2026-11-20T10:00:00Z`")
    if not facts:
        return ""
    text = "; ".join(facts)
    return f" *{text[0].upper()}{text[1:]}.*"


def _rules(node: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in node.get("x-kubernetes-validations", ()):
        yield (path + rule.get("fieldPath", "")).lstrip("."), rule["message"]
    for name, child in (node.get("properties") or {}).items():
        yield from _rules(child, f"{path}.{name}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def terraform_readme() -> str:
    """terraform/README.md, with its tables of inputs and outputs."""
    text = (ROOT / "terraform" / "README.md").read_text()
    inputs = ["| Name | Meaning | Default |", "|---|---|---|"]
    for name, body in _blocks("variable", "variables.tf"):
        found = re.search(r"^  default += (.+?)(?=^  \w|^}|\Z)", body, re.MULTILINE | re.DOTALL)
        default = f"`{' '.join(found[1].split())}`" if found else "required"
        inputs.append(f"| `{name}` | {_described(body)} | {default} |")
    outputs = ["| Name | Meaning |", "|---|---|"]
    outputs += [f"| `{name}` | {_described(body)} |" for name, body in _blocks("output", "outputs.tf")]
    for title, table in (("inputs", inputs), ("outputs", outputs)):
        begin, end = f"<!-- {title} -->\n", f"<!-- /{title} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n".join(table) + "\n" + end + rest.partition(end)[2]
    return text


def _blocks(kind: str, name: str) -> Iterator[tuple[str, str]]:
    text = (ROOT / "terraform" / name).read_text()
    for found in re.finditer(rf'^{kind} "(\w+)" {{\n(.*?)^}}', text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def _described(body: str) -> str:
    found = re.search(r'^  description += "((?:[^"\\]|\\.)*)"', body, re.MULTILINE)
    return _cell(found[1].replace('\\"', '"')) if found else ""


PAGES = {"docs/api-reference.md": api_reference, "terraform/README.md": terraform_readme}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check every page; 1 when a page is not current."""
    parser = argparse.ArgumentParser(description="Write the pages that follow from other files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is not current")
    check = parser.parse_args(arguments).check
    stale = []
    for name, make in PAGES.items():
        path, text = ROOT / name, make()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text)
            print(f"written: {name}")
    if check and stale:
        print(f"not current: {', '.join(stale)}; run: make docs", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
