"""What may be asked, and what is said to a question that cannot be read."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.errors import InvalidConfig
from kproxy.explain.answer import Frontend, FrontendKind, Question, ServicePort
from kproxy.explain.packets.question import packets_of, read_question, resolve
from kproxy.explain.services.survey import Survey
from kproxy.model.enums import IPFamily, Protocol
from tests.unit.explain.dumps import dump_of

EMPTY = "*nat\nCOMMIT\n"


@pytest.mark.parametrize(
    ("source", "to", "expected"),
    [
        ("10.0.0.9", "10.96.0.1:53/udp", Question("10.0.0.9", 0, "10.96.0.1", 53, Protocol.UDP, "")),
        ("10.0.0.9:4000", "10.96.0.1:53", Question("10.0.0.9", 4000, "10.96.0.1", 53, Protocol.TCP, "")),
        ("fd00::9", "[FD00:0::1]:53/SCTP", Question("fd00::9", 0, "fd00::1", 53, Protocol.SCTP, "")),
        ("[fd00::9]:1", "[fd00::1]:53", Question("fd00::9", 1, "fd00::1", 53, Protocol.TCP, "")),
        ("host", "10.96.0.1:53", Question("", 0, "10.96.0.1", 53, Protocol.TCP, "", here=True)),
        ("127.0.0.1", "10.96.0.1:53", Question("127.0.0.1", 0, "10.96.0.1", 53, Protocol.TCP, "", here=True)),
        ("10.0.0.9", "ns/web:http", Question("10.0.0.9", 0, "", 0, Protocol.TCP, "", service="ns/web:http")),
        ("10.0.0.9", "ns/web", Question("10.0.0.9", 0, "", 0, Protocol.TCP, "", service="ns/web")),
        ("10.0.0.9", "web:80/tcp", Question("10.0.0.9", 0, "", 0, Protocol.TCP, "", service="web:80/tcp")),
    ],
)
def test_addresses_ports_and_names_are_read(source: str, to: str, expected: Question) -> None:
    assert read_question(source, to) == expected


def test_what_is_sent_from_an_address_of_the_node_is_sent_by_a_process_on_it() -> None:
    assert read_question("192.168.0.2", "10.96.0.1:53", local=["192.168.0.2"]).here
    assert not read_question("192.168.0.2", "10.96.0.1:53", "eth1", local=["192.168.0.2"]).here
    assert not read_question("192.168.0.2", "10.96.0.1:53").here


@pytest.mark.parametrize(("mark", "number"), [("", 0), ("0x4000", 0x4000), ("17", 17), (0x10, 0x10)])
def test_a_mark_is_any_number(mark: str | int, number: int) -> None:
    assert read_question("host", "10.96.0.1:53", mark=mark).mark == number


@pytest.mark.parametrize(
    ("source", "to", "mark", "local", "problems"),
    [
        ("x", "y", "z", ["w"], ("--local=w", "--from=x", "--to=y", "--mark=z")),
        ("10.0.0.9", "10.96.0.1", "", [], ("--to=10.96.0.1",)),
        ("10.0.0.9", "10.96.0.1/16", "", [], ("--to=10.96.0.1/16",)),
        ("10.0.0.9", "10.96.0.1:0", "", [], ("--to=10.96.0.1:0: 0 is no port: 1 to 65535",)),
        ("10.0.0.9", "10.96.0.1:65536/tcp", "", [], ("65536 is no port: 1 to 65535",)),
        ("10.0.0.9", "10.96.0.1:1234567", "", [], ("1234567 is no port: 1 to 65535",)),
        ("10.0.0.9", "10.96.0.1:http", "", [], ("http is no number of a port; its name goes with a Service's",)),
        ("10.0.0.9", "10.96.0.1:53/icmp", "", [], ("icmp is no protocol here: tcp, udp or sctp",)),
        ("10.0.0.9", "10.96.0.300:53", "", [], ("10.96.0.300 is no IP address",)),
        ("10.0.0.9", "[10.96.0.1]:53", "", [], ("write 10.96.0.1:PORT; brackets are for IPv6",)),
        ("fd00::9", "[fd00::1]53", "", [], ("give IP:PORT/PROTO",)),
        ("fd00::9", "fd00::1:53", "", [], ("write [fd00::1]:53; an IPv6 address stands in brackets",)),
        ("fd00::9", "fd00::1:abcd/udp", "", [], ("write [fd00::1:abcd]:PORT; an IPv6 address",)),
        ("fd00::9", "web", "", [], ("or NAMESPACE/NAME:PORT",)),
        ("10.0.0.9:0", "10.96.0.1:53", "", [], ("--from=10.0.0.9:0",)),
        ("fe80::1%eth0", "[fd00::1]:53", "", [], ("--from=fe80::1%eth0",)),
        ("[10.0.0.9]:1", "10.96.0.1:53", "", [], ("--from=",)),
        ("host", "10.96.0.1:53", "0x100000000", [], ("--mark=",)),
        ("host", "10.96.0.1:53", "-1", [], ("--mark=",)),
        ("fd00::9", "10.96.0.1:53", "", [], ("is of another IP family than 10.96.0.1",)),
    ],
)
def test_everything_that_is_wrong_is_told_at_once(
    source: str, to: str, mark: str, local: list[str], problems: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_question(source, to, mark=mark, local=local)
    assert len(caught.value.problems) == len(problems)
    assert all(wanted in said for wanted, said in zip(problems, caught.value.problems, strict=True))


# --- Services by name -----------------------------------------------------------------------------------------


def port(
    name: str, ip: str, number: int, protocol: Protocol = Protocol.TCP, kind: FrontendKind = FrontendKind.CLUSTER_IP
) -> ServicePort:
    family = IPFamily.IPV6 if ":" in ip else IPFamily.IPV4
    return ServicePort("ns/dns", name, protocol, family, "", frontends=(Frontend(kind, ip, number),))


def both(*ports: ServicePort) -> list[Survey]:
    return [
        Survey(dump_of(EMPTY, family), tuple(each for each in ports if each.family is family), {})
        for family in (IPFamily.IPV4, IPFamily.IPV6)
    ]


DNS = both(
    port("dns", "10.96.0.10", 53, Protocol.UDP),
    port("dns-tcp", "10.96.0.10", 53),
    port("metrics", "10.96.0.10", 9153),
    port("metrics", "fd00::10", 9153),
)


@pytest.mark.parametrize(
    ("source", "to", "expected"),
    [
        ("host", "ns/dns:dns", ("10.96.0.10", 53, Protocol.UDP)),
        ("host", "ns/dns:53/tcp", ("10.96.0.10", 53, Protocol.TCP)),
        ("host", "ns/dns:metrics", ("10.96.0.10", 9153, Protocol.TCP)),
        ("10.0.0.9", "ns/dns:9153", ("10.96.0.10", 9153, Protocol.TCP)),
        ("fd00::9", "ns/dns", ("fd00::10", 9153, Protocol.TCP)),
        ("host", "dns:metrics/tcp", ("10.96.0.10", 9153, Protocol.TCP)),
    ],
)
def test_a_service_is_dialled_at_its_cluster_ip(source: str, to: str, expected: tuple[str, int, Protocol]) -> None:
    found = resolve(DNS, read_question(source, to))
    assert (found.destination, found.port, found.protocol) == expected
    assert resolve(DNS, read_question("host", "10.9.9.9:1")).destination == "10.9.9.9"


@pytest.mark.parametrize(
    ("source", "to", "said"),
    [
        ("host", "nowhere/none", "no Service nowhere/none is in this dump; there is 1, as `kproxy explain DUMP --all`"),
        ("host", "ns/dnss:53", "no Service ns/dnss is in this dump; the nearest that are there: ns/dns"),
        ("host", "dnss:53", "no Service dnss is in this dump; the nearest that are there: ns/dns"),
        ("host", "dns:54", "give one of its ports, such as ns/dns:PORT/PROTO"),
        ("host", "ns/dns", "such as ns/dns:PORT/PROTO; they are 53/tcp (dns-tcp), 53/udp (dns), 9153/tcp (metrics)"),
        ("host", "ns/dns:53", "give one of its ports"),
        ("host", "ns/dns:54", "give one of its ports"),
        ("fd00::9", "ns/dns:dns", "they are 9153/tcp (metrics)"),
    ],
)
def test_a_name_that_is_no_place_is_told_what_there_is(source: str, to: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=f"--to={to}: ") as caught:
        resolve(DNS, read_question(source, to))
    assert said in str(caught.value)


def test_of_a_live_host_is_said_what_is_on_this_node() -> None:
    here = [replace(survey, dump=replace(survey.dump, live=True)) for survey in DNS]
    with pytest.raises(
        InvalidConfig, match="no Service x/zzz is on this node; there is 1, as `kproxy explain live --all"
    ):
        resolve(here, read_question("host", "x/zzz:80"))
    with pytest.raises(InvalidConfig, match="no Service x/zzz is on this node; there is no Service at all"):
        resolve([], read_question("host", "x/zzz:80"))


def test_a_name_without_its_namespace_must_be_one_services() -> None:
    other = replace(port("dns", "10.96.0.11", 53), service="other/dns")
    with pytest.raises(InvalidConfig, match="--to=dns:53: which one\\? there are ns/dns, other/dns"):
        resolve([*DNS, *both(other)], read_question("host", "dns:53"))


def test_a_service_may_have_no_address_to_dial() -> None:
    outside = both(port("", "192.0.2.1", 80, kind=FrontendKind.EXTERNAL_IP))
    with pytest.raises(InvalidConfig, match="no cluster IP of ns/dns"):
        resolve(outside, read_question("host", "ns/dns"))
    with pytest.raises(InvalidConfig, match="no address of the sender's IP family"):
        resolve(outside, read_question("fd00::9", "ns/dns"))


# --- to a packet ----------------------------------------------------------------------------------------------


def senders(source: str, to: str, *own: str) -> list[str]:
    packets = packets_of(read_question(source, to), frozenset(own))
    assert all(packet.from_host for packet in packets)
    return [packet.source for packet in packets]


def test_a_process_on_the_node_may_send_from_any_of_its_addresses() -> None:
    own = ("192.168.0.20", "192.168.0.3", "10.244.1.1", "169.254.1.1", "fd00::2", "fe80::1")
    assert senders("host", "10.96.0.1:53", *own) == ["10.244.1.1", "192.168.0.3", "192.168.0.20"]
    assert senders("host", "169.254.1.9:53", *own)[1] == "169.254.1.1"
    assert senders("host", "[fd00:96::1]:53", *own) == ["fd00::2"]
    assert senders("host", "192.168.0.20:53", *own) == ["192.168.0.20"]
    assert senders("host", "127.0.0.1:53", *own) == ["127.0.0.1"]
    assert senders("host", "10.96.0.1:53") == ["127.0.0.1"]
    assert senders("host", "[fd00::1]:53") == ["::1"]
    assert len(senders("host", "10.96.0.1:53", *(f"10.0.0.{n}" for n in range(100)))) == 16


def test_a_packet_has_what_was_asked_for() -> None:
    (packet,) = packets_of(read_question("10.0.0.9:77", "10.96.0.1:53/udp", "cni0", "0x10"), frozenset())
    assert (packet.source, packet.source_port, packet.in_interface, packet.mark) == ("10.0.0.9", 77, "cni0", 0x10)
    assert not packet.from_host
