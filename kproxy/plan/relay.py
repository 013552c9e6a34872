"""How our relay is to serve a Service: the node's defaults, and what the Service asks for instead.

What a Service asks for was checked when it was read (source/convert_relay.py), so nothing can be wrong with it here.
Service ports that are served alike share one Relay: a node may have thousands, and they are compared in every round.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from kproxy.config import Config, ProxyMode
from kproxy.model.enums import Protocol
from kproxy.model.keys import ObjectKey
from kproxy.model.relay import Relay, Wish

API_SERVER = ObjectKey("default", "kubernetes")


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


def mode_for(key: ObjectKey, mode: ProxyMode) -> ProxyMode:
    """What a Service gets that asks for no mode, on a node of this mode.

    The API server stays with the kernel: were the relay in between and dead, its successor could not ask whom to serve.
    """
    return ProxyMode.IPTABLES if key == API_SERVER else mode


def relay(wish: Wish, protocol: Protocol, mode: ProxyMode, default: Relay) -> Relay | None:
    """How a service port is relayed, on a node of this mode; None where the kernel carries it.

    The kernel carries all of SCTP: an association has several addresses, which a relay cannot pass on.
    """
    if protocol is Protocol.SCTP or (wish.mode or mode) is not ProxyMode.USERSPACE:
        return None
    return _overridden(default, wish.overrides) if wish.overrides else default


@lru_cache(maxsize=1024)
def _overridden(default: Relay, overrides: tuple[tuple[str, Any], ...]) -> Relay:
    return replace(default, **dict(overrides))
