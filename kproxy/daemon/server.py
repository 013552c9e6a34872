"""Questions from outside, over HTTP: how a question becomes an answer, and how an address is listened on.

What is answered is ``pages.py``'s. Any method is answered, as by kube-proxy (spec: runtime.md 8 and 10). A server that
cannot bind tries again for as long as the process lives, because its port may belong to the kube-proxy that we are
replacing; with ``--bind-address-hard-fail`` it ends the process instead. ``0.0.0.0`` means every address of both
families, as it does in Go.

Rejected: aiohttp's router, which turns a wrong method into 405 and costs more than a dictionary.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Never

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from kproxy.config import Config
from kproxy.daemon.log import Log
from kproxy.daemon.status import TEXT, Answer
from kproxy.errors import CannotListen

_log = Log(__name__)
_BACKLOG = 128
_CONNECTIONS = 64  # at once, for each server; a kubelet, a load balancer and a collector need a handful
_SETTING = {  # by the server's name
    "health": "--healthz-bind-address (healthzBindAddress)",
    "metrics": "--metrics-bind-address (metricsBindAddress)",
}
_GOODBYE = 1.0  # seconds that an answer has which is being given when we end
_FORWARDED = ("Forwarded", "X-Forwarded-For")  # headers by which proxies say for whom they ask
_PORT = re.compile(r":[0-9]*$", re.ASCII)
_LARGEST = 4096  # bytes of a question's body; the only one that is read is a number


class Question(Struct, frozen=True):
    """What an HTTP client asks of a page."""

    query: Mapping[str, str] = {}
    accept: str = ""  # the Accept header
    method: str = "GET"
    body: bytes = b""  # of PUT alone
    client: str = ""  # who asks, an address; empty where somebody else may stand behind that

    @property
    def is_local(self) -> bool:
        """Whether who asks has an address of the loopback interface, also as a socket of both families writes it."""
        try:
            address = ip_address(self.client)
        except ValueError:
            return False
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback


Page = Callable[[Question], Answer | Awaitable[Answer]]
NOT_FOUND = Answer(404, b"404 page not found\n", TEXT)
UNREADABLE = Answer(400, b"the body cannot be read\n", TEXT)


def answer_by_path(pages: Mapping[str, Page]) -> Callable[[web.BaseRequest], Awaitable[web.Response]]:
    async def answer(request: web.BaseRequest) -> web.Response:
        page = pages.get(request.path)
        if page is None:
            return respond(NOT_FOUND)
        try:
            body = await request.content.read(_LARGEST) if request.method == "PUT" else b""
        except web.RequestPayloadError:
            return respond(UNREADABLE)
        found = page(Question(request.query, request.headers.get("Accept", ""), request.method, body, _client(request)))
        return respond(found if isinstance(found, Answer) else await found)

    return answer


def _client(request: web.BaseRequest) -> str:
    """A proxy on this node, such as kube-rbac-proxy, has a local address and a stranger's question.

    So has a browser on this node that a stranger's page asks to look at a name which its DNS server has pointed at
    127.0.0.1 meanwhile; the name stands in the question then. Who means this node gives its address, or localhost.
    """
    if any(name in request.headers for name in _FORWARDED) or not _is_ours(request.headers.get("Host", "")):
        return ""
    return request.remote or ""


def _is_ours(host: str) -> bool:
    """Whether the Host header holds no foreign name."""
    name = _PORT.sub("", host).strip("[]")
    try:
        return name in {"", "localhost"} or bool(ip_address(name))
    except ValueError:
        return False


def respond(answer: Answer) -> web.Response:
    body = answer.body if answer.pieces is None else answer.pieces
    return web.Response(status=answer.status, body=body, headers={**answer.headers, "Server": "kproxy"})


class _Mistakes(logging.Filter):
    """Lets our own mistakes through and not a stranger's: a traceback for each bad request would fill the disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        strangers = (HttpProcessingError, web.RequestPayloadError)
        return not (record.exc_info and isinstance(record.exc_info[1], strangers))


_http = logging.getLogger(f"{__name__}.http")
_http.addFilter(_Mistakes())


class Server(web.Server):
    """Closes its oldest connection when there are too many.

    Whoever reaches the port could otherwise take every file descriptor of the process by connecting and saying
    nothing, and without descriptors no iptables program can be started. Refusing the newest instead was rejected: it
    would keep the kubelet out.
    """

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler, access_log=None, logger=_http)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        living = [each for each in self.connections if each.transport is not None]
        for each in living[:-_CONNECTIONS]:
            each.force_close()


async def serve(
    name: str,
    address: str,
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    *,
    config: Config,
    bound: Callable[[int], None] = lambda _port: None,
) -> Never:
    """Answer on ``address`` (``ip:port``) for ever, as the server ``health`` or ``metrics``.

    ``bound`` hears the port, which matters where 0 was asked for. Raises CannotListen where the address
    cannot be bound and the configuration calls that fatal.
    """
    runner = web.ServerRunner(Server(handler), shutdown_timeout=_GOODBYE)
    await runner.setup()
    try:
        listener = await _listen_for_ever(name, address, config)
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        _log.info("Answering", server=name, address=address)
        bound(listener.getsockname()[1])
        await asyncio.Event().wait()  # until the task is cancelled
        raise AssertionError
    finally:
        await runner.cleanup()


async def _listen_for_ever(name: str, address: str, config: Config) -> socket.socket:
    said = ""
    while True:
        try:
            return listen(*split_address(address))
        except OSError as error:
            problem = (
                f"{name} server cannot listen on {address}: {os.strerror(error.errno) if error.errno else error}; "
                f"stop whoever holds the address (another kube-proxy?), or give {_SETTING[name]} another one"
            )
            if config.bind_address_hard_fail:
                raise CannotListen(problem) from error
            if problem != said:
                _log.error("Cannot listen, trying again", server=name, address=address, err=problem)
                said = problem
        await asyncio.sleep(config.bind_retry)


def listen(host: str, port: int, *, one_family: bool = False) -> socket.socket:
    """A listening socket; a wildcard address means both families unless ``one_family``. Raises OSError."""
    wildcard = host in {"0.0.0.0", "::", ""}  # noqa: S104 -- the user's choice, compared, not bound
    if wildcard and not one_family and socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def split_address(address: str) -> tuple[str, int]:
    """``ip:port`` or ``[ip]:port``; the command line has made sure that it is one."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
