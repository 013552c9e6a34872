"""Requests to one API server: get, a stream of lines, post, patch. Every one has a deadline and ends in a typed error.

Rejected: the ``kubernetes`` package's client (its watch loses events and waits for ever on a dead link, its models cost
a second of CPU for what msgspec does in a millisecond) and an HTTP library of our own. What the credentials are and
when they are new is decided here: a token file is read again every minute, an expiring credential is resolved again
before it expires, and a 401 or a failed TLS handshake resolves it once more before it becomes an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from msgspec import Struct
from msgspec.structs import replace

from kproxy.config import RELEASE, Config
from kproxy.errors import ApiError, ApiRefused, ApiUnreachable, BadCredentials, ResourceExpired
from kproxy.source import credentials as door
from kproxy.source import wire
from kproxy.source.credentials import Credentials, read_token
from kproxy.source.lines import LineTooLong, Splitter
from kproxy.source.tls import tls_context
from kproxy.source.traffic import Traffic

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_SKEW = 20.0  # seconds before its end at which a credential counts as expired
_BUFFER = 256 * 1024  # bytes read ahead of us before the server has to wait
_SHOWN = 300  # characters of a server's message
_LONGEST_WAIT = 300.0  # seconds; a Retry-After beyond it would be an outage of our own making
_LARGEST = 512 * 1024 * 1024  # bytes; ten times the list of a big cluster, so this is no API server
_TLS_ERRORS = (aiohttp.ClientSSLError, ssl.SSLError)

Query = Mapping[str, str]


class Stream:
    """The lines of one response, as they come. ``silence``: seconds without a byte after which the link is dead."""

    def __init__(self, client: Client, response: aiohttp.ClientResponse, what: str, silence: float) -> None:
        self._client, self._response, self._what = client, response, what
        self.silence = silence

    async def __aiter__(self) -> AsyncIterator[bytes]:
        splitter = Splitter()
        while True:
            with self._client.explained(self._what):
                async with asyncio.timeout(self.silence):
                    chunk = await self._response.content.readany()
            if not chunk:
                return
            try:
                lines = splitter.feed(chunk)
            except LineTooLong as error:
                raise ApiError(
                    f"{self._client.server} sends an endless line to {self._what}: no API server?"
                ) from error
            for line in lines:
                yield line


class Client:
    """An API server and our standing with it. Use as an async context manager; entering resolves the credentials."""

    def __init__(
        self,
        config: Config,
        *,
        resolve: Callable[[Config], Awaitable[Credentials]] = door.resolve,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._resolve, self._now, self._clock = config, resolve, now, clock
        self._credentials = Credentials(server="", source="")
        self._link: _Link | None = None
        self._generation = 0  # counts credentials; tells a 401 for old ones from a 401 for these
        self._resolved_at = self._token_read_at = clock()
        self._renewing = asyncio.Lock()
        self.traffic = Traffic()

    async def __aenter__(self) -> Self:
        """Raises ``BadCredentials``."""
        await self._adopt(await self._resolve(self._config))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    @property
    def server(self) -> str:
        return self._credentials.server

    async def get(self, path: str, query: Query, *, what: str) -> bytes:
        """The body. ``what`` completes the sentence "may not ...", such as "list services". Raises ``ApiError``."""
        return await self._ask(_Request("GET", path, query, what))

    @contextlib.asynccontextmanager
    async def stream(self, path: str, query: Query, *, what: str, silence: float) -> AsyncIterator[Stream]:
        """The body's lines. Leaving the block cuts the connection."""
        async with self._open(_Request("GET", path, query, what, endless=True)) as response:
            yield Stream(self, response, what, silence)

    async def post(self, path: str, body: bytes, *, what: str) -> None:
        """Create an object, such as an event."""
        await self._ask(_Request("POST", path, {}, what, body=body))

    async def patch(self, path: str, body: bytes, *, what: str) -> None:
        """Change fields of an object: a JSON merge patch (RFC 7386)."""
        await self._ask(_Request("PATCH", path, {}, what, body=body, kind="application/merge-patch+json"))

    @contextlib.contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn whatever the network does into the sentence that an operator needs."""
        try:
            yield
        except TimeoutError as error:
            raise ApiUnreachable(
                f"{self.server} has not answered in time when asked to {what}; is the server or the network overloaded?"
            ) from error
        except _TLS_ERRORS as error:
            raise ApiUnreachable(
                f"{self.server} and kproxy do not trust each other: {_one_line(error)}; "
                f"check the certificates in {self._credentials.source}"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnreachable(
                f"{self.server} cannot be reached to {what}: {_one_line(error)}; {self._remedy()}"
            ) from error

    # --- one request ----------------------------------------------------------------------------------------------

    async def _ask(self, request: _Request) -> bytes:
        """The whole answer; counted as client-go counts what is no watch."""
        key, began = (self._host, request.method), time.monotonic()
        self.traffic.sent[key].observe(len(request.body or b""))
        try:
            async with self._open(request) as response:
                with self.explained(request.what):
                    async with asyncio.timeout(10 * self._config.request_deadline):  # sock_read guards each piece of it
                        body = await self._read(response, request.what)
        finally:
            self.traffic.seconds[key].observe(time.monotonic() - began)
        self.traffic.received[key].observe(len(body))
        return body

    @property
    def _host(self) -> str:
        return urlsplit(self.server).netloc

    @contextlib.asynccontextmanager
    async def _open(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        await self._freshen()
        async with contextlib.AsyncExitStack() as held:
            response = await self._send(request, held)
            if response.status >= 300:
                raise await self._refusal(response, request.what)
            yield response

    async def _send(self, request: _Request, held: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        """Send, and once more with new credentials where the old ones may be what is wrong."""
        generation = self._generation
        with self.explained(request.what):
            try:
                response = await held.enter_async_context(self._exchange(request))
                if response.status != 401 or not await self._renew(generation):
                    return response
                await held.aclose()
            except _TLS_ERRORS:
                if not await self._renew(generation):
                    raise
            return await held.enter_async_context(self._exchange(request))

    @contextlib.asynccontextmanager
    async def _exchange(self, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._link is None:
            raise ApiUnreachable("the client is closed")
        credentials, deadline = self._credentials, self._config.request_deadline
        headers = {"Accept": "application/json"}
        if credentials.authorization:
            headers["Authorization"] = credentials.authorization
        if request.body is not None:
            headers["Content-Type"] = request.kind
        if request.endless:
            headers["Accept-Encoding"] = "identity"  # a compressor would hold events back
        async with self._link.use() as session:
            async with self._counted(request.method), asyncio.timeout(deadline):
                response = await session.request(
                    request.method,
                    credentials.server + request.path,
                    params=request.query,
                    data=request.body,
                    headers=headers,
                    proxy=credentials.proxy or None,
                    server_hostname=credentials.server_name or None,
                    allow_redirects=False,  # a redirect would take the token to somebody else
                    timeout=aiohttp.ClientTimeout(
                        sock_connect=deadline, sock_read=None if request.endless else deadline
                    ),
                )
            self.traffic.requests[str(response.status), self._host, request.method] += 1
            try:
                yield response
            finally:
                # An endless body would have to be read to its end before the connection could serve again.
                response.close() if request.endless else response.release()

    @contextlib.asynccontextmanager
    async def _counted(self, method: str) -> AsyncIterator[None]:
        """Count a request that gets no answer, under the code that client-go gives it."""
        try:
            yield
        except (aiohttp.ClientError, OSError):
            self.traffic.requests["<error>", self._host, method] += 1
            raise

    async def _read(self, response: aiohttp.ClientResponse, what: str) -> bytes:
        pieces, size = list[bytes](), 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > _LARGEST:
                response.close()  # else the connection would be kept for the rest of it
                raise ApiError(f"{self.server} sends an endless answer when asked to {what}: no API server?")
        return b"".join(pieces)

    async def _refusal(self, response: aiohttp.ClientResponse, what: str) -> ApiError:
        with self.explained(what):
            async with asyncio.timeout(self._config.request_deadline):
                said = wire.decode_status(await response.content.read(64 * 1024))
        status, message = response.status, _one_line(said.message or response.reason or "no reason given")
        wait = _retry_after(response.headers.get("Retry-After", ""))
        server, source = self.server, self._credentials.source
        match status:
            case 401:
                text = f"{server} does not accept our credentials (401: {message}); renew those of {source}"
                return ApiRefused(text, status=status, wait=wait)
            case 403:
                text = f"we may not {what} (403: {message}); grant it with the ClusterRole of deploy/daemonset.yaml"
                return ApiRefused(text, status=status, wait=wait)
            case 410:
                return ResourceExpired(f"{server} no longer knows that version (410: {message})", status=status)
            case 429:
                return ApiError(f"{server} is overloaded (429: {message}); trying again", status=status, wait=wait)
            case _:
                text = f"{server} answered {status} when asked to {what}: {message}; see its log"
                return ApiError(text, status=status, wait=wait)

    def _remedy(self) -> str:
        if self._config.master:
            return "is it running, and is the address in --master (kproxy.master in the configuration file) right?"
        if "service account" in self._credentials.source:
            # The address in a pod's environment is the kubernetes Service's, which nobody but us makes work.
            return "in a pod, give --master (kproxy.master) the server's own address: its Service's works only after us"
        return f"is it running, and is the address in {self._credentials.source} right?"

    # --- credentials ----------------------------------------------------------------------------------------------

    async def _freshen(self) -> None:
        """Before a request: is what we would show still good?"""
        held = self._credentials
        if held.expires and self._now() > held.expires - _SKEW and self._clock() > self._resolved_at + _SKEW:
            await self._renew(self._generation, expired=True)
        elif held.token_file and self._clock() > self._token_read_at + self._config.token_reread:
            with contextlib.suppress(BadCredentials):  # the token that we have may still serve; if not, 401 says so
                self._reread_token()

    def _reread_token(self) -> bool:
        """True when the file holds another token than we had."""
        self._token_read_at = self._clock()
        authorization = read_token(self._credentials.token_file)
        if authorization == self._credentials.authorization:
            return False
        self._credentials = replace(self._credentials, authorization=authorization)
        self._generation += 1
        return True

    async def _renew(self, generation: int, *, expired: bool = False) -> bool:
        """Get new credentials unless another request just did. False: tried too recently to try again."""
        async with self._renewing:
            if self._generation != generation:
                return True
            with contextlib.suppress(BadCredentials):  # where the file is gone, the kubeconfig may name another by now
                if self._credentials.token_file and self._reread_token():
                    return True
            # Whoever waited for the lock must not run a plugin again that has just failed for somebody else.
            if self._clock() < self._resolved_at + (_SKEW if expired else self._config.backoff[1]):
                return False
            self._resolved_at = self._clock()
            await self._adopt(await self._resolve(self._config))
            return True

    async def _adopt(self, new: Credentials) -> None:
        """Keep the connections when only the header differs; else leave the old ones to the watches they carry."""
        old, link = self._credentials, self._link
        if link is None or replace(old, authorization="", expires=0.0) != replace(new, authorization="", expires=0.0):
            self._link = _Link(new)
        self._credentials = new
        self._generation += 1
        if link is not None and link is not self._link:
            await link.retire()


class _Request(Struct, frozen=True):
    method: str
    path: str
    query: Query
    what: str
    body: bytes | None = None
    kind: str = "application/json"  # the body's media type
    endless: bool = False


class _Link:
    """The connections made with one set of credentials; once retired, they close when the last user is done.

    Closing them at once was rejected: aiohttp does not wake a reader whose session is closed, so a watch would sit in
    silence until its deadline.
    """

    def __init__(self, credentials: Credentials) -> None:
        """Raises ``BadCredentials``."""
        context = tls_context(credentials) if credentials.server.startswith("https:") else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_BUFFER,
            headers={"User-Agent": user_agent()},
        )
        self._users = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[aiohttp.ClientSession]:
        self._users += 1
        try:
            yield self._session
        finally:
            self._users -= 1
            if self._retired and not self._users:
                await self.close()

    async def retire(self) -> None:
        self._retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        await self._session.close()


def user_agent() -> str:
    """As kube-proxy's, for audit policies and priority levels know it by that; client-go's word for no commit."""
    return f"kube-proxy/{RELEASE} ({go_platform()}) kubernetes/unknown"


def go_platform() -> str:
    """This machine as Go names it."""
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def _socket(address: tuple[int, int, int, str, object]) -> socket.socket:
    """A watch is silent for minutes: let the kernel find out within one that the other side is gone."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made


def _retry_after(text: str) -> float:
    """Seconds; the API server never sends the date that HTTP also allows."""
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def _one_line(what: object) -> str:
    if isinstance(what, aiohttp.ClientHttpProxyError):  # which shows the proxy's URL with its password
        what = f"the proxy answered {what.status}: {what.message}"
    return (" ".join(str(what).split()) or type(what).__name__)[:_SHOWN]
