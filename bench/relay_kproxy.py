"""kproxy's relay as a program of its own, for relay.py: the workers of the userspace mode with rules made here.

    python bench/relay_kproxy.py --workers 2 --listen 10.77.1.1 --tcp 7001 7002 --udp 7004 --to 10.77.2.2 10.77.2.3

What is left out is what a daemon does beside it (watching, planning, metrics), none of which is in a byte's way. The
listeners are bound to an address that clients reach directly, so no rule of the kernel is in it either, as with the
other peers.

The workers are the daemon's: processes that this one starts, whose sockets it opens, and whom it asks every second what
they counted. Whatever that costs is in the figures, and so is this process.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator

import uvloop

from kproxy.backend.userspace.crew import Crew
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.seat import Ended, Event
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from kproxy.plan.relay import default_relay

_MANY = 1 << 30  # connections: as many as files allow


def main() -> int:
    """Serve until SIGTERM; prints "ready" when every worker does."""
    uvloop.run(_serve(_arguments()))
    return 0


async def _serve(arguments: argparse.Namespace) -> None:
    config = Config(relay_connections=_MANY, relay_udp_sessions=_MANY)
    crew = Crew(config, workers=arguments.workers, told=_tell)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(crew.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            failures = await crew.push(list(_rules(crew, arguments)))
        except OSError as error:
            raise SystemExit(f"{arguments.listen}: {error.strerror or error}") from error
        if failures or len(crew.serving) < arguments.workers:
            raise SystemExit("not every worker serves")
        print("ready", flush=True)


def _tell(event: Event) -> None:
    if isinstance(event, Ended):
        sys.stderr.write(f"worker {event.seat} {event.why}\n")


def _rules(crew: Crew, arguments: argparse.Namespace) -> Iterator[Rule]:
    """Raises OSError."""
    for protocol, ports in ((Protocol.TCP, arguments.tcp), (Protocol.UDP, arguments.udp)):
        for port in ports:
            targets = tuple(Target(ip, port, local=False) for ip in arguments.to)
            key = ServicePortKey("bench", f"port-{port}", "", protocol)
            listener: Listener = crew.open(arguments.listen, protocol, port)
            yield Rule(listener, key, targets, default_relay(Config()))


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
