"""A traced packet for people: who came to whom, what became of it, then the rules it met.

A block of lines for each packet. The answer stands in its first two lines, so that whoever watches traffic pass by
reads those; the rules behind them are for whoever asks why. Jumps into chains where no rule matched are left out, and
comments stand behind their rules; JSON has everything as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kproxy.explain.show.paper import Block, Piece, Span, line, rule
from kproxy.explain.watch.traced import Outcome, TracedPacket, TracedRule
from kproxy.model.enums import Protocol

_COMMENT = re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?')
_HANG = 8  # columns, for what follows of a rule that is too long for the terminal
_STYLES = {
    Outcome.DELIVERED: "bold green",
    Outcome.REFUSED: "bold red",
    Outcome.DROPPED: "bold red",
    Outcome.UNTOUCHED: "bold",
    Outcome.UNSEEN: "bold yellow",
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
    style = _STYLES[packet.fate]
    match packet.fate:
        case Outcome.DELIVERED:
            yield Span(_endpoint(packet), style)
            if packet.known_flow:
                yield ", as its flow began: no rule of nat was asked"
            elif packet.relayed:
                yield ", which chooses an endpoint"
            else:
                yield f", {_source(packet)}"
        case Outcome.UNTOUCHED:
            yield Span("left alone", style)
            yield ": no rule gave it another destination"
            if packet.masquerade.wanted:
                yield f", {_source(packet)}"
            yield from _hint(packet)
        case Outcome.DROPPED | Outcome.REFUSED:
            if packet.endpoint:
                yield f"{_endpoint(packet)}, then "
            yield Span(packet.fate.value, style)
            yield f": {packet.why}"
        case Outcome.UNSEEN:
            yield f"{_endpoint(packet)}; " if packet.endpoint else ""
            yield Span(f"what became of it {'afterwards ' if packet.endpoint else ''}was not seen", style)
            yield f": {packet.why}"


def _endpoint(packet: TracedPacket) -> str:
    if packet.relayed:
        return f"kproxy's relay at {packet.endpoint}"
    return f"endpoint {packet.endpoint}" if packet.service else packet.endpoint


def _hint(packet: TracedPacket) -> Iterator[Piece]:
    """The question that explain answers, which knows the rules that did not match as well."""
    if packet.protocol not in set(Protocol):
        return
    interface = f" --in {packet.interface}" if packet.interface else ""
    where = f"--to {packet.destination}/{packet.protocol.lower()}{interface}"
    yield f"; which one came nearest: kproxy explain live --from {packet.source} {where}"


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
        yield rule(Span(head, "dim"), text, comment, indent=4, hang=_HANG)


def _telling(rules: Sequence[TracedRule]) -> Iterator[TracedRule]:
    """Without jumps into chains where nothing was met."""
    for nth, each in enumerate(rules, 1):
        if not each.leads_to or any(following.line.chain == each.leads_to for following in rules[nth : nth + 1]):
            yield each
