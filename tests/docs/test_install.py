"""The installation on a node, as typed: with an /opt and a /usr/local that are layers over the machine's.

The network is left out, as in all tests: the new environment borrows the packages of the one that runs this, so pip
reads the lock with its hashes, finds everything there in the version that it wants, and builds and installs kproxy.
``./run release --test`` does the same with a registry.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from pathlib import Path

import pytest

from kproxy import __version__
from tests.docs.claims import Way, typed
from tests.docs.machine import Copy, answer_of

pytestmark = pytest.mark.root
_INTERPRETER = Path(sys.executable).resolve().parent  # of the same version as the packages that are lent
_LAYERS = """
mount -t tmpfs none /mnt
for place in /opt /usr/local; do
    mkdir -p /mnt/upper$place /mnt/work$place
    mount -t overlay -o lowerdir=$place,upperdir=/mnt/upper$place,workdir=/mnt/work$place none $place
done
mount --bind "$LENT" "$LENT" && mount -o remount,bind,ro "$LENT"  # pip might want to remove the kproxy that is there
PATH=/usr/local/sbin:/usr/local/bin:$PATH
"""
_BORROW = """
packages=$(echo /opt/kproxy/lib/python*/site-packages)
[ -e "$packages/borrowed.pth" ] || echo "$LENT" > "$packages/borrowed.pth"
"""


async def test_it_is_installed_as_the_readme_says(copy: Copy) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts over /opt and /usr/local")
    commands = [claim.typed(command) for command, claim in typed(Way.INSTALL)]
    installing = [each for each in commands if "man" not in each]
    pages = [each for each in commands if each not in installing]
    assert len(installing) == 4
    steps = [step for each in installing for step in (each, _BORROW)]
    asking = ("/usr/local/bin/kproxy version", "ls /opt/kproxy/lib/python*/site-packages/kproxy/__init__.py")
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-euxc", "\n".join((_LAYERS, *steps, *asking, *pages)),
        cwd=copy.path, env={"PATH": f"{_INTERPRETER}:{os.environ['PATH']}",
                            "LENT": sysconfig.get_path("purelib"), "PIP_NO_INDEX": "1", "HOME": str(copy.path)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    answer = await answer_of(process)
    assert answer.status == 0, answer
    assert f"kproxy {__version__}\n" in answer.out
    assert "Requirement already satisfied: aiohttp" in answer.out
