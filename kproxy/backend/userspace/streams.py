"""TCP connections, performed: accept, find an endpoint, and do what the relay machine says.

A client is accepted at once and read only when an endpoint has been reached, so that nothing is lost while several are
tried: the first as the balancer says, each with a longer deadline, one that refused not a second time.

Every socket lingers for no time (SO_LINGER 0) until its flow ends in order: if this process dies, the kernel resets
its connections, and nobody takes half a stream for a whole one.

A reset that arrives after that side's end of stream shows only when something is next sent to it; half-closed flows
have a shorter deadline for that reason. What may wait in one direction is ``relay_buffer`` plus one read (256 KiB),
besides the kernel's socket buffers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from typing import cast

from kproxy.backend.userspace import tcp
from kproxy.backend.userspace.counts import FILES, LIMIT, SHORT_OF_FILES, Counts, reason
from kproxy.backend.userspace.door import Door, dial
from kproxy.backend.userspace.tcp import Side
from kproxy.config import Config
from kproxy.plan.plan import Target

_AT_ONCE = 64  # connections accepted before others have their turn
_RESET = struct.pack("ii", 1, 0)
_ORDERLY = struct.pack("ii", 0, 0)
_PROBES = 4  # unanswered keepalives before a connection is gone


class Streams:
    """All TCP flows of one family, of all its listeners. ``limit``: how many there may be."""

    def __init__(self, config: Config, *, limit: int) -> None:
        self.counts = Counts()
        self._config = config
        self._limit = limit
        self._group: asyncio.TaskGroup | None = None
        self._flows: set[Flow] = set()
        self._pauses: dict[Door, asyncio.TimerHandle] = {}

    async def run(self) -> None:
        """Let connections in, until cancelled; resets all that there are in the end."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                while True:
                    await asyncio.sleep(self._config.relay_sweep)
                    self._expire()
        finally:
            self._group = None
            for flow in self._flows:
                flow.cut()

    def open(self, door: Door) -> None:
        asyncio.get_running_loop().add_reader(door.socket, self._accept, door)

    def shut(self, door: Door) -> None:
        """Let nobody in any more; who is in stays."""
        asyncio.get_running_loop().remove_reader(door.socket)
        if door in self._pauses:
            self._pauses.pop(door).cancel()
        door.close()

    def _accept(self, door: Door) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, address = door.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SHORT_OF_FILES:
                    self._pause(door)
                    return
                continue  # the client has left while it waited
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if self._group is None or self.counts.active >= self._limit:
                self.counts.refused[LIMIT] += 1
                client.close()
            else:
                self._group.create_task(self._serve(door, client, str(address[0])))
                self.counts.active += 1

    def _pause(self, door: Door) -> None:
        """Whoever knocks waits in the kernel's queue meanwhile."""
        self.counts.refused[FILES] += 1
        loop = asyncio.get_running_loop()
        loop.remove_reader(door.socket)
        self._pauses[door] = loop.call_later(self._config.relay_accept_pause, self._resume, door)

    def _resume(self, door: Door) -> None:
        del self._pauses[door]
        self.open(door)

    async def _serve(self, door: Door, client: socket.socket, ip: str) -> None:
        rule, loop = door.rule, asyncio.get_running_loop()
        affinity = rule.plan.affinity_seconds
        flow = None
        try:
            order = door.balancer.order(rule.targets, affinity=affinity, client=ip, now=loop.time())
            endpoint, target = await self._reach(order)
            if affinity:
                door.balancer.served(ip, target, loop.time())
            self.counts.flows += 1
            flow = Flow(self._config.relay_buffer, self._ended)
            self._flows.add(flow)
            await flow.begin(client, endpoint)
        except OSError as error:
            self.counts.refused[reason(error)] += 1
        except Exception as error:  # noqa: BLE001 -- a mistake of ours in one flow must not end all of them
            loop.call_exception_handler({"message": f"A connection to {door.listener} failed", "exception": error})
        finally:
            if flow is None:
                client.close()
                self.counts.active -= 1

    async def _reach(self, order: Sequence[Target]) -> tuple[socket.socket, Target]:
        """A connection to the first endpoint that can be reached. Raises OSError."""
        left = list(order)
        last: OSError = ConnectionRefusedError()
        for deadline in self._config.relay_connect_deadlines:
            if not left:
                break
            target = left.pop(0)
            sock = dial(target.ip, socket.SOCK_STREAM)
            try:
                async with asyncio.timeout(deadline):
                    await asyncio.get_running_loop().sock_connect(sock, (target.ip, target.port))
                self._prepare(sock)
            except TimeoutError as error:
                sock.close()
                last = error
                left.append(target)
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock, target
        raise last

    def _prepare(self, endpoint: socket.socket) -> None:
        idle = max(1, int(self._config.relay_keepalive))
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // _PROBES))
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)

    def _ended(self, flow: Flow) -> None:
        self._flows.discard(flow)
        self.counts.active -= 1

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        for flow in list(self._flows):
            longest = self._config.relay_idle if flow.is_whole else self._config.relay_half_closed
            if flow.used + longest <= now:
                flow.cut()


