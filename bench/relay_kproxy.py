"""kproxy's relay as a process of its own, for relay.py: the engine of the userspace mode with rules made here.

    python bench/relay_kproxy.py --workers 2 --listen 10.77.1.1 --tcp 7001 7002 --udp 7004 --to 10.77.2.2 10.77.2.3

What is left out is what a daemon does beside it (watching, planning, metrics), none of which is in a byte's way. The
listeners are bound to an address that clients reach directly, so no REDIRECT is in it either, as with the other peers.

Several workers are several processes with listeners of their own, on one port by SO_REUSEPORT.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import cast

import uvloop

from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.door import bind, unbound
from kproxy.backend.userspace.rules import Listener, Rule, Ruleset
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from kproxy.plan.relay import default_relay

_SPARE = 64  # files that are no connection's


def main() -> int:
    """Serve until SIGTERM; prints "ready" when every worker does."""
    arguments = _arguments()
    wanted = _ruleset(arguments)
    if arguments.workers == 1:
        return _work(wanted, lambda: print("ready", flush=True))
    signals = (signal.SIGTERM, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    reading, writing = os.pipe()
    children = []
    for _ in range(arguments.workers):
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            os.close(reading)
            os._exit(_work(wanted, lambda: _tell(writing)))
        children.append(child)
    os.close(writing)
    if all(os.read(reading, 1) for _ in children):
        print("ready", flush=True)
        status = 0 if signal.sigwait(signals) == signal.SIGTERM else 1
    else:
        status = 1
    for child in children:
        os.kill(child, signal.SIGKILL)
    return status


def _tell(writing: int) -> None:
    """One byte, and the end: who waits for further workers must see when they are gone."""
    os.write(writing, b".")
    os.close(writing)


def _work(wanted: Ruleset, ready: Callable[[], object]) -> int:
    run = cast("Callable[[object], int]", uvloop.run)
    return run(_serve(wanted, ready))


def _open(listener: Listener) -> socket.socket:
    """Unlike those on loopback it may be shared with other processes."""
    sock = unbound(listener)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return bind(sock, listener)


async def _serve(wanted: Ruleset, ready: Callable[[], object]) -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    flows = (files - _SPARE) // 2
    listeners = Listeners(
        Config(),
        connections=flows,
        sessions=flows,
        chance=lambda: random.randrange(1 << 16),  # noqa: S311 -- where turns begin
        opened=_open,
    )
    task = asyncio.ensure_future(listeners.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.sleep(0)  # let it begin: it refuses whoever comes before
    await asyncio.sleep(0)
    failures = listeners.reconcile(wanted)
    if failures:
        rule, error = failures[0]
        sys.stderr.write(f"{rule.listener}: {error.strerror or error}\n")
        task.cancel()
    else:
        ready()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return 1 if failures else 0


def _ruleset(arguments: argparse.Namespace) -> Ruleset:
    rules = {}
    for protocol, ports in ((Protocol.TCP, arguments.tcp), (Protocol.UDP, arguments.udp)):
        for port in ports:
            targets = tuple(Target(ip, port, local=False) for ip in arguments.to)
            key = ServicePortKey("bench", f"port-{port}", "", protocol)
            listener = Listener(arguments.listen, port, protocol)
            rules[listener] = Rule(listener, key, targets, default_relay(Config()))
    return Ruleset(rules)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="kproxy's relay between an address and some endpoints.")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument("--listen", required=True, metavar="IP")
    parser.add_argument("--tcp", type=int, nargs="+", default=[], metavar="PORT", help="the endpoints' ports, too")
    parser.add_argument("--udp", type=int, nargs="+", default=[], metavar="PORT")
    parser.add_argument("--to", nargs="+", required=True, metavar="IP", help="endpoints")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
