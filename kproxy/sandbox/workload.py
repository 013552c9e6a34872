"""The servers that answer in pods, so that an answer tells the way its question took.

Every answer is one line of JSON: ``name`` of the server, ``local`` address:port that was reached, ``peer``
address:port that the server saw. The first shows which endpoint was chosen, the second that the destination was
rewritten, the third whether the source was.

All ports of a host are served by one object, and many hosts by one process: only the sockets are made inside the
host (see host.py). The same servers run alone with ``python -m kproxy.sandbox.workload NAME --tcp 80 --udp 53``,
which prints "ready" when all ports are open.

A UDP socket is bound to one address and not to the wildcard: the kernel would otherwise answer from whichever
address routing prefers, and a client that asked another one would not recognise the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

from kproxy.sandbox import dns
from kproxy.sandbox.host import Host

_BACKLOG = 512
_REQUEST_DEADLINE = 10.0  # seconds for an HTTP request's head to arrive
_HEAD_LIMIT = 65536  # bytes

Address = tuple[Any, ...]  # what the socket module gives: (ip, port) or (ip, port, flow, scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What to serve: numbers of ports by kind of server."""

    tcp: Sequence[int] = ()
    udp: Sequence[int] = ()
    http: Sequence[int] = ()
    dns: Sequence[int] = ()  # each on UDP and on TCP


def describe(name: str, local: Address, peer: Address, more: Mapping[str, str] | None = None) -> bytes:
    """One line of JSON that says who answered and whom it saw."""
    facts = {"name": name, "local": show(local), "peer": show(peer), **(more or {})}
    return json.dumps(facts).encode() + b"\n"


