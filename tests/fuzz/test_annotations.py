"""Annotations for our relay with anything in them: no Service is lost for it, and each is obeyed or named.

What each may say, and what is said of mistakes, is tests/unit/source/test_convert_relay.py's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.errors import InvalidObject
from kproxy.model.enums import Kind
from kproxy.model.relay import NO_WISH, Relay
from kproxy.model.service import Service
from kproxy.plan.relay import default_relay, relay
from kproxy.source.convert import Converter, Usable
from kproxy.source.convert_relay import ANNOTATIONS
from tests.fuzz.hostile import BROKEN_BYTES, DEEP, EVERYTHING, encode, spoilt
from tests.fuzz.journey import check_sentence

FUZZ = settings(max_examples=150, derandomize=True)
_PLAIN = {"name": "a", "namespace": "ns", "uid": "u"}
_SPEC = {"clusterIP": "10.96.0.1", "ports": [{"name": "p", "protocol": "TCP", "port": 80}]}
_MONTH = 30 * 86400.0
_NEARLY = [
    *("0", "1", "00", "-0", "1000000", "1000001", "1e9", "0.0", "1.", ".5", "0.5", "50%", "100%", "1e-300", "1%%"),
    *("0s", "1ns", "999us", "1ms", "1s", "60s", "720h", "1h1h1h", "2562048h", ".s", "1.s", "1.5.5s", "1µs", "1 s"),
    *("1s,", ",1s", "1s,1s", "2s,1s", ",".join(["1ms"] * 8), ",".join(["1ms"] * 9), "1s,,1s", "9" * 199 + "s"),
    *("userspace", "USERSPACE", "iptables", "random", "least-connections", "true", "false", "TRUE", " true ", "t"),
]  # fmt: skip


def convert(annotations: bytes) -> tuple[Service, tuple[InvalidObject, ...]]:
    data = encode({"metadata": {**_PLAIN, "annotations": "@"}, "spec": _SPEC}).replace(b'"@"', annotations)
    outcome = Converter().convert(Kind.SERVICE, data)
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, Service)
    for problem in outcome.warnings:
        check_sentence(problem)
    return outcome.object, outcome.warnings


PLAIN, _ = convert(b"{}")


def check(annotations: bytes) -> tuple[Service, tuple[InvalidObject, ...]]:
    service, problems = convert(annotations)
    assert replace(service, wish=NO_WISH) == PLAIN
    if service.wish is not NO_WISH:
        default = default_relay(Config())
        wanted = relay(service.wish, service.ports[0].protocol, service.wish.mode or Config().proxy_mode, default)
        check_bounds(wanted or replace(default, **dict(service.wish.overrides)))
    return service, problems


def check_bounds(wanted: Relay) -> None:
    """Nothing that a relay could not obey: the types are right, the numbers neither negative nor beyond all measure."""
    assert 0 <= wanted.connections <= 1_000_000
    assert 1 <= len(wanted.connect_deadlines) <= 8
    assert all(0.001 <= each <= 60 for each in wanted.connect_deadlines)
    assert 0.001 <= wanted.idle <= _MONTH
    assert all(0 <= each <= _MONTH for each in (wanted.silence, wanted.drain, wanted.slow_start))
    assert 0 <= wanted.eject_after <= 1000
    assert 0 < wanted.eject_seconds[0] <= wanted.eject_seconds[1] <= 86400
    assert 0 < wanted.eject_floor <= 1
    assert type(wanted.transparent) is bool


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_every_annotation_with_every_hostile_value(name: str) -> None:
    """Each is obeyed or named, and another one beside it is obeyed in any case."""
    beside = "kproxy.io/eject-after" if name != "kproxy.io/eject-after" else "kproxy.io/max-connections"
    for value in [each for each in (*EVERYTHING, *_NEARLY) if each != DEEP]:
        service, problems = check(encode({name: value, beside: "7"}))
        obeyed = {field for field, _ in service.wish.overrides} | ({"mode"} if service.wish.mode else set())
        named = any(f"[{name}]" in problem.field for problem in problems)
        assert named is not (ANNOTATIONS[name].field in obeyed), ascii(value)
        assert dict(service.wish.overrides)[ANNOTATIONS[beside].field] == 7


def test_an_annotation_that_nests_too_deeply_is_the_only_one_that_is_lost() -> None:
    service, problems = check(encode({"kproxy.io/mode": DEEP, "kproxy.io/eject-after": "7", "note": DEEP}))
    assert service.wish.overrides == (("eject_after", 7),)
    assert "metadata.annotations[kproxy.io/mode]" in [problem.field for problem in problems]


_NAMES = st.sampled_from([*ANNOTATIONS, "kproxy.io/", "kproxy.io/mod", "kproxy.io"])
_NAMES |= st.text(max_size=10).map(lambda text: f"kproxy.io/{text}")
_VALUES: st.SearchStrategy[Any] = st.sampled_from(_NEARLY) | st.text(max_size=30) | st.from_regex(r"[0-9.,%hmsµ]{1,12}")


@FUZZ
@given(st.dictionaries(_NAMES, _VALUES, max_size=20))
def test_any_texts(annotations: dict[str, str]) -> None:
    service, problems = check(encode(annotations))
    ours = [name for name in annotations if name.startswith("kproxy.io/")]
    obeyed = len(service.wish.overrides) + (service.wish.mode is not None)
    assert obeyed + len(problems) == len(ours) or len(problems) > 5


@FUZZ
@given(st.sampled_from(BROKEN_BYTES) | spoilt(json.dumps(dict.fromkeys(ANNOTATIONS, "7")).encode()))
def test_any_bytes(annotations: bytes) -> None:
    """What ends the object too early makes it another one, and that is refused: no API server sends such a thing."""
    data = encode({"metadata": {**_PLAIN, "annotations": "@"}, "spec": _SPEC}).replace(b'"@"', annotations)
    outcome = Converter().convert(Kind.SERVICE, data)
    for problem in outcome.warnings if isinstance(outcome, Usable) else ():
        check_sentence(problem)
