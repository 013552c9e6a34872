"""Dumps and surveys of a few lines, for the tests of what reads them."""

from __future__ import annotations

from kproxy.backend.iptables.parse import parse_save
from kproxy.explain.answer import DumpFacts, ServicePort
from kproxy.explain.dump import Dump
from kproxy.explain.survey import Survey
from kproxy.model.enums import IPFamily


def dump_of(text: str, family: IPFamily = IPFamily.IPV4, variant: str = "", warnings: tuple[str, ...] = ()) -> Dump:
    """``text``: from its second line on, where it begins with an empty one."""
    lines = text.removeprefix("\n").split("\n")
    tables = parse_save(lines)
    counters = any(line.startswith("[") for line in lines)
    chains = [chain for table in tables.values() for chain in table.values()]
    facts = DumpFacts(
        family=family,
        variant=variant,
        version="",
        writer="",
        lines=len(lines),
        chains=len(chains),
        rules=sum(len(chain.rules) for chain in chains),
        counters=counters,
    )
    return Dump(facts, tables, lines, warnings)


def survey_of(text: str, *services: ServicePort, family: IPFamily = IPFamily.IPV4, variant: str = "") -> Survey:
    return Survey(dump_of(text, family, variant), services, {})
