"""What service metrics cost: processor time for each flow, and what a packet notices.

    ./run bench accounting                                20,000 flows, to 100 and to 10,000 services
    ./run bench accounting --flows 100000 --services 1000

In a namespace of its own: one rule sends what is for any service to a socket that nobody reads, and datagrams from
ports of their own make as many flows as wanted. The parts that count them are the daemon's, in this process, so its
processor time is theirs: first the table is read as for a scrape, then all flows end at once, which is the worst that
can happen. Last, sending is timed with everything off and everything on in turn.

How the figures are made, and how far they carry: README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Any

import report
from host import Host
from rich.table import Table

from kproxy.config import Config
from kproxy.daemon.service_metrics import ServiceMetrics
from kproxy.kernel.accounting import Accounting
from kproxy.kernel.sysctl import CONNTRACK_ACCOUNTING, Sysctl
from kproxy.model.cluster import Snapshot
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service, ServicePort
from kproxy.plan.build import build_plan

_SERVICES, _FIRST = "10.96.0.0/12", IPv4Address("10.96.0.10")
_NODE, _ENDPOINT = "10.1.0.1", "10.1.0.2"
_PORT, _ENDPOINT_PORT = 53, 5353
_FIRST_PORT, _PORTS = 10000, 50000  # of the clients; then comes the next client address
_SHOWN = 100
_SETTLED = 2.0  # seconds; all ends of flows have been read by then
_DATAGRAM = b"x" * 100

Figures = dict[str, Any]


def main() -> int:
    """Measure, print, save."""
    arguments = _arguments()
    console = report.new_console()
    before = report.circumstances()
    results: list[Figures] = []
    for services in arguments.services or [100, 10000]:
        with Host("accounting") as host, host.inside():
            _prepare(host, arguments.flows)
            results.append({"services": services, **asyncio.run(_count(arguments.flows, services))})
    with Host("accounting") as host, host.inside():
        _prepare(host, 1)
        packets = _time(arguments.passes)
    table = report.new_table(
        f"{arguments.flows} flows", ("to so many services", *(str(each["services"]) for each in results))
    )
    for name in list(results[0])[1:]:
        table.add_row(name, *(f"{each[name]:.1f}" if "processor" in name else f"{each[name]:.0f}" for each in results))
    console.print(table)
    console.print(_packets(packets, arguments.passes))
    circumstances = {"before": before, "after": report.circumstances()}
    document = {"flows": arguments.flows, "passes": arguments.passes, "results": results, "packets": packets}
    report.save(arguments.output, {**circumstances, **document})
    console.print(f"saved: {arguments.output}")
    return 0


def _packets(figures: Figures, passes: int) -> Table:
    table = report.new_table(f"a datagram on its way, ns, median of {passes} medians", ("", "off", "on"))
    for name, (off, on) in figures.items():
        table.add_row(name, f"{off:.0f}", f"{on:.0f}")
    return table


def _prepare(host: Host, flows: int) -> None:
    clients = range(flows // _PORTS + 1)
    host.ip(
        f"addr add {_NODE}/32 dev lo",
        f"addr add {_ENDPOINT}/32 dev lo",
        *(f"addr add {_client(number)}/32 dev lo" for number in clients),
        f"route add {_SERVICES} dev lo src {_NODE}",
    )
    rule = f"-t nat -A OUTPUT -d {_SERVICES} -p udp --dport {_PORT} -j DNAT --to {_ENDPOINT}:{_ENDPOINT_PORT}"
    host.read("iptables", *rule.split())


def _client(number: int) -> str:
    return f"10.2.0.{number + 1}"


async def _count(flows: int, services: int) -> Figures:
    config = Config(hostname="n1", service_metrics=_SHOWN)
    door = Accounting()
    metrics = ServiceMetrics(config, door, Sysctl(), lambda: (_NODE,))
    snapshot = _snapshot(services)
    plan = build_plan(snapshot, config, IPFamily.IPV4)
    metrics.follow(plan)
    follow_us = _change_one(metrics, snapshot, config, plan)
    running = asyncio.create_task(metrics.run())
    await asyncio.sleep(_SETTLED)
    for address in _senders(flows, services):
        _send(*address)
    read_cpu, read_wall = await _spent(metrics.refresh())
    idle_cpu, _ = await _spent(asyncio.sleep(_SETTLED))
    _forget()
    ended_cpu, _ = await _spent(asyncio.sleep(_SETTLED))
    # All that was measured must have been told, or the figures are of something else.
    await metrics.refresh()
    told = sum(
        sample.value
        for metric in metrics.collect()
        for sample in metric.samples
        if sample.name == "kproxy_service_connections_total"
    )
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return {
        "connections told": int(told),
        "ends of flows lost": door.lost,
        "reading the table: processor, us a flow": read_cpu / flows * 1e6,
        "reading the table: ms": read_wall * 1e3,
        "ends of flows: processor, us a flow": max(0.0, ended_cpu - idle_cpu) / flows * 1e6,
        "a changed service: processor, us": follow_us,
    }


def _snapshot(services: int, touched: int = -1) -> Snapshot:
    ports = (ServicePort(name="", protocol=Protocol.UDP, port=_PORT),)
    made = {}
    for number in range(services):
        key = ObjectKey("default", f"s{number}")
        extra = ("203.0.113.1",) if number == touched else ()
        made[key] = Service(key=key, cluster_ips=(str(_FIRST + number),), ports=ports, external_ips=extra)
    return Snapshot(services=made, slices={})


def _change_one(metrics: ServiceMetrics, before: Snapshot, config: Config, plan: Any) -> float:
    """Microseconds of processor time for following a plan in which one Service is another, and back; the mean."""
    key = next(iter(before.services))
    changed = _snapshot(1, touched=0).services[key]
    after = Snapshot(services={**before.services, key: changed}, slices={})
    second = build_plan(after, config, IPFamily.IPV4, (), plan)
    began = time.process_time()
    for each in (second, plan) * 20:
        metrics.follow(each)
    return (time.process_time() - began) / 40 * 1e6


async def _spent(work: Any) -> tuple[float, float]:
    """Processor seconds of this process, and seconds."""
    processor, wall = time.process_time(), time.monotonic()
    await work
    return time.process_time() - processor, time.monotonic() - wall


def _senders(flows: int, services: int) -> Iterator[tuple[str, int, str]]:
    """Where each flow comes from and which service it is for."""
    for number in range(flows):
        client, port = divmod(number, _PORTS)
        yield _client(client), _FIRST_PORT + port, str(_FIRST + number % services)


def _send(client: str, port: int, to: str) -> float:
    """Nanoseconds that the first packet of a flow took to be sent and delivered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((client, port))
        began = time.perf_counter_ns()
        door.sendto(_DATAGRAM, (to, _PORT))
        return time.perf_counter_ns() - began


