"""Answers for people: the answer first, the path second."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby

from kproxy.explain.answer import (
    Answer,
    ChainAnswer,
    Change,
    Changes,
    Endpoint,
    EndpointAnswer,
    Line,
    PacketAnswer,
    ServiceAnswer,
    ServicePort,
    Summary,
)
from kproxy.explain.show.listing import ROWS, endpoints, frontend, headline, rules, services, summary, warnings
from kproxy.explain.show.paper import BLANK, Block, Piece, Span, lay_out, line
from kproxy.explain.show.verdict import WAYS, packet
from kproxy.explain.show.wording import count, some

__all__ = ["ROWS", "WAYS", "render"]


def render(answer: Answer, *, width: int, colour: bool, rows: int = 0, ways: int = WAYS) -> str:
    """``width``: columns; ``rows``: of a table; ``ways``: told rule by rule. 0: no limit."""
    return lay_out(_blocks(answer, rows or sys.maxsize, ways or sys.maxsize), width=width, colour=colour)


def _blocks(answer: Answer, rows: int, ways: int) -> Iterator[Block]:
    match answer:
        case Summary():
            yield from summary(answer, rows)
        case PacketAnswer():
            yield from packet(answer, rows, ways)
        case ServiceAnswer():
            yield from _service(answer, rows)
        case ChainAnswer():
            yield from _chain(answer)
        case EndpointAnswer():
            yield from _endpoint(answer)
        case Changes():
            yield from _changes(answer)


# --- one thing ------------------------------------------------------------------------------------------------


def _service(answer: ServiceAnswer, rows: int) -> Iterator[Block]:
    for service in answer.services:
        yield from _service_port(service, rows)
        yield BLANK
    if answer.warnings:
        yield from warnings(answer.warnings)
        yield BLANK
    yield from _titled("Its rules", answer.lines)


def _service_port(service: ServicePort, rows: int) -> Iterator[Block]:
    known = {"objects": ", named by the objects", "chain": ", which nothing names"}.get(service.named_by, "")
    variant = f" ({service.variant})" if service.variant else ""
    yield line(Span(service.name, "bold"), f" {service.protocol.lower}, {service.family.value}{variant}{known}")
    for one in service.frontends:
        place = f", line {one.line}" if one.line else ""
        packets = f", {count(one.packets, 'packet')}" if one.packets >= 0 else ""
        yield line(frontend(one, service.protocol), Span(place + packets, "dim"), indent=2)
    policies = {"internal": service.internal_policy, "external": service.external_policy}
    if said := ", ".join(f"{kind} {policy}" for kind, policy in policies.items() if policy):
        yield line(f"traffic policy: {said}", indent=2)
    if service.source_ranges:
        yield line(f"the load balancer IP only from {', '.join(service.source_ranges)}", indent=2)
    if service.affinity_seconds:
        yield line(f"a client keeps its endpoint for {service.affinity_seconds} s (session affinity)", indent=2)
    if service.relayed:
        yield line("served by kproxy's relay (userspace mode)", indent=2)
    yield from _pool("endpoints", service.cluster, rows)
    yield from _pool("endpoints of this node (local)", service.local, rows)


def _pool(title: str, every: Sequence[Endpoint], rows: int) -> Iterator[Block]:
    if every:
        yield line(f"{title}:", indent=2)
        yield from endpoints(every, rows, indent=4)


def _chain(answer: ChainAnswer) -> Iterator[Block]:
    yield line(Span(answer.chain, "bold"), f" of table {answer.table}: {answer.meaning}")
    if len(answer.services) > 1:
        yield line(f"of {count(len(answer.services), 'service port')}: {some(answer.services)}", indent=2)
    yield BLANK
    yield from _titled("Rules that lead here", answer.referrers, "No rule leads here")
    yield BLANK
    yield from _titled("Its rules", answer.lines, "It has no rules")


def _endpoint(answer: EndpointAnswer) -> Iterator[Block]:
    yield line(Span(answer.endpoint, "bold"), f" serves {count(len(answer.services), 'service port')}")
    yield BLANK
    yield from services(answer.services)
    if answer.warnings:
        yield BLANK
        yield from warnings(answer.warnings)
    yield BLANK
    yield from _titled("Its rules", answer.lines)


def _titled(title: str, lines: Sequence[Line], none: str = "It has no rules") -> Iterator[Block]:
    yield line(Span(title, "bold") if lines else Span(none, "bold yellow"))
    yield from rules(lines)


# --- two dumps ------------------------------------------------------------------------------------------------


def _changes(answer: Changes) -> Iterator[Block]:
    for said, dumps in (("before", answer.before), ("after", answer.after)):
        for facts in dumps:
            yield line(Span(f"{said:7}", "dim"), *headline(facts))
    changed = len({each.service for each in answer.changes if each.service})
    unchanged = f"{answer.same:,} did not" if changed else f"{count(answer.same, 'service port')} did not change"
    yield BLANK
    yield line(Span(f"{count(changed, 'service port')} changed, {unchanged}" if changed else unchanged, "bold"))
    for service, group in groupby(answer.changes, key=lambda each: each.service):
        yield BLANK
        yield line(Span(service or "the node", "bold"))
        for change in group:
            yield line(*_change(change), indent=2)


def _change(change: Change) -> Iterator[Piece]:
    yield f"{change.what} "
    if not change.before:
        yield Span(f"+ {change.after}", "green")
    elif not change.after:
        yield Span(f"- {change.before}", "red")
    else:
        yield Span(change.before, "red")
        yield " → "
        yield Span(change.after, "green")
