"""A persistent prefix tree over numbers: addresses or ports in, small groups that share leading bits out.

kube-proxy's KUBE-SERVICES is a list that every new connection walks from its top; at 10,000 services the last one, and
every connection that is for no service at all, pays for 10,000 comparisons. A chain for each group of three leading
bits needs at most eight comparisons a level. Strides of one to six bits were measured to be equally fast, 12 bits to
be slower; three keeps both the chains short and the tree shallow.

The shape depends on the set of stops alone, not on the order in which they came, so a tree grown by ``edit`` equals
one grown by ``plant``; parts that an edit does not reach are the same objects as before, and whoever compares two
trees need not look into them. Levels on which nothing branches are skipped.

Depth is bounded. nf_tables refuses a table in which jumps nest more than 16 deep, and anybody who may create a Service
chooses its external IPs: without a bound a few dozen addresses, each one bit longer in common with the next, would make
every transaction of the node fail. At the bound a group stays a list, which only those addresses pay for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from msgspec import Struct

from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Frontend, FrontendKind

STRIDE = 3  # bits a level
LEAF = 4  # more stops than this are split
INLINE = 2  # a child of so few stops is written into its parent: a chain costs as much as two rules
PORTS_OF_ONE_ADDRESS = 8  # more than this are split by port
MAX_DEPTH = 7  # levels below the root; with the other chains on a packet's way 15 jumps
PORT_BITS = 16
NODE_PORT_BITS = 18  # two bits for the protocol, then the port
PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


class Stop(NamedTuple):
    """One frontend's place: a number, and whose it is. ``nth`` is its place among that service port's."""

    at: int
    key: ServicePortKey
    nth: int
    frontend: Frontend | None  # None: a health-check node port

    @property
    def port(self) -> int:
        return self.frontend.port if self.frontend else self.at & 0xFFFF

    @property
    def is_node_port(self) -> bool:
        return self.frontend is None or self.frontend.kind is FrontendKind.NODE_PORT


class Node(Struct, frozen=True, gc=False):
    """A group: all stops whose leading ``length`` bits are those of ``network``. Either children or stops."""

    network: int
    length: int
    size: int  # stops in here
    jumps: int  # chains below this one
    children: tuple[Node, ...] = ()
    stops: tuple[Stop, ...] = ()
    by_port: Node | None = None  # the stops again, by protocol and port, where one address has many


class Shape(NamedTuple):
    """What kind of number is split."""

    bits: int

    @property
    def splits_by_port(self) -> bool:
        return self.bits > NODE_PORT_BITS

    def step(self, length: int) -> int:
        """The next level's length. Levels are counted from the end, so that the last has all its bits."""
        return length + STRIDE if length else self.bits % STRIDE or STRIDE

    def common(self, first: int, last: int) -> int:
        """How many leading bits two numbers share, down to a level."""
        shared = self.bits - (first ^ last).bit_length()
        return max(self.bits - -(-(self.bits - shared) // STRIDE) * STRIDE, 0)

    def slot(self, number: int, length: int) -> int:
        return number >> (self.bits - length)


ADDRESSES4, ADDRESSES6 = Shape(32), Shape(128)
NODE_PORTS = Shape(NODE_PORT_BITS)
EMPTY = Node(0, 0, 0, 0)


def node_port_number(protocol: Protocol, port: int) -> int:
    return PROTOCOLS.index(protocol) << PORT_BITS | port


def port_range(node: Node) -> tuple[Protocol, int, int]:
    """(protocol, lowest, highest port) of a group of node ports that is not the root."""
    low = node.network & 0xFFFF
    return PROTOCOLS[node.network >> PORT_BITS], low, low + (1 << (NODE_PORT_BITS - node.length)) - 1


def is_chain(node: Node) -> bool:
    """Whether a child has a chain of its own."""
    return node.size > INLINE


def stops(node: Node) -> Iterator[Stop]:
    """Every stop below, in the order of their numbers."""
    if node.children:
        for child in node.children:
            yield from stops(child)
    else:
        yield from node.stops


def plant(shape: Shape, planted: Iterable[Stop]) -> Node:
    """A tree of these stops; its root covers every number."""
    return _plant(shape, sorted(planted), MAX_DEPTH, length=0)


def edit(shape: Shape, root: Node, gone: Collection[Stop], new: Collection[Stop]) -> Node:
    """The tree that ``plant`` would make of the stops less those ``gone``, plus the ``new``."""
    if not gone and not new:
        return root
    return _edit(shape, root, gone, new, MAX_DEPTH) or EMPTY


def _plant(shape: Shape, planted: list[Stop], depth: int, length: int | None = None) -> Node:
    if not planted:
        return EMPTY
    if length is None:
        length = shape.common(planted[0].at, planted[-1].at)
    network = planted[0].at >> (shape.bits - length) << (shape.bits - length)
    if len(planted) <= LEAF or length == shape.bits or depth == 0:
        return _leaf(shape, network, length, planted, depth)
    step = shape.step(length)
    groups = groupby(planted, key=lambda stop: shape.slot(stop.at, step))
    return _inner(network, length, [_plant(shape, list(group), depth - 1) for _, group in groups])


def _leaf(shape: Shape, network: int, length: int, planted: list[Stop], depth: int) -> Node:
    by_port = None
    if shape.splits_by_port and length == shape.bits and len(planted) > PORTS_OF_ONE_ADDRESS and depth:
        numbered = (stop._replace(at=node_port_number(stop.key.protocol, stop.port)) for stop in planted)
        by_port = _plant(NODE_PORTS, sorted(numbered), depth, length=0)
    return Node(network, length, len(planted), by_port.jumps if by_port else 0, (), tuple(planted), by_port)


def _inner(network: int, length: int, children: list[Node]) -> Node:
    size = sum(child.size for child in children)
    jumps = sum(child.jumps + is_chain(child) for child in children)
    return Node(network, length, size, jumps, tuple(children))


def _edit(shape: Shape, node: Node, gone: Collection[Stop], new: Collection[Stop], depth: int) -> Node | None:
    outside = any(shape.slot(stop.at ^ node.network, node.length) for stop in new)
    if outside or not node.children:
        return _replant(shape, [node], gone, new, depth, top=depth == MAX_DEPTH)
    step = shape.step(node.length)
    changes: dict[int, tuple[list[Stop], list[Stop]]] = {}
    for side, changed in enumerate((gone, new)):
        for stop in changed:
            changes.setdefault(shape.slot(stop.at, step), ([], []))[side].append(stop)
    children: list[Node] = []
    for child in node.children:
        less, more = changes.pop(shape.slot(child.network, step), ((), ()))
        edited = _edit(shape, child, less, more, depth - 1) if less or more else child
        if edited is not None:
            children.append(edited)
    children += (_plant(shape, sorted(more), depth - 1) for _, more in changes.values() if more)
    children.sort(key=lambda child: child.network)
    top = depth == MAX_DEPTH
    # A group that no longer branches must look as if it never had.
    if sum(child.size for child in children) <= LEAF or (len(children) == 1 and not top):
        return _replant(shape, children, (), (), depth, top=top)
    return _inner(node.network, node.length, children)


def _replant(
    shape: Shape, nodes: list[Node], gone: Collection[Stop], new: Collection[Stop], depth: int, *, top: bool
) -> Node | None:
    without = {(stop.key, stop.nth) for stop in gone}
    kept = [stop for node in nodes for stop in stops(node) if (stop.key, stop.nth) not in without]
    kept += new
    return _plant(shape, sorted(kept), depth, length=0 if top else None) if kept else None
