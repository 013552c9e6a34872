"""How our relay is to serve a Service: the node's defaults, and what the Service asks for instead."""

from __future__ import annotations

from msgspec.structs import replace

from kproxy.config import Config, ProxyMode
from kproxy.model.enums import Protocol
from kproxy.model.relay import Relay, Wish


def default_relay(config: Config) -> Relay:
    """What a Service gets that asks for nothing."""
    return Relay(
        balance=config.relay_balance,
        connections=config.relay_service_connections,
        connect_deadlines=config.relay_connect_deadlines,
        idle=config.relay_idle,
        silence=config.relay_silence,
        drain=config.relay_drain,
        eject_after=config.relay_eject_after,
        eject_seconds=config.relay_eject_seconds,
        eject_floor=config.relay_eject_floor,
        slow_start=config.relay_slow_start,
        transparent=config.userspace_transparent,
    )


def relay(wish: Wish, protocol: Protocol, mode: ProxyMode, default: Relay) -> Relay | None:
    """How a service port is relayed, on a node of this mode; None where the kernel carries it.

    The kernel carries all of SCTP: an association has several addresses, which a relay cannot pass on.
    """
    if protocol is Protocol.SCTP or (wish.mode or mode) is not ProxyMode.USERSPACE:
        return None
    return replace(default, **dict(wish.overrides)) if wish.overrides else default
