"""Bytes → paths and values. What the values mean is in test_resolve.py."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import InvalidConfig
from kproxy.settings.document import API_VERSION, KIND, LARGEST, read_document, tell

HEAD = f"apiVersion: {API_VERSION}\nkind: {KIND}\n"


def values(text: str) -> dict[str, object]:
    document = read_document((HEAD + text).encode())
    assert not document.problems
    return dict(document.values)


def test_sections_become_paths() -> None:
    assert values("iptables:\n  syncPeriod: 30s\nmode: iptables") == {"iptables.syncPeriod": "30s", "mode": "iptables"}


def test_null_sections_hold_nothing() -> None:
    assert values("iptables:\nconntrack: null\nipvs: ~") == {}


def test_a_map_of_gates_is_a_value() -> None:
    assert values("featureGates: {A: true}") == {"featureGates": {"A": True}}


def test_json_may_be_indented_by_tabs() -> None:
    document = read_document(
        f'\ufeff{{\n\t"kind":"{KIND}",\n\t"apiVersion":"{API_VERSION}",\n\t"bindAddress":"::"}}'.encode()
    )
    assert (dict(document.values), document.problems) == ({"bindAddress": "::"}, ())


@pytest.mark.parametrize("text", ["2026-01-01", "10:30", "1:20.5", "1.2.3"])
def test_what_kubernetes_yaml_has_not_stays_text(text: str) -> None:
    assert values(f"mode: {text}") == {"mode": text}


@pytest.mark.parametrize(
    ("text", "value"), [("0x10", 16), ("010", 8), ("1e3", 1000.0), ("-5", -5), ("0", 0), ("on", True)]
)
def test_the_rest_of_yaml_does_not(text: str, value: object) -> None:
    assert values(f"mode: {text}") == {"mode": value}


def test_merged_keys_count() -> None:
    assert values("ipvs: &x {syncPeriod: 1s}\niptables: {<<: *x}")["iptables.syncPeriod"] == "1s"


def test_of_merged_keys_the_own_and_then_the_first_section_count() -> None:
    text = "a: &a {syncPeriod: 1s, minSyncPeriod: 1s}\nb: &b {syncPeriod: 2s, masqueradeBit: 2}\n"
    found = values(f"{text}iptables: {{<<: [*a, *b], minSyncPeriod: 3s}}")
    assert (found["iptables.syncPeriod"], found["iptables.minSyncPeriod"]) == ("1s", "3s")
    assert found["iptables.masqueradeBit"] == 2


@pytest.mark.parametrize("where", ["<<: *x7", "featureGates: {<<: *x7}"])
def test_merged_keys_that_grow_are_refused(where: str) -> None:
    lines = (f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 9)}]}}" for i in range(1, 8))
    with pytest.raises(InvalidConfig, match="<< brings in over 10000 fields"):
        read_document("\n".join([HEAD, "x0: &x0 {a: true}", *lines, where]).encode())


def test_merged_keys_are_of_sections() -> None:
    with pytest.raises(InvalidConfig, match="line 3: << takes sections alone"):
        read_document(f"{HEAD}iptables: {{<<: [1]}}".encode())
    assert values("iptables: &a {<<: *a, syncPeriod: 1s}")["iptables.syncPeriod"] == "1s"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("iptables: {masqueradAll: true}", "iptables.masqueradAll (did you mean iptables.masqueradeAll?)"),
        ("syncPeriod: 1s", "syncPeriod (did you mean iptables.syncPeriod?)"),
        ("syncPeriods: 1s", "syncPeriods (did you mean iptables.syncPeriod?)"),
        ("metadata: {name: config}", "metadata"),
        ("kproxy: {treeTreshold: 1}", "kproxy.treeTreshold (did you mean kproxy.treeThreshold?)"),
        ("? [a]\n: 1", "a list"),
        ("---\nkind: ConfigMap", "everything behind the first document"),
    ],
)
def test_unknown_fields_are_told_with_the_nearest(text: str, told: str) -> None:
    document = read_document((HEAD + text).encode())
    assert document.unknown == (told,)
    assert not document.problems


def test_of_very_many_unknown_fields_some_are_told() -> None:
    document = read_document((HEAD + "".join(f"x{i}: 1\n" for i in range(30))).encode())
    assert document.unknown[-2:] == ("x19", "and 10 more")


def test_of_a_doubled_field_the_last_counts() -> None:
    document = read_document(f"{HEAD}iptables: {{syncPeriod: 1s, syncPeriod: 2s}}".encode())
    assert document.doubled == ("iptables.syncPeriod",)
    assert document.values["iptables.syncPeriod"] == "2s"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("mode: iptables", [f"apiVersion: it is missing; give {API_VERSION}", f"kind: it is missing; give {KIND}"]),
        ("", [f"apiVersion: it is missing; give {API_VERSION}", f"kind: it is missing; give {KIND}"]),
        (f"kind: {KIND}\napiVersion: v1", [f'apiVersion: "v1" is not known; give {API_VERSION}']),
        (
            f"kind: ConfigMap\napiVersion: {API_VERSION}",
            [f'kind: "ConfigMap" is not known; give {KIND}, which is in data["config.conf"] of kube-proxy\'s'],
        ),
        (
            f"{HEAD}ipvs: 'x'",
            ['ipvs: "x" stands there; give a section with excludeCIDRs, minSyncPeriod, scheduler, …'],
        ),
        (
            f"{HEAD}iptables: 5",
            ["iptables: 5 stands there; give a section with localhostNodePorts, masqueradeAll, masqueradeBit, …"],
        ),
        (
            f"{HEAD}ipvs: [1]",
            ["ipvs: a list stands there; give a section with excludeCIDRs, minSyncPeriod, scheduler, …"],
        ),
        (
            f"{HEAD}oomScoreAdj: !!int x",
            ["oomScoreAdj: x is not what its tag tag:yaml.org,2002:int says; leave out the tag"],
        ),
    ],
)
def test_what_is_wrong_with_the_form_is_gathered(text: str, problems: list[str]) -> None:
    assert list(read_document(text.encode()).problems) == problems


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"mode: [", "line 1: expected the node content, but found '<stream end>'"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a: \x00", "special characters"),
        (b"- a", "the file holds a list"),
        (b"hello", "the file holds hello; give a KubeProxyConfiguration"),
        (b"a: *nowhere", "undefined alias"),
        (HEAD.encode() + b"nodePortAddresses: &r [*r]", "recursive"),
        (b"[" * 1200 + b"]" * 1200, "nested too deeply"),
        (HEAD.encode() + b"featureGates: " + b"{a: " * 1000 + b"}" * 1000, "nested too deeply"),
        (b" " * (LARGEST + 1), "larger than 256 kB"),
        (HEAD.encode() + b"mode: !!python/name:os.system ''", "could not determine a constructor"),
    ],
)
def test_what_is_no_document_says_why(content: bytes, why: str) -> None:
    with pytest.raises(InvalidConfig, match=r".") as caught:
        read_document(content)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "null"),
        (True, "true"),
        (10**30, "a very large number"),
        ("a\nb", r"'a\nb'"),
        (["a", 1], '["a", 1]'),
        ([["a"]], "a list"),
        ({}, "a section"),
        (b"x", "a value of type bytes"),
        ("x" * 100, '"' + "x" * 79 + "…"),
    ],
)
def test_values_are_told_in_one_short_line(value: object, told: str) -> None:
    assert tell(value) == told


def test_aliases_that_grow_cost_nothing() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    document = read_document(f"{bomb}{HEAD}nodePortAddresses: *a59".encode())
    assert tell(document.values["nodePortAddresses"]) == "a list"


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_bytes_are_a_document_or_a_sentence(content: bytes) -> None:
    with contextlib.suppress(InvalidConfig):
        read_document(content)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.binary(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4),
    max_leaves=15,
)


@given(_ANY)
def test_any_yaml_is_a_document_or_a_sentence(value: object) -> None:
    with contextlib.suppress(InvalidConfig):
        read_document(yaml.safe_dump(value, allow_unicode=True).encode())
