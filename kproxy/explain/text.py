"""Answers for people: the answer first, the path second.

A summary of 5,000 service ports is useful only if it is not a list of 5,000 lines, so on a terminal the table stops
after ``_ROWS`` of them, those that something is wrong with first, and says how to go on. In a pipe (``whole``) all of
them come, sorted by name, one line each, because what reads there is grep. Warnings of one kind are told once with a
count, the worst kind first: the 214th Service without endpoints is news to nobody, and would hide the one DROP policy.
Of the ways of a packet ``_WAYS`` are shown rule by rule, for they differ in the endpoint that chance picks and in
little else; the odds of all stand above them.

What is printed as an address is spelt as ``--to`` takes it, so that a line of one answer is the question for the next.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from kproxy.explain.answer import (
    Answer,
    ChainAnswer,
    Change,
    Changes,
    DumpFacts,
    Endpoint,
    EndpointAnswer,
    Fate,
    Frontend,
    FrontendKind,
    Line,
    PacketAnswer,
    Question,
    ServiceAnswer,
    ServicePort,
    Severity,
    Summary,
    Warning,  # noqa: A004 -- the noun that people know
    Way,
)
from kproxy.explain.paper import BLANK, Block, Grid, Piece, Span, lay_out, line
from kproxy.model.enums import Protocol

ROWS = 40  # service ports on a terminal
WAYS = 3
_NAMED = 3  # names behind a folded warning
_FINE = 0.005  # odds that differ by less are called even
_SHORT = {
    FrontendKind.CLUSTER_IP: "cluster",
    FrontendKind.EXTERNAL_IP: "external",
    FrontendKind.LOAD_BALANCER_IP: "lb",
    FrontendKind.NODE_PORT: "node port",
    FrontendKind.HEALTH_CHECK: "health check",
}
_STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "cyan",
    Fate.DELIVERED: "bold green",
    Fate.REFUSED: "bold red",
    Fate.DROPPED: "bold red",
    Fate.UNTOUCHED: "bold yellow",
}
_NUMBERS = frozenset({"ODDS", "OBSERVED", "LINE", "PACKETS", "ENDPOINTS"})


def render(answer: Answer, *, width: int, colour: bool, rows: int = 0, ways: int = WAYS) -> str:
    """``width``: columns; ``rows``: of service ports in a summary; ``ways``: told rule by rule. 0: no limit."""
    return lay_out(_blocks(answer, rows or sys.maxsize, ways or sys.maxsize), width=width, colour=colour)


def _blocks(answer: Answer, rows: int, ways: int) -> Iterator[Block]:
    match answer:
        case Summary():
            yield from _summary(answer, rows)
        case PacketAnswer():
            yield from _packet(answer, ways)
        case ServiceAnswer():
            yield from _service(answer)
        case ChainAnswer():
            yield from _chain(answer)
        case EndpointAnswer():
            yield from _endpoint(answer)
        case Changes():
            yield from _changes(answer)


# --- the summary ----------------------------------------------------------------------------------------------


def _summary(answer: Summary, rows: int) -> Iterator[Block]:
    for facts in answer.dumps:
        yield line(*_headline(facts, len(_of(facts, answer.services))))
    if answer.warnings:
        yield BLANK
        yield from _warnings(answer.warnings, rows)
    if answer.services:
        yield BLANK
        yield from _services(answer.services, answer.warnings, rows)


def _of(facts: DumpFacts, services: Iterable[ServicePort]) -> list[ServicePort]:
    return [each for each in services if each.family is facts.family and each.variant in {"", facts.variant}]


def _headline(facts: DumpFacts, services: int) -> list[Piece]:
    written = f"by {facts.writer}" if facts.writer else "nobody's that is known here"
    version = " ".join(word for word in ("iptables", facts.version, f"({facts.variant})" * bool(facts.variant)) if word)
    counted = "with counters" if facts.counters else "without counters"
    return [
        Span(f"{facts.family.value}: {_count(services, 'service port')}", "bold"),
        f" in {_count(facts.rules, 'rule')} and {_count(facts.chains, 'chain')}, written {written}",
        f"; {version}, {_count(facts.lines, 'line')}, {counted}",
    ]


def _warnings(warnings: Iterable[Warning], rows: int = sys.maxsize) -> Iterator[Block]:
    order = list(Severity)
    ranked = sorted(warnings, key=lambda each: (order.index(each.severity), each.code))
    for (severity, code), group in groupby(ranked, key=lambda each: (each.severity, each.code)):
        same = list(group)
        first = same[0]
        place = f" (line {first.line})" if first.line else ""
        pieces: list[Piece] = [Span(f"{severity.value}: ", _STYLES[severity]), first.message + place]
        if first.remedy:
            pieces.append(Span(f"; {first.remedy}", "dim"))
        yield line(*pieces)
        if len(same) > 1:
            names = [name for name in dict.fromkeys(each.service or each.message for each in same[1:]) if name]
            yield line(f"likewise ({code}): {_some(names, whole=rows >= len(names))}", indent=2)


def _some(names: Sequence[str], *, whole: bool = False) -> str:
    shown = names if whole or len(names) <= _NAMED + 1 else names[:_NAMED]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _services(services: Sequence[ServicePort], warnings: Iterable[Warning], rows: int = sys.maxsize) -> Iterator[Block]:
    shown = services
    if len(services) > rows:
        shown = _most_telling(services, warnings)[:rows]
        yield line(
            f"{len(shown)} of {_count(len(services), 'service port')}, those that something is wrong with first:"
        )
    several = len({each.variant for each in services}) > 1
    yield Grid(
        ("SERVICE PORT", "RULES", "ENDPOINTS", "ADDRESSES", "POLICY", "AFFINITY", "ODDS", "PACKETS"),
        [
            (
                Span(each.name, "bold"),
                each.variant if several else "",
                _endpoint_count(each),
                [_frontend(frontend, each.protocol) for frontend in each.frontends],
                _policies(each),
                f"{each.affinity_seconds} s" if each.affinity_seconds else "",
                _uneven(each.cluster),
                _packets(each),
            )
            for each in shown
        ],
        right=_NUMBERS - {"ODDS", "ENDPOINTS"},
    )
    if len(shown) < len(services):
        yield line(
            f"… and {len(services) - len(shown):,} more; name one: kproxy explain DUMP service NAMESPACE/NAME, "
            "or see all: --all"
        )


def _most_telling(services: Sequence[ServicePort], warnings: Iterable[Warning]) -> list[ServicePort]:
    order = list(Severity)
    worst: dict[str, int] = {}
    for warning in warnings:
        rank = order.index(warning.severity)
        worst[warning.service] = min(rank, worst.get(warning.service, rank))
    return sorted(
        services,
        key=lambda each: (worst.get(each.name, len(order)), -sum(max(one.packets, 0) for one in each.frontends)),
    )


def _endpoint_count(service: ServicePort) -> Span:
    if service.relayed:
        return Span("relay")
    every = service.endpoints
    ready = sum(each.state in {"", "ready"} for each in every)
    said = str(len(every)) if ready == len(every) else f"{len(every)} ({ready} ready)"
    if service.local and len(service.local) < len(every):
        said += f", {len(service.local)} here"
    return Span(said, "" if every else "red")


def _frontend(frontend: Frontend, protocol: Protocol) -> Span:
    said = f"{_SHORT[frontend.kind]} {_target(frontend.address or '*', frontend.port, protocol)}"
    if frontend.fate is Fate.DELIVERED:
        return Span(said + (" (local)" if frontend.endpoints == "local" else ""))
    return Span(f"{said} {frontend.fate.value}" + (f" ({frontend.why})" if frontend.why else ""), "red")


def _policies(service: ServicePort) -> list[str]:
    named = {"internal": service.internal_policy, "external": service.external_policy}
    said = [f"{kind} {policy}" for kind, policy in named.items() if policy == "Local"]
    if service.source_ranges:
        said.append(f"only from {_some(service.source_ranges)}")
    return said


def _uneven(endpoints: Sequence[Endpoint]) -> str:
    odds = [each.probability for each in endpoints]
    if not odds or max(odds) - min(odds) <= _FINE:
        return ""
    return " ".join(f"{share * 100:.2g}%" for share in odds[:4]) + (" …" if len(odds) > 4 else "")


def _packets(service: ServicePort) -> str:
    counted = [each.packets for each in service.frontends if each.packets >= 0]
    return f"{sum(counted):,}" if counted else ""


# --- one packet -----------------------------------------------------------------------------------------------


def _packet(answer: PacketAnswer, shown: int) -> Iterator[Block]:
    yield line(*_verdict(answer))
    yield from _facts(answer)
    if answer.warnings:
        yield BLANK
        yield from _warnings(answer.warnings)
    if answer.endpoints:
        yield BLANK
        yield _endpoints(answer.endpoints)
    first: frozenset[Line] = frozenset()
    for way in answer.ways[:shown]:
        yield BLANK
        yield from _way(way, first)
        first = first or frozenset(way.path)
    if rest := answer.ways[shown:]:
        odds = sum(way.probability for way in rest)
        yield BLANK
        yield line(f"… and {_count(len(rest), 'more way')}, {_odds(odds)} in all; all of them: --all")


def _verdict(answer: PacketAnswer) -> Iterator[Piece]:
    question = answer.question
    fates: Counter[Fate] = Counter()
    for way in answer.ways:
        fates[way.fate] += way.probability  # type: ignore[assignment]  # counts may be any number
    if len(fates) > 1:
        yield Span("It depends: ", _STYLES[answer.fate])
        said = ", ".join(f"{fate.value} in {_odds(odds)}" for fate, odds in fates.most_common())
        yield f"{_packet_name(question)} is {said}"
    else:
        yield Span(_WORDS[answer.fate], _STYLES[answer.fate])
        yield f": {_packet_name(question)} {_end(answer)}"


_WORDS = {
    Fate.DELIVERED: "Delivered",
    Fate.REFUSED: "Refused",
    Fate.DROPPED: "Dropped",
    Fate.UNTOUCHED: "Not a service packet",
}


def _packet_name(question: Question) -> str:
    sender = _address(question.source, question.source_port) if question.source_port else question.source
    where = f" by {question.interface}" if question.interface else ""
    sender = f"{sender}{where}" if question.source else "a process on the node"
    mark = f" with mark {question.mark:#x}" if question.mark else ""
    there = _target(question.destination, question.port, question.protocol)
    named = f"{question.service} ({there})" if question.service else there
    return f"a new flow from {sender} to {named}{mark}"


def _end(answer: PacketAnswer) -> str:
    whose = f" of {answer.service}" if answer.service else ""
    why = next((f": {way.why}" for way in answer.ways if way.why), "")
    ends = {way.endpoint for way in answer.ways if way.endpoint}
    match answer.fate:
        case Fate.DELIVERED if len(ends) == 1:
            return f"goes to {next(iter(ends))}, the one endpoint{whose}"
        case Fate.DELIVERED:
            return f"goes to one of {_count(len(ends), 'endpoint')}{whose}"
        case Fate.REFUSED:
            return f"is refused, the client is told so at once{why}"
        case Fate.DROPPED:
            return f"is dropped, the client waits in vain{why}"
        case Fate.UNTOUCHED:
            return "is answered by no Service, it goes where it was sent"


def _facts(answer: PacketAnswer) -> Iterator[Block]:
    if answer.service and answer.frontend:
        frontend = answer.frontend
        there = _target(frontend.address or "*", frontend.port, answer.question.protocol)
        place = f" (line {frontend.line})" if frontend.line else ""
        yield _fact("service", f"{answer.service}, at its {frontend.kind.value} {there}{place}")
    if answer.nearest:
        yield _fact("nearest", answer.nearest.message)
        if answer.nearest.line:
            yield from _rules([answer.nearest.line], 4)
        if answer.nearest.predicate:
            yield line(f"fails at {answer.nearest.predicate}", indent=4)
    told = [way for way in answer.ways if way.fate is not Fate.UNTOUCHED or way.masquerade.wanted]
    for text in dict.fromkeys(map(_source, told)):
        yield _fact("source", text)
    if answer.flow:
        yield _fact("flow", answer.flow)
    for depends in dict.fromkeys(each for way in answer.ways for each in way.depends):
        yield _fact("depends", depends)


def _fact(name: str, text: str) -> Block:
    return line(Span(f"{name:8} ", "dim"), text, indent=2, hang=9)


def _source(way: Way) -> str:
    where = f" (line {way.masquerade.line})" if way.masquerade.line else ""
    said = "replaced by the node's (SNAT)" if way.masquerade.wanted else "kept"
    return f"{said}: {way.masquerade.why}{where}" if way.masquerade.why else f"{said}{where}"


def _way(way: Way, before: frozenset[Line]) -> Iterator[Block]:
    """``before``: the rules of the first way; of the others those are shown in which they differ."""
    end = f" to {way.endpoint}" if way.endpoint else ""
    hidden = ", its source replaced" if way.masquerade.wanted else ""
    why = f": {way.why}" if way.why else ""
    provided = f", provided {'; '.join(way.depends)}" if way.depends else ""
    own = [each for each in way.path if each not in before]
    as_above = "; the rules are those above, but for" if len(own) < len(way.path) else ""
    fate = Span(way.fate.value, _STYLES[way.fate])
    yield line(Span(f"{_odds(way.probability)} ", "bold"), fate, end + hidden + why + provided + as_above)
    yield from _rules(own)


# --- one thing ------------------------------------------------------------------------------------------------


def _service(answer: ServiceAnswer) -> Iterator[Block]:
    for service in answer.services:
        yield from _service_port(service)
        yield BLANK
    if answer.warnings:
        yield from _warnings(answer.warnings)
        yield BLANK
    yield line(Span("Its rules", "bold"))
    yield from _rules(answer.lines)


def _service_port(service: ServicePort) -> Iterator[Block]:
    known = {"objects": ", named by the objects", "chain": ", which nothing names"}.get(service.named_by, "")
    rules = f" ({service.variant})" if service.variant else ""
    yield line(Span(service.name, "bold"), f" {service.protocol.lower}, {service.family.value}{rules}{known}")
    for frontend in service.frontends:
        place = f", line {frontend.line}" if frontend.line else ""
        packets = f", {_count(frontend.packets, 'packet')}" if frontend.packets >= 0 else ""
        yield line(_frontend(frontend, service.protocol), Span(place + packets, "dim"), indent=2)
    policies = {"internal": service.internal_policy, "external": service.external_policy}
    if known_ones := ", ".join(f"{kind} {policy}" for kind, policy in policies.items() if policy):
        yield line(f"traffic policy: {known_ones}", indent=2)
    if service.source_ranges:
        yield line(f"only from {', '.join(service.source_ranges)}", indent=2)
    if service.affinity_seconds:
        yield line(f"a client keeps its endpoint for {service.affinity_seconds} s (affinity)", indent=2)
    if service.relayed:
        yield line("served by kproxy's relay (userspace mode)", indent=2)
    for title, endpoints in (("all endpoints", service.cluster), ("endpoints of this node", service.local)):
        if endpoints:
            yield line(f"{title}:", indent=2)
            yield _endpoints(endpoints, indent=4)


def _chain(answer: ChainAnswer) -> Iterator[Block]:
    yield line(Span(answer.chain, "bold"), f" of table {answer.table}: {answer.meaning}")
    if answer.services:
        yield line(f"belongs to {_some(answer.services)}")
    yield BLANK
    yield line(Span("Rules that lead here", "bold") if answer.referrers else Span("No rule leads here", "bold yellow"))
    yield from _rules(answer.referrers)
    yield BLANK
    yield line(Span("Its rules", "bold") if answer.lines else Span("It has no rules", "bold"))
    yield from _rules(answer.lines)


def _endpoint(answer: EndpointAnswer) -> Iterator[Block]:
    yield line(Span(answer.endpoint, "bold"), f" serves {_count(len(answer.services), 'service port')}")
    yield from _services(answer.services, answer.warnings)
    if answer.warnings:
        yield BLANK
        yield from _warnings(answer.warnings)
    yield BLANK
    yield line(Span("Its rules", "bold"))
    yield from _rules(answer.lines)


def _changes(answer: Changes) -> Iterator[Block]:
    for said, dumps in (("before", answer.before), ("after", answer.after)):
        for facts in dumps:
            yield line(Span(f"{said}: ", "dim"), *_headline(facts, 0)[1:])
    changed = len({each.service for each in answer.changes})
    yield line(Span(f"{_count(changed, 'service port')} changed, {answer.same:,} did not", "bold"))
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


# --- parts ----------------------------------------------------------------------------------------------------


def _endpoints(endpoints: Sequence[Endpoint], indent: int = 2) -> Grid:
    return Grid(
        ("ODDS", "OBSERVED", "ENDPOINT", "POD", "NODE", "STATE", "PACKETS", "LINE"),
        [
            (
                _odds(each.probability),
                _odds(each.observed) if each.observed >= 0 else "",
                _address(each.ip, each.port),
                each.pod,
                each.node,
                Span(each.state, "" if each.state == "ready" else "yellow") if each.state else "",
                f"{each.packets:,}" if each.packets >= 0 else "",
                str(each.line) if each.line else "",
            )
            for each in endpoints
        ],
        indent,
        _NUMBERS,
    )


def _rules(lines: Sequence[Line], indent: int = 2) -> Iterator[Block]:
    digits = max((len(str(each.number)) for each in lines), default=0)
    tables = max((len(each.table) for each in lines), default=0)
    for each in lines:
        number = str(each.number) if each.number else "-"
        head = f"{number:>{digits}}  {each.table:{tables}}  "
        packets = Span(f"  [{_count(each.packets, 'packet')}]", "dim") if each.packets >= 0 else ""
        yield line(Span(head, "dim"), each.text, packets, indent=indent, hang=min(len(head), 8))


def _target(address: str, port: int, protocol: Protocol) -> str:
    return f"{_address(address, port)}/{protocol.lower}"


def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _odds(probability: float) -> str:
    return f"{probability * 100:.4g}%"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
