"""What relay.py measures of a peer, and the figures of one measurement.

A rate comes from the load's window, after its warm-up. Processor time is that of the peer's processes over the whole
of a load, warm-up and end too, divided by everything that the load did meanwhile: both ends of the span are quiet, so
it does not matter when exactly somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from relay_field import ANSWER, DATAGRAMS, DOWNLOAD, ECHO, SINK, Field
from relay_peers import Peer, Running, cpu_of

IN_FLIGHT, KEPT, FLOWS = 32, 64, 64  # connections at once; connections kept; UDP flows
_OFFERED = 6  # Gbit/s of the GSO sender
_WARMED = 64  # connections before memory is measured the first time


@dataclass(frozen=True, slots=True)
class Length:
    """Seconds of one load."""

    warm: float
    counted: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. ``cost`` and ``rate`` in the measure's units."""

    rate: float | None = None
    cost: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    lost: float | None = None  # datagrams; for gso the share of bytes
    errors: int = 0
    stuck: int = 0  # connections that were older than a second in the end
    client_busy: float | None = None  # processors that the load took; 1 is all that one thread can
    server_busy: float | None = None


Take = Callable[[Field, Running, Length], Sample]


@dataclass(frozen=True)
class Measure:
    """``unit`` of the rate; ``cost_unit``: what the processor time is for. ``more_is_better`` is about the rate."""

    name: str
    title: str
    unit: str
    take: Take
    cost_unit: str = ""
    rivals: tuple[str, ...] = ("haproxy", "nginx", "direct")  # whose ratios the table shows
    more_is_better: bool = True
    wants: Callable[[Peer], bool] = field(default=lambda _: True)


def _load(mode: str, port: int, count: int, *, per: float) -> Take:
    """A load of load.c; ``per``: operations, or bytes, that the unit of rate and cost counts as one."""

    def take(site: Field, running: Running, length: Length) -> Sample:
        server, proxy = cpu_of(site.server.pid), running.cpu()
        found = site.load(mode, running.peer.address, port, count, length.warm, length.counted)
        spent = running.cpu() - proxy
        server = cpu_of(site.server.pid) - server
        is_bulk = mode == "bulk"
        return Sample(
            rate=found["ops"] / found["seconds"] / per * (8 if is_bulk else 1),
            cost=spent / (found["all"] / per) * (1 if is_bulk else 1e6) if found["all"] else None,
            p50_us=None if is_bulk else found["p50_us"],
            p99_us=None if is_bulk else found["p99_us"],
            lost=found["lost"] if mode == "udp" else None,
            errors=found["errors"],
            stuck=found["stuck"],
            client_busy=found["busy"],
            server_busy=round(server / (length.warm + length.counted), 3),
        )

    return take


def _gso(site: Field, running: Running, length: Length) -> Sample:
    sink = site.sink()
    before = running.cpu()
    sent = site.load("gso", running.peer.address, SINK, _OFFERED, length.counted)
    got = sink.end()
    spent = running.cpu() - before
    return Sample(
        rate=got["bytes"] * 8 / sent["seconds"] / 1e9,
        cost=spent / (got["bytes"] / 1e9) if got["bytes"] else None,
        lost=1 - got["bytes"] / sent["bytes"],
        errors=sent["errors"],
        client_busy=sent["busy"],
    )


def _memory(site: Field, running: Running, _: Length) -> Sample:
    """KiB for each idle connection, beyond what the peer holds once it has served some."""
    peer = running.peer
    site.idle(peer.address, min(_WARMED, peer.idle)).end()
    before = running.memory()
    client = site.idle(peer.address, peer.idle)
    after = running.memory()
    found: dict[str, Any] = client.end()
    return Sample(rate=(after - before) / peer.idle, errors=peer.idle - found["answered"])


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("bulk1", "download, 1 stream", "Gbit/s", _load("bulk", DOWNLOAD, 1, per=1e9), "s/GB"),
        Measure("bulk16", "download, 16 streams", "Gbit/s", _load("bulk", DOWNLOAD, 16, per=1e9), "s/GB"),
        Measure("connect", "new connections", "/s", _load("connect", ANSWER, IN_FLIGHT, per=1), "us"),
        Measure("request", "requests on 64 connections", "/s", _load("request", ECHO, KEPT, per=1), "us"),
        Measure(
            "memory",
            "memory for an idle connection",
            "KiB",
            _memory,
            rivals=("haproxy", "nginx"),
            more_is_better=False,
            wants=lambda peer: peer.idle > 0,
        ),
        Measure(
            "udp",
            "UDP round trips, 64 flows",
            "/s",
            _load("udp", DATAGRAMS, FLOWS, per=1),
            "us",
            rivals=("nginx", "direct"),
            wants=lambda peer: peer.speaks_udp,
        ),
        Measure(
            "gso",
            f"UDP segmentation, 1 flow, {_OFFERED} Gbit/s offered",
            "Gbit/s",
            _gso,
            "s/GB",
            rivals=("nginx", "direct"),
            wants=lambda peer: peer.speaks_udp,
        ),
    )
}
