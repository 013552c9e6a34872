"""The rules of this very host, and what else of it matters; nothing is created or changed.

Asking ``iptables-legacy-save`` for a table that was never used creates it, and nft's programs warn of it ever after, so
the legacy variant is asked only where /proc/net says that it is in use (as kernel/variant.py does), and then for what
is there.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from kproxy.backend.iptables.rules import RecentCheck, Table
from kproxy.config import Config, IptablesVariant
from kproxy.errors import NotPermitted, ProgramMissing
from kproxy.explain.answer import Question
from kproxy.explain.read.dump import Dump, dumps_of
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.flows import Flow
from kproxy.kernel.address import Addresses
from kproxy.kernel.conntrack import Conntrack
from kproxy.kernel.doors import FlowQuery
from kproxy.kernel.iptables import explain_failure
from kproxy.kernel.legacy import legacy_tables
from kproxy.kernel.run import find_program, package_of, run
from kproxy.kernel.sysctl import TCP_BE_LIBERAL, Sysctl
from kproxy.model import flow as model
from kproxy.model.enums import IPFamily, family_of

_RECENT = Path("/proc/net/xt_recent")
_RECENT_SIZE = Path("/sys/module/xt_recent/parameters/ip_list_tot")
_TIMERS = Path("/proc/timer_list")
_RATES = (100, 250, 300, 1000)  # CONFIG_HZ
_BEGUN_BEFORE = 1 << 32
_INTERFACES = Path("/proc/sys/net/ipv4/conf")
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_NAMES = {IPFamily.IPV4: "ip_tables_names", IPFamily.IPV6: "ip6_tables_names"}
_PREFIX = {IPFamily.IPV4: "iptables", IPFamily.IPV6: "ip6tables"}
_PRIVILEGE = (
    "reading this host's rules needs root: run `sudo kproxy explain live`, or give a dump that root wrote "
    "(`sudo iptables-save -c > dump`)"
)
_DEFAULTS = Config()


def read_host(
    *,
    families: Sequence[IPFamily] = tuple(IPFamily),
    deadline: float = _DEFAULTS.program_deadline,
    save_deadline: float = _DEFAULTS.restore_deadline,
) -> tuple[tuple[Dump, ...], HostFacts]:
    """The rules of every family and variant in use, with counters, and the host's facts.

    Deadlines in seconds: of small questions and of one iptables-save. No rules at all are no dumps.
    Raises NotPermitted, ProgramMissing, ProgramTimeout, KernelError, UnreadableDump.
    """
    return asyncio.run(_read_host(families, deadline, save_deadline))


def read_rules(
    families: Sequence[IPFamily],
    *,
    deadline: float = _DEFAULTS.program_deadline,
    save_deadline: float = _DEFAULTS.restore_deadline,
) -> tuple[Dump, ...]:
    """The same without the facts, whose library takes longer to load than small tables to read. Raises as that."""
    return asyncio.run(_read_rules(families, deadline, save_deadline))


async def _read_host(
    families: Sequence[IPFamily], deadline: float, save_deadline: float
) -> tuple[tuple[Dump, ...], HostFacts]:
    return await _read_rules(families, deadline, save_deadline), await _read_facts(deadline)


async def _read_rules(families: Sequence[IPFamily], deadline: float, save_deadline: float) -> tuple[Dump, ...]:
    dumps: list[Dump] = []
    for family in families:
        for program in await _programs(family, deadline):
            text = await _save(program, save_deadline)
            if text.strip():
                dumps += (replace(dump, live=True) for dump in dumps_of(text, program))
    return tuple(dumps)


async def _programs(family: IPFamily, deadline: float) -> list[str]:
    """The save programs to ask: of each variant that is installed and in use."""
    is_legacy_used = _is_legacy_used(family)
    prefix = _PREFIX[family]
    asked = []
    installed = {variant for variant in ("nft", "legacy") if find_program(f"{prefix}-{variant}-save")}
    if not installed:
        plain = f"{prefix}-save"
        if find_program(plain) is None:
            if family is IPFamily.IPV6:
                return []
            raise ProgramMissing(f"{plain} is not installed; install the Debian package {package_of('iptables')}")
        said = (await run((plain, "--version"), deadline=deadline, check=False)).stdout
        return [plain] if b"nf_tables" in said or is_legacy_used else []
    if IptablesVariant.NFT.value in installed:
        asked.append(f"{prefix}-nft-save")
    if is_legacy_used:
        if IptablesVariant.LEGACY.value not in installed:
            raise ProgramMissing(
                f"legacy {prefix} tables are in use here, and {prefix}-legacy-save, which reads them, is not "
                f"installed; install the Debian package {package_of('iptables')}"
            )
        asked.append(f"{prefix}-legacy-save")
    return asked


def _is_legacy_used(family: IPFamily) -> bool:
    names = Path("/proc/net", _NAMES[family])
    if names.exists() and not os.access(names, os.R_OK):
        raise NotPermitted(_PRIVILEGE)
    return bool(legacy_tables(family))


async def _save(program: str, deadline: float) -> bytes:
    command = (program, "-c")
    done = await run(command, deadline=deadline, check=False)
    if done.status == 0:
        return done.stdout
    failure = explain_failure(command, done.status, done.stderr)
    if isinstance(failure, NotPermitted):
        raise NotPermitted(_PRIVILEGE) from failure
    raise failure


# --- facts ----------------------------------------------------------------------------------------------------


def read_facts(*, deadline: float = _DEFAULTS.program_deadline) -> HostFacts:
    """What the rules do not say of this host; needs no privilege. Raises KernelError."""
    return asyncio.run(_read_facts(deadline))


async def _read_facts(deadline: float) -> HostFacts:
    sysctl = Sysctl()
    liberal = sysctl.read(TCP_BE_LIBERAL)
    async with Addresses(deadline=deadline) as door:
        listed = [each for family in IPFamily for each in await door.list(family)]
    return HostFacts(
        addresses=frozenset(each.ip for each in listed if not each.loopback),
        route_localnet=_route_localnet(sysctl),
        recent_clients=sysctl.read(str(_RECENT_SIZE)),
        be_liberal=None if liberal is None else bool(liberal),
    )


def _route_localnet(sysctl: Sysctl) -> frozenset[str] | None:
    try:
        interfaces = [path.name for path in _INTERFACES.iterdir()]
    except OSError:
        return None
    return frozenset(name for name in interfaces if sysctl.read(f"net/ipv4/conf/{name}/route_localnet") == 1)


def remembered(source: str, dumps: Sequence[Dump] = ()) -> frozenset[str] | None:
    """The xt_recent lists of endpoints that hold a client, by their names; None where they cannot be read.

    A list keeps who was silent for too long until its rule is met again; those are left out by the times that rules of
    ``dumps`` give, where this host says how it counts time.
    """
    seen = _last_seen(source)
    if not seen:
        return None if seen is None else frozenset()
    limits = _limits(dumps)
    ticks = _read_ticks(time.monotonic()) if limits else None
    if ticks is None:
        return frozenset(seen)
    return frozenset(name for name, then in seen.items() if name not in limits or ticks.since(then) <= limits[name])


def _last_seen(source: str) -> dict[str, int] | None:
    """List → when it last saw the client, in ticks; none without the module, which no rule asks then."""
    # The kernel writes IPv6 addresses in full (net/netfilter/xt_recent.c, recent_seq_show).
    entry = re.compile(rb"^src=%s .*last_seen: ([0-9]+)" % ip_address(source).exploded.encode(), re.MULTILINE)
    found = {}
    try:
        for path in _RECENT.iterdir() if _RECENT.exists() else ():
            if path.name.startswith("KUBE-SEP-") and (seen := entry.search(_entries(path))):
                found[path.name] = int(seen[1])
    except OSError:  # root's alone
        return None
    return found


def _entries(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # gone with its rule
        return b""


def _limits(dumps: Sequence[Dump]) -> dict[str, int]:
    """List → seconds."""
    return {
        match.name: match.seconds
        for dump in dumps
        for chain in dump.tables.get(Table.NAT, {}).values()
        for saved in chain.rules
        for match in saved.rule.matches
        if isinstance(match, RecentCheck)
    }


class _Ticks(NamedTuple):
    """The kernel's own clock (jiffies), as it stood."""

    now: int
    a_second: int

    def since(self, then: int) -> float:
        """Seconds."""
        return (self.now - then) / self.a_second


