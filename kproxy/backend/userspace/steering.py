"""Which worker gets a client: any of them, or always the same one.

The kernel picks one of a listener's sockets by a hash of addresses and ports, which spreads even one client's
connections over all workers. Session affinity does not bear that, for each worker remembers its own clients. Where a
Service has affinity, a classic BPF program picks by the client's address alone, so that whoever comes back finds who
remembers, by whichever frontend. It costs spreading: one address is one worker's.

When a Service gets affinity or loses it, connections stay where they are. A UDP flow may go on with another worker, and
so with another endpoint, as when its endpoint goes.

Rejected: one worker for a whole Service, however many clients it has; a memory that workers share, which each new
connection would have to ask. A program can be exchanged since Linux 4.5 and taken away since 5.3 only, so the one that
takes affinity away picks a socket that does not exist, whereupon the kernel picks by its hash.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator

_ATTACH_REUSEPORT_CBPF = 51
_LOAD, _LOAD_X, _XOR_X, _MULTIPLY, _SHIFT_RIGHT, _MODULO, _RETURN, _RETURN_A = (
    *(0x20, 0x07, 0xAC, 0x24, 0x74, 0x94),  # a word, X from A, A ^= X, A *= k, A >>= k, A %= k
    *(0x06, 0x16),
)
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from here on are into the IP header
_SOURCE = {socket.AF_INET: (12,), socket.AF_INET6: (8, 12, 16, 20)}  # words
_MIXER = 0x9E3779B1  # 2**32 / golden ratio: neighbouring addresses part in the upper half
_NOBODY = 0xFFFFFFFF


def steer(sock: socket.socket, workers: int, *, by_client: bool) -> None:
    """Set how one of all ``workers`` sockets is picked that share a port with ``sock``. Raises OSError."""
    code = list(_by_client(sock.family, workers)) if by_client else [(_RETURN, _NOBODY)]
    program = b"".join(struct.pack("HBBI", operation, 0, 0, operand) for operation, operand in code)
    kept = ctypes.create_string_buffer(program)
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(code), ctypes.addressof(kept)))


def _by_client(family: int, workers: int) -> Iterator[tuple[int, int]]:
    first, *rest = (_NETWORK_HEADER + offset for offset in _SOURCE[socket.AddressFamily(family)])
    yield _LOAD, first
    for word in rest:
        yield from ((_LOAD_X, 0), (_LOAD, word), (_XOR_X, 0))
    yield from ((_MULTIPLY, _MIXER), (_SHIFT_RIGHT, 16), (_MODULO, workers), (_RETURN_A, 0))
