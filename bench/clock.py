"""When did the kernel's rules change? Asked of the kernel, not of the program that changes them.

nft variant: nf_tables counts its commits, and NFT_MSG_GETGEN reads the count without waiting for a commit that is
under way. legacy variant: x_tables has no such count, but IPT_SO_GET_INFO tells how many entries the nat table has, so
a benchmark's change must add or remove a rule to be seen. Both cost microseconds, so a thread asks every few
milliseconds and notes each new answer; that interval is the precision of every figure made with it.

Source: linux/netfilter/nf_tables.h, linux/netfilter_ipv4/ip_tables.h.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable

from kproxy.sandbox.host import Host

INTERVAL = 0.003  # seconds
_NETLINK_NETFILTER = 12  # Python names only some families
_NLM_REQUEST = 1
_GETGEN = (10 << 8) | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_GEN_ID = struct.Struct("=20xHH4s")  # headers, then the first attribute: NFTA_GEN_ID
_GET_INFO = 64
_INFO = struct.Struct("=32s13I")  # name, valid hooks, 5 entries, 5 underflows, entries, size
_ENTRIES = 12


class KernelClock(threading.Thread):
    """Notes the moments at which the nat table of a host became another one."""

    def __init__(self, host: Host, variant: str) -> None:
        super().__init__(daemon=True, name=f"clock-{variant}")
        with host.inside():
            self._ask = _nft_generation() if variant == "nft" else _legacy_entries()
        self._ended = threading.Event()
        self._seen = self._ask()
        self.changes: list[float] = []  # moments of time.monotonic()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL):
            answer = self._ask()
            if answer != self._seen:
                self._seen = answer
                self.changes.append(time.monotonic())

    def close(self) -> None:
        self._ended.set()
        self.join()

    @property
    def state(self) -> int:
        """nft: how many commits so far. legacy: how many entries."""
        return self._ask()

    def wait_for_change(self, after: int, deadline: float) -> float:
        """The moment of the first change beyond the first ``after`` ones; TimeoutError."""
        limit = time.monotonic() + deadline
        while len(self.changes) <= after:
            if time.monotonic() > limit:
                raise TimeoutError(f"the kernel's rules did not change within {deadline:g} s")
            time.sleep(INTERVAL)
        return self.changes[after]

    def settle(self, quiet: float, deadline: float) -> float | None:
        """Wait until nothing changed for ``quiet`` seconds; the moment of the last change. TimeoutError."""
        limit = time.monotonic() + deadline
        began = time.monotonic()
        while True:
            last = self.changes[-1] if self.changes else None
            if time.monotonic() - max(began, last or 0.0) >= quiet:
                return last
            if time.monotonic() > limit:
                raise TimeoutError(f"the kernel's rules still change after {deadline:g} s")
            time.sleep(INTERVAL)


def _nft_generation() -> Callable[[], int]:
    door = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    request = struct.pack("=IHHIIBBH", 20, _GETGEN, _NLM_REQUEST, 1, 0, 0, 0, 0)

    def ask() -> int:
        door.send(request)
        return int.from_bytes(_GEN_ID.unpack_from(door.recv(4096))[2], "big")

    return ask


def _legacy_entries() -> Callable[[], int]:
    door = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    size = _INFO.size

    def ask() -> int:
        # getsockopt reads the table's name from the buffer, which Python's socket module cannot pass in.
        return int(_INFO.unpack(_read_info(door.fileno(), size))[_ENTRIES])

    return ask


def _read_info(descriptor: int, size: int) -> bytes:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(b"nat", size)
    length = ctypes.c_uint32(size)
    if libc.getsockopt(descriptor, socket.IPPROTO_IP, _GET_INFO, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), "IPT_SO_GET_INFO")
    return buffer.raw
