"""``kproxy explain``: what the rules of a dump do with one packet, said in words.

Works on any dump of iptables-save, ours or kube-proxy's, from a node that may be far away. The verdict comes first,
then every endpoint with its odds, then the rules that the packet met, as they stand in the dump.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from kproxy.backend.iptables.parse import SavedTables, parse_save
from kproxy.backend.iptables.rules import Rule
from kproxy.backend.iptables.text import render_rule
from kproxy.backend.iptables.trace import (
    DanglingJump,
    Delivered,
    Dropped,
    Fate,
    Host,
    Met,
    Outcome,
    Refused,
    Untouched,
    fates,
    trace,
)
from kproxy.errors import InvalidConfig
from kproxy.model.enums import Protocol
from kproxy.model.packet import Packet

_HERE = "host"
_DESTINATION = re.compile(
    r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:/]+)):(?P<port>[0-9]{1,5})(?:/(?P<protocol>[a-z]+))?", re.IGNORECASE
)
_SHOWN = 3  # ways of which every rule is shown


def explain(dump: str, source: str, destination: str, interface: str, local: Sequence[str]) -> Iterator[str]:
    """Lines. ``dump``: a file's path, or - for standard input. Raises InvalidConfig, UnreadableDump."""
    packet = read_packet(source, destination, interface, local)
    tables = parse_save(read_dump(dump).split("\n"))
    yield from describe(tables, packet, Host(addresses=frozenset(map(canonical, local))))


def describe(tables: SavedTables, packet: Packet, host: Host) -> Iterator[str]:
    rules = {
        (table, name): [saved.rule for saved in chain.rules]
        for table, chains in tables.items()
        for name, chain in chains.items()
    }
    sender = "a process on the node" if packet.from_host else f"{packet.source} by {packet.in_interface}"
    protocol = packet.protocol.lower
    yield f"A new {protocol} flow from {sender} to {_address(packet.destination, packet.port)}:"
    try:
        outcomes = trace(rules, packet, host)
    except DanglingJump as broken:
        yield f"  the dump is broken: {broken}; give the whole output of iptables-save, of all tables"
        return
    for fate, probability in sorted(fates(outcomes).items(), key=lambda pair: -pair[1]):
        yield f"  {_odds(probability):>7}  {_sentence(fate)}"
    for outcome in outcomes[:_SHOWN]:
        yield ""
        yield from _path(outcome, rules)
    if len(outcomes) > _SHOWN:
        yield f"\nand {len(outcomes) - _SHOWN} more ways that differ in the endpoint that chance picks"


def read_packet(source: str, destination: str, interface: str, local: Sequence[str] = ()) -> Packet:
    """Raises InvalidConfig with everything that is wrong."""
    problems = []
    found = _DESTINATION.fullmatch(destination)
    port = int(found["port"]) if found else 0
    name = ((found["protocol"] if found else "") or "tcp").upper()
    wanted = (found["v6"] or found["v4"]) if found else ""
    if not _is_address(wanted) or not 1 <= port <= 65535 or name not in set(Protocol):
        problems.append(f"--to={destination}: give IP:PORT/PROTO, such as 10.96.0.1:443/tcp or [fd00::1]:53/udp")
    here = source == _HERE
    if not here and not _is_address(source):
        problems.append(f"--from={source}: give an IP address, or host for a process on the node")
    problems += [f"--local={each}: give an IP address" for each in local if not _is_address(each)]
    if not problems and not here and (":" in source) != (":" in wanted):
        problems.append(f"--from={source}: is of another IP family than {wanted}")
    if problems:
        raise InvalidConfig(*problems)
    own = [canonical(each) for each in local if (":" in each) == (":" in wanted)]
    loopback = "::1" if ":" in wanted else "127.0.0.1"
    return Packet(
        source=(own[0] if own else loopback) if here else canonical(source),
        destination=canonical(wanted),
        port=port,
        protocol=Protocol(name),
        in_interface=interface,
        from_host=here,
    )


def read_dump(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}; give a file that iptables-save wrote") from error


def canonical(text: str) -> str:
    return str(ip_address(text))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _sentence(fate: Fate) -> str:
    match fate:
        case Delivered(ip, port, masquerade):
            hidden = "its source replaced by the node's (SNAT)" if masquerade else "its source kept"
            return f"goes to endpoint {_address(ip, port)}, {hidden}"
        case Refused():
            return "is refused: the client is told so at once"
        case Dropped():
            return "is dropped: the client waits in vain"
        case Untouched(masquerade):
            hidden = ", its source replaced by the node's (SNAT)" if masquerade else ""
            return f"is left alone: no Service answers there, it goes where it was sent{hidden}"


def _path(outcome: Outcome, rules: dict[tuple[str, str], list[Rule]]) -> Iterator[str]:
    yield f"{_odds(outcome.probability)}: {_sentence(outcome.fate)}"
    for condition in outcome.depends:
        yield f"  provided: {condition}"
    for met in outcome.path:
        yield f"  {met.table:6} {_render(met, rules)}"


def _render(met: Met, rules: dict[tuple[str, str], list[Rule]]) -> str:
    return render_rule(met.chain, rules[met.table, met.chain][met.position])


def _odds(probability: float) -> str:
    return f"{probability * 100:.4g}%"


def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
