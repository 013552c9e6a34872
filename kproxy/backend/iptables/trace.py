"""Where does a packet go? Walk it through rules as the kernel would, and keep the rules it met.

The packet is the first of its flow, so it is NEW and meets the nat table. Where chance decides (``statistic``) every
way is followed with its probability; where something decides that rules cannot show (a match we do not know) both
ways are followed and the outcome says what it depends on. Nothing is guessed.

The order of hooks is netfilter's (nf_nat and iptable_filter priorities): a packet from outside meets nat PREROUTING,
then, its destination rewritten, filter INPUT or FORWARD, then nat POSTROUTING; one from a process on the node meets
nat OUTPUT, filter OUTPUT, nat POSTROUTING.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Match, Rule, Table, Verdict
from kproxy.model.packet import Packet

Tables = Mapping[tuple[str, str], Sequence[Rule]]  # (table, chain) → rules; built-in chains included


class Host(Struct, frozen=True):
    """What the rules ask of the node."""

    addresses: frozenset[str] = frozenset()  # local addresses besides loopback
    remembered: frozenset[str] = frozenset()  # xt_recent lists that hold the packet's source


class Met(NamedTuple):
    """A rule that matched."""

    table: str
    chain: str
    position: int  # from 0


class Delivered(Struct, frozen=True):
    """DNATed to an endpoint."""

    ip: str
    port: int
    masquerade: bool


class Refused(Struct, frozen=True):
    """The client gets an ICMP error or a reset."""


class Dropped(Struct, frozen=True):
    """The client hears nothing."""


class Untouched(Struct, frozen=True):
    """No rule rewrote the destination: the packet goes where it was sent."""

    masquerade: bool = False


Fate = Delivered | Refused | Dropped | Untouched


class Outcome(Struct, frozen=True):
    probability: float
    fate: Fate
    path: tuple[Met, ...]
    depends: tuple[str, ...] = ()  # what rules cannot show; empty: certain


class DanglingJump(ValueError):
    """A rule jumps to a chain that does not exist."""


def trace(tables: Tables, packet: Packet, host: Host | None = None) -> tuple[Outcome, ...]:
    """All ways that ``packet`` can go, likeliest first. Raises DanglingJump."""
    walker = _Walker(tables, host or Host())
    outcomes = list(walker.walk(_State(packet)))
    return tuple(sorted(outcomes, key=lambda outcome: -outcome.probability))


def fates(outcomes: Sequence[Outcome]) -> dict[Fate, float]:
    """Fate → probability, over all ways that lead there."""
    summed: dict[Fate, float] = {}
    for outcome in outcomes:
        summed[outcome.fate] = summed.get(outcome.fate, 0.0) + outcome.probability
    return summed


class _State(Struct, frozen=True):
    """A packet on its way."""

    packet: Packet
    probability: float = 1.0
    rewritten: bool = False
    masquerade: bool = False
    path: tuple[Met, ...] = ()
    depends: tuple[str, ...] = ()


class _End(NamedTuple):
    """A chain let go of a packet: None where it came to the chain's end or met RETURN."""

    state: _State
    verdict: Verdict | r.RejectWith | None


