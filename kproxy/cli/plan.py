"""``kproxy plan -f DIR``: the rules that a node would get, as iptables-save prints them, without touching anything.

Works for any user on any machine: the manifests are the cluster, the flags are the node, its addresses are those that
its Node has, and the kernel is assumed to have everything.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.rules import Entry, Jump, Table
from kproxy.backend.iptables.text import render_rule
from kproxy.config import Config
from kproxy.model.cluster import Cluster
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.plan.build import build_plan
from kproxy.plan.node_ports import EVERYWHERE, NOWHERE
from kproxy.plan.plan import Plan
from kproxy.plan.steer import lines, places, steer
from kproxy.plan.viewpoint import UNSPECIFIED
from kproxy.source.files import read_manifests

_FIRST_PORT = 32768  # where Linux begins when it chooses one
FAMILIES: dict[str, tuple[IPFamily, ...]] = {
    "4": (IPFamily.IPV4,),
    "6": (IPFamily.IPV6,),
    "both": tuple(IPFamily),
}


def render_plan(
    files: str,
    config: Config,
    families: Sequence[IPFamily],
    warn: Callable[[str], None],
    remark: Callable[[str], object] = lambda _: None,
) -> Iterator[str]:
    """Lines. ``files``: a directory, a file, or - for standard input. Raises InvalidConfig.

    ``warn`` hears what is left out, ``remark`` what is not but looks like a mistake.
    """
    cluster = load(files, config, warn)
    snapshot = cluster.snapshot()
    addresses = _addresses(config, snapshot.node)
    for family in families:
        plan = build_plan(snapshot, config, family, addresses)
        for note in plan.notes:
            tell = remark if note.reason in {EVERYWHERE, NOWHERE} else warn
            tell(f"{note.reason}: {note.problem}")
        if not addresses and plan.node_ports.addresses == () and not plan.node_ports.listeners:
            remark(f"Node {config.hostname} is not given, or without status.addresses: node ports are left out; add it")
        if len(families) > 1:
            yield f"# {family.value}"
        plan = _led(plan, config)
        if plan.relay_ip:
            yield f"# Rules lead to the relay at {plan.relay_ip}; a daemon's ports there are other ones"
        yield from render(compile_plan(plan, config, Abilities()))


def _addresses(config: Config, node: Node | None) -> tuple[str, ...]:
    bind = () if config.bind_address in UNSPECIFIED else (config.bind_address,)
    return (*bind, *node.addresses) if node else ()


def _led(plan: Plan, config: Config) -> Plan:
    """The same with the relay, whose real ports are the kernel's choice."""
    ip, sources = places(config, plan.family)
    ports = {line: _FIRST_PORT + nth for nth, (line, _) in enumerate(lines(plan))} if ip else {}
    return steer(plan, ip, ports, sources=sources).plan


def load(files: str, config: Config, warn: Callable[[str], None]) -> Cluster:
    """The manifests' cluster; what cannot be used is told to ``warn``."""
    cluster = Cluster(config.hostname)
    with tempfile.TemporaryDirectory(prefix="kproxy-") as folder:
        if files == "-":
            path = Path(folder, "stdin.yaml")
            path.write_bytes(sys.stdin.buffer.read())
        else:
            path = Path(files)
        changes, problems = read_manifests(
            [path], service_proxy_name=config.service_proxy_name, endpoints_source=config.endpoints_source
        )
    for problem in problems:
        warn(f"left out: {problem}")
    for change in changes:
        cluster.apply(change)
    return cluster


def render(rules: Ruleset) -> Iterator[str]:
    """Tables, chains and rules in iptables-save's form; of built-in chains only our jumps."""
    chains = list(rules.chains())
    for table in Table:
        mine = [chain for chain in chains if chain.table is table]
        entries = [entry for entry in rules.entries if entry.table is table]
        own = {chain.name for chain in mine}
        hooks = dict.fromkeys(entry.hook for entry in entries if entry.hook not in own)
        yield f"*{table.value}"
        for hook in hooks:
            yield f":{hook} {'-' if hook.startswith('KUBE-') else 'ACCEPT'} [0:0]"
        yield from (f":{name} - [0:0]" for name in sorted((own | _shared(entries)) - hooks.keys()))
        for hook in hooks:
            # Entries are prepended one after the other, so the last is on top.
            yield from (render_rule(hook, entry.rule) for entry in reversed(entries) if entry.hook == hook)
        yield from (render_rule(chain.name, rule) for chain in mine for rule in chain.rules)
        yield "COMMIT"


def _shared(entries: Sequence[Entry]) -> set[str]:
    """Chains that are entered but are the kubelet's, too."""
    return {names.FIREWALL for entry in entries if entry.rule.target == Jump(names.FIREWALL)}
