"""The embedded API server as a value: start it, talk to it over HTTP or from Python, make it fail, stop it.

One object for three users: the sandbox (a small cluster to explore), the tests (a real client against a real
protocol, with faults on demand) and the bench (10,000 objects loaded at once). Everything happens in the event loop
in which it was started; the methods without `async` may be called between its requests.

Rejected: etcd and kube-apiserver as programs (hundreds of megabytes, root-owned state, no faults on demand).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from aiohttp import web

from kproxy.sandbox.apiserver.admission import Options
from kproxy.sandbox.apiserver.bootstrap import advertise, bootstrap
from kproxy.sandbox.apiserver.controllers import Controllers
from kproxy.sandbox.apiserver.deletion import DeleteOptions
from kproxy.sandbox.apiserver.faults import Faults
from kproxy.sandbox.apiserver.handler import BODY_LIMIT, Handler, RecordedRequest
from kproxy.sandbox.apiserver.patch import MERGE_PATCH
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import RESOURCES, Resource, named
from kproxy.sandbox.apiserver.status import Json
from kproxy.sandbox.apiserver.store import Change, Key, Store
from kproxy.sandbox.apiserver.watch import Ending

SERVICE_CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")
NODE_PORTS = range(30000, 32768)
_STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; with a `client_ca`, a client certificate that it signed is accepted in place of the token."""

    certificate: Path
    key: Path
    ca: Path
    client_ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


