"""Which cluster IPs and node ports are taken, and which are handed out next.

A Service gets one address of each of its families from the ServiceCIDRs and, if it needs them, node ports and a
health-check node port from one range. The lower end of each range is left to people who ask for a fixed number
(KEP-3070, KEP-3668: "static band"); above it numbers are handed out in turn rather than at random, so that tests
repeat and a freed number is not reused at once, which would hide stale connections.

A node port belongs to one Service whatever the protocol; one Service may use it for TCP and UDP at once, as
kube-dns does. Changes are claimed in a `Claim`, which keeps or undoes all of them: a refused or dry-run request
leaves nothing allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Generic, TypeVar

from kproxy.sandbox.apiserver.store import Key

Network = IPv4Network | IPv6Network
Number = TypeVar("Number", bound=Hashable)


@dataclass(slots=True)
class Pool(Generic[Number]):
    """Who holds which number."""

    holders: dict[Number, Key] = field(default_factory=dict)
    undo: list[Callable[[], None]] | None = None

    def take(self, number: Number, holder: Key) -> bool:
        """Take a number; returns whether it was free or already the holder's."""
        present = self.holders.get(number)
        if present is None:
            self.holders[number] = holder
            self._on_undo(lambda: self.holders.pop(number, None))
        return present in {None, holder}

    def give_back(self, number: Number, holder: Key) -> None:
        if self.holders.get(number) == holder:
            del self.holders[number]
            self._on_undo(lambda: self.holders.__setitem__(number, holder))

    def _on_undo(self, action: Callable[[], object]) -> None:
        if self.undo is not None:
            self.undo.append(lambda: (action(), None)[1])


class RangeFull(Exception):
    """Every number of a range is taken."""


def static_band(size: int, smallest: int, largest: int, share: int) -> int:
    """Return how many numbers at the lower end of a range are left to explicit requests."""
    return 0 if size <= smallest else min(max(smallest, size // share), largest)


@dataclass(slots=True)
class Turn:
    """Hands out the offsets of a range in turn, those above the static band first."""

    next: dict[Hashable, int] = field(default_factory=dict)

    def offsets(self, name: Hashable, size: int, band: int) -> Iterator[int]:
        upper = size - band
        start = self.next.get(name, 0) % upper if upper else 0
        for step in range(upper):
            offset = (start + step) % upper
            self.next[name] = offset + 1
            yield band + offset
        yield from range(band)


class Allocator:
    """The cluster IPs and node ports of one cluster."""

    def __init__(self, ports: range) -> None:
        self.port_range = ports
        self.addresses: Pool[str] = Pool()
        self.ports: Pool[int] = Pool()
        self._turn = Turn()

    @contextmanager
    def claim(self, *, keep: bool = True) -> Iterator[None]:
        """Undo every allocation of the block if it raises, or at its end unless they are to be kept."""
        undo: list[Callable[[], None]] = []
        self.addresses.undo = self.ports.undo = undo
        try:
            yield
            failed = not keep
        except BaseException:
            failed = True
            raise
        finally:
            self.addresses.undo = self.ports.undo = None
            if failed:
                for action in reversed(undo):
                    action()

    def next_address(self, networks: Sequence[Network], holder: Key) -> str:
        """Allocate an address from the first of the networks with a free one; raises RangeFull."""
        for network in networks:
            # The network's own address is unusable, and so is the last one of an IPv4 network.
            size = network.num_addresses - (2 if network.version == 4 else 1)
            band = static_band(size, 16, 256, 16)
            for offset in self._turn.offsets(network, size, band):
                address = str(network.network_address + 1 + offset)
                if address not in self.addresses.holders:
                    self.addresses.take(address, holder)
                    return address
        raise RangeFull

    def next_port(self, holder: Key) -> int:
        """Allocate a node port; raises RangeFull."""
        size = len(self.port_range)
        for offset in self._turn.offsets("ports", size, static_band(size, 16, 128, 32)):
            port = self.port_range[offset]
            if port not in self.ports.holders:
                self.ports.take(port, holder)
                return port
        raise RangeFull

    def take_address(self, address: str, networks: Iterable[Network], holder: Key) -> str:
        """Allocate a requested address; returns why not, empty on success."""
        networks = tuple(networks)
        parsed = ip_address(address)
        if not any(parsed in network for network in networks):
            ranges = ", ".join(map(str, networks)) or "none of this family"
            return f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {ranges}"
        if not self.addresses.take(str(parsed), holder):
            return "provided IP is already allocated"
        return ""

    def take_port(self, port: int, holder: Key) -> str:
        """Allocate a requested node port; returns why not, empty on success."""
        if port not in self.port_range:
            return (
                "provided port is not in the valid range. The range of valid ports is"
                f" {self.port_range.start}-{self.port_range.stop - 1}"
            )
        return "" if self.ports.take(port, holder) else "provided port is already allocated"
