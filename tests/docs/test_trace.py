"""``kproxy trace``, as typed on a node while packets pass; what it can say is in tests/netns/test_trace.py."""

from __future__ import annotations

import asyncio
import shlex
import signal
from pathlib import Path

import pytest

from tests.docs.answers import differs
from tests.docs.claims import Way, typed
from tests.netns.traced_node import WEB, traced_node

pytestmark = pytest.mark.root


async def test_it_prints_what_passes(tmp_path: Path) -> None:
    async with traced_node("nft", tmp_path) as node:
        for command, claim in typed(Way.TRACE):
            words = shlex.split(claim.typed(command))
            assert words[:2] == ["kproxy", "trace"]
            trace = await node.start(*words[2:])
            async with asyncio.TaskGroup() as clients:
                for _ in range(4):
                    clients.create_task(node.dial(WEB[4]))
            ended_by_itself = "--limit" in words
            status, out, err = await trace.end(0 if ended_by_itself else signal.SIGINT)
            assert (status, err) == (0, ""), f"{command}: {out}{err}"
            assert not differs(command.printed, trace.began + out, claim.varies), f"{command}: {trace.began}{out}"
