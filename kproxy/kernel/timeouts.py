"""Conntrack's default timeouts by netlink, for a process that may not write /proc/sys: a pod that is not privileged.

A network namespace has one set of these numbers. The sysctls nf_conntrack_*_timeout_* show them, and the kernel's
nfnetlink_cttimeout sets them for whoever has CAP_NET_ADMIN, which writing rules takes anyway. One that is not named
keeps its value; one number holds for both families, whatever layer 3 protocol the message names. The kernel loads the
module by itself.
Only the second way: a privileged process needs no module for the sysctl. Not asked here for what is in force: the
sysctl can be read where it cannot be written. Nothing else that kproxy sets has such a message for the namespace as a
whole: of the size of the table, tcp_be_liberal and accounting there is none at all, of route_localnet one for each
interface.

Source: linux/netfilter/nfnetlink_cttimeout.h; what the kernel answers was tried on Linux 6.18.
"""

from __future__ import annotations

import errno
import socket
import struct

from kproxy.errors import KernelError
from kproxy.kernel import netlink

TCP_ESTABLISHED = "net/netfilter/nf_conntrack_tcp_timeout_established"
TCP_CLOSE_WAIT = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"
UDP = "net/netfilter/nf_conntrack_udp_timeout"
UDP_STREAM = "net/netfilter/nf_conntrack_udp_timeout_stream"
# The kernel counts in jiffies, 1,000 a second at most, and does not check here whether a number fits: it could make 7
# hours of 50 days.
LONGEST = (2**31 - 1) // 1000

_SET_DEFAULT = 8 << 8 | 3
_L3PROTO, _L4PROTO, _DATA = 2, 3, 4
_ATTRIBUTES = {  # the number of the protocol, and of the timeout among the protocol's
    TCP_ESTABLISHED: (socket.IPPROTO_TCP, 3),
    TCP_CLOSE_WAIT: (socket.IPPROTO_TCP, 5),
    UDP: (socket.IPPROTO_UDP, 1),
    UDP_STREAM: (socket.IPPROTO_UDP, 2),
}


class Timeouts:
    """The real door, of the network namespace in which it is asked."""

    def __init__(self, *, deadline: float = 10.0) -> None:
        """``deadline``: seconds for each request to the kernel."""
        self._deadline = deadline

    def set_to(self, name: str, seconds: int) -> None:
        """``name``: one of the sysctls above. Raises KernelError, NotPermitted."""
        purpose = f"set {name.rpartition('/')[2]}"
        if not 0 <= seconds <= LONGEST:
            raise KernelError(f"{purpose}: {seconds} s is not between 0 and {LONGEST} s")
        try:
            with netlink.NetfilterSocket(self._deadline) as door:
                door.ask(_SET_DEFAULT, netlink.ACK, socket.AF_UNSPEC, body(name, seconds), purpose)
        except netlink.NetlinkError as refusal:
            if refusal.errno == errno.EINVAL:  # what nfnetlink says of a subsystem that nobody is
                raise KernelError(
                    f"{purpose}: this kernel has no nfnetlink_cttimeout (CONFIG_NF_CT_NETLINK_TIMEOUT)"
                ) from refusal
            raise


def body(name: str, seconds: int) -> bytes:
    """The attributes of the request."""
    protocol, timeout = _ATTRIBUTES[name]
    return (
        netlink.attribute(_L3PROTO, struct.pack(">H", socket.AF_INET))
        + netlink.attribute(_L4PROTO, bytes([protocol]))
        + netlink.nested(_DATA, netlink.attribute(timeout, struct.pack(">I", seconds)))
    )
