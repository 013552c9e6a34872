"""Clean-up, one table at a time: what is tried again and what is said.

What counts as ours is test_cleanup.py's of the backend; real tables are in tests/netns/test_cleanup.py.
"""

from __future__ import annotations

from typing import cast

import pytest

from kproxy.backend.iptables.cleanup import Cleaned
from kproxy.backend.iptables.rules import Table
from kproxy.daemon.cleanup import _describe, clean_table
from kproxy.errors import NotPermitted, XtablesLocked
from kproxy.kernel.doors import Chunks, Completed
from kproxy.kernel.fake import FakeIptables
from kproxy.kernel.iptables import Iptables

OURS = b"*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"


class Busy(FakeIptables):
    """Somebody else is at work in the table."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    async def restore(self, chunks: Chunks) -> Completed:
        if self.errors:
            raise self.errors.pop()
        return await super().restore(chunks)


async def clean(door: FakeIptables) -> Cleaned:
    return await clean_table(cast("Iptables", door), Table.NAT)


async def busy(*errors: Exception) -> Busy:
    door = Busy()
    await door.restore(OURS)
    door.errors += errors
    return door


async def test_a_table_that_somebody_writes_meanwhile_is_tried_again() -> None:
    door = await busy(XtablesLocked("held"), XtablesLocked("held"))
    assert await clean(door) == Cleaned(rules=1, chains=1)
    assert await clean(door) == Cleaned(0, 0)


@pytest.mark.parametrize("errors", [[XtablesLocked("held")] * 3, [NotPermitted("no")]])
async def test_not_for_ever_and_not_without_hope(errors: list[Exception]) -> None:
    door = await busy(*errors)
    with pytest.raises(type(errors[0])):
        await clean(door)
    assert door.errors == []


def test_what_was_done_is_said() -> None:
    assert list(_describe("iptables-nft table nat", Cleaned(0, 0))) == []
    (removed, kept) = _describe("iptables-nft table nat", Cleaned(2, 5, ("KUBE-A",)))
    assert removed == "iptables-nft table nat: removed 5 chains and what jumped to them"
    assert kept == "iptables-nft table nat: emptied KUBE-A; rules of others jump there, so the chains stay"
