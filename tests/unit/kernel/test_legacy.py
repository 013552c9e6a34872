"""Whose doing is it that a legacy table measures otherwise? Real tables are in tests/netns/test_kernel_monitor.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from kproxy.kernel.doors import TableState
from kproxy.kernel.legacy import Footprint, Scan, _difference
from kproxy.model.enums import IPFamily

FULL = TableState(entries=50, size=5000, hooks=(0, 300, 600, 900, 1200, 200, 500, 800, 1100, 1400))
BARE = TableState(entries=20, size=2000, hooks=(0, 100, 200, 300, 400, 0, 100, 200, 300, 400))
INNER = b"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -j RETURN\nCOMMIT\n"
OUTER = b"*nat\n:KUBE-A - [0:0]\n-I PREROUTING -j KUBE-A\nCOMMIT\n"


class Tables:
    """Stands for the kernel."""

    def __init__(self) -> None:
        self.states: dict[str, TableState | None] = {"nat": FULL}
        self.footprint = Footprint(IPFamily.IPV4, lambda _, table: self.states.get(table))

    def write(self, text: bytes, *, done: bool = True, before: TableState | None = None) -> None:
        """``before``: what nat is when the program reads it."""
        scan = self.footprint.begin()
        scan.follow(text)
        self.states["nat"] = before or self.states["nat"]
        self.footprint.end(done=done)

    @property
    def told(self) -> dict[str, str]:
        return {table: change.why for table, change in self.footprint.differences().items()}


@pytest.fixture
def tables() -> Tables:
    made = Tables()
    made.write(OUTER)
    assert made.told == {}
    return made


def test_what_others_do_is_told_once(tables: Tables) -> None:
    tables.states["nat"] = BARE
    assert list(tables.told) == ["nat"]
    assert tables.told == {}


def test_our_own_write_is_not_told(tables: Tables) -> None:
    tables.write(INNER, before=replace(FULL, entries=60, size=6000))
    tables.write(OUTER, before=replace(FULL, hooks=(0, 400, 700, 1000, 1300, 200, 500, 800, 1100, 1400)))
    assert tables.told == {}


@pytest.mark.parametrize(
    ("entries", "only_grew"), [((60,), True), ((60, 70), True), ((49,), False), ((49, 60), False), ((60, 55), False)]
)
def test_a_table_that_only_grew_is_told_as_such(tables: Tables, entries: tuple[int, ...], only_grew: bool) -> None:
    for number in entries:
        tables.states["nat"] = replace(FULL, entries=number)
        tables.footprint.begin()  # finds it, but tells nothing
        tables.footprint.end(done=False)
    assert tables.footprint.differences()["nat"].only_grew is only_grew


def test_nothing_is_compared_while_we_write(tables: Tables) -> None:
    tables.footprint.begin()
    tables.states["nat"] = replace(FULL, entries=60)
    assert tables.told == {}
    tables.footprint.end(done=True)
    assert tables.told == {}


def test_what_others_did_before_our_write_is_not_taken_for_ours(tables: Tables) -> None:
    tables.states["nat"] = replace(FULL, entries=49)
    tables.write(INNER)
    assert "50 entries, now 49" in tables.told["nat"]


@pytest.mark.parametrize("done", [True, False])
def test_a_flush_during_a_write_elsewhere_moves_the_base_chains(tables: Tables, done: bool) -> None:
    tables.write(INNER, before=BARE, done=done)
    assert "base chains" in tables.told["nat"]


def test_a_flush_after_a_write_into_base_chains_leaves_them_empty(tables: Tables) -> None:
    tables.write(OUTER, before=BARE)
    assert "gone already" in tables.told["nat"]
    tables.footprint.begin().follow(OUTER)
    tables.states["nat"] = None
    tables.footprint.end(done=True)
    assert "gone already" in tables.told["nat"]


def test_a_refused_write_into_empty_base_chains_may_leave_them_empty(tables: Tables) -> None:
    tables.states["nat"] = BARE
    assert tables.told
    tables.write(OUTER, done=False)
    assert tables.told == {}


def test_after_a_removal_base_chains_may_be_empty(tables: Tables) -> None:
    tables.write(b"*nat\n-D PREROUTING -j KUBE-A\nCOMMIT\n", before=BARE)
    assert tables.told == {}


def test_who_reads_the_table_needs_no_telling(tables: Tables) -> None:
    tables.write(INNER, before=BARE)
    tables.footprint.read("nat")
    assert tables.told == {}
    tables.states["nat"] = FULL
    tables.footprint.read("nat")
    tables.write(INNER)
    assert tables.told == {}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_scan_finds_edits_of_base_chains_however_the_text_is_cut(size: int) -> None:
    text = (
        b'*mangle\n:KUBE-A - [0:0]\n-A KUBE-A -m comment --comment "-A INPUT -j" -j RETURN\nCOMMIT\n'
        b"*nat\n:PREROUTING ACCEPT [0:0]\n-I PREROUTING -j KUBE-A\n-A OUTPUTS -j KUBE-A\nCOMMIT\n"
        b"*filter\n-D FORWARD -j KUBE-A\nCOMMIT\n"
    )
    scan = Scan()
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    followed = scan.follow(pieces)
    assert not isinstance(followed, bytes)
    assert b"".join(followed) == text  # type: ignore[arg-type]
    assert (scan.touched, scan.added) == ({"nat", "filter"}, {"nat"})


async def test_a_scan_follows_asynchronous_chunks() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"*nat\n-A POST"
        yield b"ROUTING -j KUBE-A\n"

    scan = Scan()
    followed = scan.follow(chunks())
    assert isinstance(followed, AsyncIterator)
    assert [chunk async for chunk in followed] == [b"*nat\n-A POST", b"ROUTING -j KUBE-A\n"]
    assert scan.added == {"nat"}


def test_a_difference_is_described() -> None:
    left = TableState(5, 100, (1, 2))
    assert "gone" in _difference(left, None)
    assert "5 entries, now 4" in _difference(left, TableState(4, 90, (1, 2)))
    assert "base chains" in _difference(left, TableState(5, 100, (1, 3)))
