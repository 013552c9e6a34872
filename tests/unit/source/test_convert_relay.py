"""Annotations for our relay: what each may say, what becomes of those that cannot be used, what is said of them.

What a wish does to a service port is tests/unit/plan/test_relay.py's; every annotation with every hostile value is
tests/fuzz/test_annotations.py's.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import pytest

from kproxy.config import Balance, ProxyMode
from kproxy.daemon.complaints import Complaints
from kproxy.daemon.events import Recorder
from kproxy.model.change import Put
from kproxy.model.cluster import Cluster
from kproxy.model.enums import Kind
from kproxy.model.relay import NO_WISH, Wish
from kproxy.model.service import Service
from kproxy.source.convert import Converter, NotOurs, Rejection, Usable
from kproxy.source.convert_relay import ANNOTATIONS
from kproxy.source.manifest import parse

TCP = {"name": "http", "protocol": "TCP", "port": 80}
SCTP = {"name": "s", "protocol": "SCTP", "port": 90}


def document(annotations: Any, *ports: dict[str, Any], ip: str = "10.96.0.1") -> bytes:
    metadata = {"name": "web", "namespace": "default", "uid": "u-1", "annotations": annotations}
    return json.dumps({"metadata": metadata, "spec": {"clusterIP": ip, "ports": ports or [TCP]}}).encode()


def convert(data: bytes) -> tuple[Service, list[str]]:
    """The Service, and what was said of it: field, why and remedy."""
    outcome = Converter().convert(Kind.SERVICE, data)
    assert isinstance(outcome, Usable), outcome
    assert isinstance(outcome.object, Service)
    return outcome.object, [f"{each.field} {each.why}; {each.remedy}" for each in outcome.warnings]


def wish(**annotations: Any) -> Wish:
    """Of annotations by their names with underscores. Nothing must be said of them."""
    service, said = convert(
        document({f"kproxy.io/{name.replace('_', '-')}": text for name, text in annotations.items()})
    )
    assert not said
    return service.wish


def said_of(**annotations: Any) -> list[str]:
    """Of annotations that must all come to nothing."""
    service, said = convert(
        document({f"kproxy.io/{name.replace('_', '-')}": text for name, text in annotations.items()})
    )
    assert service.wish is NO_WISH
    return said


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("balance", "round-robin", Balance.ROUND_ROBIN),
        ("balance", "random", Balance.RANDOM),
        ("balance", " least-connections\n", Balance.LEAST_CONNECTIONS),
        ("max-connections", "0", 0),
        ("max-connections", "1000000", 1_000_000),
        ("connect-deadlines", "250ms,500ms,1s,2s", (0.25, 0.5, 1.0, 2.0)),
        ("connect-deadlines", "1ms, 1m", (0.001, 60.0)),
        ("connect-deadlines", "3s", (3.0,)),
        ("connect-deadlines", ",".join(["1s"] * 8), (1.0,) * 8),
        ("idle-timeout", "1h30m", 5400.0),
        ("idle-timeout", "720h", 2592000.0),
        ("silence-timeout", "0", 0.0),
        ("silence-timeout", "90s", 90.0),
        ("drain-timeout", "0s", 0.0),
        ("drain-timeout", "5m", 300.0),
        ("slow-start", "1.5s", 1.5),
        ("slow-start", "24h", 86400.0),
        ("eject-after", "0", 0),
        ("eject-after", "1000", 1000),
        ("eject-time", "5s,5m", (5.0, 300.0)),
        ("eject-time", "5s, 5s", (5.0, 5.0)),
        ("eject-floor", "0.5", 0.5),
        ("eject-floor", ".25", 0.25),
        ("eject-floor", "50%", 0.5),
        ("eject-floor", "100%", 1.0),
        ("eject-floor", "1", 1.0),
        ("transparent", "true", True),
        ("transparent", "false", False),
    ],
)
def test_what_each_annotation_asks_for(name: str, text: str, expected: object) -> None:
    assert wish(**{name: text}) == Wish(overrides=((ANNOTATIONS[f"kproxy.io/{name}"].field, expected),))


@pytest.mark.parametrize("mode", ProxyMode)
def test_a_service_names_its_mode(mode: ProxyMode) -> None:
    assert wish(mode=mode.value) == Wish(mode=mode)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("mode", ["", "Userspace", "nftables", "ipvs", "true", "userspace,iptables"]),
        ("balance", ["", "rr", "roundrobin", "Round-Robin", "least_connections"]),
        ("max-connections", ["", "-1", "+1", "1.0", "1e3", "1_000", "0x10", "1000001", "9" * 5000, "\u0661", "many"]),
        (
            "connect-deadlines",
            ["", ",", "1s,", "0", "0s", "1", "999us", "61s", "1s;2s", "[1s]", ",".join(["1s"] * 9), "9" * 190 + "s"],
        ),
        ("idle-timeout", ["", "0", "0s", "10", "1d", "-1s", "720h1s", "1 m", "9" * 5000 + "s", "inf", "1ms" * 67]),
        ("silence-timeout", ["", "999us", "721h", "none", "1H"]),
        ("drain-timeout", ["", "-5m", "5", "721h"]),
        ("slow-start", ["", "24h1ns", "true"]),
        ("eject-after", ["", "-1", "1001", "three"]),
        ("eject-time", ["", "5s", "5m,5s", "0,5m", "5s,5m,5m", "5s,25h", "5s 5m"]),
        ("eject-floor", ["", "0", "0%", "101%", "1.01", "-0.5", "50 %", "%", ".", "nan", "1e-1", "0.5%%", "1/2"]),
        ("transparent", ["", "True", "1", "yes", "on", "null"]),
    ],
)
def test_what_an_annotation_cannot_say_is_told_and_the_default_counts(name: str, texts: list[str]) -> None:
    accepted = ANNOTATIONS[f"kproxy.io/{name}"].kind.accepted
    for text in texts:
        shown = repr(text if len(text) <= 80 else f"{text[:80]}...")
        why = f"is {shown}, which it cannot be; the node's default is used"
        expected = f"metadata.annotations[kproxy.io/{name}] {why}; give {accepted}"
        assert said_of(**{name: text}) == [expected]


def test_every_annotation_may_be_wrong_and_every_one_is_told() -> None:
    said = said_of(**dict.fromkeys([name.removeprefix("kproxy.io/") for name in ANNOTATIONS], "odd"))
    assert [each.split("]")[0] for each in said] == [f"metadata.annotations[{name}" for name in ANNOTATIONS]


def test_a_mistake_leaves_the_other_annotations_in_force() -> None:
    given = {"kproxy.io/mode": "userspace", "kproxy.io/balance": "odd", "kproxy.io/drain-timeout": "5m"}
    service, said = convert(document(given))
    assert service.wish == Wish(ProxyMode.USERSPACE, (("drain", 300.0),))
    assert len(said) == 1


@pytest.mark.parametrize("value", [100, True, None, 0.5, [], {}, ["1"], {"a": "b"}])
def test_a_value_that_is_no_text_is_told_and_costs_nothing_else(value: object) -> None:
    """An API server lets none in; a manifest may forget the quotes."""
    service, said = convert(
        document({"kproxy.io/max-connections": value, "kproxy.io/balance": "random", "other": value})
    )
    assert service.wish == Wish(overrides=(("balance", Balance.RANDOM),))
    (text,) = said
    why = f"holds {json.dumps(value)!r}, which is no text; the node's default is used"
    remedy = "give a whole number from 0 to 1000000, in quotes"
    assert text == f"metadata.annotations[kproxy.io/max-connections] {why}; {remedy}"


def test_a_text_that_is_no_utf8_is_told_alike() -> None:
    service, (text,) = convert(document({"kproxy.io/mode": "@"}).replace(b"@", b"\xff"))
    assert service.wish is NO_WISH
    assert "which is no text" in text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mod", "mode"),
        ("Mode", "mode"),
        ("max_connections", "max-connections"),
        ("connect-deadline", "connect-deadlines"),
        ("idletimeout", "idle-timeout"),
        ("loadbalance", "balance"),
    ],
)
def test_a_name_that_is_nearly_ours_is_asked_after(name: str, meant: str) -> None:
    service, said = convert(document({f"kproxy.io/{name}": "random"}))
    assert service.wish is NO_WISH
    why = f"is no annotation of kproxy's, and is ignored (did you mean kproxy.io/{meant}?)"
    assert said == [f"metadata.annotations[kproxy.io/{name}] {why}; correct the name"]


def test_a_name_that_is_like_nothing_gets_a_list_of_what_there_is() -> None:
    (said,) = convert(document({"kproxy.io/\n": "x"}))[1]
    assert said.startswith(
        r"metadata.annotations['kproxy.io/\n'] is no annotation of kproxy's, and is ignored; remove it,"
    )
    assert all(name.removeprefix("kproxy.io/") in said for name in ANNOTATIONS)


@pytest.mark.parametrize("name", ["kproxy.io", "akproxy.io/mode", "mode", "", "kproxy.iox/mode", "a/kproxy.io/mode"])
def test_names_of_others_are_nothing_to_us(name: str) -> None:
    service, said = convert(document({name: "userspace"}))
    assert (service.wish, said) == (NO_WISH, [])


def test_names_may_be_written_with_escapes() -> None:
    given = document({"kproxy.io/mode": "userspace"}).replace(b"kproxy.io/mode", rb"kproxy.io\/\u006dode")
    assert convert(given)[0].wish == Wish(ProxyMode.USERSPACE)


# --- the Service ------------------------------------------------------------------------------------------------


def test_what_is_no_business_of_ours_leaves_the_service_equal() -> None:
    given = {"kproxy.io/mode": "userspace", "kproxy.io/idle-timeout": "60s"}
    before = convert(document(given))[0]
    assert convert(document({"other": "x" * 2000, **given}))[0] == before
    assert convert(document({"kproxy.io/idle-timeout": "1m", "kproxy.io/mode": "userspace "}))[0] == before
    assert convert(document({}))[0] == convert(document(None))[0] != before


def test_an_edit_that_is_no_business_of_ours_wakes_nobody() -> None:
    given = {"kproxy.io/mode": "userspace"}
    converter, cluster = Converter(), Cluster("n1")
    assert cluster.apply(converter.changed(Kind.SERVICE, document(given)))
    assert not cluster.apply(converter.changed(Kind.SERVICE, document(given | {"note": "x", "kproxy.io/odd": "y"})))
    assert cluster.apply(converter.changed(Kind.SERVICE, document(given | {"kproxy.io/balance": "random"})))


def test_services_that_ask_for_the_same_share_it() -> None:
    given = {"kproxy.io/mode": "userspace", "kproxy.io/eject-time": "7s,9m"}
    converter = Converter()
    listed = converter.listed(Kind.SERVICE, [document(given)] * 2 + [document({})] * 2)
    first, second, third, fourth = (each for each in listed.objects if isinstance(each, Service))
    assert first.wish is second.wish
    assert third.wish is fourth.wish is NO_WISH


@pytest.mark.parametrize("mode", ["iptables", None])
def test_annotations_for_a_relay_that_does_not_carry_the_service_are_no_mistake(mode: str | None) -> None:
    given = {"kproxy.io/mode": mode, "kproxy.io/balance": "random"}
    service, said = convert(document({name: text for name, text in given.items() if text}, SCTP))
    assert service.wish.overrides
    assert not said


def test_sctp_stays_with_the_kernel_and_that_is_told_once() -> None:
    given = {"kproxy.io/mode": "userspace"}
    service, said = convert(document(given, TCP, SCTP, SCTP | {"name": "t"}))
    assert service.wish.mode is ProxyMode.USERSPACE
    field, remedy = "metadata.annotations[kproxy.io/mode]", "give SCTP ports a Service of their own"
    why = "is userspace, but spec.ports[1] and 1 more are SCTP, which stays with the kernel"
    assert said == [f"{field} {why}; {remedy}"]
    assert "but spec.ports[1] is SCTP" in convert(document(given, TCP, SCTP))[1][0]
    assert not convert(document(given, SCTP, ip="None"))[1]  # nobody serves it


@pytest.mark.parametrize(
    ("annotations", "kept", "named"),
    [
        (b'{"note":"\\ud800","kproxy.io/balance":"random"}', "balance", ()),
        (b'{"kproxy.io/mode":"\\ud800","kproxy.io/balance":"random"}', "balance", ("[kproxy.io/mode]",)),
        (b'{"\\ud800":"x","kproxy.io/balance":"random"}', "balance", ()),
        (b'{"note":' + b"[" * 5000 + b"]" * 5000 + b',"kproxy.io/balance":"random"}', "balance", ()),
        (b"[]", "", ()),
        (b'"kproxy.io/mode"', "", ()),
        (b"7", "", ()),
    ],
)
def test_annotations_that_are_no_json_do_not_cost_the_service_its_traffic(
    annotations: bytes, kept: str, named: tuple[str, ...]
) -> None:
    service, said = convert(document("@").replace(b'"@"', annotations))
    assert service.cluster_ips == ("10.96.0.1",)
    assert [field for field, _ in service.wish.overrides] == [kept] * bool(kept)
    assert said[0].startswith(("metadata.annotations cannot be read: ", "metadata.annotations is nested too deeply, "))
    assert [each.split(" ")[0].removeprefix("metadata.annotations") for each in said[1:]] == [*named]


@pytest.mark.parametrize("spec", [b'{"clusterIP":7}', b'"\\ud800"'])
def test_what_else_is_wrong_with_the_object_is_told_as_ever(spec: bytes) -> None:
    data = b'{"metadata":{"name":"web","namespace":"default","annotations":{"a":"\\ud800"}},"spec":' + spec + b"}"
    assert isinstance(Converter().convert(Kind.SERVICE, data), Rejection)
    plain = data.replace(b'"annotations":{"a":"\\ud800"}', b'"labels":{}')
    assert isinstance(Converter().convert(Kind.SERVICE, plain), Rejection)


def test_a_service_of_another_proxy_may_say_what_it_likes() -> None:
    data = document({"kproxy.io/mode": "odd"}).replace(
        b'"uid"', b'"labels":{"service.kubernetes.io/service-proxy-name":"other"},"uid"'
    )
    outcome = Converter().convert(Kind.SERVICE, data)
    assert isinstance(outcome, NotOurs)
    assert not outcome.warnings


# --- where it comes from, where it is told ----------------------------------------------------------------------


def test_manifests_say_it_alike() -> None:
    text = """
