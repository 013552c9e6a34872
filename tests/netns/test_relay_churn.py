"""Endpoints that die, return and leave the rules, under a crowd of connections through the relay's workers.

Not a byte is wrong, and nobody is refused while one endpoint lives. What the connections do is test_churn.py's in
tests/unit/backend/userspace, where endpoints and relay share one loop; here they are processes that race.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from kproxy.backend.userspace.rules import Listener
from kproxy.config import Balance
from kproxy.sandbox.host import Host
from tests.netns.relay_node import ENDPOINTS, RelayNode, echo, is_reset, relay_node, target, wire
from tests.unit.backend.userspace.test_churn import BANNER, KINDS, talk

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]
DEADLINE = 60.0  # seconds; a tenth of it on an idle machine
CROWD = {Balance.ROUND_ROBIN: 2000, Balance.RANDOM: 300, Balance.LEAST_CONNECTIONS: 500}
SIZES = (0, 1, 5000, 5000, 5000, 80_000)  # bytes
KNOWN = 6  # endpoints
PACE = 10  # connections for each step of the churn
# Bytes of the kernel's buffers: so few that the relay has to wait for room again and again.
CRAMPED = {f"net/ipv4/tcp_{kind}mem": "4096 16384 32768" for kind in "rw"}
_SO_ATTACH_FILTER = 26  # the socket module does not name it
# Classic BPF over the TCP header: a packet with SYN and without ACK is dropped, all others pass.
_NO_NEWCOMERS = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[RelayNode]:
    async with relay_node(relay_sweep=0.05, relay_keepalive=1.0) as made:
        for host in (made.client, made.node, made.pods):
            host.write_sysctls(CRAMPED)
        yield made


class Endpoint:
    """One port. It dies as a server does that drains: deaf at first, so that nobody is lost in its queue, then gone."""

    def __init__(self, node: RelayNode, ip: str) -> None:
        self._node = node
        self._talks: set[asyncio.Task[None]] = set()
        self._sock = node.listening(ip)
        self.target = target(self._sock)
        self.state = "gone"
        self._serve()

    def step(self) -> None:
        """Of its life: serves, is deaf, is gone, serves again."""
        if self.state == "serves":
            self._be_deaf()
        elif self.state == "deaf":
            self.close()
        else:
            self._sock = self._node.listening(self.target.ip, port=self.target.port)
            self._serve()

    def _serve(self) -> None:
        self.state = "serves"
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def _be_deaf(self) -> None:
        self.state = "deaf"
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _NO_NEWCOMERS))
        program = struct.pack("HL", len(_NO_NEWCOMERS), ctypes.addressof(code))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def close(self) -> None:
        if self.state != "gone":
            self.state = "gone"
            self._accept()
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()

    def _accept(self) -> None:
        while True:
            try:
                guest, _ = self._sock.accept()
            except BlockingIOError:
                return
            task = asyncio.create_task(self._talk(guest))
            self._talks.add(task)
            task.add_done_callback(self._talks.discard)

    @staticmethod
    async def _talk(guest: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=guest)
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()


class Churn:
    """The first endpoint lives and is in the rules; of the others nothing is certain."""

    def __init__(self, node: RelayNode, front: Listener, endpoints: list[Endpoint], balance: Balance) -> None:
        self._node = node
        self._front = front
        self._endpoints = endpoints
        self._balance = balance
        self._chance = random.Random(11)
        self.steps: Counter[str] = Counter()

    async def step(self) -> None:
        """One dies or returns, and the rules know of it sooner or later."""
        first, *others = self._endpoints
        deaf = [each for each in others if each.state == "deaf"]
        one = self._chance.choice(deaf or others)  # one at a time, for a client may try only four
        one.step()
        self.steps[one.state] += 1
        some = self._chance.sample(others, self._chance.randrange(len(others) + 1))
        listed = [first.target, *(each.target for each in some)]
        self._chance.shuffle(listed)
        ejecting = {"eject_after": 2, "eject_seconds": (0.1, 1.0)}
        await self._node.change(self._front, *listed, balance=self._balance, **ejecting)


class Crowd:
    """Nobody says more than hello before all are in."""

    def __init__(self, node: RelayNode, front: Listener, churn: Churn) -> None:
        self._node = node
        self._front = front
        self._churn = churn
        self._are_in = asyncio.Semaphore(0)
        self._go_on = asyncio.Event()
        self.kinds: Counter[str] = Counter()

    async def run(self, size: int) -> int:
        """How many connections there were at once, as the workers count them."""
        async with asyncio.TaskGroup() as group:
            for number in range(size):
                group.create_task(self._use(random.Random(number)))
                if number % PACE == 0:
                    await self._churn.step()
            for _ in range(size):
                await self._are_in.acquire()
            most = (await self._node.tally(self._front)).active
            self._go_on.set()
            while self.kinds.total() < size:
                await self._churn.step()
        return most

    async def _use(self, chance: random.Random) -> None:
        kind, size = chance.choice("SELB"), chance.choice(SIZES)
        reader, writer = await self._node.dial(self._front)
        try:
            assert await reader.readexactly(len(BANNER)) == BANNER
            self._are_in.release()
            await self._go_on.wait()
            writer.write(f"{kind}{size:08}".encode())
            await KINDS[kind](reader, writer, size, chance)
        finally:
            writer.close()
        self.kinds[kind] += 1


@pytest.mark.parametrize("balance", CROWD)
async def test_no_byte_is_wrong_and_nobody_is_refused_while_one_endpoint_lives(
    node: RelayNode, balance: Balance
) -> None:
    size = CROWD[balance]
    async with asyncio.timeout(DEADLINE):
        endpoints = [Endpoint(node, ENDPOINTS[4][number % 2]) for number in range(KNOWN)]
        front = await node.front(*(each.target for each in endpoints), balance=balance)
        churn = Churn(node, front, endpoints, balance)
        crowd = Crowd(node, front, churn)
        most = await crowd.run(size)
        tally = await node.over(front)
        for each in endpoints:
            each.close()
        assert (most, tally.flows, tally.refused, crowd.kinds.total()) == (size, size, {}, size)
        assert min(crowd.kinds.values()) > size // 8
        assert min(churn.steps[state] for state in ("serves", "deaf", "gone")) > 5
        assert tally.retries > 0
        assert tally.ejections > 0


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def parting(node: RelayNode) -> AsyncIterator[asyncio.Task[None]]:
    """Four keepalives take five seconds, in which the other tests run."""
    is_down = asyncio.Event()
    task = asyncio.create_task(part(node, is_down))
    await is_down.wait()
    yield task
    await asyncio.wait((task,))


async def part(node: RelayNode, is_down: asyncio.Event) -> None:
    """A client and an endpoint whose link goes down, so that no packet says so."""
    frail = Host("frail", ("10.77.3.2",))
    try:
        await wire(node.node, "frail", frail, ("10.77.3.1",), frail.ips)
        async with (
            asyncio.timeout(DEADLINE),
            node.endpoint(echo) as good,
            node.endpoint(echo, frail.ips[0], frail) as cut,
        ):
            front, other = await node.front(good), await node.front(cut)
            client, endpoint = await node.dial(front, frail), await node.dial(other)
            for streams in (client, endpoint):
                streams[1].write(b"hello")
                assert await streams[0].readexactly(5) == b"hello"
            await frail.configure(["link set eth0 down"])
            is_down.set()
            assert await is_reset(endpoint)
            tally = await node.over(front)  # of the client who cannot be told
            assert (tally.flows, tally.refused) == (1, {})
            client[1].transport.abort()
    finally:
        is_down.set()
        await frail.close()


async def test_who_is_gone_without_a_word_is_noticed_on_both_sides(parting: asyncio.Task[None]) -> None:
    """The idle timeout is a day."""
    await parting
