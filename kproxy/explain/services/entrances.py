"""Where packets for Services come in: the lists that all Services share, flat or as trees, down to their single rules.

An entrance is a rule that asks for one port and leads to a service port's chain, or decides by itself. What leads to it
is a branch: a network, a range of ports, or the rule behind the addresses that leads to the node ports. Every branch is
read once, so chains that lead to each other in circles end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kproxy.backend.iptables.parse import SavedChain, SavedRule
from kproxy.backend.iptables.rules import (
    AddressType,
    Comment,
    Destination,
    Jump,
    Match,
    OfProtocol,
    Ports,
    RejectWith,
    Target,
    Verdict,
)
from kproxy.explain.services.pools import MARKS
from kproxy.model.enums import Protocol

_NAMED = re.compile(r"([^\s/:]+/[^\s/:]+)(?::(\S*))?(?: (.*))?", re.DOTALL)
_VERDICTS = frozenset({Verdict.DROP, Verdict.ACCEPT})
_MOST_ADDRESSES = 32  # of a node, where node ports are told one by one; beyond, it is said that any may be one
_SINGLE = ("/32", "/128")


class Name(NamedTuple):
    """What a rule's comment says of a service port."""

    service: str  # namespace/name
    port: str
    rest: str  # "cluster IP", "has no endpoints", ...


NAMELESS = Name("", "", "")


class Entrance(NamedTuple):
    address: str  # empty: any address of the node
    port: int
    protocol: Protocol
    name: Name
    on_node: bool  # it asks for no address, or for any of the node's: a node port
    plain: bool  # it asks for nothing else; another rule for the same port may (a source, a bridge, loopback)
    saved: SavedRule


class _Asked(NamedTuple):
    address: str
    port: int
    protocol: Protocol | None
    comment: str
    plain: bool


def entrances(chains: Mapping[str, SavedChain], root: str) -> Iterator[Entrance]:
    """Of a list and all its branches."""
    waiting: dict[str, list[str]] = {root: []}  # chain → addresses through which one comes there
    seen: set[str] = set()
    while waiting:
        name, addresses = waiting.popitem()
        seen.add(name)
        chain = chains.get(name)
        for saved in chain.rules if chain is not None else ():
            asked = _asked(saved.rule.matches)
            target = saved.rule.target
            if asked.port and asked.protocol is not None:
                if _is_final(target):
                    yield from _entrances(asked, asked.protocol, addresses, saved)
            elif isinstance(target, Jump) and target.chain not in seen and target.chain not in MARKS:
                behind = waiting.setdefault(target.chain, [])
                if len(behind) <= _MOST_ADDRESSES:
                    behind += [asked.address] if asked.address else addresses


def _entrances(asked: _Asked, protocol: Protocol, addresses: list[str], saved: SavedRule) -> Iterator[Entrance]:
    name, on_node = read_name(asked.comment), not asked.address
    if not on_node:
        addresses = [asked.address]
    elif not 0 < len(addresses) <= _MOST_ADDRESSES:
        addresses = [""]
    for address in addresses:
        yield Entrance(address, asked.port, protocol, name, on_node, asked.plain, saved)


def _is_final(target: Target | None) -> bool:
    """Whether a rule decides about packets for its port, or leads them to a chain that does."""
    if isinstance(target, Jump):
        return target.chain not in MARKS
    return isinstance(target, RejectWith) or target in _VERDICTS


def _asked(matches: tuple[Match, ...]) -> _Asked:
    address, comment, port = "", "", 0
    plain = True
    protocol: Protocol | None = None
    for match in matches:
        match match:
            case Destination(cidr, negated):
                if not negated and cidr.endswith(_SINGLE):
                    address = cidr[: cidr.index("/")]
                elif not negated:
                    plain = False  # loopback, where a rule counts it apart
            case Comment(text):
                comment = text
            case OfProtocol(given):
                protocol = given
            case Ports(_, low, high) if low == high and not match.negated:
                port = low
            case AddressType("", "LOCAL") | Ports():
                pass
            case _:
                plain = False
    return _Asked(address, port, protocol, comment, plain)


def read_name(comment: str) -> Name:
    """``default/web:http cluster IP``; nothing where a comment names no service port."""
    found = _NAMED.fullmatch(comment)
    return Name(found[1], found[2] or "", found[3] or "") if found else NAMELESS
