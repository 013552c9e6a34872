"""A summary as text, and the parts that other answers have, too: warnings, tables of services and endpoints, rules.

A summary of 5,000 service ports is useful only if it is not a list of 5,000 lines. On a terminal the table therefore
stops after ``ROWS``, those that something is wrong with first and then the busiest, and says how to go on. In a pipe
all of them come, in the order of the answer, one line each, because what reads there is grep, wc or a file. Warnings of
one kind are told once with a count: the 214th Service without endpoints is news to nobody, and would hide the one DROP
policy. The names behind a fold are cut on a terminal and whole in a pipe, for the same reason.

Notes, which every healthy node has, stand behind the table. What every service port has in common is not shown: a
policy of Cluster, even odds, no affinity.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from kproxy.explain import answer
from kproxy.explain.answer import (
    DumpFacts,
    Endpoint,
    Fate,
    Frontend,
    FrontendKind,
    Line,
    ServicePort,
    Severity,
    Summary,
)
from kproxy.explain.show.paper import BLANK, Block, Grid, Piece, Span, line, rule
from kproxy.explain.show.wording import count, join, odds, some, spoken, target, written
from kproxy.model.enums import Protocol

ROWS = 40  # of a table on a terminal
_LABEL = re.compile(r"IPv[46](?: (?:nft|legacy))?(?= )|(?:nft|legacy)(?= )")  # which of several dumps a warning is of
_FINE = 0.005  # odds that differ by less are called even
_SHORT = {
    FrontendKind.CLUSTER_IP: "cluster",
    FrontendKind.EXTERNAL_IP: "external",
    FrontendKind.LOAD_BALANCER_IP: "lb",
    FrontendKind.NODE_PORT: "node port",
    FrontendKind.HEALTH_CHECK: "health check",
}
STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTE: "bold cyan",
    Fate.DELIVERED: "bold green",
    Fate.REFUSED: "bold red",
    Fate.DROPPED: "bold red",
    Fate.UNTOUCHED: "bold yellow",
}
_PLAIN = {"", "has no endpoints"}  # reasons that the table shows anyway
_NUMBERS = frozenset({"ODDS", "OBSERVED", "LINE", "PACKETS"})


def summary(said: Summary, rows: int) -> Iterator[Block]:
    for facts in said.dumps:
        yield line(*headline(facts, len(_of(facts, said.services))))
    notes = [each for each in said.warnings if each.severity is Severity.NOTE]
    if urgent := [each for each in said.warnings if each.severity is not Severity.NOTE]:
        yield BLANK
        yield from warnings(urgent, rows)
    if said.services:
        yield BLANK
        yield from services(sorted(said.services, key=_place), said.warnings, rows)
    if notes:
        yield BLANK
        yield from warnings(notes, rows)


def _place(service: ServicePort) -> tuple[str, ...]:
    """Of one name, families and variants stand below each other."""
    return (service.service, service.port, service.protocol, service.family, service.variant)


def _of(facts: DumpFacts, every: Iterable[ServicePort]) -> list[ServicePort]:
    return [each for each in every if each.family is facts.family and each.variant in {"", facts.variant}]


def headline(facts: DumpFacts, found: int | None = None) -> list[Piece]:
    """``found``: how many service ports."""
    ports = f", {count(found, 'service port')}" if found is not None else ""
    writer = f", {written(facts.writer)}" if facts.writer else ""
    said = [f": {count(facts.rules, 'rule')} in {count(facts.chains, 'chain')}{writer}"]
    version = [facts.version, f"({facts.variant})" if facts.variant else ""]
    if any(version):
        said.append(" ".join(word for word in ("iptables", *version) if word))
    said.append("with counters" if facts.counters else "without counters (-c)")
    return [Span(f"{facts.family.value}{ports}", "bold"), "; ".join(said)]


# --- warnings -------------------------------------------------------------------------------------------------


def warnings(every: Iterable[answer.Warning], rows: int = sys.maxsize) -> Iterator[Block]:
    """The worst first, and those of one kind together, where the first of them stands."""
    order = list(Severity)
    first: dict[str, int] = {}
    for each in every:
        first.setdefault(each.code, len(first))
    ranked = sorted(every, key=lambda each: (order.index(each.severity), first[each.code]))
    for _, group in groupby(ranked, key=lambda each: (each.severity, each.code)):
        yield from _folded(list(group), rows)


def _folded(same: Sequence[answer.Warning], rows: int) -> Iterator[Block]:
    """What several say in the same words is said once with all its lines; of others their names and lines."""
    twins: dict[str, list[answer.Warning]] = {}
    for each in same:
        twins.setdefault(_LABEL.sub("", each.message, count=1), []).append(each)
    first, *rest = twins.values()
    told = first[0]
    labels = " and ".join(dict.fromkeys(found[0] for each in first if (found := _LABEL.search(each.message))))
    message = _LABEL.sub(labels, told.message, count=1) + _places(first)
    pieces: list[Piece] = [Span(f"{told.severity.value}: ", STYLES[told.severity]), message]
    if told.remedy:
        pieces.append(Span(f"; {told.remedy}", "dim"))
    yield line(*pieces)
    if others := list(dict.fromkeys((one[0].service or one[0].message) + _places(one) for one in rest)):
        listed = ", ".join(others) if rows >= len(others) else some(others)
        yield line(Span(f"{len(twins):,} such ({told.code}); the others: ", "dim"), listed, indent=2)


def _places(same: Sequence[answer.Warning]) -> str:
    numbers = [f"{each.line}" for each in same if each.line]
    return f" ({'line' if len(numbers) == 1 else 'lines'} {' and '.join(numbers)})" if numbers else ""


# --- services -------------------------------------------------------------------------------------------------


def services(
    every: Sequence[ServicePort], said: Iterable[answer.Warning] = (), rows: int = sys.maxsize
) -> Iterator[Block]:
    """``said``: warnings, which tell whom to show where there are too many."""
    shown = every
    if len(every) > rows:
        shown, which = _most_telling(every, said, rows)
        yield line(which.format(f"{len(shown)} of {count(len(every), 'service port')}"))
    several = len({each.variant for each in every}) > 1
    yield Grid(
        ("SERVICE PORT", "RULES", "ENDPOINTS", "ADDRESSES", "POLICY", "ODDS", "PACKETS"),
        [
            (
                Span(each.name, "bold"),
                each.variant if several else "",
                _endpoint_count(each),
                [frontend(one, each.protocol) for one in each.frontends],
                _policies(each),
                _uneven(each.cluster),
                _packets(each),
            )
            for each in shown
        ],
        right=_NUMBERS - {"ODDS"},
    )
    if len(shown) < len(every):
        yield line(
            f"… and {len(every) - len(shown):,} more; name one: kproxy explain DUMP service NAMESPACE/NAME; "
            "all of them: --all"
        )


def _most_telling(
    every: Sequence[ServicePort], said: Iterable[answer.Warning], rows: int
) -> tuple[Sequence[ServicePort], str]:
    """``rows`` of them, and which they are."""
    order = list(Severity)
    worst: dict[str, int] = {}
    for warning in said:
        rank = order.index(warning.severity)
        worst[warning.service] = min(rank, worst.get(warning.service, rank))
    packets = {each.name: sum(max(one.packets, 0) for one in each.frontends) for each in every}
    ranked = sorted(every, key=lambda each: (worst.get(each.name, len(order)), -packets[each.name]))
    if ranked[0].name in worst:
        return ranked[:rows], "{}, those in trouble first:"
    return ranked[:rows], "the busiest {}:" if packets[ranked[0].name] else "the first {}:"


def _endpoint_count(service: ServicePort) -> Span:
    if service.relayed:
        return Span("relay")
    every = service.endpoints
    ready = sum(each.state in {"", "ready"} for each in every)
    said = str(len(every)) if ready == len(every) else f"{len(every)} ({ready} ready)"
    if service.local and len(service.local) < len(every):
        said += f", {len(service.local)} here"
    return Span(said, "" if every else "red")


def frontend(one: Frontend, protocol: Protocol) -> Span:
    said = f"{_SHORT[one.kind]} {target(one.address or '*', one.port, protocol)}"
    if one.fate is Fate.DELIVERED or one.kind is FrontendKind.HEALTH_CHECK:
        return Span(said + (" (local)" if one.endpoints == "local" else ""))
    why = f" ({one.why})" if one.why not in _PLAIN else ""
    return Span(f"{said} {one.fate.value}{why}", "red")


def _policies(service: ServicePort) -> list[str]:
    named = {"internal": service.internal_policy, "external": service.external_policy}
    said = [f"{kind} {policy}" for kind, policy in named.items() if policy == "Local"]
    if service.source_ranges:
        said.append(f"lb only from {some(service.source_ranges)}")
    if service.affinity_seconds:
        said.append(f"affinity {service.affinity_seconds} s")
    return said


def _uneven(endpoints: Sequence[Endpoint]) -> str:
    shares = [each.probability for each in endpoints]
    if not shares or max(shares) - min(shares) <= _FINE:
        return ""
    return " ".join(f"{share * 100:.3g}%" for share in shares[:4]) + (" …" if len(shares) > 4 else "")


def _packets(service: ServicePort) -> str:
    counted = [each.packets for each in service.frontends if each.packets >= 0]
    return f"{sum(counted):,}" if counted else ""


# --- endpoints and rules --------------------------------------------------------------------------------------


def endpoints(every: Sequence[Endpoint], rows: int, indent: int = 2) -> Iterator[Block]:
    yield Grid(
        ("ODDS", "OBSERVED", "ENDPOINT", "POD", "NODE", "STATE", "PACKETS", "LINE"),
        [
            (
                odds(each.probability),
                odds(each.observed) if each.observed >= 0 else "",
                join(each.ip, each.port),
                each.pod,
                each.node,
                Span(each.state, "" if each.state == "ready" else "yellow") if each.state else "",
                f"{each.packets:,}" if each.packets >= 0 else "",
                str(each.line) if each.line else "",
            )
            for each in every[:rows]
        ],
        indent,
        _NUMBERS,
    )
    if len(every) > rows:
        yield line(f"… and {count(len(every) - rows, 'more endpoint')}; all of them: --all", indent=indent)


def rules(lines: Sequence[Line], indent: int = 2) -> Iterator[Block]:
    """With their places in the dump; of one that is in no dump, such as a policy, there is no number.

    A dump's own spelling would be half comments of a few kinds; so they stand behind, and JSON has it all as it was.
    """
    digits = max((len(str(each.number)) for each in lines), default=0)
    tables = max((len(each.table) for each in lines), default=0)
    chains = max((len(each.chain) for each in lines), default=0)
    for each in lines:
        number = str(each.number) if each.number else ""
        head = f"{number:>{digits}}  {each.table:{tables}} {each.chain:{chains}}  "
        text, said = spoken(each.text, each.chain)
        comment = Span(f"  # {said}", "dim") if said else ""
        counted = Span(f"  [{count(each.packets, 'packet')}]", "dim") if each.packets >= 0 else ""
        yield rule(Span(head, "dim"), text, comment, counted, indent=indent, hang=min(len(head), 8))
