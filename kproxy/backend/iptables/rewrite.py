"""What a target does to a packet that goes on: translation by nat, marks.

Source of the rules: net/netfilter/nf_nat_core.c, nf_nat_redirect.c, nf_nat_masquerade.c, xt_mark.c in Linux.
"""

from __future__ import annotations

from msgspec.structs import replace

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.judge import State, Tracked, some_address
from kproxy.backend.iptables.rules import Target


def change(target: Target | None, state: State) -> State:
    packet = state.packet
    match target:
        case r.Dnat(ip, port):
            return _led_to(state, ip, port)
        case r.Masquerade():
            return replace(state, packet=replace(packet, source=some_address(packet.family)), masquerade=True)
        case r.SetMark(value, mask):
            return replace(state, packet=replace(packet, mark=packet.mark & ~mask ^ value))
        case _:
            return state


def translate(state: State, flow: Tracked) -> State:
    """What nat did to the first packet of the flow, at the same hook."""
    packet = state.packet
    if state.hook in {"PREROUTING", "OUTPUT"}:
        return _led_to(state, flow.destination, flow.port) if flow.destination else state
    if flow.source:
        return replace(state, packet=replace(packet, source=flow.source), masquerade=True)
    return state


def _led_to(state: State, ip: str, port: int) -> State:
    """Conntrack speaks of DNAT only where something has changed; the packet has been rewritten all the same."""
    packet = replace(state.packet, destination=ip, port=port or state.packet.port)
    states = state.states if packet == state.packet else state.states | {"DNAT"}
    return replace(state, packet=packet, states=states, rewritten=True)
