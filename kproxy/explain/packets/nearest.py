"""Nobody took the packet: which rule came closest, and what about the packet did not fit.

Found by way of the Services that the survey knows, by address, by port, by endpoint, and only then in the rules
themselves; so it costs the same in a dump of ten rules and of a hundred thousand. Rejected: to compare the packet with
every rule and count the predicates that hold, which finds a rule for another address as near as one for another port.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from msgspec import Struct

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.judge import judge, words
from kproxy.backend.iptables.rules import Rule, Table
from kproxy.backend.iptables.state import Host, State
from kproxy.explain.answer import Frontend, FrontendKind, Line, Nearest, ServicePort
from kproxy.explain.packets.journey import join_address
from kproxy.explain.services.graph import next_chain
from kproxy.explain.services.survey import Survey, whereabouts
from kproxy.model.packet import Packet

if TYPE_CHECKING:  # what reads objects is large, and most questions come without
    from kproxy.explain.read.objects import Objects

_OF_NODES = {FrontendKind.NODE_PORT, FrontendKind.HEALTH_CHECK}
_ENDS = re.compile(r" -j (ACCEPT|RETURN|DNAT|REDIRECT|NFQUEUE)(?: |$)")
_UNTRACKED = re.compile(r" -j (?:NOTRACK$|CT --notrack)")
_MOST = 12  # ports or services that one sentence names


def find_nearest(
    survey: Survey,
    packet: Packet,
    addresses: frozenset[str],
    met: Sequence[Line] = (),
    objects: Objects | None = None,
) -> Nearest:
    """``addresses``: those of the node; ``met``: the rules that the packet met."""
    return _Search(survey, packet, addresses, met, objects).find()


class _Found(Struct, frozen=True):
    service: ServicePort
    frontend: Frontend

    @property
    def port(self) -> str:
        return f"{self.frontend.port}/{self.service.protocol}"


class _Search(Struct, frozen=True):
    survey: Survey
    packet: Packet
    addresses: frozenset[str]
    met: Sequence[Line]
    objects: Objects | None

    def find(self) -> Nearest:
        if Table.NAT not in self.survey.dump.tables:
            return Nearest("the nat table is not in this dump; give the whole output of iptables-save, of all tables")
        if (taking := self._taking()) and _rewrites(taking):
            return self._rewritten(taking)
        if not self.survey.services:
            return Nearest(f"no Service is {whereabouts(self.survey)}")
        at_node, at_address = [], []
        for each in self._frontends():
            if each.frontend.kind in _OF_NODES:
                at_node.append(each)
            elif each.frontend.address == self.packet.destination:
                at_address.append(each)
        if at_address:
            return self._by_address(at_address)
        return self._by_node_port(at_node) or self._by_endpoint() or self._by_objects() or self._by_range()

    def _frontends(self) -> Iterator[_Found]:
        for service in self.survey.services:
            for frontend in service.frontends:
                yield _Found(service, frontend)

    # --- an address of a Service --------------------------------------------------------------------------------

    def _by_address(self, found: Sequence[_Found]) -> Nearest:
        packet = self.packet
        there = packet.destination
        of_port = [each for each in found if each.frontend.port == packet.port]
        for each in of_port:
            if each.service.protocol is packet.protocol:
                return self._in_the_way(each)
        if of_port:
            answered = _list(sorted({each.service.protocol.value for each in of_port}))
            message = f"{join_address(there, packet.port)} is answered for {answered}, not for {packet.protocol}"
            return self._nearest(message, of_port[0], f"-p {of_port[0].service.protocol.lower}")
        owners = sorted({each.service.service or each.service.name for each in found})
        ports = sorted({(each.service.protocol != packet.protocol, each.frontend.port, each.port) for each in found})
        whose = "its" if len(owners) == 1 else "their"
        message = (
            f"{there} is {_list(owners)}; {packet.port} is not one of {whose} ports: {_list([p[2] for p in ports])}"
        )
        closest = min(found, key=self._distance)
        return self._nearest(message, closest, f"--dport {closest.frontend.port}")

    def _distance(self, each: _Found) -> tuple[bool, int]:
        return each.service.protocol is not self.packet.protocol, abs(each.frontend.port - self.packet.port)

    def _in_the_way(self, each: _Found) -> Nearest:
        """There is a rule for exactly this; it was not met, or what it led to gave the packet back."""
        line = self._line(each.frontend.line)
        name = each.service.name
        if each.service.source_ranges and each.frontend.kind is FrontendKind.LOAD_BALANCER_IP:
            ranges = _list(each.service.source_ranges)
            return Nearest(f"{self.packet.source} is in none of the source ranges of {name}: {ranges}", line)
        if line is not None and line not in self.met:
            return self._not_met(each, line)
        returned = f"the rule of {name} gives the packet back: none of its endpoints took it"
        return Nearest(f"{name} {each.frontend.why}" if each.frontend.why else returned, line)

    def _not_met(self, each: _Found, line: Line) -> Nearest:
        name = each.service.name
        told, then = "", f"where {name} is answered"
        hooks = ["OUTPUT"] if self.packet.from_host else ["PREROUTING"]
        if line.table == Table.FILTER:
            told, then = f"{name} {each.frontend.why or 'is not served'}, but ", "where it is refused"
            hooks = ["OUTPUT"] if self.packet.from_host else ["INPUT", "FORWARD"]
        if not any(self._leads(line.table, hook, line.chain) for hook in hooks):
            where = f"{line.table} {' or '.join(hooks)}"
            return Nearest(f"{told}no rule of {where} leads to {line.chain}, {then}", line)
        if untracked := next((each for each in self.met if _UNTRACKED.search(each.text)), None):
            where = f"the rule at line {untracked.number}, in {untracked.table} {untracked.chain}"
            said = f"{where}, keeps the packet from connection tracking"
            return Nearest(f"{told}{said}, and what is not tracked does not come to {line.chain}, {then}", untracked)
        if taking := self._taking():
            return self._taken(taking, f"before it comes to {line.chain}, {then}")
        if predicate := self._failing(line):
            return Nearest(f"{told}the packet does not fit the rule of {name}", line, predicate)
        return Nearest(f"{told}the packet does not come to the rule of {name}", line)

    def _failing(self, line: Line) -> str:
        """The first match of a rule that the packet fails for certain."""
        state = State(self.packet, self.packet, way_in=self.packet.in_interface or None)
        host = Host(addresses=self.addresses)
        for saved in self.survey.dump.tables[line.table][line.chain].rules:
            if saved.line == line.number:
                failing = (match for match in saved.rule.matches if judge(match, state, host) is False)
                return next(map(words, failing), "")
        return ""

    def _taking(self) -> Line | None:
        """The rule of nat that ended the packet's way through that table before its Service's came."""
        here = [each for each in self.met if each.table == Table.NAT and "POSTROUTING" not in each.chain]
        return next((each for each in reversed(here) if _ENDS.search(each.text)), None)

    def _taken(self, taking: Line, before: str) -> Nearest:
        does = "rewrites" if _rewrites(taking) else "takes"
        where = f"the rule at line {taking.number}, in {taking.table} {taking.chain}"
        return Nearest(f"{where}, {does} the packet {before}", taking)

    def _rewritten(self, taking: Line) -> Nearest:
        for each in self._frontends():
            there = each.frontend.address == self.packet.destination and each.frontend.port == self.packet.port
            if there and each.service.protocol is self.packet.protocol:
                return self._in_the_way(each)
        return self._taken(taking, "to where it leads, and belongs to no Service that is known here")

    def _leads(self, table: str, start: str, chain: str) -> bool:
        chains = self.survey.dump.tables.get(table, {})
        waiting, seen = [start], set[str]()
        while waiting:
            name = waiting.pop()
            if name == chain:
                return True
            if name not in seen and name in chains:
                seen.add(name)
                waiting += [next_chain(saved.rule.target) for saved in chains[name].rules]
        return False

    # --- an address of the node ---------------------------------------------------------------------------------

    def _by_node_port(self, found: Sequence[_Found]) -> Nearest | None:
        packet = self.packet
        there = packet.destination
        ports = [each for each in found if each.frontend.kind is FrontendKind.NODE_PORT]
        only = sorted({each.frontend.address for each in ports} - {""}, key=ip_address)
        local = there in self.addresses or there in only or ip_address(there).is_loopback
        of_port = [each for each in found if each.frontend.port == packet.port]
        exact = next((each for each in of_port if each.service.protocol is packet.protocol), None)
        if exact is not None and (local or exact.frontend.kind is FrontendKind.NODE_PORT):
            return self._by_exact_port(exact, local, only)
        if not local:
            return None
        if not ports:
            return Nearest(f"{there} is an address of this node, and no Service has a node port here")
        if of_port and of_port[0].frontend.kind is FrontendKind.NODE_PORT:
            near = of_port[0]
            answered = f"node port {packet.port} of {near.service.name} is answered for {near.service.protocol}"
            return self._nearest(f"{answered}, not for {packet.protocol}", near, f"-p {near.service.protocol.lower}")
        near = min(ports, key=self._distance)
        message = f"{packet.port} is no node port; the nearest is {near.port} of {near.service.name}"
        return self._nearest(message, near, f"--dport {near.frontend.port}")

    def _by_exact_port(self, found: _Found, local: bool, only: Sequence[str]) -> Nearest:
        """``only``: where node ports are answered; empty: at every address of the node."""
        if found.frontend.kind is FrontendKind.HEALTH_CHECK:
            whose = found.service.service or found.service.name
            what = f"{self.packet.port} is the health check node port of {whose}"
            return Nearest(f"{what}: the service proxy itself answers there", self._line(found.frontend.line))
        if only and self.packet.destination not in only:
            return self._not_here(found, only)
        if only:
            return self._in_the_way(found)
        return self._not_at(found) if local else self._outside(found)

    def _outside(self, found: _Found) -> Nearest:
        there = self.packet.destination
        nodes = self.objects.nodes if self.objects else {}
        node = next((name for name, each in nodes.items() if there in each.addresses), "")
        if node:
            message = f"{there} is an address of node {node}; if these are its rules, add --local {there}"
        elif not self.addresses:
            message = (
                f"the dump does not tell whether {there} is an address of this node; if it is, add --local {there}"
            )
        else:
            message = (
                f"{there} was taken for an address outside of this node; "
                f"if it is one of the node's, add --local {there}"
            )
        entry = next(self._entries(), None)
        return Nearest(message, entry[0] if entry else self._line(found.frontend.line), "--dst-type LOCAL")

    def _not_here(self, found: _Found, only: Sequence[str]) -> Nearest:
        """Node ports are answered at some of the node's addresses (nodePortAddresses)."""
        what, there = f"node port {found.port} of {found.service.name}", self.packet.destination
        message = f"{what} is answered at {_list(only)} (nodePortAddresses), not at {there}"
        entry = next(self._entries(), None)
        return Nearest(message, entry[0] if entry else self._line(found.frontend.line), f"-d {only[0]}")

    def _not_at(self, found: _Found) -> Nearest:
        """A node port that this address of the node does not answer."""
        what = f"node port {found.port} of {found.service.name}"
        for line, rule in self._entries():
            for match in rule.matches:
                if isinstance(match, r.Destination) and match.negated:
                    message = f"{what} is not answered at addresses within {match.cidr}"
                    return Nearest(message, line, words(match))
        return self._in_the_way(found)

    def _entries(self) -> Iterator[tuple[Line, Rule]]:
        """Rules by which packets come to node ports."""
        chain = self.survey.dump.tables[Table.NAT].get(names.SERVICES)
        for saved in reversed(chain.rules if chain else ()):
            if saved.rule.target == r.Jump(names.NODE_PORTS):
                yield self.survey.dump.line(Table.NAT, names.SERVICES, saved), saved.rule

    # --- anything else ------------------------------------------------------------------------------------------

    def _by_endpoint(self) -> Nearest | None:
        packet = self.packet
        there = packet.destination
        owners = [
            (service, endpoint)
            for service in self.survey.services
            for endpoint in service.endpoints
            if endpoint.ip == there
        ]
        if not owners:
            return None
        exact = [
            (service, endpoint)
            for service, endpoint in owners
            if endpoint.port == packet.port and service.protocol is packet.protocol
        ]
        whose = _list(sorted({service.name for service, _ in exact or owners}))
        line = self._line((exact or owners)[0][1].line)
        if exact:
            where = join_address(there, packet.port)
            return Nearest(f"{where} is an endpoint of {whose}, dialled directly; no Service is in the way", line)
        ports = _list(sorted({f"{endpoint.port}/{service.protocol}" for service, endpoint in owners}))
        return Nearest(
            f"{there} is an endpoint of {whose} at {ports}; {packet.port}/{packet.protocol} is dialled directly, "
            "no Service is in the way",
            line,
        )

    def _by_objects(self) -> Nearest | None:
        """What the API's objects know of the address, and the rules do not."""
        packet = self.packet
        if self.objects is None:
            return None
        where = join_address(packet.destination, packet.port)
        if key := self.objects.frontends.get((packet.destination, packet.port, packet.protocol)):
            return Nearest(f"{where} is {key} of the given objects, but no rule of this dump is about it")
        pod = self.objects.pods.get(packet.destination)
        if pod is not None and pod.pod:
            on = f" on node {pod.node}" if pod.node else ""
            return Nearest(f"{packet.destination} is pod {pod.pod}{on}, dialled directly; no Service is in the way")
        return None

    def _by_range(self) -> Nearest:
        found = [
            ip_address(each.frontend.address)
            for each in self._frontends()
            if each.frontend.kind is FrontendKind.CLUSTER_IP
        ]
        message = f"{self.packet.destination} is no address of any Service {whereabouts(self.survey)}"
        if not found:
            return Nearest(message)
        if len(set(found)) == 1:
            return Nearest(f"{message}; the one cluster IP here is {found[0]}")
        low, high = map(type(found[0]), _block([int(each) for each in found]))
        return Nearest(f"{message}; cluster IPs here are within {low}–{high}")  # noqa: RUF001 -- from-to

    # --- lines --------------------------------------------------------------------------------------------------

    def _nearest(self, message: str, found: _Found, predicate: str) -> Nearest:
        return Nearest(message, self._line(found.frontend.line), predicate)

    def _line(self, number: int) -> Line | None:
        """The rule at a line of the dump."""
        dump = self.survey.dump
        if not 1 <= number <= len(dump.lines):
            return None
        words = dump.lines[number - 1].partition("-A ")[2].split(maxsplit=1)
        for table, chains in dump.tables.items():
            chain = chains.get(words[0]) if words else None
            for saved in chain.rules if chain else ():
                if saved.line == number:
                    return dump.line(table, words[0], saved)
        return None


def _rewrites(line: Line) -> bool:
    found = _ENDS.search(line.text)
    return found is not None and found[1] in {"DNAT", "REDIRECT"}


def _block(addresses: Sequence[int]) -> tuple[int, int]:
    """The smallest CIDR block that holds them, from its first to its last address."""
    low, high = min(addresses), max(addresses)
    mask = (1 << (low ^ high).bit_length()) - 1
    return low & ~mask, high | mask


def _list(many: Sequence[str]) -> str:
    shown = ", ".join(many[:_MOST])
    return shown if len(many) <= _MOST else f"{shown} and {len(many) - _MOST} more"
