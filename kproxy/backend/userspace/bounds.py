"""How many bytes of its clients' streams a relay can hold, however little its clients read.

A direction whose reader has stopped holds what was read at once and not taken: at most one buffer, or one full pipe if
it is bulk; its sender is not read meanwhile. So one stalled reader costs at most the larger of the two, and a flow that
is stalled both ways twice that. Over all flows it is less than as many times that, for there are few pipes:

    2 * flows * relay_buffer + pipes.held_by_all(pipes, relay_pipe)

With the defaults (65,536 flows, 64 KiB, 256 pipes, of which 64 may hold 1 MiB and the others 256 KiB) that is 8 GiB
and 112 MiB at the very worst, if every client of a whole table stops in both directions, and half as much if all of
them stop reading; each flow that a node allows less (``relay_connections``) takes 128 KiB off. Idle flows hold nothing.
Not in it: the kernel's buffers of the sockets (net.ipv4.tcp_rmem and tcp_wmem), which each program has, and which
net.ipv4.tcp_mem bounds over all; and that the kernel keeps a page whole of which a pipe has a part.
"""

from __future__ import annotations

from typing import NamedTuple

from kproxy.backend.userspace.pipes import held_by_all


class Bounds(NamedTuple):
    """Sizes in bytes; ``flows`` and ``pipes``: how many there may be."""

    buffer: int
    pipe: int
    flows: int
    pipes: int

    @property
    def of_stall(self) -> int:
        """For one reader that has stopped."""
        return max(self.buffer, self.pipe) if self.pipes else self.buffer

    @property
    def of_flow(self) -> int:
        """Stalled both ways."""
        return 2 * self.of_stall

    @property
    def of_all(self) -> int:
        return min(self.flows * self.of_flow, 2 * self.flows * self.buffer + held_by_all(self.pipes, self.pipe))
