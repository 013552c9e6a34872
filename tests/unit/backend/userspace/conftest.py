"""Whatever awaits is run on both loops, for the relay nests in asyncio's as in uvloop's; but for modules that start
processes (``LOOP``), which take their time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from kproxy.backend.userspace import mmsg

_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    del config
    only = getattr(getattr(item, "module", None), "LOOP", None)
    return {only: _LOOPS[only]} if only else _LOOPS


@pytest.fixture(params=["many", "single"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the system lets us have many datagrams with one call."""
    assert mmsg.is_available()
    if request.param == "single":
        monkeypatch.setattr(mmsg, "is_available", lambda: False)
    return str(request.param)
