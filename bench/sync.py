"""How fast and at what cost rules get into the kernel: kproxy beside kube-proxy's flat layout.

    ./run bench sync                              100x2, 1000x5, 5000x10 and 10000x10, both iptables variants
    ./run bench sync --size 1000x5 --variant nft --churn 5

For each size and variant, in namespaces of their own: the flat layout written the upstream way (flat.py), then kproxy
as a process that reads the same objects from an API server. First everything, then one slice after another changes:
an endpoint goes, an endpoint comes. Then, at the largest size, 1,000 services come and go.

What is compared is unequal in kube-proxy's favour: of it only the iptables programs are measured, of kproxy the whole
daemon too. "children" is the comparison like with like. How the figures are made: README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import report
from clock import KernelClock
from cluster import Cluster, make_cluster, moved, parse_size
from daemon import Daemon
from feed import Feed
from flat import LARGE, Flat
from host import Host
from programs import Cost
from rich.progress import Progress
from rich.table import Table

_CHURNED = 1000  # services that come and go
_SPACING = 1.3  # seconds between two changes: longer than minSyncPeriod, so that none waits for the one before
_RULES, _PENDING = "kubeproxy_sync_proxy_rules_iptables_total", "kproxy_oldest_pending_change_seconds"
_IDLE = 5.0  # seconds over which the daemon's cost of doing nothing is measured


@dataclass
class FlatFigures:
    """The peer. ``first.finished`` False: killed at the limit; what follows was measured on tables loaded in stages."""

    first: Cost
    staged: Cost | None
    change: Cost  # mean of one
    change_latency: float  # seconds, median
    save: Cost  # iptables-save -t nat of the full table
    dnat_rules: int


@dataclass
class KproxyFigures:
    """kproxy. Seconds and MiB; ``change_*`` are of one change."""

    first_latency: float  # process start → last rule in the kernel
    first_cpu: float
    first_children_cpu: float
    change_latency: float  # the API server has it → the kernel has it, median
    change_latencies: list[float]
    change_cpu: float
    change_children_cpu: float
    idle_cpu: float  # seconds of processor time a second, doing nothing; not taken off the above
    rss_mb: float
    peak_mb: float
    children_peak_mb: float
    dnat_rules: int
    churn_rss_mb: list[float] = field(default_factory=list)  # before, and after each round
    churn_seconds: float = 0.0


def main() -> int:
    """Measure, print, save."""
    arguments = _arguments()
    console = report.new_console()
    before = report.circumstances()
    results: list[dict[str, Any]] = []
    lock = tempfile.NamedTemporaryFile(prefix="kproxy-bench-", suffix=".lock")  # noqa: SIM115 -- lives as long as we
    os.environ["XTABLES_LOCKFILE"] = lock.name  # nobody on this machine waits for us, nor we for them
    rounds = [(size, variant) for size in arguments.size for variant in arguments.variant]
    steps = sum(2 * arguments.changes + 8 + _churns(arguments, size) for size, _ in rounds)
    with report.new_progress(console) as progress:
        bar = progress.add_task("", total=steps)
        for size, variant in rounds:
            figures = _Bench(size, variant, arguments, _Bar(progress, bar, f"{size} {variant}")).measure()
            results.append(figures)
            progress.console.print(_table(figures), *(f"  {note}" for note in _notes(figures)), "", sep="\n")
            report.save(arguments.output, {"before": before, "after": report.circumstances(), "results": results})
    console.print(f"saved: {arguments.output}")
    return 0


class _Bar:
    """The progress of one size and variant."""

    def __init__(self, progress: Progress, task: Any, title: str) -> None:
        self._progress, self._task, self._title = progress, task, title

    def step(self, text: str) -> None:
        self._progress.update(self._task, description=f"{self._title}: {text}", advance=1)


class _Bench:
    """One size, one variant."""

    def __init__(self, size: str, variant: str, arguments: argparse.Namespace, bar: _Bar) -> None:
        self.size, self.variant, self.bar = size, variant, bar
        self.limit: float = arguments.limit
        self.changes: int = arguments.changes
        self.churns = _churns(arguments, size)
        self.flat: bool = not arguments.no_flat
        self.cluster: Cluster = make_cluster(*parse_size(size))
        count = len(self.cluster.services)
        self.chosen = [count * (2 * nth + 1) // (2 * self.changes) for nth in range(self.changes)]

    def measure(self) -> dict[str, Any]:
        flat = self._measure_flat() if self.flat else None
        kproxy = self._measure_kproxy()
        return {
            "size": self.size,
            "variant": self.variant,
            "services": len(self.cluster.services),
            "endpoints": self.cluster.endpoints,
            "limit": self.limit,
            "flat": asdict(flat) if flat else None,
            "kproxy": asdict(kproxy),
        }

    # --- the peer ---------------------------------------------------------------------------------------------

    def _measure_flat(self) -> FlatFigures:
        self.bar.step("flat layout, everything")
        with Host("flat") as host, host.inside():
            flat = Flat(self.cluster, self.variant, limit=self.limit)
            first = flat.first_sync()
            if first.finished:
                return self._change_flat(host, flat, first, None)
        self.bar.step("flat layout, in stages (the one payload did not end)")
        with Host("flat") as host, host.inside():
            flat = Flat(self.cluster, self.variant, limit=self.limit)
            return self._change_flat(host, flat, first, flat.load_in_stages())

    def _change_flat(self, host: Host, flat: Flat, first: Cost, staged: Cost | None) -> FlatFigures:
        costs: list[Cost] = []
        for number in self.chosen:
            self.bar.step("flat layout, one slice")
            whole = self.cluster.services[number]
            costs.append(flat.change(whole, whole.without_last()))
            costs.append(flat.change(whole.without_last(), moved(whole, 1)))
        total = sum(costs, Cost())
        mean = Cost(total.cpu / len(costs), total.wall / len(costs), total.peak_mb)
        rules = self._count_rules(host)
        return FlatFigures(first, staged, mean, median(cost.wall for cost in costs), flat.save(), rules)

    # --- kproxy -----------------------------------------------------------------------------------------------

    def _measure_kproxy(self) -> KproxyFigures:
        self.bar.step("kproxy, loading the API server")
        with Host("node") as host, tempfile.TemporaryDirectory(prefix="kproxy-bench-") as folder:
            host.ip("link add eth0 type veth peer name peer0", "addr add 192.168.50.1/24 dev eth0", "link set eth0 up")
            feed = Feed(host, self.size, Path(folder, "kubeconfig"))
            clock = KernelClock(host, self.variant)
            self.bar.step("kproxy, everything")
            daemon = Daemon(host, self.variant, feed.kubeconfig)
            try:
                figures = self._observe(host, feed, clock, daemon)
                self._churn(feed, daemon, figures)
                figures.peak_mb, figures.children_peak_mb = daemon.peak_mb, daemon.children_peak_mb
                return figures
            finally:
                daemon.close()
                clock.close()

    def _observe(self, host: Host, feed: Feed, clock: KernelClock, daemon: Daemon) -> KproxyFigures:
        daemon.wait_until_it_serves(600)
        last = clock.settle(quiet=3.0, deadline=120) or daemon.began  # what it does after the first sync is part of it
        first = daemon.spent()
        latencies: list[float] = []
        for number in self.chosen:
            self.bar.step("kproxy, one slice")
            latencies.append(self._change(clock, lambda number=number: feed.shrink(number)))
            latencies.append(self._change(clock, lambda number=number: feed.grow(number, 1)))
        time.sleep(_SPACING)  # a child's cost is known when it has ended, which is after the kernel has the rule
        changed = daemon.spent() - first
        count = len(latencies)
        self.bar.step("kproxy, idle")
        quiet = daemon.spent()
        time.sleep(_IDLE)
        idle = (daemon.spent() - quiet).both / _IDLE
        return KproxyFigures(
            first_latency=last - daemon.began,
            first_cpu=first.both,
            first_children_cpu=first.children,
            change_latency=median(latencies),
            change_latencies=[round(latency, 4) for latency in latencies],
            change_cpu=changed.both / count,
            change_children_cpu=changed.children / count,
            idle_cpu=idle,
            rss_mb=daemon.rss_mb,
            peak_mb=daemon.peak_mb,
            children_peak_mb=daemon.children_peak_mb,
            dnat_rules=self._count_rules(host),
        )

    def _change(self, clock: KernelClock, change: Any) -> float:
        """Seconds from the API server's having the change to the kernel's having it."""
        time.sleep(_SPACING)
        seen = len(clock.changes)
        change()
        began = time.monotonic()
        return max(clock.wait_for_change(seen, deadline=60) - began, 0.0)

    def _churn(self, feed: Feed, daemon: Daemon, figures: KproxyFigures) -> None:
        if not self.churns:
            return
        figures.churn_rss_mb.append(round(daemon.rss_mb, 1))
        rules, services = daemon.metric(_RULES), len(self.cluster.services)
        more = rules + _CHURNED * parse_size(self.size)[1]  # a rule for each endpoint at the very least
        began = time.monotonic()
        for _ in range(self.churns):
            self.bar.step(f"kproxy, {_CHURNED} services come and go")
            feed.add(services, _CHURNED)
            _wait(daemon, lambda now: now > more)
            feed.delete(services, _CHURNED)
            _wait(daemon, lambda now: now == rules)
            figures.churn_rss_mb.append(round(daemon.rss_mb, 1))
        figures.churn_seconds = time.monotonic() - began

    def _count_rules(self, host: Host) -> int:
        """How many endpoints the kernel knows: a check that both did the work."""
        text = host.read(f"iptables-{self.variant}-save", "-t", "nat")
        return sum("-j DNAT" in line for line in text.splitlines())


def _wait(daemon: Daemon, is_enough: Callable[[float], bool], deadline: float = 300.0) -> None:
    """Until the kernel has so many rules and no change waits; TimeoutError."""
    limit = time.monotonic() + deadline
    while not (daemon.metric(_PENDING) == 0 and is_enough(daemon.metric(_RULES))):
        if time.monotonic() > limit:
            raise TimeoutError(f"{_CHURNED} services are not programmed after {deadline:g} s")
        time.sleep(0.3)


def _table(figures: dict[str, Any]) -> Table:
    ours, theirs = figures["kproxy"], figures["flat"] or {}
    first, change = theirs.get("first") or {}, theirs.get("change") or {}
    cut = bool(first) and not first["finished"]
    table = report.new_table(
        f"{figures['size']} services x endpoints, iptables-{figures['variant']}", ("", "flat", "kproxy", "better by")
    )
    for label, peer, own, more in (
        ("everything: in the kernel after", first.get("wall"), ours["first_latency"], cut),
        ("everything: processor", first.get("cpu"), ours["first_cpu"], cut),
        ("  of that, child processes", first.get("cpu"), ours["first_children_cpu"], cut),
        ("one slice: in the kernel after", theirs.get("change_latency"), ours["change_latency"], False),
        ("one slice: processor", change.get("cpu"), ours["change_cpu"], False),
        ("  of that, child processes", change.get("cpu"), ours["change_children_cpu"], False),
    ):
        table.add_row(label, report.seconds(peer, more=more), report.seconds(own), report.ratio(own, peer, more=more))
    peak = max(first["peak_mb"], change["peak_mb"]) if theirs else None
    child = ours["children_peak_mb"]
    table.add_row("memory: largest child", report.megabytes(peak), report.megabytes(child), report.ratio(child, peak))
    table.add_row("memory: daemon, peak", "-", report.megabytes(ours["peak_mb"]), "")
    table.add_row("memory: daemon, before churn", "-", report.megabytes(ours["rss_mb"]), "")
    if churned := ours["churn_rss_mb"]:
        shown = f"{churned[1]:.0f} ... {max(churned):.0f} ... {churned[-1]:.0f} MiB"
        table.add_row(f"  {_CHURNED} services {len(churned) - 1} times: first, most, last", "-", shown, "")
    return table


def _notes(figures: dict[str, Any]) -> list[str]:
    ours, theirs = figures["kproxy"], figures["flat"]
    notes = [f"kproxy idle: {ours['idle_cpu'] * 100:.1f} % of a processor"]
    if theirs:
        if not theirs["first"]["finished"]:
            notes.append(f"flat: one payload was killed after {figures['limit']:g} s; its changes follow a staged load")
        if figures["endpoints"] > LARGE:
            save = report.seconds(theirs["save"]["cpu"])
            notes.append(f"flat: iptables-save at most every 30 s is not in its changes: {save} of processor each")
        if theirs["dnat_rules"] != ours["dnat_rules"]:
            notes.append(f"NOT COMPARABLE: {theirs['dnat_rules']} DNAT rules beside {ours['dnat_rules']}")
    return notes


def _churns(arguments: argparse.Namespace, size: str) -> int:
    return int(arguments.churn) if size == arguments.size[-1] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/sync.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=8, metavar="N", help="services whose slice changes, twice (8)")
    parser.add_argument("--churn", type=int, default=20, metavar="N", help="rounds of churn at the last size (20)")
    parser.add_argument("--limit", type=float, default=240, metavar="SECONDS", help="for flat's first sync (240)")
    parser.add_argument("--no-flat", action="store_true", help="kproxy alone")
    parser.add_argument("--output", type=Path, default=report.RESULTS / "sync.json", metavar="FILE")
    return report.read_arguments(parser)


if __name__ == "__main__":
    sys.exit(main())
