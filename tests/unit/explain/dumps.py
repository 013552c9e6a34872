"""Dumps and surveys of a few lines, for the tests of what reads them."""

from __future__ import annotations

from kproxy.backend.iptables.parse import parse_save
from kproxy.explain.answer import DumpFacts, ServicePort
from kproxy.explain.read.dump import Dump
from kproxy.explain.services.graph import Graph
from kproxy.explain.services.survey import Survey
from kproxy.explain.services.survey import survey as look_at
from kproxy.model.enums import IPFamily, Protocol


def dump_of(text: str, family: IPFamily = IPFamily.IPV4, variant: str = "", warnings: tuple[str, ...] = ()) -> Dump:
    """``text``: from its second line on, where it begins with an empty one."""
    lines = text.removeprefix("\n").split("\n")
    tables = parse_save(lines)
    chains = [chain for table in tables.values() for chain in table.values()]
    facts = DumpFacts(
        family=family,
        variant=variant,
        version="",
        writer="",
        lines=len(lines),
        chains=len(chains),
        rules=sum(len(chain.rules) for chain in chains),
        counters=any(line.startswith("[") for line in lines),
    )
    return Dump(facts, tables, lines, warnings)


def graph_of(text: str) -> Graph:
    return Graph(dump_of(text))


def survey_of(text: str, family: IPFamily = IPFamily.IPV4, variant: str = "", warnings: tuple[str, ...] = ()) -> Survey:
    return look_at(dump_of(text, family, variant, warnings))


def table(name: str, *lines: str) -> str:
    """One table; chains that rules stand in or lead to are declared, unless a line does it."""
    declared = {line[1:].split()[0] for line in lines if line.startswith(":")}
    rules = [line for line in lines if not line.startswith(":")]
    chains = dict.fromkeys(rule.split("] ")[-1].split()[1] for rule in rules)
    chains |= dict.fromkeys(rule.split()[-1] for rule in rules if rule.split()[-1].startswith("KUBE-"))
    heads = [f":{chain} {'ACCEPT' if chain.isalpha() and chain.isupper() else '-'} [0:0]" for chain in chains]
    heads = [head for head in heads if head[1:].split()[0] not in declared]
    return "\n".join((f"*{name}", *(line for line in lines if line.startswith(":")), *heads, *rules, "COMMIT", ""))


NAT = (
    "-A PREROUTING -j KUBE-SERVICES",
    "-A OUTPUT -j KUBE-SERVICES",
    "-A POSTROUTING -j KUBE-POSTROUTING",
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MASQUERADE",
    "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
)
POOL = "KUBE-SVC-LOLE4ISW44XBNF3G"
WEB = (
    '-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j '
    + POOL,
    f"-A {POOL} -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-AAAAAAAAAAAAAAAA",
    f"-A {POOL} -j KUBE-SEP-BBBBBBBBBBBBBBBB",
    "-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m tcp -j DNAT --to-destination 10.244.0.1:8080",
    "-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080",
)
FILTER = (
    "-A FORWARD -j KUBE-FORWARD",
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
)


def service_port(service: str = "default/web", port: str = "", **more: object) -> ServicePort:
    return ServicePort(service=service, port=port, protocol=Protocol.TCP, family=IPFamily.IPV4, hash="", **more)  # type: ignore[arg-type]
