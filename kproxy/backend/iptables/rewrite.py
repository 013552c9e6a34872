"""What a target does to a packet that goes on: translation by nat, marks, and what conntrack is told of it.

Source of the rules: net/netfilter/nf_nat_core.c, nf_nat_redirect.c, nf_nat_masquerade.c, xt_connmark.c, xt_CT.c,
xt_TPROXY.c in Linux.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from msgspec.structs import replace

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Target
from kproxy.backend.iptables.state import State, Tracked, some_address
from kproxy.backend.iptables.text import render_rule
from kproxy.model.enums import IPFamily

_MOST_ADDRESSES = 16  # of a DNAT to a range, that are followed one by one
UNTRACKED = frozenset({"UNTRACKED"})
_UNSEEN = frozenset({"INVALID"})
_LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}
# Others that translate, in words that could not be read: ours and kube-proxy's may stand there, too, where
# iptables-save met a revision that it does not know ("-j DNAT [unsupported revision]").
_DESTINATIONS = ("DNAT", "NETMAP", "REDIRECT")
_SOURCES = ("SNAT", "MASQUERADE")

Choice = tuple[State, str]  # and what it depends on; empty: nothing


def change(target: Target | None, state: State) -> State:
    """Of a target after which the packet meets the next rule."""
    packet = state.packet
    match target:
        case r.SetMark(value, mask):
            return replace(state, packet=replace(packet, mark=packet.mark & ~mask ^ value))
        case r.RestoreMark(packet_mask, flow_mask) if state.has_flow:
            mark = packet.mark & ~packet_mask ^ state.flow_mark & flow_mask
            return replace(state, packet=replace(packet, mark=mark))
        case r.SetConnMark(value, mask) if state.has_flow:
            return replace(state, flow_mark=state.flow_mark & ~mask ^ value)
        case r.SaveMark(packet_mask, flow_mask) if state.has_flow:
            return replace(state, flow_mark=state.flow_mark & ~flow_mask ^ packet.mark & packet_mask)
        case r.Notrack() if state.states == _UNSEEN:
            return replace(state, states=UNTRACKED)
    return state


def translations(target: Target, state: State) -> list[Choice] | None:
    """Of a target that translates and accepts: every result it may have. None: it is not one of those."""
    match target:
        case r.Dnat(ip, port):
            found = [(_led_to(state, ip, port), "")] if _is_address(ip) else _unread(words(target), state) or []
        case r.DnatRange():
            found = _led_to_one_of(target, state)
        case r.Redirect(low, high):
            found = [(_led_to(state, _own_address(state), low, exact=low == high), "")]
        case r.Masquerade():
            found = [(_masked(state, some_address(state.packet.family)), "")]
        case r.Snat():
            found = [(_snat(target, state), "")]
        case r.UnknownTarget(text):
            return _unread(text, state)
        case _:
            return None
    return found


def _own_address(state: State) -> str:
    """Where REDIRECT leads: the first address of the interface by which the packet came in."""
    family = state.packet.family
    return _LOOPBACK[family] if state.hook == "OUTPUT" else some_address(family)


def _snat(target: r.Snat, state: State) -> State:
    if not target.first:
        return replace(state, packet=replace(state.packet, source_port=0))
    if target.first == target.last:
        return replace(_masked(state, target.first if _is_address(target.first) else ""), source=target.first)
    return replace(_masked(state, ""), source=f"{target.first}-{target.last}")


def translate(state: State, flow: Tracked) -> State:
    """What nat did to the first packet of the flow, at the same hook."""
    if state.hook in {"PREROUTING", "OUTPUT"}:
        return _led_to(state, flow.destination, flow.port) if flow.destination else state
    return replace(_masked(state, flow.source), source=flow.source) if flow.source else state


def steer(target: r.Tproxy, state: State) -> State:
    mark = state.packet.mark & ~target.mask ^ target.value
    return replace(state, packet=replace(state.packet, mark=mark), steered=True)


def _led_to(state: State, ip: str, port: int, *, exact: bool = True) -> State:
    """Conntrack speaks of DNAT only where something has changed; the packet has been rewritten all the same.

    ``port`` 0: it stays. Not ``exact``: it becomes one that we do not know.
    """
    packet = replace(state.packet, destination=ip, port=(port or state.packet.port) if exact else 0)
    states = state.states if packet == state.packet else state.states | {"DNAT"}
    return replace(state, packet=packet, states=states, rewritten=True)


def _led_to_one_of(target: r.DnatRange, state: State) -> list[Choice]:
    exact = target.low == target.high
    try:
        addresses = _between(target.first, target.last) if target.first else [state.packet.destination]
    except ValueError:
        addresses = []  # somebody edited this dump
    said = words(target)
    if not addresses:
        return [(_led_to(state, "", target.low, exact=exact), f"which address {said} chooses")]
    if len(addresses) == 1:
        return [(_led_to(state, addresses[0], target.low, exact=exact), "")]
    return [(_led_to(state, ip, target.low, exact=exact), f"{said} chooses {ip}") for ip in addresses]


def words(target: Target) -> str:
    """As iptables-save prints it."""
    return render_rule("-", r.Rule((), target)).removeprefix("-A - ")


@lru_cache(maxsize=65536)
def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _between(first: str, last: str) -> list[str]:
    """Every address, or none if they are many. Raises ValueError."""
    low, high = ip_address(first), ip_address(last)
    count = int(high) - int(low) + 1
    return [str(low + each) for each in range(count)] if 0 < count <= _MOST_ADDRESSES else []


def _masked(state: State, source: str) -> State:
    """The port stays if it is free, which is not known."""
    return replace(state, packet=replace(state.packet, source=source, source_port=0), masquerade=True)


def _unread(text: str, state: State) -> list[Choice] | None:
    name = text.split()[1:2]
    if name and name[0] in _DESTINATIONS:
        return [(_led_to(state, "", 0, exact=False), f"where {text} leads")]
    if name and name[0] in _SOURCES:
        return [(_masked(state, ""), "")]
    return None