def _forget() -> None:
    """Every flow ends at once. By a child, whose processor time is not ours."""
    os.posix_spawnp("conntrack", ("conntrack", "-F"), os.environ, file_actions=_SILENT)


_SILENT = ((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))


def _time(passes: int) -> Figures:
    """Nanoseconds for first and for later packets: the median of each pass, and of the passes' medians."""
    first: dict[bool, list[float]] = {False: [], True: []}
    later: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(passes):
        for on in (False, True):
            Sysctl().set_to(CONNTRACK_ACCOUNTING, int(on))
            door = Accounting()
            if on:
                door.open()
            _forget()
            os.wait()
            first[on].append(median(_send(*sender) for sender in _senders(4000, 100)))
            later[on].append(_send_again(4000))
            door.close()
    return {
        name: [median(samples[on]) for on in (False, True)]
        for name, samples in (("first of a flow", first), ("later", later))
    }


def _send_again(times: int) -> float:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((_client(0), _FIRST_PORT - 1))
        taken = []
        for _ in range(times):
            began = time.perf_counter_ns()
            door.sendto(_DATAGRAM, (str(_FIRST), _PORT))
            taken.append(time.perf_counter_ns() - began)
    return median(taken)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/accounting.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flows", type=int, default=20000, metavar="N", help="how many there are (20000)")
    parser.add_argument("--services", type=int, action="append", metavar="N", help="repeat; default: 100 and 10000")
    parser.add_argument("--passes", type=int, default=10, metavar="N", help="how often sending is timed (10)")
    parser.add_argument("--output", type=Path, default=report.RESULTS / "accounting.json", metavar="FILE")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("network namespaces and iptables need root")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
