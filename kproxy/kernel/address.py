"""The addresses of this node's interfaces, the news that they changed, and what we add to them.

pyroute2 does the talking, in one thread of its own with a stock asyncio loop: it cannot open its sockets on a uvloop
loop, and its synchronous calls fail inside a running one. It is imported by that thread, when first needed; it costs
12 MB of memory, whichever part of it is imported. Used for addresses and their events only: its conntrack and
nftables parts were measured and rejected (see conntrack.py).

What we add is the relay's address, on ``lo``: programs that look for the node's own address leave that interface out,
and it exists everywhere, without a module. And a route for the addresses from which the relay speaks for its clients
(translation.py): thousands of connections to one endpoint want more ports than one address has.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from ipaddress import ip_address
from typing import Any, Self, TypeVar

from kproxy.errors import KernelError
from kproxy.kernel.doors import Address
from kproxy.model.enums import IPFamily

T = TypeVar("T")

_DOMAINS = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
_LOOPBACK = 1  # the index of lo, in every network namespace
_LOCAL, _LOCAL_TABLE, _HOST = 2, 255, 254  # RTN_LOCAL, RT_TABLE_LOCAL, RT_SCOPE_HOST
_NODAD = 0x02  # IFA_F_NODAD
_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


class Addresses:
    """The real door; an async context manager that owns the thread."""

    def __init__(self, *, settle: float = 0.2, deadline: float = 10.0) -> None:
        """``settle``: seconds to wait for further events before one is told; ``deadline``: seconds for a listing."""
        self._settle = settle
        self._deadline = deadline
        self._loop = asyncio.SelectorEventLoop()  # the stock one, whatever policy is installed
        self._thread = threading.Thread(target=self._serve, name="addresses", daemon=True)
        self._watches: set[concurrent.futures.Future[None]] = set()

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, self._deadline)

    async def list(self, family: IPFamily) -> tuple[Address, ...]:
        return await self._ask(_list(family), f"list the {family.value} addresses")

    async def claim(self, ip: str) -> bool:
        """Have ``ip`` on ``lo``, alone in its network; False: it was there. Raises KernelError."""
        return await self._ask(_change("add", ip, errno.EEXIST), f"add the address {ip} to the interface lo")

    async def release(self, ip: str) -> bool:
        """Remove ``ip`` from ``lo``; False: it was not there. Raises KernelError."""
        return await self._ask(
            _change("del", ip, errno.EADDRNOTAVAIL), f"remove the address {ip} from the interface lo"
        )

    async def claim_network(self, cidr: str) -> bool:
        """Have all addresses of a network on this node, though no interface shows them; False: it had them.

        Raises KernelError.
        """
        return await self._ask(_change_network("add", cidr, errno.EEXIST), f"route {cidr} to this node itself")

    async def release_network(self, cidr: str) -> bool:
        """Undo that; False: there was nothing to undo. Raises KernelError."""
        work = _change_network("del", cidr, errno.ESRCH)
        return await self._ask(work, f"remove the route of {cidr} to this node itself")

    async def _ask(self, work: Coroutine[Any, Any, T], task: str) -> T:
        """Raises KernelError."""
        future = self._submit(work)
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the answer.
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise KernelError(f"the kernel did not {task} within {self._deadline:g} s") from None
        except KernelError:
            raise
        except Exception as error:  # pyroute2 raises many kinds, none of them documented
            raise KernelError(f"the kernel did not {task}: {error!r}") from error

    async def changes(self) -> AsyncIterator[None]:
        """Ends with KernelError when the events stop coming; start it again after listing."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        listening = asyncio.Event()
        watch = self._submit(
            _watch(
                lambda: loop.call_soon_threadsafe(news.set),
                lambda: loop.call_soon_threadsafe(listening.set),
            )
        )
        self._watches.add(watch)
        ended = asyncio.ensure_future(asyncio.wrap_future(watch))
        try:
            # The first item says: listening from now on. Whoever lists after it misses nothing.
            await _first(listening, ended)
            yield
            while True:
                await _first(news, ended)
                await asyncio.sleep(self._settle)
                news.clear()
                yield
        finally:
            self._watches.discard(watch)
            watch.cancel()
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    def _submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()


async def _first(event: asyncio.Event, ended: asyncio.Future[None]) -> None:
    """Wait for the event; raise KernelError if the watch ends before it."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        both: set[asyncio.Future[Any]] = {waiting, ended}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not event.is_set():
        error = None if ended.cancelled() else ended.exception()
        raise KernelError(f"address events stopped: {error!r}") from error


async def _list(family: IPFamily) -> tuple[Address, ...]:
    from pyroute2 import AsyncIPRoute

    found = set()
    async with AsyncIPRoute() as route:
        async for message in await route.get_addr(family=_DOMAINS[family]):
            # The local end of a point-to-point link is in IFA_LOCAL, everybody else's address in both
            text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            if text:
                ip = ip_address(text)
                found.add((int(ip), message["index"], str(ip), ip.is_loopback))
    return tuple(Address(ip, index, loopback) for _, index, ip, loopback in sorted(found))


async def _change(command: str, ip: str, fine: int) -> bool:
    """Add or delete an address of ``lo``."""
    bits = ip_address(ip).max_prefixlen
    # An IPv6 address cannot be bound to before the kernel has looked for another owner, even where there is none.
    flags = {"flags": _NODAD} if ":" in ip else {}

    def change(route: Any) -> Coroutine[Any, Any, Any]:
        return route.addr(command, index=_LOOPBACK, address=ip, prefixlen=bits, **flags)  # type: ignore[no-any-return]

    return await _perform(change, fine)


async def _change_network(command: str, cidr: str, fine: int) -> bool:
    domain = socket.AF_INET6 if ":" in cidr else socket.AF_INET
    what = {"dst": cidr, "oif": _LOOPBACK, "type": _LOCAL, "table": _LOCAL_TABLE, "scope": _HOST, "family": domain}

    def change(route: Any) -> Coroutine[Any, Any, Any]:
        return route.route(command, **what)  # type: ignore[no-any-return]

    return await _perform(change, fine)


async def _perform(change: Callable[[Any], Coroutine[Any, Any, Any]], fine: int) -> bool:
    """False: the kernel answers ``fine``, an errno, for it is so already."""
    from pyroute2 import AsyncIPRoute

    async with AsyncIPRoute() as route:
        try:
            await change(route)
        except Exception as error:  # pyroute2's own, whose module is imported only here
            if getattr(error, "code", None) != fine:
                raise
            return False
    return True


async def _watch(changed: Any, listening: Any) -> None:
    from pyroute2 import AsyncIPRoute

    async with AsyncIPRoute() as route:
        await route.bind(groups=_GROUPS)
        listening()
        while True:
            async for _ in route.get():
                changed()
