"""Hearing the legacy tables: their trace goes to the logger of the network namespace, which for a while is a socket.

The kernel keeps one logger for each IP family (net.netfilter.nf_log.2 and .10), by default its own log. It alone gets
the lines of a trace; rules with ``-j LOG`` and ``-j NFLOG`` name their logger themselves and never ask it. A trace sets
it to nfnetlink_log, whose group 0 this socket hears, and sets it back.

Nothing in the kernel ties that setting to a process. So a guard is started first: a small program that reads a pipe of
ours and sets the logger back when the pipe ends, which it does however this process ends; Ctrl-C does not reach it, for
it has a session of its own. If the guard is killed as well, the setting stays: then the kernel's own lines about traced
and invalid packets are not in its log, and nothing else changes. A next trace cannot know whether an administrator
wanted it so, leaves it and says how to set it back.
Source: net/netfilter/nf_log.c, nfnetlink_log.c; linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import asyncio
import errno
import struct
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from kproxy.errors import KernelError, NotPermitted
from kproxy.kernel import netlink, sightings
from kproxy.kernel.doors import Completed
from kproxy.kernel.run import run
from kproxy.kernel.tracing import Ear
from kproxy.model.enums import IPFamily

LOGGER = "nfnetlink_log"
GROUP = 0  # the one that a packet without group goes to
SETTINGS = {IPFamily.IPV4: "net/netfilter/nf_log/2", IPFamily.IPV6: "net/netfilter/nf_log/10"}
_CONFIG = 4 << 8 | 1  # NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG
_COMMAND, _MODE, _TIMEOUT, _THRESHOLD = 1, 2, 4, 5
_BIND = 1
_COPY_PACKET, _COPIED = 2, 128  # bytes: both headers
_SOON = 20.0  # seconds for the guard to begin and to end
# Reads until the pipe ends; then each pair of arguments is a value and its file. No shell: the image has none.
_GUARD = """
import os, sys
os.write(1, b"\\n")
while os.read(0, 4096):
    pass
for value, path in zip(sys.argv[1::2], sys.argv[2::2]):
    with open(path, "w") as file:
        file.write(value)
"""


@asynccontextmanager
async def hear_legacy(
    families: Collection[IPFamily], seconds: float, root: Path = Path("/proc/sys")
) -> AsyncIterator[tuple[Ear, list[str]]]:
    """An ear for the traces of legacy tables, and remarks. ``seconds``: the longest that it is used.

    Raises NotPermitted, and KernelError where the logger cannot be set or another program hears group 0.
    """
    ear = _listen()
    try:
        before = {root / SETTINGS[family]: _read(root / SETTINGS[family]) for family in families}
        ours = {path: logger for path, logger in before.items() if logger != LOGGER}
        remarks = [
            f"{path} was {LOGGER} before and is left so; if no other program wants that, "
            f"set it back: echo nf_log_{'ipv4' if path.name == '2' else 'ipv6'} >{path}"
            for path in before.keys() - ours.keys()
        ]
        async with _guard(ours, seconds):
            for path in ours:
                _write(path, LOGGER)
            yield ear, remarks
    finally:
        ear.close()


def _listen() -> Ear:
    what = "listen to what legacy tables log (NFLOG group 0)"
    door = netlink.NetfilterSocket()
    try:
        door.ask(_CONFIG, netlink.ACK, 0, netlink.attribute(_COMMAND, bytes([_BIND])), what)
        mode = struct.pack(">IBx", _COPIED, _COPY_PACKET)
        now = netlink.attribute(_TIMEOUT, struct.pack(">I", 1)) + netlink.attribute(_THRESHOLD, struct.pack(">I", 1))
        door.ask(_CONFIG, netlink.ACK, 0, netlink.attribute(_MODE, mode) + now, what)
    except KernelError as error:
        door.raw.close()
        if isinstance(error, NotPermitted) or getattr(error, "errno", 0) == errno.EBUSY:
            raise KernelError(f"{what}: another program has it, such as ulogd; stop that one for the trace") from error
        raise
    return Ear(door, sightings.read_legacy, what)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}; legacy iptables cannot be traced on this kernel") from error


def _write(path: Path, logger: str) -> None:
    try:
        path.write_text(logger, encoding="ascii")
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise NotPermitted(
                f"{path} cannot be set ({error.strerror}), and rules of legacy iptables tell of traced packets only "
                f"there; run kproxy trace on the node itself or in a privileged container"
            ) from error
        raise KernelError(f"{path} cannot be set to {logger}: {error.strerror}; load the module {LOGGER}") from error


@asynccontextmanager
async def _guard(before: dict[Path, str], seconds: float) -> AsyncIterator[None]:
    """Set files to what they held, after this block or after the end of this process."""
    if not before:
        yield
        return
    over = asyncio.Event()
    ready = asyncio.Event()

    async def hold() -> AsyncIterator[bytes]:
        yield b"\n"
        await over.wait()

    words = [word for path, logger in before.items() for word in (logger, str(path))]
    program = (sys.executable, "-I", "-S", "-c", _GUARD, *words)
    guard = asyncio.ensure_future(run(program, stdin=hold(), deadline=seconds + 2 * _SOON, sink=lambda _: ready.set()))
    try:
        await _begin(guard, ready)
        yield
    finally:
        over.set()
        with suppress(KernelError):
            await asyncio.shield(guard)
        for path, logger in before.items():  # should the guard have been killed
            if _read(path) != logger:
                _write(path, logger)


async def _begin(guard: asyncio.Future[Completed], ready: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(ready.wait())
    both: set[asyncio.Future[Any]] = {guard, waiting}
    try:
        await asyncio.wait(both, timeout=_SOON, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if guard.done():
        guard.result()
    if not ready.is_set():
        raise KernelError("the guard that sets the kernel's logger back did not start; is the machine overloaded?")
