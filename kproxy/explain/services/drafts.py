"""Service ports in the making: rules that belong together are brought together, and get a name.

Chains of one service port carry the same hash, rules of the filter table only a comment. Where there is no comment,
given objects tell whose hash it is, and whose address; where there are no objects, the hash itself is the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec import Struct

from kproxy.backend.iptables import names
from kproxy.explain.answer import DumpFacts, Endpoint, Fate, Frontend, FrontendKind, ServicePort
from kproxy.explain.read.objects import Objects
from kproxy.explain.services.entrances import Entrance
from kproxy.explain.services.pools import Choice, Pool
from kproxy.explain.services.ways import Way, Ways, is_local
from kproxy.model.enums import Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey

_HASHED = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|XLB)-([A-Z2-7]{16})")
_HASH = re.compile(r"[A-Z2-7]{16}")
_KINDS = {
    "cluster IP": FrontendKind.CLUSTER_IP,
    "external IP": FrontendKind.EXTERNAL_IP,
    "loadbalancer IP": FrontendKind.LOAD_BALANCER_IP,
}
_ORDER = {kind: place for place, kind in enumerate(FrontendKind)}


class Place(NamedTuple):
    address: str
    port: int
    checks: bool = False  # for health checks


class Door(Struct):
    """A frontend in the making."""

    kind: FrontendKind
    place: Place
    fate: Fate
    why: str
    chain: str
    line: int
    packets: int
    way: Way | None  # None: it stands in the filter table alone

    @property
    def is_local(self) -> bool:
        return self.way.is_local if self.way else self.fate is Fate.DROPPED

    @property
    def policy(self) -> str:
        """The traffic policy that it shows; empty: none."""
        if self.is_local:
            return "Local"
        return "Cluster" if self.way and self.way.main else ""


class Draft(Struct):
    """A service port in the making."""

    service: str
    port: str
    protocol: Protocol
    named_by: str
    hash: str = ""
    doors: dict[Place, Door] = {}
    on_node: dict[int, list[Door]] = {}  # node ports, of whatever address, by port


class Drafts:
    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._all: list[Draft] = []
        self._by_hash: dict[tuple[str, Protocol], Draft] = {}
        self._by_name: dict[tuple[str, str, Protocol], Draft] = {}
        self._by_place: dict[tuple[str, int, Protocol], Draft] = {}

    def __iter__(self) -> Iterator[Draft]:
        return iter(self._all)

    def by_chain(self, entrance: Entrance, chain: str) -> Draft:
        """Of an entrance that leads to a chain."""
        hashed = _HASHED.match(chain)
        digest = hashed[1] if hashed else chain
        found = self._by_hash.get((digest, entrance.protocol))
        if found is None:
            service, port, named_by = self._name(entrance, digest)
            found = self._by_name.get((service, port, entrance.protocol)) if service else None
            if found is None or (hashed and _HASH.fullmatch(found.hash)):
                found = self._add(Draft(service, port, entrance.protocol, named_by, digest))
            self._by_hash[digest, entrance.protocol] = found
        return found

    def by_name(self, entrance: Entrance) -> Draft:
        """Of an entrance that leads to none: its comment names it, or what else is known about its address."""
        service, port, named_by = self._name(entrance, "")
        if service:
            found = self._by_name.get((service, port, entrance.protocol))
        else:
            found = self._by_place.get((entrance.address, entrance.port, entrance.protocol))
        return found or self._add(Draft(service, port, entrance.protocol, named_by))

    def of_check(self, entrance: Entrance) -> Draft:
        """Of a health-check node port, which is TCP whatever the service port is."""
        for protocol in Protocol:
            found = self._by_name.get((entrance.name.service, entrance.name.port, protocol))
            if found is not None:
                return found
        return self.by_name(entrance)

    def put(self, entrance: Entrance, draft: Draft, door: Door) -> None:
        """Add a frontend, or put it in the place of the same with other conditions."""
        before = draft.doors.get(door.place)
        draft.doors[door.place] = door
        if entrance.on_node:
            beside = draft.on_node.setdefault(door.place.port, [])
            if before is not None:
                beside.remove(before)
            beside.append(door)
        self._by_place.setdefault((entrance.address, entrance.port, entrance.protocol), draft)

    def _add(self, draft: Draft) -> Draft:
        self._all.append(draft)
        if draft.service:
            self._by_name.setdefault((draft.service, draft.port, draft.protocol), draft)
        return draft

    def _name(self, entrance: Entrance, digest: str) -> tuple[str, str, str]:
        """(service, port, by what it is known)."""
        if entrance.name.service:
            return entrance.name.service, entrance.name.port, "comment"
        key = self.objects.hashes.get(digest)
        if key is None:
            address = "" if entrance.on_node else entrance.address
            key = self.objects.frontends.get((address, entrance.port, entrance.protocol.value))
        return (str(key.service), key.port, "objects") if key else ("", "", "chain")

    # --- kinds of frontends -----------------------------------------------------------------------------------

    def kind(self, draft: Draft, entrance: Entrance, chain: str, way: Way) -> FrontendKind:
        if entrance.on_node:
            return FrontendKind.NODE_PORT
        told = _KINDS.get(entrance.name.rest) or self._told(draft, entrance.address)
        if told is not None:
            return told
        if chain.startswith("KUBE-FW-"):
            return FrontendKind.LOAD_BALANCER_IP
        return FrontendKind.EXTERNAL_IP if way.is_external else FrontendKind.CLUSTER_IP

    def refused_kind(self, draft: Draft, entrance: Entrance, root: str) -> FrontendKind:
        """Of one that stands in a chain of the filter table alone, where comments do not tell."""
        if entrance.on_node:
            return FrontendKind.NODE_PORT
        if root == names.SERVICES:
            return FrontendKind.CLUSTER_IP
        if root == names.PROXY_FIREWALL:
            return FrontendKind.LOAD_BALANCER_IP
        return self._told(draft, entrance.address) or FrontendKind.EXTERNAL_IP

    def _told(self, draft: Draft, address: str) -> FrontendKind | None:
        """What objects say that an address is."""
        known = self.objects.services.get(ObjectKey(*draft.service.split("/", 1))) if draft.service else None
        if known is None:
            return None
        if address in known.cluster_ips:
            return FrontendKind.CLUSTER_IP
        if address in known.load_balancer_vips:
            return FrontendKind.LOAD_BALANCER_IP
        return FrontendKind.EXTERNAL_IP if address in known.external_ips else None


# --- drafts to service ports ----------------------------------------------------------------------------------


class Finisher(Struct):
    """Makes service ports of drafts."""

    facts: DumpFacts
    ways: Ways
    objects: Objects
    relay: frozenset[str]  # addresses

    def finish(self, draft: Draft) -> tuple[ServicePort, tuple[str, ...]]:
        """With the chains that are its own."""
        doors = sorted(draft.doors.values(), key=_sorting)
        ways = list({id(door.way): door.way for door in doors if door.way}.values())
        lists = dict.fromkeys(chain for way in ways for chain in (way.main, *way.others) if chain)
        here = {chain: is_local(chain) for chain in lists}
        cluster, local = (self._pool(chain for chain in lists if here[chain] is which) for which in (False, True))
        endpoints = self._endpoints(draft, cluster), self._endpoints(draft, local)
        inside = outside = ""
        for door in doors:
            if door.kind is FrontendKind.CLUSTER_IP:
                inside = inside or door.policy
            elif door.kind is not FrontendKind.HEALTH_CHECK:
                outside = outside or door.policy
        service = ServicePort(
            service=draft.service,
            port=draft.port,
            protocol=draft.protocol,
            family=self.facts.family,
            hash=draft.hash,
            named_by=draft.named_by,
            frontends=tuple(map(_frontend, doors)),
            cluster=endpoints[0],
            local=endpoints[1],
            internal_policy=inside,
            external_policy=outside,
            affinity_seconds=max(cluster.affinity_seconds, local.affinity_seconds),
            source_ranges=tuple(dict.fromkeys(each for way in ways for each in way.ranges)),
            relayed=bool(self.relay) and any(choice.ip in self.relay for choice in (*cluster.choices, *local.choices)),
            variant=self.facts.variant,
        )
        chains = dict.fromkeys(chain for way in ways for chain in way.chains)
        return service, tuple(chains | dict.fromkeys((*lists, *cluster.chains, *local.chains)))

    def _pool(self, chains: Iterable[str]) -> Pool:
        """The first that holds anything."""
        return next((pool for pool in map(self.ways.pool, chains) if pool.chains), Pool())

    def _endpoints(self, draft: Draft, pool: Pool) -> tuple[Endpoint, ...]:
        total = sum(max(choice.packets, 0) for choice in pool.choices) if self.facts.counters else 0
        return tuple(self._endpoint(draft, choice, total) for choice in pool.choices)

    def _endpoint(self, draft: Draft, choice: Choice, total: int) -> Endpoint:
        ip, port = choice.ip, choice.port
        if not port and self.objects.known:
            ip, port = self._recalled(draft, choice)
        observed = choice.packets / total if total else -1.0
        pod = node = state = ""
        if self.objects.known:
            pod, node, state = self.objects.backing(draft.service, draft.port, ip, port)
        return Endpoint(
            ip, port, choice.probability, observed, choice.packets, choice.chain, choice.line, pod, node, state
        )

    def _recalled(self, draft: Draft, choice: Choice) -> tuple[str, int]:
        """The endpoint that has such a chain, where the rule that rewrites cannot be read."""
        if not draft.service:
            return choice.ip, choice.port
        namespace, _, name = draft.service.partition("/")
        key = ServicePortKey(namespace, name, draft.port, draft.protocol)
        for ip, port in self.objects.targets(key):
            there = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
            if choice.chain == f"KUBE-SEP-{names.digest(f'{key}{key.protocol.lower}{there}')}":
                return ip, port
        return choice.ip, choice.port


def _frontend(door: Door) -> Frontend:
    return Frontend(
        kind=door.kind,
        address=door.place.address,
        port=door.place.port,
        fate=door.fate,
        why=door.why,
        chain=door.chain,
        line=door.line,
        packets=door.packets,
        endpoints="local" if door.is_local else "cluster",
    )


def _sorting(door: Door) -> tuple[int, str, int]:
    return _ORDER[door.kind], door.place.address, door.place.port
