"""An event loop whose time jumps: a test of an hour's waiting takes no time and no chance."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

import pytest


class _Jump(selectors.DefaultSelector):
    """When nothing is ready and something is planned for later, later is now."""

    loop: "JumpingLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits and nothing is planned: the test would hang")
        if not ready and timeout:
            self.loop.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Jump()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


@pytest.fixture
def jump() -> Callable[[Any], Any]:
    """Runs a coroutine on such a loop."""

    def run(main: Any) -> Any:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(main)

    return run
