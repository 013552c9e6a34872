"""The conntrack door against the real kernel, with entries injected by netlink: both families.

What the door does with many queries, odd messages and interrupted dumps is in tests/unit/kernel/test_conntrack.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from kproxy.kernel import conntrack, netlink
from kproxy.kernel.conntrack import Conntrack
from kproxy.kernel.doors import FlowQuery
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.flow import Flow

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("inside")]

NEW = 1 << 8


def inject(door: Conntrack, flows: Iterable[Flow], extra: bytes = b"") -> None:
    """Put flows into the kernel's table as if their packets had been seen; ``extra``: attributes."""
    layout = door._layout
    requests = []
    for flow in flows:
        reply = Flow(
            flow.protocol,
            flow.reply_source,
            flow.reply_port,
            flow.reply_destination,
            flow.reply_destination_port,
            "",
            0,
        )
        body = door._original(flow) + door._original(reply).replace(
            netlink.ATTRIBUTE.pack(len(door._original(reply)), conntrack._TUPLE_ORIG | 0x8000),
            netlink.ATTRIBUTE.pack(len(door._original(reply)), conntrack._TUPLE_REPLY | 0x8000),
        )
        body += netlink.attribute(7, struct.pack(">I", 600)) + extra  # CTA_TIMEOUT, seconds
        if flow.protocol is Protocol.TCP:
            body += netlink.nested(4, netlink.nested(1, netlink.attribute(1, b"\x03")))  # established
        requests.append((NEW, netlink.CREATE | netlink.EXCL, int(layout.domain), body))
    with netlink.NetfilterSocket() as raw:
        for start in range(0, len(requests), 64):
            assert set(raw.send_all(requests[start : start + 64], "inject")) == {0}


def address(family: IPFamily, number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" if family is IPFamily.IPV4 else f"fd00::{number:x}"


def flow(family: IPFamily, client: int, endpoint: int, protocol: Protocol = Protocol.UDP, port: int = 53) -> Flow:
    return Flow(
        protocol=protocol,
        source=address(family, 1000 + client // 50000),
        source_port=1000 + client % 50000,
        destination=address(family, 1),
        port=port,
        reply_source=address(family, 100 + endpoint),
        reply_port=5353,
        reply_destination=address(family, 1000 + client // 50000),
        reply_destination_port=1000 + client % 50000,
    )


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def door(request: pytest.FixtureRequest) -> Conntrack:
    return Conntrack(request.param)


async def test_flows_of_an_endpoint_are_found_among_thousands_and_forgotten(door: Conntrack) -> None:
    family = door.family
    healthy = [flow(family, client, 1) for client in range(3000)]
    stale = [flow(family, client, 2) for client in range(3000, 3100)]
    inject(door, [*healthy, *stale])
    query = FlowQuery(Protocol.UDP, reply_source=address(family, 102))
    assert sorted(await door.dump([query]), key=repr) == sorted(stale, key=repr)
    assert await door.delete(stale) == 100
    assert await door.delete(stale) == 0
    assert await door.dump([query]) == []
    assert door.count() == 3000


async def test_flows_that_go_to_none_of_the_serving_endpoints_are_found(door: Conntrack) -> None:
    family = door.family
    inject(door, [flow(family, client, client % 3) for client in range(300)])
    keep = frozenset({(address(family, 100), 5353), (address(family, 101), 5353)})
    found = await door.dump([FlowQuery(Protocol.UDP, address(family, 1), 53, keep=keep)])
    assert len(found) == 100
    assert {each.reply_source for each in found} == {address(family, 102)}


async def test_protocols_and_ports_are_told_apart(door: Conntrack) -> None:
    family = door.family
    flows = [
        flow(family, n, 1, protocol, port)
        for n, (protocol, port) in enumerate([(Protocol.UDP, 53), (Protocol.UDP, 54), (Protocol.TCP, 53)])
    ]
    inject(door, flows)
    assert await door.dump([FlowQuery(Protocol.UDP, address(family, 1), 53)]) == flows[:1]
    assert await door.dump([FlowQuery(Protocol.TCP, address(family, 1), 53)]) == flows[2:]
    assert await door.dump([FlowQuery(Protocol.SCTP)]) == []
    assert set(await door.dump([FlowQuery(Protocol.UDP, port=54), FlowQuery(Protocol.TCP)])) == set(flows[1:])


async def test_many_queries_are_answered_by_one_dump(door: Conntrack) -> None:
    family = door.family
    flows = [flow(family, port, 1, port=port) for port in range(1, 50)]
    inject(door, flows)
    queries = [FlowQuery(Protocol.UDP, address(family, 1), port) for port in range(1, 40)]
    assert set(await door.dump(queries)) == set(flows[:39])


async def test_the_other_family_is_not_shown(door: Conntrack) -> None:
    other = Conntrack(IPFamily.IPV6 if door.family is IPFamily.IPV4 else IPFamily.IPV4)
    inject(door, [flow(door.family, 1, 1)])
    assert await other.dump([FlowQuery(Protocol.UDP)]) == []


async def test_a_flow_that_serves_is_not_taken_for_its_twin_in_a_zone(door: Conntrack) -> None:
    """Open vSwitch sees a packet to a Service in a zone of its own before it is rewritten in the one of the host."""
    serving = flow(door.family, 1, 1)
    bridged = replace(serving, reply_source=serving.destination, reply_port=serving.port)
    inject(door, [serving])
    inject(door, [bridged], netlink.attribute(18, b"\0\5"))
    keep = frozenset({(serving.reply_source, serving.reply_port)})
    assert await door.dump([FlowQuery(Protocol.UDP, serving.destination, serving.port, keep=keep)]) == []
    assert await door.dump([FlowQuery(Protocol.UDP)]) == [serving]
