"""What answers from the first moment: the servers, and what their answers are made of.

At the start kproxy may wait: for a credential plugin, for another program's lock, for a slow iptables. A liveness probe
that found nobody meanwhile would restart it into the same wait, again and again. So the servers stand before anything
is waited for; until the first sync ``/livez`` is healthy and ``/readyz`` is not. One that cannot listen, where that is
fatal, tells the cluster before kproxy ends, for a moment and no longer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

from kproxy.config import Config
from kproxy.daemon import events, transactions
from kproxy.daemon.family import now
from kproxy.daemon.log import Log
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.oddities import primary_family, show_node_ips
from kproxy.daemon.pages import health_pages, metrics_pages
from kproxy.daemon.server import Page, answer_by_path, serve
from kproxy.daemon.status import Health
from kproxy.errors import BadCredentials, CannotListen
from kproxy.model.cluster import Cluster
from kproxy.model.node import Node
from kproxy.source.client import Client

_log = Log(__name__)


class Front:
    def __init__(self, config: Config) -> None:
        self.cluster = Cluster(config.hostname)
        self.metrics = Metrics(config.feature_gates)
        self.health = Health(sync_period=config.iptables_sync_period)
        self.transactions = transactions.Transactions(now)
        self.facts: dict[str, str] = {}  # lines for /statusz, by what they begin with
        self.more: list[Callable[[], Mapping[str, str]]] = []  # make such lines when somebody asks
        self.names: list[Callable[[], Mapping[str, str]]] = []  # the same for who may hear of objects in the cluster
        self.is_relaying: Callable[[], bool] = lambda: False  # the rules lead to sockets that end with us
        self._config = config

    def _node(self) -> Node | None:
        """Manifests need not hold a Node; nobody drains a node that no API server knows."""
        return self.cluster.node or (Node(self._config.hostname) if self._config.manifests else None)

    def _show_facts(self, with_names: bool) -> dict[str, str]:
        node, config = self.cluster.node, self._config
        seen = {"Node IPs": show_node_ips(config, node), "Primary IP family": primary_family(config, node).value}
        who = {"Node": config.hostname, "Process": str(os.getpid())}
        shown = who | self.facts | (seen if self.cluster.complete else {})
        for each in (*self.more, *(self.names if with_names else ())):
            shown |= each()
        return shown

    def open(self, group: asyncio.TaskGroup) -> None:
        config = self._config
        if config.healthz_bind_address:
            pages = health_pages(self.health, self.metrics, self._node, now)
            reason = "FailedToStartProxierHealthcheck"
            group.create_task(self._serve("health", config.healthz_bind_address, pages, reason))
        pages = metrics_pages(self.metrics, config, self._show_facts) | transactions.pages(self.transactions)
        group.create_task(self._serve("metrics", config.metrics_bind_address, pages, "FailedToStartMetricServer"))

    async def _serve(self, name: str, address: str, pages: Mapping[str, Page], reason: str) -> None:
        try:
            await serve(name, address, answer_by_path(pages), config=self._config)
        except CannotListen as error:
            await self._tell(events.unserved(self._config.hostname, reason, str(error)))
            raise

    async def _tell(self, event: events.Event) -> None:
        """Nothing else runs yet that could: a client of its own."""
        if self._config.manifests:
            return
        try:
            async with asyncio.timeout(self._config.last_words), Client(self._config) as client:
                await events.Recorder(client, self._config.hostname).tell(event)
        except (BadCredentials, TimeoutError) as error:
            _log.verbose(1, "Event not delivered", reason=event.reason, err=error)
