"""One value at a time: text → value, value → what a file shows, and back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.config import DetectLocalMode, IptablesVariant, ProxyMode
from kproxy.settings import kinds
from kproxy.settings.kinds import Kind, choice, endpoint, go_duration, interface, number, read_duration
from kproxy.settings.table import SETTINGS

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_UNREADABLE = (ArithmeticError, TypeError, ValueError)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m0s", 60), ("200ms", 0.2), ("1h2m3.5s", 3723.5), ("0", 0), ("0s", 0), (".5s", 0.5), ("2us", 2e-6)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert read_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (5e-9, "5ns"), (1.5e-6, "1.5µs"), (0.2, "200ms"), (90.25, "1m30.25s"), (86400.0, "24h0m0s")],
)
def test_durations_are_shown_as_go_shows_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@given(st.integers(0, 10**15))
def test_what_go_prints_is_read_back(nanoseconds: int) -> None:
    assert read_duration(go_duration(nanoseconds / 1e9)) == pytest.approx(nanoseconds / 1e9)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (kinds.CIDR_PAIR, "10.0.0.0/8, fd00::/8", ("10.0.0.0/8", "fd00::/8")),
        (endpoint(10256), "127.0.0.1", "127.0.0.1:10256"),
        (endpoint(10256), "::", "[::]:10256"),
        (endpoint(10249), "[::1]:99", "[::1]:99"),
        (kinds.NODE_PORTS, "primary", ("primary",)),
        (kinds.NODE_PORTS, "localhost,primary", ("primary", "localhost")),
        (kinds.NODE_PORTS, "localhost", ("localhost",)),
        (kinds.NODE_PORTS, "10.0.0.1/8,, 127.0.0.1/32", ("10.0.0.0/8", "127.0.0.1/32")),
        (kinds.GATES, "A=false,B=t", (("A", False), ("B", True))),
        (kinds.VMODULE, "sync*=4,status=2", (("sync*", 4), ("status", 2))),
        (kinds.BOOLEAN, "T", True),
        (kinds.URL, "https://[fd00::1]:6443", "https://[fd00::1]:6443"),
        (kinds.URL, "", ""),
        (choice(IptablesVariant), "legacy", IptablesVariant.LEGACY),
        (choice(DetectLocalMode), "", DetectLocalMode.CLUSTER_CIDR),
        (number(-1000, 1000), "-1000", -1000),
        (kinds.HOST, " Other ", "other"),
        (kinds.QUANTITY, "64Ki", "64Ki"),
        (kinds.DURATIONS, "250ms,1s", (0.25, 1.0)),
        (kinds.FROM_TO, "1s,1m", (1.0, 60.0)),
        (kinds.SECONDS, "300,600", (300, 600)),
    ],
)
def test_a_flags_text_becomes_a_value(kind: Kind, text: str, expected: Any) -> None:
    assert kind.parse(text) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (endpoint(10256), "localhost:1"),
        (endpoint(10256), "1.2.3.4:70000"),
        (endpoint(10256), "1.2.3.4:0"),
        (endpoint(10256), " "),
        (kinds.NODE_PORTS, "primary,10.0.0.0/8"),
        (kinds.NODE_PORTS, "10.0.0.1"),
        (kinds.DURATION, "9" * 400 + "s"),
        (number(0, 31), "32"),
        (number(0), "-1"),
        (number(0), "x"),
        (kinds.BOOLEAN, "yes"),
        (kinds.DURATION, "30"),
        (kinds.DURATION, "-1s"),
        (kinds.DURATION, "9999999h9999999h"),
        (kinds.POSITIVE, "0s"),
        (kinds.FROM_TO, "2s,1s"),
        (kinds.FROM_TO, "2s"),
        (choice(ProxyMode), "ipvs"),
        (kinds.ADDRESS, "eth0"),
        (kinds.GATES, "AllAlpha"),
        (kinds.GATES, "=true"),
        (kinds.GATES, "A=maybe"),
        (kinds.VMODULE, "sync"),
        (kinds.VMODULE, "=4"),
        (kinds.VMODULE, "sync=-4"),
        (kinds.URL, "10.0.0.1:6443"),
        (kinds.URL, "https://"),
        (kinds.URL, "https://[::1"),
        (kinds.URL, "https://10.0.0.1:port"),
        (interface(14), '"; -j ACCEPT'),
        (interface(14), "x" * 15),
        (interface(15), "cni0\n-A INPUT -j ACCEPT"),
        (kinds.version("1.35"), "1.34"),
        (kinds.FLOAT, "nan"),
        (kinds.QUANTITY, "much"),
    ],
)
def test_a_text_that_says_nothing_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(_UNREADABLE):
        kind.parse(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (kinds.TEXT, 1),
        (kinds.BOOLEAN, "true"),
        (kinds.BOOLEAN, 1),
        (number(0), True),
        (number(0), 1.0),
        (number(0), "1"),
        (kinds.DURATION, 30),
        (kinds.FLUSH, True),
        (kinds.FLUSH, -5),
        (kinds.NODE_PORTS, "primary"),
        (kinds.NODE_PORTS, ["primary", 1]),
        (kinds.GATES, {"A": "true"}),
        (kinds.GATES, {1: True}),
        (kinds.GATES, ["A"]),
        (kinds.VMODULE, [{"filePattern": "a", "level": 1}]),
        (kinds.VMODULE, [{"verbosity": 1}]),
        (kinds.VMODULE, {"a": 1}),
        (kinds.FLOAT, True),
        (kinds.FLOAT, 10**400),
        (kinds.SECONDS, [1, 2, 3]),
        (kinds.SECONDS, [0, 2]),
        (kinds.QUANTITY, False),
    ],
)
def test_a_files_value_of_another_type_is_refused(kind: Kind, value: Any) -> None:
    with pytest.raises(_UNREADABLE):
        kind.accept(value)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (kinds.FLUSH, 5_000_000_000, 5.0),
        (kinds.FLUSH, "5s", 5.0),
        (kinds.FLOAT, 5, 5.0),
        (kinds.QUANTITY, 0, "0"),
        (kinds.VMODULE, [{"filePattern": "a"}], (("a", 0),)),
    ],
)
def test_what_only_a_file_can_say(kind: Kind, value: Any, expected: Any) -> None:
    assert kind.accept(value) == expected


_KINDS = {setting.path or setting.flag: setting.kind for setting in SETTINGS}


@given(st.sampled_from(sorted(_KINDS)), _JSON | st.text(alphabet="0123456789.:/,=smhA-[]fd", max_size=20))
def test_what_a_file_says_is_shown_so_that_it_means_the_same(name: str, value: Any) -> None:
    kind = _KINDS[name]
    with contextlib.suppress(*_UNREADABLE):
        read = kind.accept(value)
        shown = kind.show(read)
        assert shown is None or kind.accept(shown) == read


@given(st.sampled_from(sorted(_KINDS)), st.text(max_size=30))
def test_no_text_is_worse_than_unreadable(name: str, text: str) -> None:
    with contextlib.suppress(*_UNREADABLE):
        kind = _KINDS[name]
        kind.show(kind.parse(text))
