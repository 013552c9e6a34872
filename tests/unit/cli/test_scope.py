"""What may be typed behind ``kproxy trace``, and which packets it means."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from kproxy import cli
from kproxy.cli import parser
from kproxy.cli.scope import Scope, read_scope
from kproxy.cli.selection import check_interface, selectors_of
from kproxy.errors import InvalidConfig, KernelError
from kproxy.explain.answer import Frontend, FrontendKind, ServicePort
from kproxy.kernel.trace_table import Selector
from kproxy.model.enums import IPFamily, Protocol

V4, V6 = IPFamily
WEB = ServicePort(
    "shop/web",
    "http",
    Protocol.TCP,
    V4,
    "BBBB",
    frontends=(
        Frontend(FrontendKind.CLUSTER_IP, "10.96.0.20", 80),
        Frontend(FrontendKind.NODE_PORT, "", 30080),
        Frontend(FrontendKind.HEALTH_CHECK, "", 31000),
    ),
)
DNS = ServicePort(
    "shop/web", "dns", Protocol.UDP, V6, "CCCC", frontends=(Frontend(FrontendKind.CLUSTER_IP, "fd00::1", 53),)
)


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is typed here may ever reach the kernel of whoever runs the tests."""

    def refuse() -> None:
        raise KernelError("no such thing here")

    monkeypatch.setattr("kproxy.cli.trace.hear_nft", refuse)


def typed(line: str) -> Scope:
    return read_scope(parser.parse(["trace", *line.split()])[0])


@pytest.mark.parametrize(
    ("line", "scope"),
    [
        ("--from 10.0.0.1", Scope(source="10.0.0.1", families=(V4,))),
        ("--from FD00::01", Scope(source="fd00::1", families=(V6,))),
        (
            "--to 10.96.0.10:53/udp --in eth0 --limit 3 --rate 5/s --for 2m --all",
            Scope(
                destination="10.96.0.10",
                port=53,
                protocol=Protocol.UDP,
                interface="eth0",
                families=(V4,),
                every=True,
                limit=3,
                rate=5,
                seconds=120.0,
            ),
        ),
        ("--to [fd00::1]:80", Scope(destination="fd00::1", port=80, protocol=Protocol.TCP, families=(V6,))),
        ("--service shop/web:dns --family 6", Scope(service="shop/web", service_port="dns", families=(V6,))),
        ("--service shop/web", Scope(service="shop/web")),
        ("--service web:53/udp", Scope(service="web", service_port="53", protocol=Protocol.UDP)),
        ("--to shop/web", Scope(service="shop/web")),
        ("--to shop/web:80", Scope(service="shop/web", service_port="80")),
    ],
)  # fmt: skip
def test_what_is_meant(line: str, scope: Scope) -> None:
    assert typed(line) == scope


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "which packets? Give at least one of --from, --to and --service"),
        ("--in eth0", "which packets? Give at least one of --from, --to and --service"),
        ("--from host", "--from=host: give an IP address"),
        ("--to 10.96.0.10", "--to=10.96.0.10: give IP:PORT/PROTO"),
        ("--to shop/web:80 --width -1", "--width: give a number of columns"),
        ("--service web/", "--service=web/: give NAMESPACE/NAME"),
        ("--service a/b --to 10.0.0.1:1", "--service and --to both say what is dialled"),
        ("--from 10.0.0.1 --to [fd00::1]:80", "is of another IP family"),
        ("--from 10.0.0.1 --family 6", "is of another IP family"),
        ("--from 10.0.0.1 --in eth0;reboot-now", "--in=eth0;reboot-now: give the name of an interface"),
        ("--from 10.0.0.1 --in a/b", "--in=a/b: give the name of an interface"),
        ("--from 10.0.0.1 --in ''", "give the name of an interface"),
        ("--from 10.0.0.1 --limit 0", "--limit=0: give a number from 1 to 10000"),
        ("--from 10.0.0.1 --rate 1e9", "--rate=1e9: give a number from 1 to 1000"),
        ("--from 10.0.0.1 --for 2h", "--for=2h: give a time up to an hour"),
        ("--from 10.0.0.1 --for soon", "--for=soon: give a time up to an hour"),
        ("--from 10.0.0.1 --form 10.0.0.2", "--form: there is no such flag"),
    ],
)
def test_what_is_not_understood_is_a_sentence(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word if word != "''" else "" for word in line.split()]
    assert cli.main(["trace", *words]) == 2
    assert said in capsys.readouterr().err


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidConfig) as problems:
        typed("--from x --to y --service z/ --limit q --rate q --for q --in /")
    assert len(problems.value.problems) == 8


