"""Health-check node ports: a load balancer asks each node whether it has an endpoint of this Service.

One listener for each port and each address on which node ports listen, of one IP family (spec: runtime.md 9 and 5).
All listeners share one HTTP server, which knows by the port that was dialled which Service is meant; so a node with
hundreds of such Services holds hundreds of sockets and nothing else. Reconciled after each successful sync: an answer
must not promise endpoints that the kernel does not know yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aiohttp import web

from kproxy.daemon.log import Log
from kproxy.daemon.server import Server, listen, respond
from kproxy.daemon.status import Answer, Health, Instant
from kproxy.kernel.files import within_half
from kproxy.model.enums import IPFamily
from kproxy.plan.plan import HealthCheck, NodePorts
from kproxy.plan.viewpoint import LOOPBACK

_log = Log(__name__)
_GONE = Answer(503, b"", {})
_WILDCARD = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}  # noqa: S104 -- as the Service asks


class Failure(NamedTuple):
    """A port that could not be opened, for an event on the Service."""

    check: HealthCheck
    address: str
    why: str


class HealthCheckPorts:
    """The listeners of one family."""

    def __init__(self, family: IPFamily, health: Health, now: Callable[[], Instant]) -> None:
        self._family = family
        self._health = health
        self._now = now
        self._checks: dict[int, HealthCheck] = {}
        self._sites: dict[tuple[str, int], web.SockSite] = {}
        self._failed: set[tuple[str, int]] = set()
        self._runner: web.ServerRunner | None = None

    @property
    def failed(self) -> frozenset[tuple[str, int]]:
        """The addresses and ports that could not be opened."""
        return frozenset(self._failed)

    async def reconcile(self, checks: Iterable[HealthCheck], node_ports: NodePorts) -> list[Failure]:
        """Close what is not wanted, open what is missing; say once what cannot be opened, and try again next time."""
        self._checks = {check.port: check for check in checks}
        wanted = {(address, port) for address in self._addresses(node_ports) for port in self._checks}
        for each in self._sites.keys() - wanted:
            await self._sites.pop(each).stop()
        self._failed &= wanted
        failures = [await self._open(*each) for each in sorted(wanted - self._sites.keys())]
        return [failure for failure in failures if failure is not None]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._sites.clear()

    def _addresses(self, node_ports: NodePorts) -> tuple[str, ...]:
        if node_ports.addresses is None:
            return (_WILDCARD[self._family],)
        return node_ports.addresses + ((LOOPBACK[self._family],) if node_ports.listeners else ())

    async def _open(self, address: str, port: int) -> Failure | None:
        check = self._checks[port]
        if self._runner is None:
            self._runner = web.ServerRunner(Server(self._answer))
            await self._runner.setup()
        try:
            site = web.SockSite(self._runner, within_half(listen(address, port, one_family=True)))
            await site.start()
        except OSError as error:
            if (address, port) in self._failed:
                return None
            self._failed.add((address, port))
            why = os.strerror(error.errno) if error.errno else str(error)
            _log.error(
                "Cannot open a health-check node port", service=check.service, address=address, port=port, err=why
            )
            return Failure(check, address, why)
        self._failed.discard((address, port))
        self._sites[address, port] = site
        _log.verbose(1, "Opened a health-check node port", service=check.service, address=address, port=port)
        return None

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        transport = request.transport
        port = transport.get_extra_info("sockname")[1] if transport else 0
        check = self._checks.get(port)
        return respond(self._health.health_check(check, self._now()) if check else _GONE)
