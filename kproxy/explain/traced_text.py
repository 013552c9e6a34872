"""A traced packet for people: who came to whom, what became of it, then the rules it met.

A block of lines for each packet. The answer stands in its first two lines, so that whoever watches traffic pass by
reads those; the rules behind them are for whoever asks why. Jumps into chains where no rule matched are left out, and
comments stand behind their rules; JSON has everything as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kproxy.explain.answer import Fate
from kproxy.explain.paper import Block, Piece, Span, line
from kproxy.explain.traced import TracedPacket, TracedRule

_COMMENT = re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?')
_HANG = 8  # columns, for what follows of a rule that is too long for the terminal
_STYLES = {
    Fate.DELIVERED: "bold green",
    Fate.REFUSED: "bold red",
    Fate.DROPPED: "bold red",
    Fate.UNTOUCHED: "bold",
}


def blocks(packet: TracedPacket, *, rules: bool = True) -> Iterator[Block]:
    """``rules``: whether to show them."""
    where = f"in {packet.interface}" if packet.interface else "from this node"
    yield line(Span(f"{packet.source} → {packet.destination}/{packet.protocol}", "bold"), Span(f"  {where}", "dim"))
    yield line(*_outcome(packet), indent=2)
    if rules:
        yield from _rules(packet)


def _outcome(packet: TracedPacket) -> Iterator[Piece]:
    if packet.service:
        yield f"{packet.service} → "
    match packet.fate:
        case Fate.DELIVERED:
            yield Span(f"endpoint {packet.endpoint}" if packet.service else packet.endpoint, _STYLES[packet.fate])
            yield f", {_source(packet)}" if not packet.known_flow else ", as its flow began: no rule of nat was asked"
        case Fate.UNTOUCHED:
            yield Span("left alone", _STYLES[packet.fate])
            yield ": no rule gave it another destination"
            if packet.masquerade.wanted:
                yield f", {_source(packet)}"
        case Fate.DROPPED | Fate.REFUSED:
            if packet.endpoint:
                yield f"endpoint {packet.endpoint}, then "
            yield Span(packet.fate.value, _STYLES[packet.fate])
            yield f": {packet.why}"


def _source(packet: TracedPacket) -> str:
    said = "source replaced by the node's (SNAT)" if packet.masquerade.wanted else "source kept"
    return f"{said}: {packet.masquerade.why}" if packet.masquerade.wanted and packet.masquerade.why else said


def _rules(packet: TracedPacket) -> Iterator[Block]:
    rules = list(_telling(packet.rules))
    digits = max((len(str(each.line.number)) for each in rules), default=0)
    places = max((len(f"{each.line.table} {each.line.chain}") for each in rules), default=0)
    for each in rules:
        number = str(each.line.number) if each.line.number else "-"
        head = f"{number:>{digits}}  {f'{each.line.table} {each.line.chain}':{places}}  "
        text = _COMMENT.sub("", each.line.text).removeprefix(f"-A {each.line.chain} ")
        comment = Span(f"  # {each.comment}", "dim") if each.comment else ""
        yield line(Span(head, "dim"), text, comment, indent=4, hang=_HANG)


def _telling(rules: Sequence[TracedRule]) -> Iterator[TracedRule]:
    """Without jumps into chains where nothing was met."""
    for nth, rule in enumerate(rules, 1):
        if not rule.leads_to or any(following.line.chain == rule.leads_to for following in rules[nth : nth + 1]):
            yield rule
