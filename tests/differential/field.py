"""A node and the world around it, in which real packets show what real rules do.

::

    world:  clients ── eth0 ── node ── cni0 ── pods of this node and of all others

The world is two ends of cables and no IP at all: packets are put on a cable as frames and read from it as frames, so a
client may have any address, and every address has somebody who listens. What the node itself receives, raw sockets
show, which get a copy of each packet behind INPUT. Neighbours are fixed, so nobody asks for anybody.

Nothing here waits for time to pass. Packets are worked off in the order in which they were sent, one processor's queue
after the other, and this process stays on one processor: so when a frame of another kind that was sent afterwards has
come to the node, the packet before it has made its next step. After as many as a packet and an error about it make
steps, what has not arrived was dropped. Only a machine that does not deliver frames at all meets the deadline.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple, Self

from kproxy.config import IptablesVariant
from kproxy.kernel.iptables import program_prefix
from kproxy.kernel.nfacct import Nfacct
from kproxy.model.enums import IPFamily
from kproxy.model.packet import Packet
from kproxy.sandbox import namespace
from tests.differential.frames import Read, build, read

NODE_IPS = {IPFamily.IPV4: ("192.168.0.2", "10.244.1.1"), IPFamily.IPV6: ("fd00:192::2", "fd00:10:244:1::1")}
PODS = {IPFamily.IPV4: "10.244.0.0/16", IPFamily.IPV6: "fd00:10:244::/48"}
_GATEWAYS = {IPFamily.IPV4: "192.168.0.1", IPFamily.IPV6: "fd00:192::1"}
_POD_GATEWAYS = {IPFamily.IPV4: "10.244.1.254", IPFamily.IPV6: "fd00:10:244:1::fe"}
_ANYWHERE = {IPFamily.IPV4: "0.0.0.0/0", IPFamily.IPV6: "::/0"}
_INTERFACES = ("eth0", "cni0")
_MACS = {"eth0": "02:00:00:00:00:01", "cni0": "02:00:00:00:00:02"}
_WORLD_MACS = {"eth0": "02:00:00:00:01:01", "cni0": "02:00:00:00:01:02"}
_SETTINGS = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/route_localnet": "1",  # as kube-proxy sets it
    "ipv4/icmp_ratelimit": "0",
    "ipv4/icmp_ratemask": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/icmp/ratelimit": "0",
}
_IPV4, _IPV6, _BARRIER = 0x0800, 0x86DD, 0x88B5  # ether types; the last is for local experiments
_COUNTERS = re.compile(r"--nfacct-name +(\S+)")
_STEPS = 6  # in, round by lo, out; an error, round by lo, out
_DEADLINE = 60.0  # seconds for a frame over one cable
_RAW = (
    (socket.AF_INET, socket.IPPROTO_TCP),
    (socket.AF_INET, socket.IPPROTO_UDP),
    (socket.AF_INET, socket.IPPROTO_SCTP),
    (socket.AF_INET, socket.IPPROTO_ICMP),
    (socket.AF_INET6, socket.IPPROTO_TCP),
    (socket.AF_INET6, socket.IPPROTO_UDP),
    (socket.AF_INET6, socket.IPPROTO_SCTP),
    (socket.AF_INET6, socket.IPPROTO_ICMPV6),
)
_IPV6_HDRINCL = 36


class Observed(NamedTuple):
    """What became of a packet. ``fate``: "arrived", "refused", or "dropped"; the rest of one that arrived."""

    fate: str
    where: str = ""  # "eth0", "cni0", or "node"
    source: str = ""
    destination: str = ""
    port: int = 0
    source_port: int = 0


class NotTaken(AssertionError):
    """iptables-restore does not take the rules."""


class Field:
    """``with Field(variant) as field``: both families, rules of one variant. Needs root; leaves nothing behind."""

    def __init__(self, variant: IptablesVariant) -> None:
        self.variant = variant
        self._node, self._world = namespace.create_net(), namespace.create_net()
        self._lock = NamedTemporaryFile(prefix="kproxy-differential-")  # noqa: SIM115 -- lives as long as this
        self._tokens = count(1)
        self._ports = count()
        self._sockets: list[socket.socket] = []
        self._usual = os.sched_getaffinity(0)

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, {min(self._usual)})
        try:
            self._wire()
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()
        self._lock.close()
        namespace.release(self._node)
        namespace.release(self._world)
        os.sched_setaffinity(0, self._usual)

    # --- rules ------------------------------------------------------------------------------------------------

    def restore(self, family: IPFamily, text: str) -> None:
        """Instead of all rules of these tables. Raises NotTaken."""
        for name in _COUNTERS.findall(text):
            with namespace.inside_net(self._node):
                Nfacct().ensure(name)
        done = self._run(f"{program_prefix(family, self.variant)}-restore", given=text)
        if done.returncode:
            raise NotTaken(f"{self.variant} {family}: {done.stderr}\n{text}")

    def save(self, family: IPFamily) -> str:
        return self._run(f"{program_prefix(family, self.variant)}-save", "-c").stdout

    def remembering(self, source: str) -> frozenset[str]:
        """The xt_recent lists that hold this client."""
        found = set()
        with namespace.inside_net(self._node), suppress(FileNotFoundError):
            for each in Path("/proc/thread-self/net/xt_recent").iterdir():
                lines = each.read_text(encoding="ascii").splitlines()
                if any(_same(line.split()[0].removeprefix("src="), source) for line in lines):
                    found.add(each.name)
        return frozenset(found)

    def _run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "XTABLES_LOCKFILE": self._lock.name}
        with namespace.inside_net(self._node):
            return subprocess.run(
                command, input=given, capture_output=True, text=True, check=False, timeout=120, env=environment
            )

    # --- packets ----------------------------------------------------------------------------------------------

    def fresh(self) -> int:
        """A source port that no flow has."""
        return 20000 + next(self._ports) % 40000

    def send(self, packet: Packet) -> Observed:
        """Put it on its cable, or have the node send it, and see what comes of it."""
        token = next(self._tokens)
        data = build(packet, token)
        if packet.from_host:
            self._send_here(packet, data)
        else:
            name = packet.in_interface
            kind = _IPV6 if packet.family is IPFamily.IPV6 else _IPV4
            self._cables[name, kind].send(_frame(_MACS[name], _WORLD_MACS[name], kind) + data)
        for _ in range(_STEPS):
            self._step()
        seen = {where: each for where, each in self._arrivals() if each.token == token or each.kind == "broken"}
        for where, each in seen.items():
            if each.kind == "first":
                return Observed("arrived", where, each.source, each.destination, each.port, each.source_port)
        return Observed("refused" if seen else "dropped")

    def _send_here(self, packet: Packet, data: bytes) -> None:
        family = socket.AF_INET6 if packet.family is IPFamily.IPV6 else socket.AF_INET
        with namespace.inside_net(self._node):
            door = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet.mark)
            if family is socket.AF_INET6:
                door.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
            # A packet that a rule of OUTPUT drops is an error to its sender.
            with suppress(PermissionError):
                door.sendto(data, (packet.destination, 0))

    def _step(self) -> None:
        self._barrier.send(_frame(_MACS["eth0"], _WORLD_MACS["eth0"], _BARRIER) + bytes(46))
        ready, _, _ = select.select([self._arrived], [], [], _DEADLINE)
        if not ready:
            raise TimeoutError("a frame did not come over a cable in a minute")
        self._arrived.recv(100)

    def _arrivals(self) -> Iterator[tuple[str, Read]]:
        for (name, _), cable in self._cables.items():
            for data in _drain(cable):
                if (found := read(data[14:])) is not None:
                    yield f"{found.kind} {name}" if found.kind != "first" else name, found
        for (family, number), door in self._doors.items():
            for data in _drain_here(door, family, number):
                if (found := read(data)) is not None:
                    yield f"{found.kind} node" if found.kind != "first" else "node", found

    # --- making it --------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        with namespace.inside_net(self._world):
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
        with namespace.inside_net(self._node):
            for name, value in _SETTINGS.items():
                Path("/proc/sys/net", name).write_text(value, encoding="ascii")
        path = f"/proc/{os.getpid()}/fd"
        self._ip(
            self._world,
            *(
                f"link add {name} address {_WORLD_MACS[name]} type veth peer name {name} address {_MACS[name]} "
                f"netns {path}/{self._node}\nlink set {name} up"
                for name in _INTERFACES
            ),
        )
        lines = ["link set lo up", *(f"link set {name} up" for name in _INTERFACES)]
        for family, (outside, inside) in NODE_IPS.items():
            length, flags = (32, "") if family is IPFamily.IPV4 else (128, "nodad")
            lines += [
                f"address add {outside}/{length} dev eth0 {flags}",
                f"address add {inside}/{length} dev cni0 {flags}",
                f"neigh add {_GATEWAYS[family]} lladdr {_WORLD_MACS['eth0']} dev eth0",
                f"neigh add {_POD_GATEWAYS[family]} lladdr {_WORLD_MACS['cni0']} dev cni0",
                f"route add {_ANYWHERE[family]} via {_GATEWAYS[family]} dev eth0 onlink",
                f"route add {PODS[family]} via {_POD_GATEWAYS[family]} dev cni0 onlink",
            ]
        self._ip(self._node, *lines)

    @staticmethod
    def _ip(where: int, *lines: str) -> None:
        with namespace.inside_net(where):
            done = subprocess.run(
                ("ip", "-batch", "-"), input="\n".join(lines), text=True, capture_output=True, check=False, timeout=60
            )
        if done.returncode:
            raise RuntimeError(f"{done.stderr}\n{lines}")

    def _open(self) -> None:
        self._cables: dict[tuple[str, int], socket.socket] = {}
        self._doors: dict[tuple[int, int], socket.socket] = {}
        with namespace.inside_net(self._world):
            for name in _INTERFACES:
                for kind in (_IPV4, _IPV6):
                    self._cables[name, kind] = self._cable(name, kind)
            self._barrier = self._cable("eth0", _BARRIER)
        with namespace.inside_net(self._node):
            self._arrived = self._cable("eth0", _BARRIER)
            for family, number in _RAW:
                door = self._keep(socket.socket(family, socket.SOCK_RAW, number))
                if family is socket.AF_INET6:
                    door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                door.setblocking(False)
                self._doors[family, number] = door

    def _cable(self, name: str, kind: int) -> socket.socket:
        door = self._keep(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind)))
        door.bind((name, kind))
        door.setblocking(False)
        return door

    def _keep(self, door: socket.socket) -> socket.socket:
        self._sockets.append(door)
        return door


@contextmanager
def all_fields() -> Iterator[Mapping[IptablesVariant, Field]]:
    with Field(IptablesVariant.LEGACY) as legacy, Field(IptablesVariant.NFT) as nft:
        yield {IptablesVariant.LEGACY: legacy, IptablesVariant.NFT: nft}


def _frame(to: str, by: str, kind: int) -> bytes:
    return bytes.fromhex(to.replace(":", "")) + bytes.fromhex(by.replace(":", "")) + struct.pack("!H", kind)


def _drain(door: socket.socket) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        while True:
            yield door.recv(4096)


def _drain_here(door: socket.socket, family: int, number: int) -> Iterator[bytes]:
    """As whole IP packets; of IPv6 the kernel gives what is inside, and the addresses beside it."""
    if family == socket.AF_INET:
        yield from _drain(door)
        return
    with suppress(BlockingIOError):
        while True:
            body, ancillary, _, sender = door.recvmsg(4096, 256)
            here = next((data[:16] for _, kind, data in ancillary if kind == socket.IPV6_PKTINFO), bytes(16))
            source = IPv6Address(str(sender[0]).partition("%")[0]).packed
            yield struct.pack("!IHBB", 6 << 28, len(body), number, 64) + source + here + body


def _same(one: str, other: str) -> bool:
    return ip_address(one) == ip_address(other)
