"""Flows that the kernel already knows: what ``conntrack -L`` prints, and ``/proc/net/nf_conntrack`` holds.

Where a packet belongs to one of them, the nat table is not asked again (Documentation: nf_nat is consulted for the
first packet of a flow). Entries of protocols without ports cannot be a Service's and are passed over; a line that is no
entry is counted, for the list is often taken with the words around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from msgspec import Struct

from kproxy.errors import InvalidConfig
from kproxy.explain.read.address import canonical
from kproxy.model.enums import Protocol

_REMEDY = "give the output of `conntrack -L`, or a copy of /proc/net/nf_conntrack"
_LONGEST = 4096  # bytes of a line; a real one has about 250
_PATIENCE = 100  # lines of which none is an entry, before the rest is not read
_SHOWN = 60  # characters of a line that is told


class Flow(Struct, frozen=True, gc=False):
    """One conntrack entry."""

    protocol: Protocol
    source: str  # original direction
    source_port: int
    destination: str  # what the client dialled
    port: int
    reply_source: str  # who answers
    reply_port: int
    reply_destination: str  # where answers go: the client, or the node after masquerading
    reply_destination_port: int
    state: str = ""  # of TCP and SCTP: ESTABLISHED, SYN_SENT, ...
    seconds: int = -1  # until it is forgotten; -1: not told
    replied: bool = True  # false: [UNREPLIED]
    assured: bool = False
    mark: int = 0
    zone: int = 0
    line: int = 0  # from 1


_STATE = r"(?P<state>[A-Z][A-Z0-9_]+)"
_TUPLE = r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)"
_ENTRY = re.compile(
    r"(?:ipv[46]\s+\d+\s+)?(?P<protocol>[a-z][a-z0-9-]*)\s+\d+\s+(?:(?P<seconds>\d+)\s+)?"
    rf"(?:{_STATE}\s+)?{_TUPLE}(?P<between>.*?)\s{_TUPLE}(?P<rest>.*)"
)
_WITHOUT_PORTS = re.compile(r"(?:ipv[46]\s+\d+\s+)?[a-z][a-z0-9-]*\s+\d+\s+.*\bsrc=\S+ dst=\S+")
_NUMBER = {name: re.compile(rf"\b{name}=(\d+)") for name in ("mark", "zone")}
_SUMMARY = re.compile(r"conntrack v\S+ .*")


def read_flows(path: str, warn: Callable[[str], None] = lambda _: None) -> tuple[Flow, ...]:
    """The flows of TCP, UDP and SCTP in a file; ``warn`` hears of lines that are no entries. Raises InvalidConfig."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- a pipe such as /dev/fd/63 is read, too
            return flows_of(_lines(file), path, warn)
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}; {_REMEDY}") from error


def _lines(file: BinaryIO) -> Iterator[str]:
    while piece := file.readline(_LONGEST):
        yield piece.decode("utf-8", errors="replace")


def flows_of(lines: Iterable[str], name: str, warn: Callable[[str], None] = lambda _: None) -> tuple[Flow, ...]:
    """``name``: of the input, for sentences. Raises InvalidConfig where nothing in it is an entry."""
    flows: list[Flow] = []
    unread: list[tuple[int, str]] = []
    passed_over = 0
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or _SUMMARY.fullmatch(line):
            continue
        if (flow := read_flow(line, number)) is not None:
            flows.append(flow)
        elif _WITHOUT_PORTS.match(line):
            passed_over += 1
        else:
            unread.append((number, line))
            if len(unread) >= _PATIENCE and not flows and not passed_over:
                break
    if unread:
        number, line = unread[0]
        shown = ascii(line)
        shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 4]}...'"
        if not flows and not passed_over:
            raise InvalidConfig(f"{name}: line {number}: {shown} is no conntrack entry; {_REMEDY}")
        lines_are = (
            "1 line is no conntrack entry" if len(unread) == 1 else f"{len(unread)} lines are no conntrack entry"
        )
        warn(f"{name}: {lines_are} and not considered, the first is line {number}: {shown}")
    return tuple(flows)


def read_flow(line: str, number: int = 0) -> Flow | None:
    """None where the line is no entry of a protocol that Services know."""
    found = _ENTRY.match(line)
    if found is None or found["protocol"].upper() not in Protocol.__members__:
        return None
    fields = found.groups()
    original, reply = fields[3:7], fields[8:12]
    addresses = [canonical(text) for text in (*original[:2], *reply[:2])]
    source, destination, reply_source, reply_destination = addresses
    if source is None or destination is None or reply_source is None or reply_destination is None:
        return None
    flags = f"{found['between']} {found['rest']}"
    return Flow(
        Protocol(found["protocol"].upper()),
        source,
        int(original[2]),
        destination,
        int(original[3]),
        reply_source,
        int(reply[2]),
        reply_destination,
        int(reply[3]),
        state=found["state"] or "",
        seconds=int(found["seconds"] or -1),
        replied="[UNREPLIED]" not in flags,
        assured="[ASSURED]" in flags,
        mark=_number("mark", flags),
        zone=_number("zone", flags),
        line=number,
    )


def _number(name: str, text: str) -> int:
    found = _NUMBER[name].search(text)
    return int(found[1]) if found else 0
