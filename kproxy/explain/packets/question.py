"""What was asked about one packet: the words of a command line to a Question, and a Question to a Packet.

A destination may be an address or the name of a Service, which only a survey can turn into its cluster IP; so a
question keeps the name as it was typed until ``resolve``. A process on the node may have an address (``--from
192.168.0.2 --local 192.168.0.2``), or leave the choice to the node (``--from host``). Of a packet from elsewhere the
interface need not be told; rejected: to take eth0 for it, because rules that tell pods by their interface would then
have an answer that nobody gave.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from msgspec.structs import replace

from kproxy.errors import InvalidConfig
from kproxy.explain.answer import FrontendKind, Question, ServicePort
from kproxy.explain.read.address import canonical
from kproxy.explain.services.neighbours import instead
from kproxy.explain.services.survey import Survey, is_live, whereabouts
from kproxy.model.enums import IPFamily, Protocol, family_of
from kproxy.model.packet import Packet

HOST = "host"
_MOST_NAMES = 5  # in one sentence
_MOST_SOURCES = 16  # addresses of the node from which a process may send
_PORT = r"(?P<port>[0-9]{1,5})"
_ADDRESS = r"(?:\[(?P<v6>[^\]\s]+)\]|(?P<v4>[^:/\s]+))"
_SOURCE = re.compile(rf"{_ADDRESS}:{_PORT}")
_NAME = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
_NUMBERS = re.compile(r"[0-9.]+")  # an address that was meant
_PROTOCOLS = tuple(each.lower for each in Protocol)
_AT = r"(?::(?P<port>[-a-z0-9]+))?(?:/(?P<protocol>(?i:tcp|udp|sctp)))?"
# A namespace may be left out where a port says that a Service is meant
_SERVICE = re.compile(rf"(?P<service>{_NAME}/{_NAME}|{_NAME}(?=:)){_AT}")


def read_question(
    source: str, destination: str, interface: str = "", mark: str | int = 0, local: Iterable[str] = ()
) -> Question:
    """``source``: ``IP``, ``IP:PORT``, ``[IPv6]:PORT`` or ``host``; ``destination``: ``IP:PORT/PROTO`` or
    ``NAMESPACE/NAME:PORT``, or ``NAME:PORT``; ``mark``: a number, decimal or 0x…; ``local``: addresses of the node.
    Raises InvalidConfig with everything that is wrong.
    """
    problems: list[str] = []
    own = set(_addresses(local, problems))
    sender, source_port = _read_source(source, problems)
    asked = _read_destination(destination, problems)
    number = _read_mark(mark, problems)
    if problems:
        raise InvalidConfig(*problems)
    if sender and asked.destination and family_of(sender) is not family_of(asked.destination):
        raise InvalidConfig(f"--from={source}: is of another IP family than {asked.destination}")
    here = not interface and (not sender or sender in own or ip_address(sender).is_loopback)
    return replace(asked, source=sender, source_port=source_port, interface=interface, mark=number, here=here)


def _addresses(texts: Iterable[str], problems: list[str]) -> Iterator[str]:
    for text in texts:
        if (address := canonical(text)) is None:
            problems.append(f"--local={text}: give an IP address")
        else:
            yield address


def _read_source(text: str, problems: list[str]) -> tuple[str, int]:
    """(address, port); no address for a process on the node, 0 for any port."""
    if text == HOST:
        return "", 0
    if (address := canonical(text)) is not None:
        return address, 0
    found = _SOURCE.fullmatch(text)
    address = canonical(found["v6"] or found["v4"]) if found else None
    if (
        found is None
        or address is None
        or not 1 <= int(found["port"]) <= 65535
        or (":" in address) != bool(found["v6"])
    ):
        problems.append(f"--from={text}: give an IP address, IP:PORT, or host for a process on the node")
        return "", 0
    return address, int(found["port"])


def _read_destination(text: str, problems: list[str]) -> Question:
    nowhere = Question("", 0, "", 0, Protocol.TCP, "")
    host, port, protocol = _parts(text)
    address = canonical(host)
    if address is None and _SERVICE.fullmatch(text) and not _NUMBERS.fullmatch(host):
        return replace(nowhere, service=text)
    if address is None or (":" in address) != text.startswith("["):
        wrong = _unreadable(text, host)
    else:
        wrong = _wrong(port, protocol)
    if wrong or address is None:
        problems.append(f"--to={text}: {wrong}")
        return nowhere
    return replace(nowhere, destination=address, port=int(port), protocol=Protocol((protocol or "tcp").upper()))


def _parts(text: str) -> tuple[str, str, str]:
    """(address or name, port, protocol) of a destination, as far as it has them; nothing is looked into."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port, _, protocol = rest.partition("/")
        return host, port[1:] if port.startswith(":") else "", protocol
    if text.count(":") > 1:  # an address of IPv6 without brackets: nobody knows where its port begins
        return text.partition("/")[0], "", ""
    host, colon, rest = text.partition(":")
    if not colon and canonical(host.partition("/")[0]) is not None:
        host, _, protocol = host.partition("/")
        return host, "", protocol
    port, _, protocol = rest.partition("/")
    return host, port, protocol


