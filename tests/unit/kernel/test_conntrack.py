"""Reading conntrack messages: shapes, matching, interruption.

The real table is in tests/netns/test_kernel_conntrack.py.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import KernelError
from kproxy.kernel import conntrack, netlink
from kproxy.kernel.conntrack import Conntrack, _Wanted
from kproxy.kernel.doors import FlowQuery
from kproxy.kernel.fake import FakeConntrack
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.flow import Flow

UDP = Protocol.UDP
ZONE = netlink.attribute(3, b"\0\1")


def address(family: IPFamily, number: int) -> str:
    return f"10.0.0.{number}" if family is IPFamily.IPV4 else f"fd00::{number:x}"


def flow(family: IPFamily, *, port: int = 53, endpoint: int = 2, source_port: int = 4000) -> Flow:
    client = address(family, 9)
    return Flow(
        UDP, client, source_port, address(family, 1), port, address(family, endpoint), 5353, client, source_port
    )


def message(
    door: Conntrack, entry: Flow, *, zone: bool = False, zones: bool = False, flags: int = 0, number: int = 17
) -> bytes:
    """What the kernel sends for a flow; with ``zone`` the original tuple is in one, with ``zones`` the whole flow."""
    layout = door._layout

    def pair(which: int, source: str, source_port: int, to: str, port: int, extra: bytes) -> bytes:
        pack, pack_port = conntrack._pack, conntrack._pack_port
        return netlink.nested(
            which,
            netlink.nested(
                1, netlink.attribute(layout.source, pack(source)), netlink.attribute(layout.destination, pack(to))
            ),
            netlink.nested(
                2,
                netlink.attribute(1, bytes([number])),
                netlink.attribute(2, pack_port(source_port)),
                netlink.attribute(3, pack_port(port)),
            ),
            extra,
        )

    body = pair(1, entry.source, entry.source_port, entry.destination, entry.port, ZONE if zone else b"")
    body += pair(
        2,
        entry.reply_source,
        entry.reply_port,
        entry.reply_destination,
        entry.reply_destination_port,
        b"",
    )
    body += netlink.attribute(7, bytes(4)) + netlink.attribute(12, bytes(4))
    body += netlink.attribute(18, b"\0\5") if zones else b""
    return netlink.message(1 << 8, flags, int(layout.domain), body)


DONE = netlink.HEADER.pack(20, netlink.DONE, 0, 1, 0) + bytes(4)


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def door(request: pytest.FixtureRequest) -> Conntrack:
    return Conntrack(request.param)


def scan(door: Conntrack, data: bytes, *queries: FlowQuery) -> tuple[list[Flow], bool, bool]:
    flows: list[Flow] = []
    ended, whole = door._scan(data, 17, _Wanted(queries), flows)
    return flows, ended, whole


def test_every_field_is_read(door: Conntrack) -> None:
    entries = [flow(door.family, port=port) for port in (53, 54)]
    data = b"".join(message(door, entry) for entry in entries)
    assert scan(door, data, FlowQuery(UDP)) == (entries, False, True)
    assert scan(door, data + DONE, FlowQuery(UDP, port=54)) == (entries[1:], True, True)


def test_flows_in_a_zone_are_passed_over(door: Conntrack) -> None:
    usual, other = flow(door.family), flow(door.family, source_port=4001)
    data = message(door, other, zone=True) + message(door, other, zones=True) + message(door, usual)
    assert scan(door, data + DONE, FlowQuery(UDP)) == ([usual], True, True)


def test_other_protocols_are_passed_over(door: Conntrack) -> None:
    data = message(door, flow(door.family), number=6) + message(door, flow(door.family), zone=True, number=6)
    assert scan(door, data, FlowQuery(UDP))[0] == []


def test_an_interrupted_dump_is_noticed(door: Conntrack) -> None:
    data = message(door, flow(door.family), flags=netlink.DUMP_INTERRUPTED)
    assert scan(door, data, FlowQuery(UDP)) == ([flow(door.family)], False, False)


def test_a_refusal_is_raised(door: Conntrack) -> None:
    refusal = netlink.HEADER.pack(36, netlink.ERROR, 0, 1, 0) + (-errno.EPERM).to_bytes(4, "little", signed=True)
    with pytest.raises(KernelError, match="CAP_NET_ADMIN"):
        scan(door, refusal + bytes(16), FlowQuery(UDP))


def test_an_interrupted_dump_is_repeated_and_in_the_end_taken(door: Conntrack, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[tuple[list[Flow], bool]] = iter(
        [([flow(door.family, port=port)], port == 3) for port in (1, 2, 3, 4)]
    )
    monkeypatch.setattr(door, "_read", lambda *_: next(answers))
    monkeypatch.setattr(netlink.NetfilterSocket, "__init__", lambda *_: None)
    monkeypatch.setattr(netlink.NetfilterSocket, "__exit__", lambda *_: None)
    assert {each.port for each in door.dump_now([FlowQuery(UDP)])} == {1, 2, 3}


small = st.integers(0, 2)


@st.composite
def queries(draw: st.DrawFn, family: IPFamily) -> FlowQuery:
    def maybe(number: int) -> str:
        return address(family, number) if number else ""

    keep = draw(st.frozensets(st.tuples(st.integers(1, 2), st.just(5353)), max_size=2))
    return FlowQuery(
        UDP,
        maybe(draw(small)),
        draw(st.sampled_from([0, 53, 54])),
        maybe(draw(small)),
        draw(st.sampled_from([0, 5353])),
        frozenset((address(family, number), port) for number, port in keep),
    )


@given(data=st.data(), family=st.sampled_from(IPFamily))
async def test_the_door_and_its_twin_match_alike(data: st.DataObject, family: IPFamily) -> None:
    asked = data.draw(st.lists(queries(family), max_size=4))
    entries = [flow(family, port=port, endpoint=n, source_port=s) for port in (53, 54) for n in (1, 2) for s in (1, 2)]
    real = Conntrack(family)
    found = scan(real, b"".join(message(real, entry) for entry in entries), *asked)[0]
    assert set(found) == set(await FakeConntrack(family, entries).dump(asked))


async def test_the_twin_forgets_what_it_had() -> None:
    entries = [flow(IPFamily.IPV4, port=port) for port in (1, 2)]
    twin = FakeConntrack(flows=entries)
    assert await twin.delete([entries[0], flow(IPFamily.IPV4, port=3)]) == 1
    assert twin.count() == 1
