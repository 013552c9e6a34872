"""What rules cost a packet: the time of a TCP connect through a node, by layout and by the place of the service.

    ./run bench packets                                   100x2, 1000x5, 5000x10 and 10000x10, both iptables variants
    ./run bench packets --size 10000x10 --variant nft --passes 6

For each size there are little worlds of client, node and pod, wired by veth: a node without any rules, and for each
iptables variant one with the flat layout and one with kproxy's. A connect() to a neighbour on the same machine runs
the whole way of the SYN and its answer, in and out of the node, in one go, so its median time is the cost of that way.
The worlds take turns, in another order in each pass, so that what else this machine does hits all of them alike.

How the figures are made, and how far they carry: README.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import report
from clock import KernelClock
from cluster import POD_CIDR, Cluster, make_cluster, parse_size
from daemon import Daemon
from feed import Feed
from flat import Flat
from host import Host, first_line, wire
from rich.progress import Progress
from rich.table import Table

_NODE_OUTSIDE, _NODE_INSIDE = "192.168.50.1", "192.168.51.1"
_CLIENT, _GATEWAY = "10.128.0.2", "10.128.0.1"  # in the cluster's CIDR: a pod, so that no cluster IP is masqueraded
_POD_LINK = "192.168.51.2"
_RESET_ON_CLOSE = b"\1\0\0\0\0\0\0\0"  # struct linger: no TIME_WAIT, ports do not run out
_WARM_UP = 50  # connects
_NICE = -19

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Way:
    """One layout and one destination; ``world`` is whose client dials."""

    layout: str
    destination: str
    address: Address


class World:
    """client — node — pod. The pod has the addresses of all pods; ``layout`` says what the node's tables hold."""

    def __init__(self, stack: ExitStack, layout: str) -> None:
        self.layout = layout
        self.client = stack.enter_context(Host(f"client {layout}"))
        self.node = stack.enter_context(Host(f"node {layout}"))
        self.pod = stack.enter_context(Host(f"pod {layout}"))
        wire(self.client, "eth0", self.node, "client0")
        wire(self.pod, "eth0", self.node, "pod0")
        self.node.ip(
            f"addr add {_GATEWAY}/24 dev client0",
            f"addr add {_NODE_OUTSIDE}/32 dev client0",
            f"addr add {_NODE_INSIDE}/24 dev pod0",
            f"route add {POD_CIDR} via {_POD_LINK}",
        )
        self.client.ip(f"addr add {_CLIENT}/24 dev eth0", f"route add default via {_GATEWAY}")
        self.pod.ip(
            f"addr add {_POD_LINK}/24 dev eth0",
            f"addr add {POD_CIDR} dev lo",
            f"route add default via {_NODE_INSIDE}",
        )
        self.node.set({"ipv4/ip_forward": "1"})
        server = self.pod.start((sys.executable, str(Path(__file__).with_name("answer.py")), "8080"))
        first_line(server.stdout)
        os.sched_setaffinity(server.pid, {max(os.sched_getaffinity(0))})
        os.setpriority(os.PRIO_PROCESS, server.pid, _NICE)

    def forget_quickly(self) -> None:
        """Tens of thousands of closed connections a second would fill the conntrack table; after rules are loaded."""
        self.node.set({"netfilter/nf_conntrack_tcp_timeout_close": "1"})


def main() -> int:
    """Measure, print, save."""
    arguments = _arguments()
    console = report.new_console()
    before = report.circumstances()
    results: list[dict[str, Any]] = []
    lock = tempfile.NamedTemporaryFile(prefix="kproxy-bench-", suffix=".lock")  # noqa: SIM115 -- lives as long as we
    os.environ["XTABLES_LOCKFILE"] = lock.name
    steps = len(arguments.size) * (1 + 2 * len(arguments.variant) + arguments.passes)
    with report.new_progress(console, still=True) as progress:
        bar = progress.add_task("", total=steps)
        for size in arguments.size:
            figures = _measure(size, arguments, progress, bar)
            results.append(figures)
            for table in _tables(figures, arguments.variant):
                progress.console.print(table)
            report.save(arguments.output, {"before": before, "after": report.circumstances(), "results": results})
    console.print(f"saved: {arguments.output}")
    return 0


def _measure(size: str, arguments: argparse.Namespace, progress: Progress, bar: Any) -> dict[str, Any]:
    cluster = make_cluster(*parse_size(size))

    def step(text: str) -> None:
        progress.update(bar, description=f"{size}: {text}", advance=1)
        progress.refresh()

    with ExitStack() as stack:
        step("no rules")
        worlds = [World(stack, "none")]
        for variant in arguments.variant:
            step(f"flat layout, {variant}")
            worlds.append(World(stack, f"flat {variant}"))
            _load_flat(worlds[-1], cluster, variant)
            step(f"kproxy, {variant}")
            worlds.append(World(stack, f"kproxy {variant}"))
            _load_kproxy(worlds[-1], size, variant)
        samples = _Clients(worlds, cluster, arguments.seconds).take(arguments.passes, step)
    return {
        "size": size,
        "passes": arguments.passes,
        "seconds": arguments.seconds,
        "p50_us": {
            layout: {destination: _summary(medians) for destination, medians in ways.items()}
            for layout, ways in samples.items()
        },
    }


