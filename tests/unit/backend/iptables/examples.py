"""Rulesets for tests, compiled from objects in a few words or from made-up service plans; and a model of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.rules import Chain, Entry, Rule, Table
from kproxy.config import Config
from kproxy.errors import RestoreRefused
from kproxy.kernel.doors import Chunks, Completed
from kproxy.kernel.fake import FakeIptables
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.model.node import Node
from kproxy.model.service import Service
from kproxy.plan.build import build_plan
from kproxy.plan.masquerade import external, internal
from kproxy.plan.plan import (
    Drop,
    FromCIDR,
    Frontend,
    FrontendKind,
    NodePorts,
    Plan,
    Reject,
    ServicePlan,
    Target,
)
from tests.builders import snapshot

COUNTED = Abilities(invalid_counter=True, localhost_counter=True)
PLAIN = Abilities()
PODS = Config(cluster_cidr=("10.244.0.0/16", "fd00:10:244::/56"))
BUILT_IN = {
    Table.NAT: ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    Table.FILTER: ("INPUT", "FORWARD", "OUTPUT"),
    Table.MANGLE: ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}


def compiled(
    *objects: Service | EndpointSlice | Node,
    config: Config = PODS,
    family: IPFamily = IPFamily.IPV4,
    abilities: Abilities = COUNTED,
    addresses: Sequence[str] = (),
) -> Ruleset:
    return compile_plan(build_plan(snapshot(*objects), config, family, addresses), config, abilities)


def plan_of(*services: ServicePlan, family: IPFamily = IPFamily.IPV4, **rest: Any) -> Plan:
    fields: dict[str, Any] = {"node_ports": NodePorts(localhost=family is IPFamily.IPV4), **rest}
    if "detector" not in fields:
        fields["detector"] = FromCIDR("10.244.0.0/16" if family is IPFamily.IPV4 else "fd00:10:244::/56")
    return Plan(family=family, services={each.key: each for each in sorted(services, key=lambda s: s.key)}, **fields)


def targets(count: int, *, remote: bool = False, first: int = 1) -> tuple[Target, ...]:
    made = (Target(f"10.244.{n // 250}.{n % 250 + 1}", 8080, local=False, remote=remote) for n in range(count))
    return tuple(sorted(made, key=str))[first - 1 :]


def simple(number: int, endpoints: Sequence[Target], *, node_port: int = 0, **rest: Any) -> ServicePlan:
    """default/s<number> at 10.96.x.y:80."""
    key = ServicePortKey("default", f"s{number:05}", "", Protocol.TCP)
    to = internal(local=False, masquerade_all=False, detected=True) if endpoints else Reject()
    out = external(local=False, served_here=True, detected=True) if endpoints else Reject()
    frontends = [Frontend(FrontendKind.CLUSTER_IP, f"10.96.{number // 256}.{number % 256}", 80, to)]
    if node_port:
        frontends.append(Frontend(FrontendKind.NODE_PORT, "", node_port, out))
    cluster = tuple(endpoints)
    return ServicePlan(key, tuple(frontends), cluster=cluster, **{"endpoints_total": len(cluster), **rest})


# --- a kernel in a bad moment ---------------------------------------------------------------------------------


class Ailing(FakeIptables):
    """Refuses what the test says: for want of memory, of a module, ..."""

    def __init__(self) -> None:
        super().__init__()
        self.ails: Callable[[str], bool] = lambda _text: False

    async def restore(self, chunks: Chunks) -> Completed:
        assert isinstance(chunks, bytes | Iterable)
        text = chunks if isinstance(chunks, bytes) else b"".join(chunks)
        if self.ails(text.decode()):
            self.restored.append(text.decode())
            raise RestoreRefused(("iptables-restore",), 4, "Cannot allocate memory")
        return await super().restore(text)


# --- tables ---------------------------------------------------------------------------------------------------

Tables = dict[tuple[str, str], Sequence[Rule]]


def tables_of(rules: Ruleset) -> Tables:
    """What the kernel holds once a ruleset is there, built-in chains included."""
    tables: dict[tuple[str, str], list[Rule]] = {
        (table, name): [] for table, names in BUILT_IN.items() for name in names
    }
    tables[Table.FILTER, "KUBE-FIREWALL"] = []
    for chain in rules.chains():
        assert (chain.table, chain.name) not in tables, f"two chains are called {chain.name}"
        tables[chain.table, chain.name] = list(chain.rules)
    return with_entries(tables, rules.entries)


def with_entries(tables: Mapping[tuple[str, str], Sequence[Rule]], entries: Iterable[Entry]) -> Tables:
    result = {key: list(rules) for key, rules in tables.items()}
    for entry in entries:
        result[entry.table, entry.hook].insert(0, entry.rule)
    return dict(result)


def as_dict(chains: Iterable[Chain]) -> dict[tuple[Table, str], tuple[Rule, ...]]:
    return {(chain.table, chain.name): chain.rules for chain in chains}


# --- anything that a plan may hold ----------------------------------------------------------------------------

_NETWORKS = {IPFamily.IPV4: "10.96.{}.{}", IPFamily.IPV6: "fd00:10:96::{:x}:{:x}"}
_POD_IPS = {IPFamily.IPV4: "10.244.{}.{}", IPFamily.IPV6: "fd00:10:244:{:x}::{:x}"}


@st.composite
def service_plans(draw: st.DrawFn, number: int, family: IPFamily = IPFamily.IPV4) -> ServicePlan:
    """Service port ``number``: its addresses are its own, whatever else is drawn."""
    protocol = draw(st.sampled_from(Protocol))
    key = ServicePortKey(draw(st.sampled_from(("a", "b"))), f"s{number}", draw(st.sampled_from(("", "p"))), protocol)
    count = draw(st.integers(0, 6))
    pool = tuple(
        sorted(
            (
                Target(_POD_IPS[family].format(number % 200, n + 1), 8080, local=n == 0, remote=n > 1)
                for n in range(count)
            ),
            key=str,
        )
    )
    here = tuple(target for target in pool if target.local) if draw(st.booleans()) else ()
    detected = draw(st.booleans())
    inner = draw(st.booleans())  # internal traffic policy Local
    outer = draw(st.booleans())
    to_cluster_ip: Any = internal(local=inner, masquerade_all=draw(st.booleans()), detected=detected)
    outside: Any = external(local=outer, served_here=bool(here), detected=detected)
    if inner and not here:
        to_cluster_ip = Drop()
    if not pool:
        to_cluster_ip = outside = Reject()
    ip = _NETWORKS[family]
    port = draw(st.integers(1, 65535))
    frontends = [
        Frontend(FrontendKind.CLUSTER_IP, ip.format(number % 256, draw(st.integers(1, 99))), port, to_cluster_ip)
    ]
    ranges = ("10.0.0.0/8",) if family is IPFamily.IPV4 else ("fd00::/16",)
    if draw(st.booleans()):
        at = ip.format(number % 256, draw(st.integers(100, 149)))
        frontends.append(Frontend(FrontendKind.EXTERNAL_IP, at, port, outside))
    if draw(st.booleans()):
        allowed = draw(st.sampled_from(((), ranges)))
        at = ip.format(number % 256, draw(st.integers(150, 199)))
        frontends.append(Frontend(FrontendKind.LOAD_BALANCER_VIP, at, port, outside, allowed))
    if draw(st.booleans()):
        frontends.append(Frontend(FrontendKind.NODE_PORT, "", 30000 + number, outside))
    return ServicePlan(
        key,
        tuple(frontends),
        cluster=pool,
        local=here,
        affinity_seconds=draw(st.sampled_from((0, 0, 10800))),
        endpoints_total=count,
        health_check_port=draw(st.sampled_from((0, 20000 + number))),
    )


@st.composite
def service_sets(draw: st.DrawFn, family: IPFamily = IPFamily.IPV4) -> list[ServicePlan]:
    numbers = draw(st.lists(st.integers(0, 60), max_size=20, unique=True))
    return [draw(service_plans(number, family)) for number in numbers]
