"""Nobody took the packet: which rule came closest, and what about the packet did not fit.

Found by way of the Services that the survey knows, by address, by port, by endpoint, and only then in the rules
themselves; so it costs the same in a dump of ten rules and of a hundred thousand. Rejected: to compare the packet with
every rule and count the predicates that hold, which finds a rule for another address as near as one for another port.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from msgspec import Struct

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Rule, Table
from kproxy.backend.iptables.text import render_rule
from kproxy.explain.answer import Frontend, FrontendKind, Line, Nearest, ServicePort
from kproxy.explain.graph import next_chain
from kproxy.explain.journey import join_address
from kproxy.explain.survey import Survey
from kproxy.model.packet import Packet

if TYPE_CHECKING:  # what reads objects is large, and most questions come without
    from kproxy.explain.objects import Objects

_MOST = 12  # ports or services that one sentence names


def find_nearest(survey: Survey, packet: Packet, addresses: frozenset[str], objects: Objects | None = None) -> Nearest:
    """``addresses``: those of the node."""
    return _Search(survey, packet, addresses, objects).find()


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
    objects: Objects | None

    def find(self) -> Nearest:
        if Table.NAT not in self.survey.dump.tables:
            return Nearest("the nat table is not in this dump; give the whole output of iptables-save, of all tables")
        if not self.survey.services:
            return Nearest("no Service is in this dump")
        at_address, at_node = [], []
        for each in self._frontends():
            if each.frontend.address == self.packet.destination:
                at_address.append(each)
            elif not each.frontend.address:
                at_node.append(each)
        if at_address:
            return self._byjoin_address(at_address)
        return self._by_node_port(at_node) or self._by_endpoint() or self._by_range()

    def _frontends(self) -> Iterator[_Found]:
        for service in self.survey.services:
            for frontend in service.frontends:
                if frontend.kind is not FrontendKind.HEALTH_CHECK:
                    yield _Found(service, frontend)

    # --- an address of a Service --------------------------------------------------------------------------------

    def _byjoin_address(self, found: Sequence[_Found]) -> Nearest:
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
        refusing = line is not None and line.table == Table.FILTER
        hooks = ["OUTPUT"] if self.packet.from_host else ["INPUT", "FORWARD"] if refusing else ["PREROUTING"]
        where = f"{line.table} {' or '.join(hooks)}" if line else ""
        leads = line is None or any(self._leads(line.table, hook, line.chain) for hook in hooks)
        if line is not None and refusing:
            told = f"{name} {each.frontend.why or 'is not served'}"
            if not leads:
                return Nearest(f"{told}, but no rule of {where} leads to {line.chain}, where it is refused", line)
            return Nearest(f"{told}, but the packet did not come to the rule that says so", line)
        if line is not None and not leads:
            return Nearest(f"no rule of {where} leads to {line.chain}, where {name} is answered", line)
        return Nearest(f"the rule of {name} gives the packet back: none of its endpoints took it", line)

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
        of_port = [each for each in found if each.frontend.port == packet.port]
        exact = next((each for each in of_port if each.service.protocol is packet.protocol), None)
        loopback = ip_address(there).is_loopback
        if exact is not None:
            return self._not_here(exact) if loopback or there in self.addresses else self._outside(exact)
        if not loopback and there not in self.addresses:
            return None
        if of_port:
            near = of_port[0]
            message = (
                f"node port {packet.port} is for {near.service.protocol} ({near.service.name}), not {packet.protocol}"
            )
            return self._nearest(message, near, f"-p {near.service.protocol.lower}")
        if not found:
            return Nearest(f"{there} is an address of this node, and no Service has a node port here")
        near = min(found, key=self._distance)
        message = f"{packet.port} is no node port; the nearest is {near.port} of {near.service.name}"
        return self._nearest(message, near, f"--dport {near.frontend.port}")

    def _outside(self, found: _Found) -> Nearest:
        there = self.packet.destination
        nodes = self.objects.nodes if self.objects else {}
        node = next((name for name, each in nodes.items() if there in each.addresses), "")
        if node:
            message = f"{there} is an address of node {node}; if these are its rules, add --local {there}"
        else:
            message = (
                f"{there} was taken for an address outside of this node; "
                f"if it is one of the node's, add --local {there}"
            )
        entry = next(self._entries(), None)
        return Nearest(message, entry[0] if entry else self._line(found.frontend.line), "--dst-type LOCAL")

    def _not_here(self, each: _Found) -> Nearest:
        """A node port that this address of the node does not answer (nodePortAddresses)."""
        there, what = self.packet.destination, f"node port {each.port} of {each.service.name}"
        entries = list(self._entries())
        if not entries:
            return Nearest(f"{what} is not answered: no rule of nat KUBE-SERVICES leads to {names.NODE_PORTS}")
        line, rule = entries[0]
        negated = next((m for m in rule.matches if isinstance(m, r.Destination) and m.negated), None)
        if negated is not None:
            return Nearest(f"{what} is not answered on addresses within {negated.cidr}", line, _predicate(negated))
        only = [m for _, rule in entries for m in rule.matches if isinstance(m, r.Destination)]
        if only:
            where = _list([match.cidr.removesuffix("/32").removesuffix("/128") for match in only])
            message = f"{what} is not answered on {there}: node ports are answered on {where} (nodePortAddresses)"
            return Nearest(message, line, _predicate(only[0]))
        return self._in_the_way(each)

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

    def _by_range(self) -> Nearest:
        found = [
            int(ip_address(each.frontend.address))
            for each in self._frontends()
            if each.frontend.kind is FrontendKind.CLUSTER_IP
        ]
        message = f"{self.packet.destination} is no address of any Service in this dump"
        if not found:
            return Nearest(message)
        low, high = _block(min(found), max(found))
        family = type(ip_address(self.packet.destination))
        return Nearest(f"{message}; cluster IPs here are within {family(low)}–{family(high)}")  # noqa: RUF001 -- from-to

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


def _predicate(match: r.Match) -> str:
    return render_rule("-", Rule((match,), None)).removeprefix("-A - ")


def _block(low: int, high: int) -> tuple[int, int]:
    """The smallest CIDR block that holds both."""
    mask = (1 << (low ^ high).bit_length()) - 1
    return low & ~mask, high | mask


def _list(words: Sequence[str]) -> str:
    shown = ", ".join(words[:_MOST])
    return shown if len(words) <= _MOST else f"{shown} and {len(words) - _MOST} more"
