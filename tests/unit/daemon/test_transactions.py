"""What is kept of a transaction, who is told of it and how often. Of a running daemon: tests/e2e/test_questions.py."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy.daemon.server import Question
from kproxy.daemon.status import Answer, Instant
from kproxy.daemon.transactions import LARGEST, PAUSE, Transactions, pages
from kproxy.errors import KernelError, ProgramTimeout, RestoreRefused, XtablesLocked
from kproxy.kernel.doors import Chunks, Completed, IptablesDoor
from kproxy.kernel.fake import FakeIptables
from kproxy.model.enums import IPFamily

INPUT = b"*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"
PROGRAM = "iptables-nft-restore"


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> Instant:
        return Instant(self.seconds, 1_700_000_000_000_000_000 + int((self.seconds - 100) * 1_000_000_000))


class Door(FakeIptables):
    """Takes half a second, and answers as it is told."""

    def __init__(self, clock: Clock, family: IPFamily = IPFamily.IPV4) -> None:
        super().__init__(family)
        self._clock = clock
        self.error: KernelError | None = None
        self.read = b""

    async def restore(self, chunks: Chunks) -> Completed:
        self.read = b"".join([chunk async for chunk in each(chunks)])
        self._clock.seconds += 0.5
        if self.error:
            raise self.error
        return Completed(status=0, stdout=b"", stderr="", pid=1, seconds=0.5, cpu_seconds=0.1, peak_rss=0)


async def each(chunks: Chunks) -> AsyncIterator[bytes]:
    if isinstance(chunks, bytes):
        yield chunks
    elif isinstance(chunks, AsyncIterator):
        async for chunk in chunks:
            yield chunk
    else:
        for chunk in chunks:  # type: ignore[union-attr]
            yield chunk


class Node:
    """One family's door, watched, and the page."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transactions = Transactions(self.clock)
        self.door = Door(self.clock)
        self.watched: IptablesDoor = self.transactions.watch(self.door, PROGRAM)

    async def ask(self, client: str = "127.0.0.1", **query: str) -> Answer:
        """The answer as it arrives."""
        answer = pages(self.transactions)["/debug/rules"](Question(query, client=client))
        assert isinstance(answer, Answer)
        if answer.pieces is None:
            return answer
        pieces = [piece async for piece in answer.pieces]
        assert max(map(len, pieces)) <= 128 * 1024
        return replace(answer, body=b"".join(pieces), pieces=None)

    async def told(self) -> list[Any]:
        self.clock.seconds += PAUSE
        found: list[Any] = json.loads((await self.ask(format="json")).body)
        return found


@pytest.fixture
def node() -> Node:
    return Node()


async def test_the_last_applied_and_the_last_failed_are_told(node: Node) -> None:
    assert (await node.ask()).body.decode() == (
        "# IPv4, last applied: none since the start\n\n# IPv4, last failed: none since the start\n"
    )
    await node.watched.restore(INPUT)
    node.door.error = RestoreRefused(("iptables-nft-restore",), 1, "line 2 failed\x1b[2J\nsorry\n", line=2)
    with pytest.raises(RestoreRefused):
        await node.watched.restore(iter([INPUT[:9], INPUT[9:]]))
    assert node.door.read == INPUT
    node.clock.seconds += PAUSE
    answer = await node.ask()
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert answer.body.decode() == (
        "# IPv4, last applied: 2023-11-14T22:13:20.500000Z by iptables-nft-restore, 0.500 s, 3 lines, 35 bytes\n"
        "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n\n"
        "# IPv4, last failed: 2023-11-14T22:13:21.000000Z by iptables-nft-restore, 0.500 s, 3 lines, 35 bytes\n"
        "# status 1, line 2\n# line 2 failed\\x1b[2J\n# sorry\n"
        "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"
    )