class _Walker:
    def __init__(self, tables: Tables, host: Host) -> None:
        self.tables = tables
        self.host = host

    def walk(self, start: _State) -> Iterator[Outcome]:
        first = "OUTPUT" if start.packet.from_host else "PREROUTING"
        for state, fate in self._hook(Table.NAT, first, start):
            if fate is not None:
                yield _outcome(state, fate)
                continue
            local = self._is_local(state.packet.destination)
            hook = "OUTPUT" if start.packet.from_host else "INPUT" if local else "FORWARD"
            for filtered, verdict in self._hook(Table.FILTER, hook, state):
                if verdict is not None:
                    yield _outcome(filtered, verdict)
                elif local and not start.packet.from_host:
                    yield _outcome(filtered, _arrival(filtered))
                else:
                    yield from self._leave(filtered)

    def _leave(self, state: _State) -> Iterator[Outcome]:
        for left, fate in self._hook(Table.NAT, "POSTROUTING", state):
            yield _outcome(left, fate or _arrival(left))

    def _hook(self, table: Table, hook: str, state: _State) -> Iterator[tuple[_State, Fate | None]]:
        """Through one built-in chain; None: the packet goes on."""
        if (table, hook) not in self.tables:
            yield state, None
            return
        for end in self._chain(table, hook, state):
            match end.verdict:
                case r.RejectWith():
                    yield end.state, Refused()
                case Verdict.DROP:
                    yield end.state, Dropped()
                case _:
                    yield end.state, None

    def _chain(self, table: str, chain: str, state: _State) -> Iterator[_End]:
        rules = self.tables.get((table, chain))
        if rules is None:
            raise DanglingJump(f"{table} has no chain {chain}")
        waiting = [state]
        for position, rule in enumerate(rules):
            still: list[_State] = []
            for each in waiting:
                for taken, after in self._test(rule, each):
                    if not taken:
                        still.append(after)
                        continue
                    met = replace(after, path=(*after.path, Met(table, chain, position)))
                    for end in self._target(table, rule, met):
                        if isinstance(end, _State):
                            still.append(end)
                        else:
                            yield end
            waiting = still
            if not waiting:
                return
        for each in waiting:
            yield _End(each, None)

    def _target(self, table: str, rule: Rule, state: _State) -> Iterator[_End | _State]:
        """Where the rule sends the packet: an _End, or a _State that goes on to the next rule."""
        match rule.target:
            case None:
                yield state
            case r.Jump(chain):
                for end in self._chain(table, chain, state):
                    yield end.state if end.verdict is None else end
            case Verdict.RETURN:
                yield _End(state, None)
            case Verdict() | r.RejectWith():
                yield _End(state, rule.target)
            case r.Dnat(ip, port):
                packet = replace(state.packet, destination=ip, port=port)
                yield _End(replace(state, packet=packet, rewritten=True), Verdict.ACCEPT)
            case r.Masquerade():
                yield _End(replace(state, masquerade=True), Verdict.ACCEPT)
            case r.SetMark(value, mask):
                packet = replace(state.packet, mark=(state.packet.mark & ~mask) ^ value)
                yield replace(state, packet=packet)
            case r.UnknownTarget(text):
                yield replace(state, depends=(*state.depends, text))

    def _test(self, rule: Rule, state: _State) -> Iterator[tuple[bool, _State]]:
        """(matched?, packet) once, or twice where chance or the unknown decides."""
        probability, depends = 1.0, list[str]()
        for match in rule.matches:
            answer = self._matches(match, state)
            if answer is False:
                yield False, state
                return
            if isinstance(answer, float):
                probability *= answer
            elif isinstance(answer, str):
                depends.append(answer)
        taken = state.probability * probability
        if depends:
            yield True, replace(state, probability=taken, depends=(*state.depends, *depends))
            missed = tuple(f"not {text}" for text in depends)
            yield False, replace(state, depends=(*state.depends, *missed))
            return
        yield True, replace(state, probability=taken) if probability < 1 else state
        if probability < 1:
            yield False, replace(state, probability=state.probability - taken)

    def _matches(self, match: Match, state: _State) -> bool | float | str:  # noqa: C901, PLR0911, PLR0912 -- one case a noun
        """Yes, no, a probability, or the text of what it depends on."""
        packet = state.packet
        match match:
            case r.Source(cidr, negated):
                return _within(packet.source, cidr) != negated
            case r.Destination(cidr, negated):
                return _within(packet.destination, cidr) != negated
            case r.OfProtocol(protocol, negated):
                return (packet.protocol is protocol) != negated
            case r.Ports():
                return _has_ports(packet, match)
            case r.InInterface(name, negated):
                return (not packet.from_host and _is_named(packet.in_interface, name)) != negated
            case r.Mark(value, mask, negated):
                return (packet.mark & mask == value) != negated
            case r.AddressType(source, destination):
                return self._has_type(packet.source, source) and self._has_type(packet.destination, destination)
            case r.Conntrack(states, negated):
                current = {"NEW", *(["DNAT"] if state.rewritten else [])}
                return bool(current.intersection(states)) != negated
            case r.Statistic(probability):
                return probability
            case r.RecentCheck(name):
                return name in self.host.remembered
            case r.Comment() | r.RecentSet() | r.Nfacct():
                return True
            case r.OutInterface(name, negated):
                return f"{'! ' if negated else ''}-o {name}"
            case r.Unknown(text):
                return text

    def _has_type(self, address: str, kind: str) -> bool:
        return not kind or (kind == "LOCAL") == self._is_local(address)

    def _is_local(self, address: str) -> bool:
        return address in self.host.addresses or ip_address(address).is_loopback


def _arrival(state: _State) -> Fate:
    if state.rewritten:
        return Delivered(state.packet.destination, state.packet.port, state.masquerade)
    return Untouched(state.masquerade)


def _outcome(state: _State, fate: Fate) -> Outcome:
    return Outcome(state.probability, fate, state.path, state.depends)


def _has_ports(packet: Packet, match: r.Ports) -> bool:
    if packet.protocol is not match.protocol:
        return False
    if (match.source_low or match.source_high) and not match.source_low <= packet.source_port <= match.source_high:
        return False
    if not (match.low or match.high):
        return True
    return (match.low <= packet.port <= match.high) != match.negated


def _is_named(interface: str, pattern: str) -> bool:
    return interface.startswith(pattern[:-1]) if pattern.endswith("+") else interface == pattern


@lru_cache(maxsize=65536)
def _network(cidr: str) -> tuple[int, int, int]:
    network = ip_network(cidr, strict=False)
    return network.version, int(network.network_address), int(network.netmask)


@lru_cache(maxsize=65536)
def _number(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)


def _within(address: str, cidr: str) -> bool:
    version, network, mask = _network(cidr)
    own_version, number = _number(address)
    return version == own_version and number & mask == network