def _read_ticks(uptime: float) -> _Ticks | None:
    """None where it cannot be read. It began 300 seconds before it would have passed 2³² (INITIAL_JIFFIES)."""
    try:
        shown = re.search(r"^jiffies: ([0-9]+)", _TIMERS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:  # root's alone
        return None
    if shown is None or sys.maxsize <= _BEGUN_BEFORE:  # it passed that number, on a machine of 32 bits
        return None
    now = int(shown[1])
    rate = min(_RATES, key=lambda rate: abs(_BEGUN_BEFORE + (uptime - 300) * rate - now))
    return _Ticks(now, rate)


# --- flows ----------------------------------------------------------------------------------------------------


def flows(
    question: Question,
    addresses: frozenset[str] = frozenset(),
    *,
    deadline: float = _DEFAULTS.program_deadline,
) -> tuple[Flow, ...]:
    """The conntrack entries that a packet may belong to; ``addresses``: the host's, for a process on the node.

    Raises NotPermitted, KernelError. No entries where this host tracks no flows: asking would make it begin to.
    """
    if not _COUNT.exists():
        return ()
    door = Conntrack(family_of(question.destination), deadline=deadline)
    try:
        found = door.dump_now([FlowQuery(question.protocol, question.destination, question.port)])
    except NotPermitted as error:
        raise NotPermitted(
            "reading this host's conntrack table needs root: run `sudo kproxy explain live`, "
            "or give one (`conntrack -L`)"
        ) from error
    return tuple(_shown(flow) for flow in found if _is_asked(flow, question, addresses))


def _is_asked(flow: model.Flow, question: Question, addresses: frozenset[str]) -> bool:
    if question.source_port and flow.source_port != question.source_port:
        return False
    if question.source:
        return flow.source == question.source
    return flow.source in addresses or ip_address(flow.source).is_loopback


def _shown(flow: model.Flow) -> Flow:
    return Flow(
        protocol=flow.protocol,
        source=flow.source,
        source_port=flow.source_port,
        destination=flow.destination,
        port=flow.port,
        reply_source=flow.reply_source,
        reply_port=flow.reply_port,
        reply_destination=flow.reply_destination,
        reply_destination_port=flow.reply_destination_port,
    )