async def test_a_later_one_takes_the_place_of_its_kind_only(node: Node) -> None:
    await node.watched.restore(b"first\n")
    node.door.error = XtablesLocked("another program is changing the rules")
    with pytest.raises(XtablesLocked):
        await node.watched.restore(b"second\n")
    node.door.error = None
    await node.watched.restore(b"third\n")
    assert [(each["outcome"], each["input"], each["why"], each["status"]) for each in await node.told()] == [
        ("applied", "third\n", "", 0),
        ("failed", "second\n", "another program is changing the rules", None),
    ]


async def test_a_program_that_did_not_end_is_told_as_such(node: Node) -> None:
    node.door.error = ProgramTimeout("iptables-nft-restore did not end within 300 s and was killed")
    with pytest.raises(ProgramTimeout):
        await node.watched.restore(INPUT)
    node.clock.seconds += PAUSE
    assert (
        "# did not end by itself\n# iptables-nft-restore did not end within 300 s" in (await node.ask()).body.decode()
    )


async def test_each_family_has_its_own(node: Node) -> None:
    other = node.transactions.watch(Door(node.clock, IPFamily.IPV6), "ip6tables-nft-restore")
    await other.restore(b"six\n")
    await node.watched.restore(b"four\n")
    assert [(each["family"], each["program"], each["input"]) for each in await node.told()] == [
        ("IPv4", "iptables-nft-restore", "four\n"),
        ("IPv6", "ip6tables-nft-restore", "six\n"),
    ]


async def test_of_a_long_one_the_beginning_is_kept_in_whole_lines_and_where_it_was_cut_is_said(node: Node) -> None:
    line = b"-A KUBE-SERVICES -j RETURN\n"
    block = line * 3000
    count = LARGEST // len(block) + 3

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield block

    await node.watched.restore(chunks())
    assert len(node.door.read) == count * len(block)
    node.clock.seconds += PAUSE
    body = (await node.ask()).body
    kept = LARGEST // len(line)
    assert f"{count * 3000:,} lines, {count * len(block):,} bytes\n".encode() in body
    assert f"\n# cut here: {kept * len(line):,} bytes of it were kept\n".encode() in body
    assert body.count(line) == kept
    told = (await node.told())[0]
    assert (told["bytes"], told["bytesKept"], len(told["input"])) == (
        count * len(block),
        kept * len(line),
        kept * len(line),
    )


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.8.8", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("192.168.100.10", 403),
        ("::ffff:10.0.0.1", 403),
        ("fe80::1%eth0", 403),
        ("", 403),
    ],
)
async def test_only_who_is_on_the_node_is_told(node: Node, client: str, status: int) -> None:
    await node.watched.restore(INPUT)
    answer = await node.ask(client)
    assert answer.status == status
    assert (INPUT in answer.body) == (status == 200)


async def test_whoever_asks_too_often_is_told_when_to_come_again(node: Node) -> None:
    assert (await node.ask("10.0.0.1")).status == 403  # which costs nobody else his answer
    assert (await node.ask(format="xml")).status == 400
    assert (await node.ask()).status == 200
    node.clock.seconds += 0.5
    refused = await node.ask()
    assert (refused.status, refused.headers["Retry-After"]) == (429, "2")
    node.clock.seconds += 1.5
    answer = await node.ask(format="json")
    assert (answer.status, answer.body) == (200, b"[]\n")


async def test_the_watched_door_does_what_the_door_does(node: Node) -> None:
    real = FakeIptables(IPFamily.IPV4)
    watched = node.transactions.watch(real, PROGRAM)
    await watched.restore(b"*nat\n:KUBE-X - [0:0]\n-A KUBE-X -j RETURN\nCOMMIT\n")
    assert (watched.family, watched.variant) == (real.family, real.variant)
    assert "KUBE-X" in await watched.chains("nat")
    assert await watched.rules("nat", ["KUBE-X"]) == {"KUBE-X": ("-A KUBE-X -j RETURN",)}
    assert await watched.has_rule("nat", "-A KUBE-X -j RETURN")
    assert await watched.save("nat") == await real.save("nat")
    assert await watched.version() == await real.version()
    assert await watched.is_present()
    assert await watched.probe() == await real.probe()
    await watched.restore_test(INPUT)
