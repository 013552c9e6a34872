"""Which Services are in a dump: rules to service ports, whoever wrote them.

A structure is read, not comments: what leads from the entry chains to a rewrite of the destination is a service port,
whatever its chains are called. Names come from comments, from hashes of given objects, or are the chain's.

A frontend that nobody serves stands in the filter table alone, one that is served to some clients only in both. The
packets that nat rewrote never meet the filter's lists again, so a refusal there counts for those that it did not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from kproxy.backend.iptables import names
from kproxy.backend.iptables.parse import SavedChain, no_collection
from kproxy.backend.iptables.rules import Conntrack, Destination, Jump, RejectWith
from kproxy.explain.answer import Fate, FrontendKind, ServicePort
from kproxy.explain.read.dump import Dump
from kproxy.explain.read.objects import NOTHING, Objects
from kproxy.explain.services.drafts import Door, Drafts, Finisher, Place
from kproxy.explain.services.entrances import Entrance, entrances
from kproxy.explain.services.ways import Ways


class Survey(Struct, frozen=True):
    """A dump and what is in it."""

    dump: Dump
    services: tuple[ServicePort, ...]  # by name, port and protocol
    owners: Mapping[tuple[str, str], tuple[int, ...]]  # (table, chain) → whose it is, as places in ``services``


def survey(dump: Dump, objects: Objects = NOTHING) -> Survey:
    """Never raises: what leads nowhere is a frontend that leads nowhere."""
    with no_collection():
        return _Surveyor(dump, objects).survey()


def is_live(surveys: Sequence[Survey]) -> bool:
    """Whether they are of this host; one may have no rules at all, and a file without any is no dump."""
    return not surveys or surveys[0].dump.live


def whereabouts(*surveys: Survey) -> str:
    """Where their things are, for a sentence."""
    return "on this node" if is_live(surveys) else "in this dump"


def relay_addresses(dump: Dump) -> frozenset[str]:
    """Where kproxy's relay listens on that node: the address that the rules guard (userspace mode)."""
    chain = dump.tables.get("filter", {}).get(names.PROXY_FIREWALL)
    return frozenset(
        match.cidr.partition("/")[0]
        for saved in (chain.rules if chain else ())
        if any(
            isinstance(match, Conntrack) and match.negated and "DNAT" in match.states for match in saved.rule.matches
        )
        for match in saved.rule.matches
        if isinstance(match, Destination) and not match.negated
    )


class _Surveyor:
    def __init__(self, dump: Dump, objects: Objects) -> None:
        self._dump = dump
        self._nat: Mapping[str, SavedChain] = dump.tables.get("nat", {})
        self._filter: Mapping[str, SavedChain] = dump.tables.get("filter", {})
        self._ways = Ways(self._nat)
        self._drafts = Drafts(objects)

    def survey(self) -> Survey:
        for entrance in entrances(self._nat, names.SERVICES):
            if isinstance(entrance.saved.rule.target, Jump):
                self._serve(entrance, entrance.saved.rule.target.chain)
        for root in (names.SERVICES, names.EXTERNAL_SERVICES, names.PROXY_FIREWALL):
            for entrance in entrances(self._filter, root):
                self._judge(entrance, root)
        for entrance in entrances(self._filter, names.NODE_PORTS):
            self._let_in(entrance)
        finisher = Finisher(self._dump.facts, self._ways, self._drafts.objects, relay_addresses(self._dump))
        found = sorted(map(finisher.finish, self._drafts), key=_sorting)
        whose: dict[str, list[int]] = {}
        for place, (_, chains) in enumerate(found):
            for chain in chains:
                whose.setdefault(chain, []).append(place)
        owners = {("nat", chain): tuple(places) for chain, places in whose.items()}
        return Survey(self._dump, tuple(service for service, _ in found), owners)

    def _serve(self, entrance: Entrance, chain: str) -> None:
        """nat: packets are led to a service port's chain."""
        draft = self._drafts.by_chain(entrance, chain)
        place = Place(entrance.address, entrance.port)
        before = draft.doors.get(place)
        packets = entrance.saved.packets
        if before is not None:
            packets = before.packets = before.packets + packets if packets >= 0 else before.packets
            if not entrance.plain:
                return
        way = self._ways.way(chain)
        kind = self._drafts.kind(draft, entrance, chain, way)
        door = Door(kind, place, way.fate, way.why, chain, entrance.saved.line, packets, way)
        self._drafts.put(entrance, draft, door)

    def _judge(self, entrance: Entrance, root: str) -> None:
        """filter: packets that were not led anywhere are refused or dropped."""
        fate = Fate.REFUSED if isinstance(entrance.saved.rule.target, RejectWith) else Fate.DROPPED
        draft = self._drafts.by_name(entrance)
        place = Place(entrance.address, entrance.port)
        met = draft.on_node.get(place.port, []) if entrance.on_node else [*filter(None, (draft.doors.get(place),))]
        for door in met:
            if door.fate is not Fate.DELIVERED:
                door.fate, door.why = fate, entrance.name.rest
        if not met:
            saved = entrance.saved
            kind = self._drafts.refused_kind(draft, entrance, root)
            door = Door(kind, place, fate, entrance.name.rest, "", saved.line, saved.packets, None)
            self._drafts.put(entrance, draft, door)

    def _let_in(self, entrance: Entrance) -> None:
        """filter: a health-check node port, which a daemon answers and no endpoint."""
        saved = entrance.saved
        place = Place(entrance.address, entrance.port, checks=True)
        door = Door(FrontendKind.HEALTH_CHECK, place, Fate.DELIVERED, "", "", saved.line, saved.packets, None)
        self._drafts.of_check(entrance).doors.setdefault(place, door)


def _sorting(found: tuple[ServicePort, Sequence[str]]) -> tuple[str, ...]:
    service = found[0]
    return service.service, service.port, service.protocol, service.hash
