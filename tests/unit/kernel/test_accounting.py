"""Reading what flows carried: messages of the kernel's shapes, and of odd ones.

The real kernel's events, filter and dump are in tests/netns/test_kernel_accounting.py.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import KernelError
from kproxy.kernel import accounting, conntrack, netlink
from kproxy.kernel.accounting import Accounting
from kproxy.kernel.conntrack import LAYOUTS
from kproxy.kernel.fake import FakeAccounting
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.flow import Destination, Traffic

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
IPS = {V4: ("10.0.0.9", "172.30.0.10", "10.180.0.1"), V6: ("fd00::9", "fd00:30::10", "fd00:180::1")}
DIALLED = {family: Destination(Protocol.TCP, ips[1], 80) for family, ips in IPS.items()}


def counters(number: int, size: int, *, padded: bool = False) -> bytes:
    """CTA_COUNTERS_*; ``padded`` as on machines that may not write eight bytes where they like."""
    pad = netlink.attribute(3, b"") if padded else b""
    packets, carried = (netlink.attribute(kind, struct.pack(">Q", value)) for kind, value in ((1, 7), (2, size)))
    return netlink.nested(number, pad, packets, pad, carried)


def message(
    family: IPFamily = V4, carried: bytes = b"", *, number: int = 6, rewritten: bool = True, zone: bool = False
) -> bytes:
    """What the kernel sends when a flow ends."""
    client, dialled, endpoint = IPS[family]
    answers = (endpoint, 8080) if rewritten else (dialled, 80)
    body = pair(family, 1, (client, 4000), (dialled, 80), number, zone=zone)
    body += pair(family, 2, answers, (client, 4000), number)
    body += netlink.attribute(12, b"\1\2\3\4") + netlink.attribute(3, struct.pack(">I", 0x3AA)) + carried
    return netlink.message(1 << 8 | 2, 0, int(LAYOUTS[family].domain), body)


def pair(
    family: IPFamily, which: int, source: tuple[str, int], to: tuple[str, int], number: int, *, zone: bool = False
) -> bytes:
    layout, pack, pack_port = LAYOUTS[family], conntrack._pack, conntrack._pack_port
    addresses = netlink.attribute(layout.source, pack(source[0])), netlink.attribute(layout.destination, pack(to[0]))
    ports = (netlink.attribute(kind, pack_port(at[1])) for kind, at in ((2, source), (3, to)))
    extra = netlink.attribute(3, b"\0\1") if zone else b""
    return netlink.nested(
        which,
        netlink.nested(1, *addresses),
        netlink.nested(2, netlink.attribute(1, bytes([number])), *ports),
        extra,
    )


def read(*messages: bytes) -> dict[Destination, Traffic]:
    sums: accounting._Sums = {}
    for each in messages:
        accounting._add(each, 0, len(each), sums)
    return accounting._Names().told(sums)


@pytest.mark.parametrize("family", list(IPFamily))
@pytest.mark.parametrize("padded", [False, True])
def test_flows_to_one_destination_are_one_sum(family: IPFamily, padded: bool) -> None:
    carried = counters(9, 1 << 40, padded=padded) + counters(10, 5, padded=padded)
    assert (accounting._HEAD in carried) is not padded
    assert read(message(family, carried), message(family, carried)) == {DIALLED[family]: Traffic(2, 2 << 40, 10)}


def test_a_flow_older_than_the_accounting_is_a_flow_without_bytes() -> None:
    assert read(message()) == {DIALLED[V4]: Traffic(1, 0, 0)}


@pytest.mark.parametrize(
    "odd",
    [
        message(rewritten=False),
        message(zone=True),
        message(number=47),
        message()[:60],
        message()[:16] + b"\1" + message()[17:],
    ],
    ids=["not rewritten", "in a zone", "another protocol", "cut off", "another family"],
)
def test_what_is_not_ours_is_passed_over(odd: bytes) -> None:
    assert read(odd) == {}


@given(st.binary(min_size=20, max_size=300), st.integers(20, 200))
def test_no_message_is_too_odd(junk: bytes, cut: int) -> None:
    read(junk, message(V4, junk), message(V6, junk), message()[:cut] + junk)


async def test_a_closed_door_says_so() -> None:
    door = Accounting()
    assert door.lost == 0
    door.close()
    with pytest.raises(KernelError, match="open the door first"):
        door.ended(1)
    with pytest.raises(KernelError, match="open the door first"):
        await door.wait()


def test_a_reading_that_is_interrupted_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accounting, "_read", staticmethod(lambda _door, _sums: False))
    with pytest.raises(KernelError, match="interrupted"):
        Accounting().living_now()


async def test_the_twin_tells_ends_once_and_loses_what_nobody_reads() -> None:
    twin = FakeAccounting(room=2)
    with pytest.raises(KernelError):
        twin.ended(1)
    web = DIALLED[V4]
    twin.put(web, 10, 20, flows=5)
    twin.end(web)
    twin.open()
    assert await twin.living() == {web: Traffic(4, 40, 80)}
    for _ in range(3):
        twin.end(web, 1)
    await twin.wait()
    assert twin.lost == 1
    assert twin.ended(1) == (1, {web: Traffic(1, 11, 20)})
    assert twin.ended(5) == (1, {web: Traffic(1, 11, 20)})
    assert twin.ended(5) == (0, {})
    twin.end(web)
    with pytest.raises(LookupError):
        twin.end(web)
