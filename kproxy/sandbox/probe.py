"""Asks one server one question from some host, and says what came back and how.

Four ways to ask: a line over TCP, a datagram over UDP, a GET over HTTP, a name over DNS. Five ways to end:

    ok            the answer's JSON says who answered, where it was reached and whom it saw
    refused       a reset or an ICMP port unreachable: what kube-proxy's REJECT looks like to a client
    unreachable   any other ICMP unreachable, or no route
    timeout       silence: a DROP, or an answer that got lost
    broken        a connection that ended, or bytes that no server of ours sends

Only the socket is made inside the host (see host.py), so hundreds of probes from many hosts cost no process.
``python -m kproxy.sandbox.probe tcp 10.96.0.10 80 -n 20`` does the same wherever it is started, printing JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import random
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from kproxy.sandbox import dns
from kproxy.sandbox.host import Host
from kproxy.sandbox.workload import show

Outcome = Literal["ok", "refused", "unreachable", "timeout", "broken"]
DEADLINE = 2.0  # seconds for one question; an answer takes well under a millisecond
_LARGEST = 65536
_REPORT_ERRORS = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),  # IP_RECVERR, ip(7); the socket module does not name it
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),  # IPV6_RECVERR, ipv6(7)
}
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT}


@dataclass(frozen=True, slots=True)
class Answer:
    """How one question ended; the texts are empty where it did not get so far."""

    outcome: Outcome
    name: str = ""  # of the server
    local: str = ""  # where the server was reached, after every rewriting
    peer: str = ""  # whom the server saw
    source: str = ""  # whom it would have seen without any rewriting
    status: int = 0  # of HTTP, or DNS's response code
    values: tuple[str, ...] = field(default=())  # of DNS
    forwarded_for: str = ""  # of HTTP through a proxy: whom the proxy saw

    @property
    def peer_ip(self) -> str:
        """The address whom the server saw, without port and brackets."""
        return self.peer.rpartition(":")[0].strip("[]")

    @property
    def source_kept(self) -> bool:
        """Whether the server saw the address that the question was sent from."""
        return self.peer != "" and self.peer_ip == self.source.rpartition(":")[0].strip("[]")


async def tcp(host: Host | None, address: str, port: int, *, deadline: float = DEADLINE) -> Answer:
    """Connect, send a line, read a line."""
    return await _stream(host, address, port, b"hello\n", _read_line, deadline)


async def udp(host: Host | None, address: str, port: int, *, deadline: float = DEADLINE) -> Answer:
    """Send a datagram, receive one."""
    return await _datagram(host, address, port, b"hello\n", _understand, deadline)


async def http(
    host: Host | None,
    address: str,
    port: int,
    *,
    name: str = "",
    path: str = "/",
    tls: bool = False,
    deadline: float = DEADLINE,
) -> Answer:
    """GET ``path``, under the host name ``name`` where one is given; with ``tls`` any certificate will do."""
    where = name or (f"[{address}]" if ":" in address else address)
    request = f"GET {path} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n\r\n"
    return await _stream(host, address, port, request.encode(), _read_http, deadline, tls=tls)


async def resolve(
    host: Host | None,
    address: str,
    port: int = 53,
    *,
    name: str = "whoami",
    kind: str = "TXT",
    over: Literal["udp", "tcp"] = "udp",
    deadline: float = DEADLINE,
) -> Answer:
    """Ask a DNS server for a name; ``whoami`` of kind TXT asks our own who answers."""
    ident = random.randrange(65536)  # noqa: S311 - tells answers apart, keeps no secret
    question = dns.ask(ident, name, kind)
    if over == "tcp":
        framed = len(question).to_bytes(2, "big") + question
        return await _stream(host, address, port, framed, _read_dns, deadline)
    return await _datagram(host, address, port, question, _understand_dns, deadline)


async def _stream(
    host: Host | None,
    address: str,
    port: int,
    request: bytes,
    read: Callable[[asyncio.StreamReader], Awaitable[Answer]],
    deadline: float,
    *,
    tls: bool = False,
) -> Answer:
    with _socket(host, address, socket.SOCK_STREAM) as sock:
        source, writer = "", None
        try:
            async with asyncio.timeout(deadline):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
                source = show(sock.getsockname())
                encryption = _any_certificate() if tls else None
                reader, writer = await asyncio.open_connection(
                    sock=sock, ssl=encryption, server_hostname=address if tls else None
                )
                writer.write(request)
                return _sent_from(source, await read(reader))
        except (OSError, EOFError, ValueError) as error:
            return Answer(_outcome(error), source=source)
        finally:
            if writer is not None:
                writer.transport.abort()
                await asyncio.sleep(0)


async def _datagram(
    host: Host | None,
    address: str,
    port: int,
    request: bytes,
    understand: Callable[[bytes], Answer],
    deadline: float,
) -> Answer:
    loop = asyncio.get_running_loop()
    with _socket(host, address, socket.SOCK_DGRAM) as sock:
        source = ""
        try:
            async with asyncio.timeout(deadline):
                await loop.sock_connect(sock, (address, port))
                source = show(sock.getsockname())
                await loop.sock_sendall(sock, request)
                return _sent_from(source, understand(await loop.sock_recv(sock, _LARGEST)))
        except (OSError, ValueError) as error:
            return Answer(_outcome(error), source=source)


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the question is who answers, and the sandbox signs for itself
    return context


@contextlib.contextmanager
def _socket(host: Host | None, address: str, kind: socket.SocketKind) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.inside() if host else contextlib.nullcontext():
        sock = socket.socket(family, kind)
    with sock:
        sock.setblocking(False)
        # Without it the kernel waits for a better answer than "unreachable" until the deadline.
        sock.setsockopt(*_REPORT_ERRORS[family], 1)
        yield sock


def _sent_from(source: str, answer: Answer) -> Answer:
    return replace(answer, source=source)


def _outcome(error: Exception) -> Outcome:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return "unreachable"
    return "broken"


def _understand(line: bytes) -> Answer:
    facts = json.loads(line)
    if not isinstance(facts, dict):
        raise ValueError("not an object")  # noqa: TRY004 - bad bytes, and json says ValueError for all others
    name, local, peer, forwarded = (str(facts.get(key, "")) for key in ("name", "local", "peer", "for"))
    return Answer("ok", name, local, peer, forwarded_for=forwarded)


def _understand_dns(message: bytes) -> Answer:
    reply = dns.read(message)
    values = reply.values
    if len(values) == 1 and values[0].startswith("{"):
        return replace(_understand(values[0].encode()), status=reply.code, values=values)
    return Answer("ok", status=reply.code, values=values)


async def _read_line(reader: asyncio.StreamReader) -> Answer:
    return _understand(await reader.readuntil(b"\n"))


async def _read_http(reader: asyncio.StreamReader) -> Answer:
    head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.") else 0
    if not status:
        raise ValueError("not HTTP")
    if status != 200 or not body.startswith(b"{"):  # somebody else's page; that it came is an answer too
        return Answer("ok", status=status)
    return replace(_understand(body), status=status)


async def _read_dns(reader: asyncio.StreamReader) -> Answer:
    length = int.from_bytes(await reader.readexactly(2), "big")
    return _understand_dns(await reader.readexactly(length))


def _asker(arguments: argparse.Namespace) -> Callable[[], Awaitable[Answer]]:
    address, port, deadline = arguments.host, arguments.port, arguments.timeout
    match arguments.kind:
        case "tcp":
            return lambda: tcp(None, address, port, deadline=deadline)
        case "udp":
            return lambda: udp(None, address, port, deadline=deadline)
        case "http":
            name, path = arguments.name, arguments.path
            return lambda: http(None, address, port, name=name, path=path, deadline=deadline)
        case _:
            name, record = arguments.name or "whoami", arguments.record
            return lambda: resolve(None, address, port, name=name, kind=record, deadline=deadline)


async def _ask_often(arguments: argparse.Namespace) -> dict[str, Any]:
    ask = _asker(arguments)
    answers = [await ask() for _ in range(arguments.n)]
    return {
        "target": show((arguments.host, arguments.port)),
        "outcomes": dict(Counter(answer.outcome for answer in answers)),
        "names": dict(Counter(answer.name for answer in answers if answer.name)),
        "answers": [asdict(answer) for answer in answers],
    }


def main() -> int:
    """Print one JSON object; the exit status is 0 when every question was answered."""
    parser = argparse.ArgumentParser(prog="python -m kproxy.sandbox.probe", description="Ask, and say who answered.")
    parser.add_argument("kind", choices=("tcp", "udp", "http", "dns"))
    parser.add_argument("host", help="an IP address")
    parser.add_argument("port", type=int)
    parser.add_argument("-n", type=int, default=1, help="how many questions, one after the other")
    parser.add_argument("--timeout", type=float, default=DEADLINE, help="seconds for each")
    parser.add_argument("--name", default="", help="http: the host name; dns: the name to ask for (whoami)")
    parser.add_argument("--path", default="/", help="http: the path")
    parser.add_argument("--record", choices=sorted(dns.TYPES), default="TXT", help="dns: the record type")
    result = asyncio.run(_ask_often(parser.parse_args()))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0 if set(result["outcomes"]) == {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
