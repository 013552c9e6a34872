"""What kube-proxy's other modes leave in a kernel besides iptables rules: looked for, and taken away.

nftables mode has one table for each family, called kube-proxy. ipvs mode has an interface that owns every service
address, sets of addresses, and virtual servers. All by netlink, because the programs that would do it (nft, ip, ipset)
are not needed for anything else here and are seldom all installed. Nothing is asked that would load a module.

Virtual servers are the exception: they are left to ipvsadm where that is installed. Without the interface and behind
our rules they see no packet for a service address, so nothing depends on it.
Source: spec iptables.md 16 and nftables.md 10; linux/netfilter/ipset/ip_set.h, rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

from kproxy.errors import KernelError
from kproxy.kernel import netlink
from kproxy.kernel.netlink import ACK, BODY, DUMP, NFT, NetfilterSocket, NetlinkError, attribute, find, text
from kproxy.model.enums import IPFamily

_FAMILIES = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}

_GET_TABLE, _DELETE_TABLE, _TABLE_NAME = NFT | 1, NFT | 2, 1

_IPSET = 6 << 8
_DESTROY_SET, _LIST_SETS = _IPSET | 3, _IPSET | 7
_PROTOCOL, _SET_NAME, _FLAGS = 1, 2, 6
_VERSION = attribute(_PROTOCOL, b"\6")  # the oldest that every kernel takes
_NET_BYTE_ORDER = 0x4000
_NAMES_ONLY = attribute(_FLAGS | _NET_BYTE_ORDER, (1 << 1).to_bytes(4, "big"))
_IPSET_MODULE = Path("/sys/module/ip_set")

_DELETE_LINK = 17  # RTM_DELLINK
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_DEADLINE = 10.0  # seconds


class Absent(KernelError):
    """This kernel does not have what would have to be there."""


def delete_nft_table(family: IPFamily, name: str) -> bool:
    """Delete a table with all that is in it; False: there is none. Raises KernelError."""
    body = attribute(_TABLE_NAME, name.encode() + b"\0")
    with NetfilterSocket() as door:
        try:
            door.ask(_GET_TABLE, 0, _FAMILIES[family], body, f"look for the nftables table {name}")
        except NetlinkError as refusal:
            if refusal.errno == errno.ENOENT:
                return False
            raise Absent(str(refusal)) from refusal  # no nf_tables in this kernel
        door.change_nft(_DELETE_TABLE, _FAMILIES[family], body, f"delete the nftables table {name}")
    return True


def list_ipsets() -> list[str]:
    """The names of all sets in this network namespace. Raises KernelError."""
    if not _IPSET_MODULE.exists():
        return []
    with NetfilterSocket() as door:
        parts = door.ask(_LIST_SETS, DUMP, socket.AF_INET, _VERSION + _NAMES_ONLY, "list the ipsets")
    return sorted({text(find(part, BODY, len(part), _SET_NAME)) for part in parts} - {""})


def destroy_ipset(name: str) -> bool:
    """False: there is none. Raises KernelError, also while a rule refers to the set."""
    body = _VERSION + attribute(_SET_NAME, name.encode() + b"\0")
    with NetfilterSocket() as door:
        try:
            door.ask(_DESTROY_SET, ACK, socket.AF_INET, body, f"destroy the ipset {name}")
        except NetlinkError as refusal:
            if refusal.errno == errno.ENOENT:
                return False
            raise
    return True


def delete_interface(name: str) -> bool:
    """False: there is none. Raises KernelError."""
    purpose = f"delete the interface {name}"
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return False
    body = _LINK.pack(0, 0, index, 0, 0)
    flags = netlink.REQUEST | ACK
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as door:
        door.settimeout(_DEADLINE)
        try:
            door.send(netlink.HEADER.pack(netlink.HEADER.size + len(body), _DELETE_LINK, flags, 1, 0) + body)
            answer = door.recv(1 << 16)
        except OSError as error:
            raise KernelError(f"{purpose}: {error.strerror or error}") from error
    if number := netlink.error_number(answer):
        raise netlink.failure(number, purpose)
    return True