class Flow:
    """Two connections and the machine between them; ``ended`` is called when both are closed."""

    def __init__(self, buffer: int, ended: Callable[[Flow], None]) -> None:
        self._machine = tcp.Relay()
        self._buffer = buffer
        self._ended = ended
        self._transports: dict[Side, asyncio.Transport] = {}
        self._early: list[tcp.Event] | None = []  # what happened before both sides were there; None: they are
        self._loop = asyncio.get_running_loop()
        self.used = self._loop.time()

    @property
    def is_whole(self) -> bool:
        """Both directions are open."""
        return not (self._machine.is_half_closed or self._machine.is_over)

    async def begin(self, client: socket.socket, endpoint: socket.socket) -> None:
        try:
            for side, sock in ((Side.CLIENT, client), (Side.ENDPOINT, endpoint)):
                await self._loop.connect_accepted_socket(lambda side=side: _End(self, side), sock)  # type: ignore[misc]
        except BaseException:  # only a cancelled task comes here; what has no transport yet closes by itself
            self.cut()
            client.close()
            endpoint.close()
            if not self._transports:
                self._ended(self)
            raise
        early, self._early = self._early or (), None
        for event in early:
            self.handle(event)
        for transport in self._transports.values():
            transport.resume_reading()

    def made(self, side: Side, transport: asyncio.Transport) -> None:
        self._transports[side] = transport
        transport.pause_reading()
        transport.set_write_buffer_limits(high=self._buffer)

    def handle(self, event: tcp.Event) -> None:
        self.used = self._loop.time()
        if self._early is not None:  # not every loop heeds a pause in connection_made
            self._early.append(event)
            return
        broken = None
        for command in self._machine.handle(event):
            try:
                self._perform(command)
            except OSError:  # shutdown() of a connection that was reset this moment
                broken = command.side
        if broken is not None:
            self.handle(tcp.Broken(broken))

    def lost(self, side: Side) -> None:
        """The connection of ``side`` is closed, by whomever."""
        self.handle(tcp.Broken(side))
        self._transports.pop(side, None)
        if not self._transports:
            self._ended(self)

    def cut(self) -> None:
        """Reset both sides, also while the last bytes are on their way."""
        self.handle(tcp.Expired())
        for transport in self._transports.values():
            _reset(transport)

    def _perform(self, command: tcp.Command) -> None:
        transport = self._transports.get(command.side)
        if transport is None:
            return
        match command:
            case tcp.Send(_, data):
                transport.write(data)
            case tcp.EndWrites():
                transport.write_eof()
            case tcp.Pause():
                transport.pause_reading()
            case tcp.Resume():
                transport.resume_reading()
            case tcp.Close():
                _linger(transport, _ORDERLY)
                transport.close()
            case tcp.Reset():
                _reset(transport)


def _reset(transport: asyncio.Transport) -> None:
    _linger(transport, _RESET)
    transport.abort()


def _linger(transport: asyncio.Transport, how: bytes) -> None:
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)


class _End(asyncio.Protocol):
    """Tells the flow what happens on one side."""

    def __init__(self, flow: Flow, side: Side) -> None:
        self._flow = flow
        self._side = side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._flow.made(self._side, cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._flow.handle(tcp.Received(self._side, data))

    def eof_received(self) -> bool:
        self._flow.handle(tcp.Ended(self._side))
        return True  # the other direction stays open

    def pause_writing(self) -> None:
        self._flow.handle(tcp.Filled(self._side))

    def resume_writing(self) -> None:
        self._flow.handle(tcp.Drained(self._side))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a side that is lost before the flow is over was broken, whatever broke it
        self._flow.lost(self._side)