class ApiServer:
    """One cluster's API server.

    Args: `host` and `port` say where to listen (port 0: any free one, kept over a restart); `service_cidrs` are the
    ranges of cluster IPs, primary family first; `token`, if any, must be presented as a bearer token;
    `controllers` False leaves slices and Endpoints to the caller, for bulk loads; `graceful_pods` lets deleted
    pods terminate first; `bookmark_every` is in seconds; `remembered` is how many changes of each collection a
    watch can resume over.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        service_cidrs: Sequence[str] = SERVICE_CIDRS,
        node_port_range: range = NODE_PORTS,
        token: str | None = None,
        tls: TlsFiles | None = None,
        controllers: bool = True,
        graceful_pods: bool = False,
        bookmark_every: float = 60.0,
        remembered: int = 20_000,
    ) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.store = Store({row.stored_in: row.selectable for row in RESOURCES}, remembered=remembered)
        self.registry = Registry(self.store, service_cidrs, node_port_range, graceful_pods)
        self._handler = Handler(self.registry, token or "", bookmark_every)
        self._controllers = Controllers(self.registry, self._soon) if controllers else None
        self._runner: web.AppRunner | None = None
        self.store.subscribe(self._offer)

    # --- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; on the first start also create what every cluster contains. Raises OSError if it cannot."""
        app = web.Application(client_max_size=BODY_LIMIT, logger=logging.getLogger(__name__))
        app.router.add_route("*", "/{path:.*}", self._handler.handle)
        # A client that goes away must end its watch at once, not at the next write.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        context = self.tls.context() if self.tls else None
        try:
            await web.TCPSite(runner, self.host, self.port, ssl_context=context, reuse_address=True).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])
        if self.store.get("namespaces", ("", "default")) is None:
            if self._controllers:
                self.store.subscribe(self._controllers.observe)
            bootstrap(self.registry, self.host, self.port)
        else:
            advertise(self.registry, self.host, self.port)

    async def stop(self) -> None:
        """Stop listening and cut every connection; what is stored stays for the next start."""
        runner, self._runner = self._runner, None
        if runner:
            self._handler.end_watches(Ending.DROP)
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def kubeconfig(self, path: Path, *, namespace: str = "default") -> Path:
        """Write a kubeconfig that reaches this server, readable by its owner only; returns the path.

        Go clients, kubectl among them, send a token over TLS only: a server with a token needs `tls` for them.
        """
        cluster: Json = {"server": self.url}
        user: Json = {"token": self.token} if self.token else {}
        if self.tls:
            cluster["certificate-authority"] = str(self.tls.ca)
            if self.tls.client_certificate and self.tls.client_key:
                user["client-certificate"] = str(self.tls.client_certificate)
                user["client-key"] = str(self.tls.client_key)
        name = "kproxy-sandbox"
        context = {"cluster": name, "user": name, "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": context}],
            "current-context": name,
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    # --- objects ---------------------------------------------------------------------------------------------

    def create(self, document: Json, *, namespace: str = "default") -> Json:
        """Create an object as a client would; `namespace` counts if its metadata names none."""
        resource, key = self._identify(document, namespace)
        return resource.served(self.registry.create(resource, key[0], document).content)

    def update(self, document: Json, *, namespace: str = "default") -> Json:
        """Replace an object; its resourceVersion, if present, must be the current one."""
        resource, key = self._identify(document, namespace)
        return resource.served(self.registry.update(resource, key, document).content)

    def apply(self, document: Json, *, namespace: str = "default") -> Json:
        """Create an object or merge into it, as `kubectl apply --server-side` does."""
        resource, key = self._identify(document, namespace)
        return resource.served(self.registry.apply(resource, key, document, Options(manager="python")).content)

    def get(self, kind: str, name: str, namespace: str = "default") -> Json:
        resource = named(kind)
        return resource.served(self.registry.get(resource, _key(resource, namespace, name)).document())

    def list(self, kind: str, namespace: str = "") -> list[Json]:
        """Return the objects of a kind, of one namespace if given, in the order of their names."""
        resource = named(kind)
        found = self.store.objects(resource.stored_in, namespace)
        return [resource.served(stored.document()) for stored in found]

    def patch(self, kind: str, name: str, patch: Json, namespace: str = "default", *, subresource: str = "") -> Json:
        """Change an object by a JSON merge patch."""
        resource = named(kind)
        options = Options(subresource=subresource)
        key = _key(resource, namespace, name)
        return resource.served(self.registry.patch(resource, key, MERGE_PATCH, patch, options).content)

    def set_status(self, kind: str, name: str, new_status: Json, namespace: str = "default") -> Json:
        """Merge into an object's status, as a controller would."""
        return self.patch(kind, name, {"status": new_status}, namespace, subresource="status")

    def delete(self, kind: str, name: str, namespace: str = "default", *, grace_seconds: int | None = None) -> None:
        """Delete an object and what it owns; `grace_seconds` 0 ends a terminating pod."""
        resource = named(kind)
        key = _key(resource, namespace, name)
        self.registry.delete(resource, key, DeleteOptions(grace_seconds=grace_seconds))

    def load(self, documents: Iterable[Json]) -> int:
        """Store many, or malformed, objects unseen: no defaults, no validation; returns how many."""
        return self.registry.load(documents)

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call back after every change; returns the function that ends it. For stand-ins such as a kubelet."""
        return self.store.subscribe(callback)

    def settle(self) -> None:
        """Let the controllers finish now what they would do when the loop is idle."""
        if self._controllers:
            self._controllers.settle()

    # --- observation and faults ------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        return self._handler.token

    @token.setter
    def token(self, token: str) -> None:
        """Demand another token from the next request on, as after an expiry."""
        self._handler.token = token

    @property
    def requests(self) -> deque[RecordedRequest]:
        """The latest requests, oldest first."""
        return self._handler.requests

    @property
    def faults(self) -> Faults:
        return self._handler.faults

    @property
    def open_watches(self) -> int:
        return len(self._handler.watches)

    async def wait_for_request(self, matches: Callable[[RecordedRequest], bool], *, seconds: float = 10) -> None:
        """Wait until some recorded request matches; raises TimeoutError."""
        arrived = self._handler.arrived
        async with asyncio.timeout(seconds), arrived:
            await arrived.wait_for(lambda: any(matches(each) for each in self.requests))

    def compact(self) -> int:
        """Forget all changes so far: watches and pages from before get 410; returns the revision."""
        return self.store.compact()

    def drop_watches(self) -> int:
        """Cut the connections of all watches without a word; returns how many."""
        return self._handler.end_watches(Ending.DROP)

    def close_watches(self) -> int:
        """End all watches as their timeout would; returns how many."""
        return self._handler.end_watches(Ending.CLOSE)

    def expire_watches(self) -> int:
        """Send all watches the ERROR event that says 410 Expired, and end them; returns how many."""
        return self._handler.end_watches(Ending.EXPIRE)

    def send_bookmarks(self) -> None:
        """Send a bookmark to every watch that asked for them."""
        for watch in self._handler.watches:
            watch.send_bookmark()

    # --- inside ----------------------------------------------------------------------------------------------

    def _offer(self, change: Change) -> None:
        for watch in self._handler.watches:
            watch.offer(change)

    def _soon(self, action: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # no loop: whoever calls from outside also calls settle()
            asyncio.get_running_loop().call_soon(action)

    def _identify(self, document: Json, namespace: str) -> tuple[Resource, Key]:
        resource = named(document["kind"])
        if resource.api_version != document.get("apiVersion", resource.api_version):
            resource = next(
                row for row in RESOURCES if (row.api_version, row.kind) == (document["apiVersion"], document["kind"])
            )
        metadata = document["metadata"]
        return resource, _key(resource, metadata.get("namespace", namespace), metadata.get("name", ""))


def _key(resource: Resource, namespace: str, name: str) -> Key:
    return (namespace if resource.namespaced else "", name)
