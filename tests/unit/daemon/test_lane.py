"""Healing that gives way to a rival: later, and once. Rounds are test_runner.py's and test_family.py's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kproxy.backend.iptables.apply import IptablesBackend
from kproxy.daemon.lane import Lane
from kproxy.kernel.doors import Capabilities
from tests.unit.daemon.test_family import V4, World

Jump = Callable[[Any], Any]


def test_healing_is_asked_for_later_and_once(jump: Jump, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    async def main() -> None:
        world = World()
        backend = IptablesBackend(world.config, world.door, Capabilities(nfacct=False))
        lane = Lane(V4, world.shared, backend, world.conntrack)
        monkeypatch.setattr(lane, "request", lambda *, healing: asked.append(healing))
        assert lane.rival_pause == 0
        lane.heal_later(4.0)
        lane.heal_later(1.0)
        await asyncio.sleep(3.9)
        assert asked == []
        await asyncio.sleep(0.2)
        assert asked == [True]
        lane.heal_later(1.0)
        await asyncio.sleep(2.0)
        assert asked == [True, True]

    jump(main())