def _wrong(port: str, protocol: str) -> str:
    """What is wrong behind an address; empty: nothing."""
    if not port:
        return "give IP:PORT/PROTO, such as 10.96.0.1:443/tcp or [fd00::1]:53/udp"
    if not (port.isascii() and port.isdigit()):
        return f"{port} is no number of a port; its name goes with a Service's: NAMESPACE/NAME:{port}"
    if len(port) > 5 or not 1 <= int(port) <= 65535:
        return f"{port} is no port: 1 to 65535"
    if protocol and protocol.lower() not in _PROTOCOLS:
        return f"{protocol} is no protocol here: {', '.join(_PROTOCOLS[:-1])} or {_PROTOCOLS[-1]}"
    return ""


def _unreadable(text: str, host: str) -> str:
    if _NUMBERS.fullmatch(host) and canonical(host) is None:
        return f"{host} is no IP address"
    if not text.startswith("[") and canonical(host) is not None:  # of IPv6, without brackets
        start, _, end = host.rpartition(":")
        port = f"[{start}]:{end}" if canonical(start) is not None and not _wrong(end, "") else f"[{host}]:PORT"
        return f"write {port}; an IPv6 address stands in brackets, or nobody knows where its port begins"
    if text.startswith("[") and canonical(host) is not None:
        return f"write {host}:PORT; brackets are for IPv6 addresses"
    return "give IP:PORT/PROTO, such as 10.96.0.1:443/tcp or [fd00::1]:53/udp, or NAMESPACE/NAME:PORT"


def _read_mark(mark: str | int, problems: list[str]) -> int:
    try:
        number = mark if isinstance(mark, int) else int(mark or "0", 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 32:
        problems.append(f"--mark={mark}: give a number from 0 to 0xffffffff, such as 0x4000")
    return number


# --- Services by name -----------------------------------------------------------------------------------------


def resolve(surveys: Sequence[Survey], question: Question) -> Question:
    """A Service's name → its cluster IP, of the sender's family. Raises InvalidConfig."""
    found = _SERVICE.fullmatch(question.service)
    if not question.service or found is None:
        return question
    name, port, protocol = found["service"], found["port"] or "", (found["protocol"] or "").upper()
    family = family_of(question.source) if question.source else None
    every = [each for survey in surveys for each in survey.services if each.service]
    named = [each for each in every if name in {each.service, each.service.partition("/")[2]}]
    called = sorted({each.service for each in named})
    if not called:
        raise InvalidConfig(f"--to={question.service}: {_nobody(name, surveys)}")
    if len(called) > 1:
        raise InvalidConfig(f"--to={question.service}: which one? there are {', '.join(called[:_MOST_NAMES])}")
    (name,) = called
    fitting = [each for each in named if family in {None, each.family}]
    ports = {
        (frontend.address, frontend.port, each.protocol)
        for each in fitting
        for frontend in each.frontends
        if frontend.kind is FrontendKind.CLUSTER_IP
        and (not port or port in {each.port, str(frontend.port)})
        and protocol in {"", each.protocol}
    }
    if family is None and any(family_of(address) is IPFamily.IPV4 for address, _, _ in ports):
        ports = {choice for choice in ports if family_of(choice[0]) is IPFamily.IPV4}
    if len(ports) != 1:
        raise InvalidConfig(f"--to={question.service}: {_choices(name, fitting, whereabouts(*surveys))}")
    ((address, number, of_protocol),) = ports
    return replace(question, destination=address, port=number, protocol=of_protocol)


def _nobody(name: str, surveys: Sequence[Survey]) -> str:
    """That no Service is called so, and what may have been meant."""
    known = {each.service for survey in surveys for each in survey.services}
    return f"no Service {name} is {whereabouts(*surveys)}; {instead('Service', name, known, live=is_live(surveys))}"


def _choices(name: str, services: Sequence[ServicePort], there: str) -> str:
    if not services:
        return f"{name} has no address of the sender's IP family here"
    known = {
        f"{frontend.port}/{each.protocol.lower}" + (f" ({each.port})" if each.port else "")
        for each in services
        for frontend in each.frontends
        if frontend.kind is FrontendKind.CLUSTER_IP
    }
    if not known:
        return f"no cluster IP of {name} is {there}; give an address"
    return f"give one of its ports, such as {name}:PORT/PROTO; they are {', '.join(sorted(known))}"


# --- to a packet ----------------------------------------------------------------------------------------------


def packets_of(question: Question, addresses: frozenset[str]) -> tuple[Packet, ...]:
    """One; of a process on the node that is not bound to an address one for each that it may have.

    ``addresses``: those of the node. Which one the kernel takes, routes say, and they are not known here.
    """
    return tuple(
        Packet(
            source=source,
            destination=question.destination,
            port=question.port,
            protocol=question.protocol,
            in_interface=question.interface,
            from_host=question.here,
            mark=question.mark,
            source_port=question.source_port,
        )
        for source in _sources(question, addresses)
    )


def _sources(question: Question, addresses: frozenset[str]) -> Sequence[str]:
    to = ip_address(question.destination)
    if question.source:
        return [question.source]
    if question.destination in addresses or to.is_loopback:
        return [question.destination]  # what a process sends to its own node is sent from there, too
    parsed = [each for each in map(ip_address, addresses) if each.version == to.version]
    fitting = [each for each in parsed if to.is_link_local or not each.is_link_local]
    own = [str(each) for each in sorted(fitting, key=int)]
    return own[:_MOST_SOURCES] or ["::1" if to.version == 6 else "127.0.0.1"]
