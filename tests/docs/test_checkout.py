"""What is typed in the checkout: the tasks of ``./run``, the benchmarks, and questions about a dump."""

from __future__ import annotations

import os
import re
import shutil

from tests.docs.claims import Claim, Way
from tests.docs.commands import Command
from tests.docs.machine import Answer, Copy, failures

_NEEDS_ROOT = ("./run demo", "./run bench fuzz", "./run bench differential")


async def test_they_do_as_they_say(copy: Copy) -> None:
    async def do(command: Command, claim: Claim) -> Answer | None:
        needed = (claim.typist, *re.findall(r"\| (man)", command.text))
        if not all(map(shutil.which, needed)) or (command.first.startswith(_NEEDS_ROOT) and os.geteuid() != 0):
            return None
        return await copy.type(command, claim)

    assert not (found := await failures(Way.CHECKOUT, do)), found