apiVersion: v1
kind: Service
metadata:
  name: web
  annotations:
    kproxy.io/mode: userspace
    kproxy.io/max-connections: 100
    kproxy.io/transparent: "true"
    kproxy.io/drain-timeout: 5m
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
"""
    (found,) = parse(PurePath("a.yaml"), text.encode())
    outcome = Converter(manifests=True).convert(Kind.SERVICE, found.data)
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, Service)
    assert outcome.object.wish == Wish(ProxyMode.USERSPACE, (("drain", 300.0), ("transparent", True)))
    (problem,) = outcome.warnings
    assert str(problem).startswith("Service default/web: metadata.annotations[kproxy.io/max-connections] holds '100'")


class Post:
    """The API server's side of Events."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.came = asyncio.Event()

    async def post(self, path: str, body: bytes, *, what: str) -> None:
        assert (path, what) == ("/apis/events.k8s.io/v1/namespaces/default/events", "create events")
        self.bodies.append(json.loads(body))
        self.came.set()

    async def patch(self, path: str, body: bytes, *, what: str) -> None:
        raise AssertionError((path, body, what))


def test_of_many_unknown_names_only_the_first_are_compared_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def close(word: str, *_: object, **__: object) -> list[str]:
        compared.append(word)
        return []

    monkeypatch.setattr("kproxy.source.convert_relay.difflib.get_close_matches", close)
    change = Converter().changed(Kind.SERVICE, document({f"kproxy.io/x{each}": "" for each in range(1000)}))
    assert isinstance(change, Put)
    assert len(compared) == 5
    assert len(change.warnings) == 6


async def test_an_invalid_annotation_becomes_a_log_line_and_an_event(caplog: pytest.LogCaptureFixture) -> None:
    post = Post()
    recorder = Recorder(post, "n1")
    converter, cluster = Converter(), Cluster("n1")
    complaints = Complaints(recorder, lambda _kind, key: cluster.snapshot().services[key].uid)
    change = converter.changed(Kind.SERVICE, document({"kproxy.io/mode": "userspce"}))
    cluster.apply(change)
    complaints.hear(change)
    complaints.hear(change)  # a second time there is nothing new
    running = asyncio.create_task(recorder.run())
    async with asyncio.timeout(10):
        await post.came.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    (record,) = caplog.records
    assert record.__dict__["fields"]["field"] == "metadata.annotations[kproxy.io/mode]"
    (event,) = post.bodies
    assert (event["type"], event["reason"]) == ("Warning", "InvalidObject")
    assert event["regarding"] == {
        "kind": "Service",
        "name": "web",
        "namespace": "default",
        "apiVersion": "v1",
        "uid": "u-1",
    }
    assert event["note"] == (
        "metadata.annotations[kproxy.io/mode] is 'userspce', which it cannot be; the node's default is used; "
        "give userspace or iptables"
    )
