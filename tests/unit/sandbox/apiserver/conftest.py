"""A registry with a fixed clock, and a running server, both with what every cluster contains."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from kproxy.sandbox.apiserver import ApiServer
from kproxy.sandbox.apiserver.bootstrap import bootstrap
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import RESOURCES
from kproxy.sandbox.apiserver.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _registry(*cidrs: str, graceful_pods: bool = False) -> Registry:
    store = Store({row.stored_in: row.selectable for row in RESOURCES})
    registry = Registry(store, cidrs, range(30000, 32768), graceful_pods, now=lambda: NOW)
    bootstrap(registry, "127.0.0.1", 6443)
    return registry


@pytest.fixture
def registry() -> Registry:
    """A single-stack cluster whose range is small enough to run out."""
    return _registry("10.96.0.0/28")


@pytest.fixture
def dual() -> Registry:
    return _registry("10.96.0.0/24", "fd00:10:96::/112")


@pytest.fixture
def graceful() -> Registry:
    return _registry("10.96.0.0/24", graceful_pods=True)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as running:
        yield running
