"""Reading kubeconfig text fast.

Importing a YAML library costs more than a whole request to the API server. Nearly every kubeconfig is written by a
program and uses a small part of YAML: block mappings and lists, plain or simply quoted values. That part is read here;
anything else, and anything doubtful, is left to PyYAML. A property test holds the two to the same results.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from typing import Any

_KEY = re.compile(r"([A-Za-z][A-Za-z0-9._/-]*):(?: +(.*))?")
_PLAIN = re.compile(r"-{0,2}[A-Za-z/][A-Za-z0-9_./@:+=~,()-]*(?: [A-Za-z0-9_./@+=~,()-]+)*")
#: Text that begins with a digit and yet is neither a number nor a time in YAML 1.1: most tokens, and addresses.
_DIGITS_FIRST = re.compile(r"(?!0[xXbB])[0-9]+[A-Za-z][0-9A-Za-z_]*|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(?::[0-9]+)?")
_DOUBLE = re.compile(r'"([^"\\]*)"')
_SINGLE = re.compile(r"'([^']*)'")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
_ASCII = re.compile(r"[ -~\n]*")
#: Plain words that YAML 1.1 takes for something else than text, in some of their spellings.
_NOT_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
#: Levels of nesting that are read; a kubeconfig has about ten.
_DEPTH = 200
_WORDS = {"true": True, "false": False, "null": None, "~": None}


class _UnusualError(Exception):
    """The text needs a full YAML parser."""


def load(text: str) -> Any:
    """The value of a YAML or JSON document.

    Raises:
        ValueError: the text is no YAML; the message is one line.
    """
    try:
        return load_simple(text)
    except _UnusualError:
        pass
    if _too_deep(text):
        # Parsers recurse: they would end the program, the fast one without a word.
        raise ValueError(f"its values are nested deeper than {_DEPTH} levels")
    return _load_yaml(text)


def load_simple(text: str) -> Any:
    """The value of a document in the common subset.

    Raises:
        _UnusualError: the text is outside of it.
    """
    if text.lstrip().startswith("{"):
        if _too_deep(text):
            raise _UnusualError
        try:
            return json.loads(text)
        except ValueError:
            raise _UnusualError from None
    if not _ASCII.fullmatch(text):
        raise _UnusualError
    lines: list[tuple[int, str]] = []
    for raw in text.split("\n"):
        content = raw.strip(" ")
        if not content or content.startswith("#"):
            continue
        if content == "---" and not lines:
            continue
        lines.append((len(raw) - len(raw.lstrip(" ")), content))
    if not lines or lines[0][0] != 0:
        raise _UnusualError
    value, end = _block(lines, 0)
    if end != len(lines):
        raise _UnusualError
    return value


def _too_deep(text: str) -> bool:
    """True when `text` may be nested too deeply to be parsed. Brackets inside of quotes count, so be generous."""
    if text.count("[") + text.count("{") <= _DEPTH and text.count("- ") + text.count(": ") <= _DEPTH:
        return False
    depth = deepest = 0
    for letter in re.findall(r"[][{}]", text):
        depth += 1 if letter in "[{" else -1
        deepest = max(deepest, depth)
    columns = max((len(line) - len(line.lstrip(" ")) for line in text.split("\n")), default=0)
    in_a_row = max((match.count("-") for match in re.findall(r"(?:- +)+", text)), default=0)
    return max(deepest, columns, in_a_row) > _DEPTH


def _load_yaml(text: str) -> Any:
    import yaml  # only for unusual files: it doubles the start-up time

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 (a safe loader)
    except yaml.MarkedYAMLError as error:
        # Not the error's own text: the slow parser shows the line, which may be the one with the token.
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context or 'it cannot be parsed'}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (RecursionError, TypeError, AttributeError):
        raise ValueError("it cannot be parsed") from None


def _block(lines: list[tuple[int, str]], start: int) -> tuple[Any, int]:
    return _sequence(lines, start) if _is_item(lines[start][1]) else _mapping(lines, start)


def _is_item(content: str) -> bool:
    return content == "-" or content.startswith("- ")


def _mapping(lines: list[tuple[int, str]], start: int) -> tuple[dict[str, Any], int]:
    indent = lines[start][0]
    result: dict[str, Any] = {}
    at = start
    while at < len(lines) and lines[at][0] == indent and not _is_item(lines[at][1]):
        match = _KEY.fullmatch(lines[at][1])
        if match is None or match[1] in result or match[1].lower() in _NOT_TEXT:
            raise _UnusualError
        key, rest = match[1], match[2]
        at += 1
        deeper = at < len(lines) and lines[at][0] > indent
        if rest:
            if deeper:
                raise _UnusualError
            result[key] = _scalar(rest)
        elif deeper or (at < len(lines) and lines[at][0] == indent and _is_item(lines[at][1])):
            result[key], at = _block(lines, at)
        else:
            result[key] = None
    if at < len(lines) and lines[at][0] > indent:
        raise _UnusualError
    return result, at


def _sequence(lines: list[tuple[int, str]], start: int) -> tuple[list[Any], int]:
    indent = lines[start][0]
    result: list[Any] = []
    at = start
    while at < len(lines) and lines[at][0] == indent and _is_item(lines[at][1]):
        content = lines[at][1][1:]
        inner = content.lstrip(" ")
        if not inner or _is_item(inner):
            raise _UnusualError
        if _KEY.fullmatch(inner):
            lines[at] = (indent + 1 + len(content) - len(inner), inner)
            value, at = _mapping(lines, at)
        else:
            value, at = _scalar(inner), at + 1
        result.append(value)
    if at < len(lines) and lines[at][0] > indent:
        raise _UnusualError
    return result, at


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if text == "{}":
        return {}
    if text == "[]":
        return []
    for quoted in (_DOUBLE, _SINGLE):
        match = quoted.fullmatch(text)
        if match:
            return match[1]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DIGITS_FIRST.fullmatch(text):
        return text
    if not _PLAIN.fullmatch(text) or text.endswith(":") or ": " in text or text.lower() in _NOT_TEXT:
        raise _UnusualError
    return text
