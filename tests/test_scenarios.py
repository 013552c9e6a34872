"""Every scenario: a cluster, the packets that must go somewhere, and the rules that send them there.

``packets.yaml`` asks where packets go and is answered by the tracer; ``iptables.golden`` is the whole text, so that a
change of rules is seen in review. Rewrite the goldens with ``KPROXY_GOLDEN=1 ./run test tests/test_scenarios.py``.
Whether the kernel agrees with the tracer is shown by tests/netns.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.rules import Jump, Rule, Table
from kproxy.backend.iptables.text import restore_text
from kproxy.backend.iptables.trace import Delivered, Dropped, Fate, Host, Refused, Untouched, fates, trace
from kproxy.config import Config
from kproxy.model.cluster import Cluster
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.packet import Packet
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan, Target
from kproxy.source.files import read_manifests

SCENARIOS = sorted(path.parent for path in Path(__file__).parent.glob("scenarios/*/cluster.yaml"))
NODE = Config(hostname="node-1", cluster_cidr=("10.244.0.0/16", "fd00:10:244::/56"))
ADDRESSES = ("127.0.0.1", "192.168.100.11", "::1", "fd00:100::11")
HOST_SOURCE = {IPFamily.IPV4: "192.168.100.11", IPFamily.IPV6: "fd00:100::11"}

Tables = Mapping[tuple[str, str], tuple[Rule, ...]]


def load(scenario: Path) -> tuple[Config, list[dict[str, Any]], dict[IPFamily, Plan], dict[IPFamily, Ruleset]]:
    asked = yaml.safe_load((scenario / "packets.yaml").read_text())
    settings = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.get("config", {}).items()}
    config = Config(**{"hostname": NODE.hostname, "cluster_cidr": NODE.cluster_cidr, **settings})
    cluster = Cluster(config.hostname)
    listed, problems = read_manifests([scenario / "cluster.yaml"])
    assert not problems
    for change in listed:
        cluster.apply(change)
    plans = {family: build_plan(cluster.snapshot(), config, family, ADDRESSES) for family in IPFamily}
    return config, asked["packets"], plans, {f: compile_plan(plan, config, Abilities()) for f, plan in plans.items()}


def tables(ruleset: Ruleset) -> Tables:
    chains = {(chain.table.value, chain.name): chain.rules for chain in ruleset.chains()}
    for entry in ruleset.entries:
        key = (entry.table.value, entry.hook)
        chains[key] = (entry.rule, *chains.get(key, ()))
        if isinstance(entry.rule.target, Jump):  # KUBE-FIREWALL is declared even where its content is the kubelet's
            chains.setdefault((entry.table.value, entry.rule.target.chain), ())
    return chains


def endpoint(text: str) -> tuple[str, int]:
    ip, _, port = text.rpartition(":")
    return ip.strip("[]"), int(port)


def read_packet(asked: dict[str, Any]) -> Packet:
    where, _, protocol = asked["to"].partition("/")
    destination, port = endpoint(where)
    family = IPFamily.IPV6 if ":" in destination else IPFamily.IPV4
    from_host = asked["from"] == "host"
    source = HOST_SOURCE[family] if from_host else asked["from"]
    return Packet(source, destination, port, Protocol(protocol or "TCP"), from_host=from_host)


def remembered(asked: dict[str, Any], plan: Plan) -> frozenset[str]:
    if "remembered" not in asked:
        return frozenset()
    ip, port = endpoint(asked["remembered"])
    target = Target(ip, port, local=False)
    return frozenset(names.endpoint_chain(key, target) for key in plan.services)


def expected(asked: dict[str, Any]) -> set[Fate]:
    match asked["expect"]:
        case "refused":
            return {Refused()}
        case "dropped":
            return {Dropped()}
        case "untouched":
            return {Untouched()}
        case endpoints:
            return {Delivered(*endpoint(where), masquerade=how == "masq") for where, how in endpoints.items()}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_packets_go_where_they_must(scenario: Path) -> None:
    _, packets, plans, rulesets = load(scenario)
    for asked in packets:
        packet = read_packet(asked)
        host = Host(frozenset(ADDRESSES), remembered(asked, plans[packet.family]))
        found = fates(trace(tables(rulesets[packet.family]), packet, host))
        assert set(found) == expected(asked), f"{asked['from']} to {asked['to']}"
        if len(found) > 1:  # chance is fair
            assert all(each == pytest.approx(1 / len(found), abs=1e-6) for each in found.values())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_rules_read_as_reviewed(scenario: Path) -> None:
    _, _, _, rulesets = load(scenario)
    text = "".join(
        f"# {family}\n"
        + "".join("".join(restore_text(t, write=of_table(ruleset, t), insert=entries(ruleset, t))) for t in Table)
        for family, ruleset in rulesets.items()
    )
    golden = scenario / "iptables.golden"
    if os.environ.get("KPROXY_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def of_table(ruleset: Ruleset, table: Table) -> list[Any]:
    return sorted(chain for chain in ruleset.chains() if chain.table is table)


def entries(ruleset: Ruleset, table: Table) -> list[Any]:
    return [entry for entry in ruleset.entries if entry.table is table]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_a_tree_sends_packets_where_the_list_does(scenario: Path) -> None:
    """The layouts of large clusters, forced on a small one."""
    config, packets, plans, rulesets = load(scenario)
    large = Config(
        hostname=config.hostname, cluster_cidr=config.cluster_cidr, masquerade_all=config.masquerade_all,
        tree_threshold=0, large_cluster_endpoints=0, endpoint_tree_threshold=1,
    )  # fmt: skip
    for asked in packets:
        packet = read_packet(asked)
        plan = plans[packet.family]
        host = Host(frozenset(ADDRESSES), remembered(asked, plan))
        tree = compile_plan(plan, large, Abilities())
        assert fates(trace(tables(tree), packet, host)).keys() == fates(
            trace(tables(rulesets[packet.family]), packet, host)
        ).keys()  # fmt: skip
