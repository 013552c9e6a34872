"""What the tracer says of a packet, held against what became of it.

The tracer reads what iptables-save prints, as ``kproxy explain`` does. What was observed must be among its outcomes;
where it says that nothing depends and has one outcome, that is the one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from ipaddress import ip_address
from operator import and_, or_
from random import Random
from typing import NamedTuple

from msgspec.structs import replace

from kproxy.backend.iptables.compile import Ruleset
from kproxy.backend.iptables.parse import SavedTables, parse_save
from kproxy.backend.iptables.rules import Jump
from kproxy.backend.iptables.text import render_rule
from kproxy.backend.iptables.trace import (
    Delivered,
    Dropped,
    Host,
    Met,
    Outcome,
    Refused,
    Tracked,
    Untouched,
    Walk,
    chains_of,
    policies_of,
    walk,
)
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.packet import Packet
from tests.differential.clusters import make_example, make_packet
from tests.differential.field import NODE_IPS, PODS, Field, Observed
from tests.differential.foreign import HOOKS, NOTHING, Foreign, make_foreign

_ANYWHERE = {IPFamily.IPV4: "0.0.0.0/0", IPFamily.IPV6: "::/0"}


class Differs(AssertionError):
    """The tracer and the kernel disagree."""


class Step(NamedTuple):
    """One packet: what was said, and what became of it."""

    packet: Packet
    walked: Walk
    observed: Observed


def run_cluster(field: Field, family: IPFamily, seed: str, packets: int) -> Counter[str]:
    """One random cluster and its packets; what was counted. Raises Differs."""
    random = Random(seed)
    example = make_example(random, family)
    chances = random.random() < 0.5
    foreign = make_foreign(random, family, chances=chances) if random.random() < 0.75 else {}
    text = "".join(rules_text(example.rules, foreign))
    return run_rules(field, family, text, seed, [
        make_packet(random, family, example.frontends, example.endpoints) for _ in range(packets)
    ], exact=not chances or not foreign)  # fmt: skip


def run_rules(
    field: Field, family: IPFamily, text: str, seed: str, packets: Sequence[Packet], *, exact: bool
) -> Counter[str]:
    """``exact``: only kproxy's own rules leave anything to chance, so every rule's counter can be foretold."""
    field.restore(family, text)
    tables = parse_save(field.save(family).splitlines())
    counts = Counter(rulesets=1, rules=sum(len(chain.rules) for chains in tables.values() for chain in chains.values()))
    steps: list[Step] = []
    for number, packet in enumerate(packets):
        routes = exact or Random(f"{seed} {number}").random() < 0.7
        step = check(field, tables, packet, f"seed {seed}, packet {number}", routes=routes)
        steps.append(step)
        counts += _count(step)
        if exact and step.observed.where in {"eth0", "cni0"} and "CONNMARK" not in text and "notrack" not in text:
            # The node itself would have answered, and a reset ends a flow.
            for flow in _flows(field, step):
                name = f"seed {seed}, packet {number} once more, {flow}"
                steps.append(check(field, tables, step.packet, name, routes=routes, flow=flow))
                counts[f"packets of flows that exist, {flow.states[0]}"] += 1
    if exact:
        counts["counters"] += _check_counters(tables, parse_save(field.save(family).splitlines()), steps, seed)
    return counts


def _flows(field: Field, step: Step) -> Iterator[Tracked]:
    """The flow as conntrack would tell it: while nobody has answered, and after somebody has."""
    packet, seen = step.packet, step.observed
    rewritten = (seen.destination, seen.port) != (packet.destination, packet.port)
    flow = Tracked(
        destination=seen.destination if rewritten else "",
        port=seen.port if rewritten else 0,
        source=seen.source if seen.source != packet.source else "",
        states=("NEW",),
    )
    yield flow
    if packet.protocol is Protocol.UDP:
        answer = Packet(
            seen.destination, seen.source, seen.source_port, packet.protocol, source_port=seen.port,
            in_interface=seen.where,
        )  # fmt: skip
        if field.send(answer).fate == "arrived":
            yield replace(flow, states=("ESTABLISHED",))


def check(
    field: Field,
    tables: SavedTables,
    packet: Packet,
    name: str,
    *,
    routes: bool = True,
    flow: Tracked | None = None,
) -> Step:
    """A packet of ``flow``, or the first of one. Raises Differs."""
    if flow is None:
        packet = replace(packet, source_port=field.fresh())
    family = packet.family
    host = Host(
        frozenset(NODE_IPS[family]),
        field.remembering(packet.source),
        ((_ANYWHERE[family], "eth0"), (PODS[family], "cni0")) if routes else (),
        flow,
    )
    walked = walk(chains_of(tables), packet, host, policies_of(tables))
    observed = field.send(packet)
    if walked.left_out or not any(_agrees(outcome, observed, packet) for outcome in walked.outcomes):
        raise Differs("\n".join(_tell(field, tables, packet, walked, observed, name)))
    return Step(packet, walked, observed)


def _count(step: Step) -> Counter[str]:
    outcomes, observed = step.walked.outcomes, step.observed
    said = type(outcomes[0].fate).__name__.lower() if len(outcomes) == 1 else "one of several"
    counts = Counter({"packets": 1, f"said: {said}": 1, f"seen: {observed.fate}": 1})
    counts["said: depends"] += any(outcome.depends for outcome in outcomes)
    counts["seen: with another source"] += observed.fate == "arrived" and observed.source != step.packet.source
    return counts


def _check_counters(before: SavedTables, after: SavedTables, steps: Sequence[Step], name: str) -> int:
    """Every rule that a packet certainly meets has counted it, and a rule of nat has counted no others.

    Elsewhere errors and resets are counted as well, which the node sends when it refuses something; resets in nat, too.
    Of packets that do not arrive the tracer tells what is met in any case, and not what all ways before had met.
    """
    lost = sum(any(isinstance(each.fate, Dropped | Refused) for each in step.walked.outcomes) for step in steps)
    least, most = Counter[Met](), Counter[Met]()
    for step in steps:
        paths = [Counter(outcome.path) for outcome in step.walked.outcomes]  # a rule may be met twice
        if not any(outcome.depends for outcome in step.walked.outcomes):
            least += reduce(and_, paths)
        most += reduce(or_, paths)
    rules = [(Met(table, name, at), rule.packets, after[table][name].rules[at].packets)
             for table, chains in before.items() for name, chain in chains.items()
             for at, rule in enumerate(chain.rules)]  # fmt: skip
    for met, first, last in rules:
        if not least[met] <= last - first or (met.table == "nat" and last - first > most[met] + lost):
            raise Differs(
                f"seed {name}: {last - first} packets met {_shown(met, before)}, "
                f"and the tracer said {least[met]} to {most[met]} of {len(steps)}"
            )
    return len(rules)


def _agrees(outcome: Outcome, observed: Observed, packet: Packet) -> bool:
    match outcome.fate:
        case Dropped():
            return observed.fate == "dropped"
        case Refused():
            return observed.fate == "refused"
        case Delivered(ip, port, masquerade):
            there = (
                observed.destination in _own(packet) if ip in {"0.0.0.0", "::"} else ip in {"", observed.destination}
            ) and port in {0, observed.port}
        case Untouched(masquerade):
            there = (observed.destination, observed.port) == (packet.destination, packet.port)
    return observed.fate == "arrived" and there and _has_source(outcome, observed, packet, masquerade)


def _has_source(outcome: Outcome, observed: Observed, packet: Packet, masquerade: bool) -> bool:
    if not masquerade:
        return observed.source == packet.source
    if not outcome.source:
        return observed.source in _own(packet)
    first, _, last = outcome.source.partition("-")
    return int(ip_address(first)) <= int(ip_address(observed.source)) <= int(ip_address(last or first))


def _own(packet: Packet) -> tuple[str, ...]:
    return (*NODE_IPS[packet.family], "127.0.0.1", "::1")


def _tell(
    field: Field, tables: SavedTables, packet: Packet, walked: Walk, observed: Observed, name: str
) -> Iterator[str]:
    yield f"iptables-{field.variant}, {packet.family}, {name}: the kernel and the tracer disagree"
    yield f"{packet}"
    yield f"became: {observed}"
    yield f"the tracer says, of {len(walked.outcomes)} ways (and {walked.left_out} left out):"
    for outcome in walked.outcomes[:8]:
        yield f"  {outcome.probability:.4g} {outcome.fate} {outcome.source} {' | '.join(outcome.depends)}"
        yield from (f"      {_shown(met, tables)}" for met in outcome.path)
    yield "rules now, with counters:"
    yield field.save(packet.family)


def _shown(met: Met, tables: SavedTables) -> str:
    chain = tables[met.table][met.chain]
    rule = render_rule(met.chain, chain.rules[met.position].rule) if met.position >= 0 else f"policy {chain.policy}"
    return f"{met.table}: {rule}"


# --- rules ----------------------------------------------------------------------------------------------------


def rules_text(rules: Ruleset, foreign: dict[str, Foreign]) -> Iterator[str]:
    """An input for iptables-restore that leaves nothing else in any table."""
    for table, hooks in HOOKS.items():
        others = foreign.get(table, NOTHING)
        own = {chain.name: chain.rules for chain in rules.chains() if chain.table == table}
        entries = [entry for entry in rules.entries if entry.table == table]
        targets = [entry.rule.target.chain for entry in entries if isinstance(entry.rule.target, Jump)]
        yield f"*{table}\n"
        yield from (f":{hook} {others.policies.get(hook, 'ACCEPT')} [0:0]\n" for hook in hooks)
        yield from (f":{name} - [0:0]\n" for name in dict.fromkeys((*own, *targets, *others.chains)))
        yield from (f"{render_rule(name, rule)}\n" for name, each in own.items() for rule in each)
        yield from (f"-A {name} {rule}\n" for name, each in others.chains.items() for rule in each)
        yield from (f"-A {line}\n" for line in others.after)
        yield from (f"-I{render_rule(entry.hook, entry.rule)[2:]}\n" for entry in entries)
        yield from (f"-I {line}\n" for line in others.before)
        yield "COMMIT\n"