def show(address: Address) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``; an IPv4 address that came through an IPv6 socket is shown as IPv4."""
    ip, port = str(address[0]).removeprefix("::ffff:"), address[1]
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def no_names(_name: str, _kind: str) -> Sequence[str] | None:
    """The lookup of a DNS server that knows nothing."""
    return None


class Workload:
    """``async with Workload("echo-1", host, Ports(tcp=[80])):`` serves in ``host`` during the block.

    Without a host it serves where the process is, on all addresses. Raises OSError when a port is taken.
    """

    def __init__(self, name: str, host: Host | None, ports: Ports, *, lookup: dns.Lookup = no_names) -> None:
        self.name = name
        self._host = host
        self._ports = ports
        self._lookup = lookup
        self._servers: list[asyncio.Server] = []
        self._transports: list[asyncio.BaseTransport] = []
        self._talks: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Open all ports; they accept when this returns."""
        streams: list[tuple[Talk, Sequence[int]]] = [
            (self._echo, self._ports.tcp),
            (self._http, self._ports.http),
            (self._dns, self._ports.dns),
        ]
        loop = asyncio.get_running_loop()
        try:
            for talk, ports in streams:
                for listener in self._open(socket.SOCK_STREAM, ports):
                    server = await asyncio.start_server(self._kept(talk), sock=listener, backlog=_BACKLOG)
                    self._servers.append(server)
            for reply, ports in ((self._echo_datagram, self._ports.udp), (self._dns_datagram, self._ports.dns)):
                for listener in self._open(socket.SOCK_DGRAM, ports):
                    transport, _ = await loop.create_datagram_endpoint(Datagrams.of(reply), sock=listener)
                    self._transports.append(transport)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the ports and cut every connection, as the end of a pod does."""
        for server in self._servers:
            server.close()
        for transport in self._transports:
            transport.close()
        for writer in tuple(self._talks):
            writer.transport.abort()
        self._servers.clear()
        self._transports.clear()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next round

    def _open(self, kind: socket.SocketKind, ports: Sequence[int]) -> list[socket.socket]:
        addresses = self._host.ips if self._host else ("::",)
        opened: list[socket.socket] = []
        try:
            with self._host.inside() if self._host else contextlib.nullcontext():
                for port, address in itertools.product(ports, addresses):
                    opened.append(listen(kind, address, port))
        except BaseException:
            for listener in opened:
                listener.close()
            raise
        return opened

    def _kept(self, talk: Talk) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        """Remember the connection while ``talk`` is at it, and take a peer that leaves in the middle calmly."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._talks.add(writer)
            try:
                with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError):
                    await talk(reader, writer)
            finally:
                self._talks.discard(writer)
                writer.close()

        return serve

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(describe(self.name, *_ends(writer)))
            await writer.drain()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_REQUEST_DEADLINE):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *fields = head.split("\r\n")
            method, path, _ = request.split(" ", 2)
            headers = {key.strip().lower(): value.strip() for key, _, value in (f.partition(":") for f in fields)}
            await reader.readexactly(int(headers.get("content-length", "0")))
            seen = {"path": path, "host": headers.get("host", ""), "for": headers.get("x-forwarded-for", "")}
            body = describe(self.name, *_ends(writer), seen)
            lines = ("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}", "", "")
            writer.write("\r\n".join(lines).encode() + (b"" if method == "HEAD" else body))
            await writer.drain()
            if headers.get("connection", "").lower() == "close" or request.endswith("HTTP/1.0"):
                return

    async def _dns(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length = int.from_bytes(await reader.readexactly(2), "big")
            reply = dns.answer(await reader.readexactly(length), self._names_for(*_ends(writer)))
            writer.write(len(reply).to_bytes(2, "big") + reply)
            await writer.drain()

    def _echo_datagram(self, _data: bytes, local: Address, peer: Address) -> bytes:
        return describe(self.name, local, peer)

    def _dns_datagram(self, data: bytes, local: Address, peer: Address) -> bytes:
        try:
            return dns.answer(data, self._names_for(local, peer))
        except dns.Malformed:
            return b""

    def _names_for(self, local: Address, peer: Address) -> dns.Lookup:
        """The lookup, and TXT of the name whoami, which answers what other servers answer by themselves."""

        def lookup(name: str, kind: str) -> Sequence[str] | None:
            if name == "whoami":
                return [describe(self.name, local, peer).decode().strip()] if kind == "TXT" else []
            return self._lookup(name, kind)

        return lookup


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
ReplyTo = Callable[[bytes, Address, Address], bytes]


class Datagrams(asyncio.DatagramProtocol):
    """Answers every datagram with what ``reply`` makes of it; an empty reply is not sent."""

    def __init__(self, reply: ReplyTo) -> None:
        self._reply = reply
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    def of(cls, reply: ReplyTo) -> Callable[[], Datagrams]:
        """A factory as asyncio wants it."""
        return lambda: cls(reply)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if self._transport is not None:
            reply = self._reply(data, self._transport.get_extra_info("sockname"), addr)
            if reply:
                self._transport.sendto(reply, addr)


def listen(kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    """A socket bound in the present network namespace; ``::`` takes IPv4 too."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, kind)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
        listener.bind((address, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _ends(writer: asyncio.StreamWriter) -> tuple[Address, Address]:
    return writer.get_extra_info("sockname"), writer.get_extra_info("peername")


async def _serve_alone(arguments: argparse.Namespace) -> None:
    def lookup(name: str, kind: str) -> Sequence[str] | None:
        address = dict(arguments.record).get(name)
        if address is None:
            return None
        return [address] if kind == ("AAAA" if ":" in address else "A") else []

    ports = Ports(tcp=arguments.tcp, udp=arguments.udp, http=arguments.http, dns=arguments.dns)
    async with Workload(arguments.name, None, ports, lookup=lookup):
        print("ready", flush=True)  # noqa: T201 - this line is how whoever started the program knows that it listens
        await asyncio.Event().wait()


def _record(text: str) -> tuple[str, str]:
    name, _, address = text.partition("=")
    return name.lower().strip("."), address


def main() -> None:
    """``python -m kproxy.sandbox.workload NAME --tcp 80 --udp 53 --http 8080 --dns 53``."""
    parser = argparse.ArgumentParser(prog="python -m kproxy.sandbox.workload", description="Servers for one pod.")
    parser.add_argument("name", help="how the servers call themselves in answers")
    for kind in ("tcp", "udp", "http", "dns"):
        parser.add_argument(f"--{kind}", metavar="PORT", type=int, nargs="+", default=[])
    parser.add_argument("--record", metavar="NAME=IP", type=_record, nargs="+", default=[], help="for --dns")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_alone(parser.parse_args()))


if __name__ == "__main__":
    main()
