"""Whose transaction was it, and did it remove anything of ours?

Real events are in tests/netns/test_kernel_monitor.py.
"""

from __future__ import annotations

import struct
from collections import deque

import pytest

from kproxy.config import IptablesVariant
from kproxy.kernel import netlink
from kproxy.kernel.monitor import Deleted, FlushMonitor, Generation, NftEvents
from kproxy.model.enums import IPFamily

V4, V6 = IPFamily.IPV4, IPFamily.IPV6


class Writer:
    family = V4
    restore_name = "iptables-nft-restore"

    def __init__(self) -> None:
        self.pids: deque[int] = deque()
        self.windows: deque[tuple[int, int | None]] = deque()
        self.footprint = None


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def monitor(writer: Writer) -> FlushMonitor:
    return FlushMonitor(IptablesVariant.NFT, [writer])


def generation(*deleted: Deleted, number: int = 7, pid: int = 99, process: str = "nft") -> Generation:
    return Generation(number, pid, process, frozenset(deleted))


KUBE_RULE = Deleted(V4, "nat", "KUBE-SERVICES", "rule")


@pytest.mark.parametrize(
    ("deleted", "table", "words"),
    [
        (KUBE_RULE, "nat", "nft (pid 99) removed rules of KUBE-SERVICES in table nat"),
        (Deleted(V4, "filter", "FORWARD", "rule"), "filter", "FORWARD"),
        (Deleted(V6, "mangle", "", "table"), "mangle", "removed table mangle"),
        (Deleted(V4, "nat", "KUBE-PROXY-CANARY", "chain"), "nat", "KUBE-PROXY-CANARY"),
    ],
)
def test_what_may_be_ours_is_told(monitor: FlushMonitor, deleted: Deleted, table: str, words: str) -> None:
    (flush,) = monitor.judge(generation(deleted))
    assert (flush.family, flush.table) == (deleted.family, table)
    assert words in flush.why


@pytest.mark.parametrize("deleted", [Deleted(V4, "nat", "DOCKER", "rule"), Deleted(V4, "other", "KUBE-X", "chain")])
def test_what_is_not_ours_is_not_told(monitor: FlushMonitor, deleted: Deleted) -> None:
    assert monitor.judge(generation(deleted)) == []


def test_only_what_is_ours_beyond_doubt_is_certain(monitor: FlushMonitor) -> None:
    firewall = Deleted(V4, "nat", "PREROUTING", "rule")
    (doubtful,) = monitor.judge(generation(firewall))
    (certain,) = monitor.judge(generation(firewall, KUBE_RULE))
    assert (doubtful.is_certain, certain.is_certain) == (False, True)


def test_lost_events_may_mean_anything(monitor: FlushMonitor) -> None:
    (flush,) = monitor.judge(generation(number=0))
    assert flush.family is None


def test_our_own_are_known_by_pid(monitor: FlushMonitor, writer: Writer) -> None:
    monitor._pids_comparable = True
    writer.pids.append(99)
    assert monitor.judge(generation(KUBE_RULE)) == []
    assert monitor.judge(generation(KUBE_RULE, pid=100)) != []


def test_in_another_pid_namespace_they_are_known_by_name_and_generation(monitor: FlushMonitor, writer: Writer) -> None:
    monitor._pids_comparable = False
    writer.windows += [(3, 5), (8, None)]
    ours = "iptables-nft-re"

    def told(number: int, process: str) -> bool:
        return bool(monitor.judge(generation(KUBE_RULE, number=number, process=process)))

    assert [told(number, ours) for number in (3, 4, 5, 6, 8, 9)] == [True, False, False, True, True, False]
    assert told(4, "nft")


def event(kind: int, family: int, *fields: tuple[int, bytes]) -> bytes:
    return netlink.message(
        netlink.NFT | kind, 0, family, b"".join(netlink.attribute(number, value) for number, value in fields)
    )


def test_deletions_are_collected_until_their_generation_ends() -> None:
    events = object.__new__(NftEvents)
    events._deleted = set()
    events._heads = set()
    first = event(2, 2, (1, b"nat\0")) + event(5, 10, (1, b"nat\0"), (3, b"KUBE-A\0")) + event(6, 2, (1, b"nat\0"))
    second = event(8, 2, (1, b"nat\0"), (2, b"KUBE-B\0")) + event(8, 7, (1, b"bridge\0"), (2, b"X\0"))
    end = event(15, 0, (1, struct.pack(">I", 5)), (2, struct.pack(">I", 42)), (3, b"nft\0"))
    assert list(events.parse(first)) == []
    assert list(events.parse(second + end + end)) == [
        Generation(
            5,
            42,
            "nft",
            frozenset(
                {
                    Deleted(V4, "nat", "", "table"),
                    Deleted(V6, "nat", "KUBE-A", "chain"),
                    Deleted(V4, "nat", "KUBE-B", "rule"),
                }
            ),
        ),
        Generation(5, 42, "nft", frozenset()),
    ]