def _load_flat(world: World, cluster: Cluster, variant: str) -> None:
    with world.node.inside():
        flat = Flat(cluster, variant)
        # The end result is the same, and one payload would take iptables-nft minutes.
        flat.load_in_stages() if variant == "nft" else flat.first_sync()
    world.forget_quickly()


def _load_kproxy(world: World, size: str, variant: str) -> None:
    """As a node gets its rules: by the daemon, which is then ended and leaves them."""
    with tempfile.TemporaryDirectory(prefix="kproxy-bench-") as folder:
        feed = Feed(world.node, size, Path(folder, "kubeconfig"))
        clock = KernelClock(world.node, variant)
        daemon = Daemon(world.node, variant, feed.kubeconfig)
        try:
            daemon.wait_until_it_serves(600)
            clock.settle(quiet=1.0, deadline=120)
        finally:
            daemon.close()
            clock.close()
            feed.close()
    world.forget_quickly()


class _Clients:
    """Dials every way in turn."""

    def __init__(self, worlds: list[World], cluster: Cluster, seconds: float) -> None:
        self._worlds = {world.layout: world for world in worlds}
        self._seconds = seconds
        self._ways = [way for world in worlds for way in _ways(world.layout, cluster)]

    def take(self, passes: int, step: Any) -> dict[str, dict[str, list[float]]]:
        """Medians in microseconds, one a pass: by layout, by destination."""
        found: dict[str, dict[str, list[float]]] = {}
        for way in self._ways:
            found.setdefault(way.layout, {}).setdefault(way.destination, [])
        usual = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(usual)})
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        order = random.Random(1)  # noqa: S311 -- repeatable
        gc.disable()
        try:
            for number in range(passes):
                step(f"pass {number + 1} of {passes}")
                for way in order.sample(self._ways, len(self._ways)):
                    found[way.layout][way.destination].append(self._dial(way))
        finally:
            gc.enable()
            os.setpriority(os.PRIO_PROCESS, 0, 0)
            os.sched_setaffinity(0, usual)
        return found

    def _dial(self, way: Way) -> float:
        """The median time of a connect, in microseconds."""
        with self._worlds[way.layout].client.inside():
            for _ in range(_WARM_UP):
                _connect(way.address)
            times = []
            end = time.monotonic() + self._seconds
            while time.monotonic() < end:
                times.append(_connect(way.address))
        return median(times) / 1000


def _connect(address: Address) -> int:
    """Nanoseconds; TimeoutError or ConnectionError where the rules do not lead to a pod."""
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        began = time.perf_counter_ns()
        door.connect(address)
        return time.perf_counter_ns() - began


def _ways(layout: str, cluster: Cluster) -> Iterator[Way]:
    services = cluster.services
    ports = [service.node_port for service in services if service.node_port]
    yield Way(layout, "no service", (services[0].endpoints[0].ip, services[0].target_port))
    if layout == "none":
        return
    for name, service in (("first", services[0]), ("middle", services[len(services) // 2]), ("last", services[-1])):
        yield Way(layout, f"{name} service", (service.cluster_ip, service.port))
    yield Way(layout, "first node port", (_NODE_OUTSIDE, ports[0]))
    yield Way(layout, "last node port", (_NODE_OUTSIDE, ports[-1]))


def _summary(medians: list[float]) -> dict[str, Any]:
    return {
        "median": round(median(medians), 1),
        "least": round(min(medians), 1),
        "passes": [round(each, 1) for each in medians],
    }


def _tables(figures: dict[str, Any], variants: list[str]) -> Iterator[Table]:
    """Median of the passes' medians, and in brackets the least of them, which other load on the machine hurts less."""
    every = figures["p50_us"]
    for variant in variants:
        flat, ours = every[f"flat {variant}"], every[f"kproxy {variant}"]
        title = f"{figures['size']}, iptables-{variant}: connect, p50 in microseconds, median of passes (least)"
        columns = ("", "flat", "kproxy", "better by", "flat: x first", "kproxy: x first")
        table = report.new_table(title, columns)
        table.add_row("no rules at all", _shown(every["none"]["no service"]), "", "", "", "")
        for destination in ours:
            theirs, own = flat[destination], ours[destination]
            table.add_row(
                destination,
                _shown(theirs),
                _shown(own),
                _times(theirs, own),
                _times(theirs, flat["first service"]),
                _times(own, ours["first service"]),
            )
        yield table


def _shown(summary: dict[str, Any]) -> str:
    return f"{summary['median']:.1f} ({summary['least']:.1f})"


def _times(one: dict[str, Any], other: dict[str, Any]) -> str:
    return f"{one['median'] / other['median']:.2f}x ({one['least'] / other['least']:.2f}x)"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/packets.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=int, default=8, metavar="N", help="how often each way is measured (8)")
    parser.add_argument("--seconds", type=float, default=0.25, metavar="S", help="of connects a pass and way (0.25)")
    parser.add_argument("--output", type=Path, default=report.RESULTS / "packets.json", metavar="FILE")
    return report.read_arguments(parser)


if __name__ == "__main__":
    sys.exit(main())
