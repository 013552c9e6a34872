"""Does a packet match? One judge for each noun of ``rules.py``.

A judge says yes or no, gives a probability where chance decides, or says in text what the answer depends on, where
something decides that neither rules nor packet show. It never guesses: an interface by which a packet will leave is
known only if the host's routes are, and an address that the kernel chooses (of MASQUERADE, of REDIRECT) matches no
particular network for certain.

Source of the rules: the match functions of net/netfilter/xt_*.c and net/ipv{4,6}/netfilter/ip{,6}_tables.c in Linux.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, ip_address
from typing import Any

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Match, Rule
from kproxy.backend.iptables.state import Host, State, is_known, is_within, number
from kproxy.backend.iptables.text import render_rule
from kproxy.model.enums import Protocol

Answer = bool | float | str  # a float: a probability; a text: what it depends on


def judge(match: Match, state: State, host: Host) -> Answer:
    return JUDGES.get(type(match), _depends)(match, state, host)


def words(match: Match) -> str:
    """As iptables-save prints it."""
    return render_rule("-", Rule((match,), None)).removeprefix("-A - ")


# --- addresses and interfaces ---------------------------------------------------------------------------------


def _source(match: r.Source, state: State, _: Host) -> Answer:
    return _address(state.packet.source, match.cidr, match)


def _destination(match: r.Destination, state: State, _: Host) -> Answer:
    return _address(state.packet.destination, match.cidr, match)


def _address(address: str, cidr: str, match: r.Source | r.Destination) -> Answer:
    if not is_known(address):
        return words(match)
    try:
        return is_within(address, cidr) != match.negated
    except ValueError:
        return words(match)  # somebody edited this dump


def _ip_range(match: r.IpRange, state: State, _: Host) -> Answer:
    asked = (
        (state.packet.source, match.source, match.source_negated),
        (state.packet.destination, match.destination, match.destination_negated),
    )
    return all_of(match, [_in_range(address, pair, negated) for address, pair, negated in asked if pair])


def _in_range(address: str, pair: tuple[str, str], negated: bool) -> bool | None:
    if not is_known(address):
        return None
    try:
        first, last = (number(end) for end in pair)
    except ValueError:
        return None
    return (first <= number(address) <= last) != negated


def all_of(match: Match, answers: Iterable[bool | None]) -> Answer:
    """Of several questions in one match; None: not known."""
    found = set(answers)
    return False if False in found else words(match) if None in found else True


def _in_interface(match: r.InInterface, state: State, _: Host) -> Answer:
    return _interface(match, state.way_in)


def _out_interface(match: r.OutInterface, state: State, _: Host) -> Answer:
    return _interface(match, state.way_out)


def _interface(match: r.InInterface | r.OutInterface, name: str | None) -> Answer:
    if name is None:
        return words(match)
    pattern = match.name
    named = name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
    return named != match.negated


def _address_type(match: r.AddressType, state: State, host: Host) -> Answer:
    asked = (
        (state.packet.source, match.source, match.source_negated),
        (state.packet.destination, match.destination, match.destination_negated),
    )
    answers = [_has_type(address, kinds, match.limit, host) for address, kinds, _ in asked if kinds]
    negations = [negated for _, kinds, negated in asked if kinds]
    pairs = zip(answers, negations, strict=True)
    return all_of(match, (None if answer is None else answer != negated for answer, negated in pairs))


_TOLD_BY_ADDRESS = frozenset({"LOCAL", "UNICAST", "MULTICAST", "BROADCAST"})
_TOLD_BY_ROUTE = frozenset({"LOCAL", "ANYCAST", "PROHIBIT", "UNREACHABLE"})


def _has_type(address: str, kinds: str, limit: str, host: Host) -> bool | None:
    """None: routes decide, which are not known."""
    if not address:
        return None
    wanted = frozenset(kinds.split(","))
    parsed = ip_address(address)
    local = host.is_local(address)
    if local and limit and "LOCAL" in wanted and not parsed.is_loopback:
        return None  # of which interface?
    if parsed.version == 6:
        return _has_type_ipv6(wanted, parsed.is_multicast, local)
    broadcast = parsed == IPv4Address("255.255.255.255")
    kind = "LOCAL" if local else "MULTICAST" if parsed.is_multicast else "BROADCAST" if broadcast else "UNICAST"
    return kind in wanted or (None if kind == "UNICAST" and wanted - _TOLD_BY_ADDRESS else False)


def _has_type_ipv6(wanted: frozenset[str], multicast: bool, local: bool) -> bool | None:
    """Here several types are not one or the other: what the address tells must hold, and one that the route tells."""
    if "UNSPEC" in wanted or ("MULTICAST" if not multicast else "UNICAST") in wanted:
        return False
    asked = wanted & _TOLD_BY_ROUTE
    if not asked or (local and "LOCAL" in asked):
        return True
    return None if asked - {"LOCAL"} else False


# --- protocols and ports --------------------------------------------------------------------------------------

NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}


def _protocol(match: r.OfProtocol, state: State, _: Host) -> Answer:
    return (state.packet.protocol is match.protocol) != match.negated


def _other_protocol(match: r.OtherProtocol, state: State, _: Host) -> Answer:
    return (match.number == NUMBERS[state.packet.protocol]) != match.negated


def _fragment(match: r.Fragment, _: State, __: Host) -> Answer:
    return match.negated


def _ports(match: r.Ports, state: State, _: Host) -> Answer:
    packet = state.packet
    if packet.protocol is not match.protocol:
        return False
    if not (match.source_low or match.source_high or match.flags) and packet.port:
        return not match.high or (match.low <= packet.port <= match.high) != match.negated
    answers: list[bool | None] = []
    if match.high:
        answers.append(_has_port(packet.port, ((match.low, match.high),), match.negated))
    if match.source_low or match.source_high:
        answers.append(_has_port(packet.source_port, ((match.source_low, match.source_high),), match.source_negated))
    if match.flags:
        answers.append(_has_flags(match.flags, state))
    return all_of(match, answers)


def _has_port(port: int, ranges: Iterable[tuple[int, int]], negated: bool) -> bool | None:
    return any(low <= port <= high for low, high in ranges) != negated if port else None


_FLAGS = frozenset({"FIN", "SYN", "RST", "PSH", "ACK", "URG"})


def _has_flags(flags: r.TcpFlags, state: State) -> bool | None:
    """A flow begins with SYN alone; later packets have ACK and not SYN, and any of the others."""
    begins = "ESTABLISHED" not in state.states
    on = {"SYN"} if begins else {"ACK"}
    known = _FLAGS if begins else {"SYN", "ACK"}
    mask, wanted = set(flags.mask), set(flags.set)
    if on & mask & known != wanted & mask & known:
        return flags.negated
    return not flags.negated if mask <= known else None


def _multiport(match: r.Multiport, state: State, _: Host) -> Answer:
    packet = state.packet
    sides = {"dports": (packet.port,), "sports": (packet.source_port,), "ports": (packet.source_port, packet.port)}
    found = {_has_port(port, match.ranges, negated=False) for port in sides.get(match.side, (0,))}
    if True in found:
        return not match.negated
    return words(match) if None in found else match.negated


# --- the mark, chance, memory ---------------------------------------------------------------------------------


def _mark(match: r.Mark, state: State, _: Host) -> Answer:
    return (state.packet.mark & match.mask == match.value) != match.negated


def _statistic(match: r.Statistic, _: State, __: Host) -> Answer:
    return match.probability if 0 < match.probability < 1 else match.probability >= 1


def _nth(match: r.Nth, _: State, __: Host) -> Answer:
    """One of so many, in turn: for a packet of which we do not know how many came before it, that is chance."""
    share = 1 / max(match.every, 1)
    probability = 1 - share if match.negated else share
    return probability if 0 < probability < 1 else probability >= 1


def _recent_check(match: r.RecentCheck, state: State, host: Host) -> Answer:
    return match.name in host.remembered or match.name in state.recorded


def _always(_: Match, __: State, ___: Host) -> Answer:
    return True


def _depends(match: Match, _: State, __: Host) -> Answer:
    return words(match)


# --- the flow -------------------------------------------------------------------------------------------------


def _state(match: r.State, state: State, _: Host) -> Answer:
    return (not state.states.isdisjoint(match.states)) != match.negated


def _connmark(match: r.ConnMark, state: State, _: Host) -> Answer:
    return state.has_flow and (state.flow_mark & match.mask == match.value) != match.negated


def _conntrack(match: r.Conntrack, state: State, host: Host) -> Answer:
    if match.states and (not state.states.isdisjoint(match.states)) == match.negated:
        return False
    if not match.criteria:
        return True
    if not state.has_flow:
        return bool(match.states)  # the kernel asks no further
    return all_of(match, [_meets(each, state, host) for each in match.criteria])


def _meets(criterion: r.Criterion, state: State, host: Host) -> bool | None:
    value = criterion.value
    packet, first = state.packet, state.original
    addresses = {
        "--ctorigsrc": first.source,
        "--ctorigdst": first.destination,
        "--ctreplsrc": packet.destination,
        "--ctrepldst": packet.source,
    }
    ports = {
        "--ctorigsrcport": first.source_port,
        "--ctorigdstport": first.port,
        "--ctreplsrcport": packet.port,
        "--ctrepldstport": packet.source_port,
    }
    try:
        if (address := addresses.get(criterion.option)) is not None:
            return is_within(address, value) != criterion.negated if is_known(address) else None
        if (port := ports.get(criterion.option)) is not None:
            low, _, high = value.partition(":")
            return _has_port(port, ((int(low), int(high or low)),), criterion.negated)
        match criterion.option:
            case "--ctproto":
                return (int(value) == NUMBERS[packet.protocol]) != criterion.negated
            case "--ctdir":
                return (value == "ORIGINAL") != criterion.negated
            case "--ctstatus":
                answer = _has_status(set(value.split(",")), state, host)
                return None if answer is None else answer != criterion.negated
    except ValueError:
        pass
    return None


def _has_status(wanted: set[str], state: State, host: Host) -> bool | None:
    """Of the first packet's flow nothing is set; of one that goes on we do not know whether it is ASSURED."""
    if host.flow is None and state.way_in != "lo":
        return False
    certain = {"CONFIRMED", *(("SEEN_REPLY",) if "ESTABLISHED" in state.states else ())}
    return True if wanted & certain else None if wanted & {"ASSURED", "EXPECTED"} else False


JUDGES: dict[type, Callable[[Any, State, Host], Answer]] = {
    r.Source: _source,
    r.Destination: _destination,
    r.IpRange: _ip_range,
    r.InInterface: _in_interface,
    r.OutInterface: _out_interface,
    r.AddressType: _address_type,
    r.OfProtocol: _protocol,
    r.OtherProtocol: _other_protocol,
    r.Fragment: _fragment,
    r.Ports: _ports,
    r.Multiport: _multiport,
    r.Conntrack: _conntrack,
    r.State: _state,
    r.ConnMark: _connmark,
    r.Mark: _mark,
    r.Statistic: _statistic,
    r.Nth: _nth,
    r.RecentCheck: _recent_check,
    r.RecentSet: _always,
    r.Nfacct: _always,
    r.Comment: _always,
    r.Unknown: _depends,
}
