"""That a cancellation is never lost. What is listed and heard is in tests/netns/test_kernel_address.py."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any

import pytest

from kproxy.kernel.address import Address, Addresses
from kproxy.model.enums import IPFamily


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_that_meets_the_answer_is_not_lost(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    answer: concurrent.futures.Future[tuple[Address, ...]] = concurrent.futures.Future()

    def submit(work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[tuple[Address, ...]]:
        work.close()
        return answer

    async with Addresses() as addresses:
        monkeypatch.setattr(addresses, "_submit", submit)
        task = asyncio.create_task(addresses.list(IPFamily.IPV4))
        await asyncio.sleep(0)
        answer.set_result(())
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
