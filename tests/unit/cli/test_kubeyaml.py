from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from presence import kubeyaml

KUBECTL_WROTE = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==
    server: https://127.0.0.1:6443
  name: kind
contexts:
- context:
    cluster: kind
    namespace: default
    user: kind
  name: kind
current-context: kind
kind: Config
preferences: {}
users:
- name: kind
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      args:
      - --region
      - eu-west-1
      - eks get-token
      command: aws
      env: null
      interactiveMode: IfAvailable
      provideClusterInfo: false
- name: token
  user:
    token: 9a676edeae8e421d392e10a725a94e8b
"""


def test_a_kubeconfig_as_kubectl_writes_it_needs_no_yaml_library() -> None:
    assert kubeyaml.load_simple(KUBECTL_WROTE) == yaml.safe_load(KUBECTL_WROTE)


def test_json_is_read_too() -> None:
    assert kubeyaml.load_simple(json.dumps(yaml.safe_load(KUBECTL_WROTE))) == yaml.safe_load(KUBECTL_WROTE)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x b\nc: *x\n",
        "a: |\n  text\n  more\n",
        "a: >\n  text\n",
        "a: one # comment\n",
        "a: one\n  two\n",
        "a: {b: c}\n",
        "a: [b]\n",
        "a: !!str 1\n",
        "a: 'it''s'\n",
        'a: "\\n"\n',
        "a: yes\n",
        "a: 2020-01-01\n",
        "a: 012\n",
        "a: 0x1f\n",
        "a: 1.5\n",
        "a: 1:30\n",
        "a: .inf\n",
        "? a\n: b\n",
        "a: b\n---\nc: d\n",
        "<<: {a: b}\n",
        "a:\tb\n",
        "a: b\r\n",
        "no: b\n",
        "a: ü\n",
        "a: b\na: c\n",
        "- - a\n",
        "  a: b\n",
        "",
    ],
)
def test_what_is_unusual_is_left_to_yaml_and_read_alike(text: str) -> None:
    try:
        simple: Any = kubeyaml.load_simple(text)
    except kubeyaml._UnusualError:
        try:
            expected = yaml.load(text, Loader=yaml.CSafeLoader)
        except yaml.YAMLError:
            with pytest.raises(ValueError, match=r"."):
                kubeyaml.load(text)
        else:
            assert kubeyaml.load(text) == expected
    else:
        assert simple == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["a: b: c", "a: 'open", "a: [", "{", "\x00", "a: b\n c: d\n"])
def test_what_is_no_yaml_is_an_error_of_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        kubeyaml.load(text)
    assert "\n" not in str(caught.value)


def agree(text: str) -> None:
    """Where the simple reader answers at all, it answers as PyYAML does, types included."""
    try:
        simple = kubeyaml.load_simple(text)
    except kubeyaml._UnusualError:
        return
    if text.lstrip().startswith("{"):
        assert repr(simple) == repr(json.loads(text))
        return
    assert repr(simple) == repr(yaml.load(text, Loader=yaml.CSafeLoader))


fragments = st.lists(
    st.sampled_from(
        [
            *"abxyzE09-:#'\"{}[]&*!|>%@`,?~=._/+<\\ \n\t",
            *("\n  ", "\n- ", "\n    ", ": ", "- ", " #", "null", "true", "yes", "name: ", "user:\n", "  key: v\n"),
            *("- name: x\n", "0x1", "1e5", "12", "1.2.3.4", "2020-01-01", "...", "---", ".nan"),
        ]
    ),
    max_size=24,
).map("".join)


@given(fragments)
@settings(max_examples=800, deadline=None)
def test_it_never_disagrees_with_yaml_on_odd_text(text: str) -> None:
    agree(text)


@given(st.text(st.sampled_from("0123456789abefxoXBTZ_.:+-/= "), min_size=1, max_size=12))
@settings(max_examples=800, deadline=None)
def test_it_never_disagrees_with_yaml_on_values(value: str) -> None:
    agree(f"key: {value}\n")
    agree(f"- {value}\n")


words = st.text(st.sampled_from("abcXYZ019-_./:@+= '\"#{}"), max_size=12)
leaves = st.one_of(words, st.booleans(), st.none(), st.integers(0, 10**6))
keys = st.from_regex(r"[a-z][a-z-]{0,9}", fullmatch=True)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)


@given(st.dictionaries(keys, values, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_programs_write_is_read_as_they_meant_it(document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, default_flow_style=False, width=10_000)
    agree(text)
    assert kubeyaml.load(text) == document
