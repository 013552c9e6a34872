"""What may be typed behind ``kproxy trace``, and what it means. No work is done here."""

from __future__ import annotations

import argparse
import re

from msgspec import Struct

from kproxy.errors import InvalidConfig
from kproxy.model.enums import IPFamily, Protocol, family_of
from kproxy.settings.kinds import read_duration

MISUNDERSTOOD = 2  # exit status
FORMS = (
    "[--from IP] --to IP:PORT[/PROTO] [FLAG ...]",
    "[--from IP] --service NAMESPACE/NAME[:PORT] [FLAG ...]",
    "--from IP [FLAG ...]",
)
DESCRIPTION = """\
Watch packets of this node pass through its rules, and say for each which Service took it, which endpoint got it and by
which rules. Needs root. At least one of --from, --to and --service says which packets are meant.

One rule is added, in a table of its own (nft table inet kproxy-trace), which changes nothing about a packet but to let
the kernel tell of it. The table belongs to this process: it is gone when this one is, after Ctrl-C, a crash or SIGKILL.
Only the first packets of flows are watched, for only they are asked by the rules of Services; --all shows every packet.
The kernel marks at most --rate packets a second, and this ends after --limit packets or --for, whichever is first.
"""
EXAMPLES = (
    ("kproxy trace --service kube-system/kube-dns", "who asks the DNS, and who answers"),
    ("kproxy trace --from 10.244.1.7 --to 10.96.0.1:443 --for 5m", "why can this pod not reach the API server?"),
    (
        "kproxy trace --to 192.168.1.10:30080/tcp --in eth0 --json",
        "a node port, for programs: an object on each line",
    ),
)
STATUSES = {
    0: "packets came, and are printed",
    1: "it could not be done, and why is on standard error",
    MISUNDERSTOOD: "the command line is not understood",
    3: "no such packet came",
}
_MOST_PACKETS, _MOST_A_SECOND, _LONGEST = 10_000, 1000, 3600
_INTERFACE = re.compile(r"[A-Za-z0-9_.@:+-]{1,15}")  # IFNAMSIZ
_NAME = r"[a-z0-9][-a-z0-9.]*"
_SERVICE = re.compile(
    rf"(?P<service>(?:{_NAME}/)?{_NAME})(?::(?P<port>[-a-z0-9]+)(?:/(?P<protocol>(?i:tcp|udp|sctp)))?)?"
)
FAMILIES = {"4": IPFamily.IPV4, "6": IPFamily.IPV6}


class Scope(Struct, frozen=True):
    """Which packets are meant, and for how long."""

    source: str = ""  # addresses are canonical
    destination: str = ""
    port: int = 0
    protocol: Protocol | None = None
    service: str = ""  # "namespace/name", or "name"
    service_port: str = ""
    interface: str = ""
    families: tuple[IPFamily, ...] = tuple(IPFamily)
    every: bool = False
    limit: int = 20  # packets
    rate: int = 10  # packets a second
    seconds: float = 60.0


def offer(parser: argparse.ArgumentParser) -> None:
    """Add the flags of trace."""
    which = parser.add_argument_group("which packets")
    which.add_argument("--from", dest="source", metavar="IP", help="who sends")
    which.add_argument(
        "--to", dest="destination", metavar="IP:PORT[/PROTO]", help="what is dialled (tcp), or NAMESPACE/NAME"
    )
    which.add_argument("--service", metavar="NS/NAME[:PORT]", help="every address and port of this Service")
    which.add_argument("--in", dest="interface", metavar="NAME", help="the interface where they come in")
    which.add_argument("--family", choices=("4", "6"), help="only this IP family")
    which.add_argument("--all", action="store_true", help="all packets, not only the first ones of flows")
    ends = parser.add_argument_group("how many")
    ends.add_argument("--limit", default="20", metavar="N", help="end after so many packets (20)")
    ends.add_argument("--rate", default="10", metavar="N[/s]", help="packets a second at most (10)")
    ends.add_argument("--for", dest="time", default="60s", metavar="TIME", help="end after this time (60s)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="for programs: an object on each line")
    output.add_argument("--width", type=int, metavar="N", help="columns (the terminal's; no limit in a pipe)")
    output.add_argument(
        "--colour", "--color", choices=("auto", "always", "never"), default="auto", help="auto minds NO_COLOR (auto)"
    )
    output.add_argument("--schema", action="store_true", help="print the JSON schema of such a line, and end")


def read_scope(typed: argparse.Namespace) -> Scope:
    """Raises InvalidConfig with everything that is wrong."""
    problems: list[str] = []
    source = _source(typed.source, problems)
    destination, port, protocol, named = _destination(typed.destination, problems)
    service = _service(typed.service, named, problems)
    if service and service["protocol"]:
        protocol = Protocol(service["protocol"].upper())
    if typed.service is not None and typed.destination is not None:
        problems.append("--service and --to both say what is dialled: give one of them")
    if (typed.source, typed.destination, typed.service) == (None, None, None):
        problems.append("which packets? Give at least one of --from, --to and --service")
    if typed.interface is not None and not _INTERFACE.fullmatch(typed.interface):
        problems.append(f"--in={typed.interface}: give the name of an interface, such as eth0")
    if typed.width is not None and typed.width < 0:
        problems.append("--width: give a number of columns; 0: no limit")
    families = tuple(IPFamily) if typed.family is None else (FAMILIES[typed.family],)
    for flag, address in (("from", source), ("to", destination)):
        if address:
            families = tuple(each for each in families if each is family_of(address))
            if not families:
                problems.append(f"--{flag}={address}: is of another IP family than was asked for otherwise")
    limit = _number("limit", typed.limit, _MOST_PACKETS, problems)
    rate = _number("rate", typed.rate.removesuffix("/s"), _MOST_A_SECOND, problems)
    seconds = _seconds(typed.time, problems)
    if problems:
        raise InvalidConfig(*problems)
    return Scope(
        source=source,
        destination=destination,
        port=port,
        protocol=protocol,
        service=service["service"] if service else "",
        service_port=(service["port"] or "") if service else "",
        interface=typed.interface or "",
        families=families,
        every=typed.all,
        limit=limit,
        rate=rate,
        seconds=seconds,
    )


def _source(text: str | None, problems: list[str]) -> str:
    from kproxy.explain.read.address import canonical

    if text is None:
        return ""
    if (address := canonical(text)) is None:
        problems.append(f"--from={text}: give an IP address")
    return address or ""


def _destination(text: str | None, problems: list[str]) -> tuple[str, int, Protocol | None, str]:
    """An address, or a Service as it was typed."""
    from kproxy.explain.packets.question import HOST, read_question

    if text is None:
        return "", 0, None, ""
    try:
        question = read_question(HOST, text)
    except InvalidConfig as invalid:
        problems += invalid.problems
        return "", 0, None, ""
    return question.destination, question.port, None if question.service else question.protocol, question.service


def _service(text: str | None, named: str, problems: list[str]) -> re.Match[str] | None:
    """``named``: by --to."""
    found = _SERVICE.fullmatch(text or named)
    if text is not None and found is None:
        problems.append(f"--service={text}: give NAMESPACE/NAME, such as kube-system/kube-dns")
    return found


def _number(flag: str, text: str, most: int, problems: list[str]) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= most:
        return int(text)
    problems.append(f"--{flag}={text}: give a number from 1 to {most}")
    return 1


def _seconds(text: str, problems: list[str]) -> float:
    try:
        seconds = read_duration(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        problems.append(f"--for={text}: give a time up to an hour, such as 30s or 5m")
    return seconds