def test_without_a_service_the_flags_are_the_conditions() -> None:
    scope = typed("--from 10.0.0.1 --to 10.96.0.10:53/udp --in eth0")
    assert selectors_of(scope, []) == [Selector(V4, "10.0.0.1", "10.96.0.10", 53, Protocol.UDP, "eth0")]


def test_a_service_is_all_its_addresses_and_ports() -> None:
    scope = typed("--service shop/web --in eth0")
    assert selectors_of(scope, [WEB, DNS, replace(WEB, service="shop/other")]) == [
        Selector(V4, destination="10.96.0.20", port=80, protocol=Protocol.TCP, interface="eth0"),
        Selector(V4, port=30080, protocol=Protocol.TCP, interface="eth0", local=True),
        Selector(V6, destination="fd00::1", port=53, protocol=Protocol.UDP, interface="eth0"),
    ]
    assert [each.port for each in selectors_of(typed("--service shop/web --from fd00::9"), [WEB, DNS])] == [53]


@pytest.mark.parametrize(("port", "found"), [("http", [80, 30080]), ("80", [80]), ("dns", [53])])
def test_one_port_of_a_service_by_its_name_or_number(port: str, found: list[int]) -> None:
    assert [each.port for each in selectors_of(typed(f"--service shop/web:{port}"), [WEB, DNS])] == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shop/web:81", "the Service has no such port; its ports are 53/udp (dns), 80/tcp (http), 30080/tcp (http)"),
        ("shop/web:53/tcp", "the Service has no such port"),
        ("shop/wbe", "no rule of this node is for such a Service; the nearest that are there: shop/web, store/web"),
        ("wbe", "no rule of this node is for such a Service; the nearest that are there: shop/web, store/web"),
        ("shop/zzz", "no rule of this node is for such a Service; there are shop/web, store/web"),
        ("web", "which one? there are shop/web, store/web"),
        ("store/web --family 6", "it has no address of the IP family that is asked for"),
    ],
)
def test_a_name_that_fits_nothing_is_told_before_anything_is_marked(line: str, said: str) -> None:
    with pytest.raises(InvalidConfig) as problem:
        selectors_of(typed(f"--service {line}"), [WEB, DNS, replace(WEB, service="store/web")])
    assert said in str(problem.value)


def test_a_service_may_be_told_without_its_namespace() -> None:
    assert [each.port for each in selectors_of(typed("--to web:dns"), [WEB, DNS])] == [53]
    with pytest.raises(InvalidConfig, match="no rule of this node is for such a Service; there are none"):
        selectors_of(typed("--to web:dns"), [])


def test_a_service_with_too_many_addresses_is_refused() -> None:
    many = tuple(Frontend(FrontendKind.EXTERNAL_IP, f"192.0.2.{n}", port) for n in range(200) for port in (80, 81))
    with pytest.raises(InvalidConfig, match="it has 400 addresses and ports, too many for a trace"):
        selectors_of(typed("--service shop/web"), [replace(WEB, frontends=many)])


def test_an_interface_that_is_not_there_is_told() -> None:
    scope = typed("--from 10.0.0.1 --in eht0")
    with pytest.raises(
        InvalidConfig, match="--in=eht0: no such interface is on this node; the nearest that are there: eth0"
    ):
        check_interface(scope, {"lo", "eth0"})
    check_interface(scope, {"lo", "eht0"})


def test_what_cannot_be_done_is_another_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trace", "--from", "10.0.0.1"]) == 1
    assert capsys.readouterr().err == "kproxy: no such thing here\n"


def test_the_shape_of_a_line_of_json_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trace", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"service", "endpoint", "fate", "rules"} <= schema["$defs"]["TracedPacket"]["properties"].keys()
