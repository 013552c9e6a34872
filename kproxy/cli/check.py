"""``kproxy check``: does the kernel hold what the cluster implies? Reads, compares, writes nothing.

The cluster is listed afresh, from the API server or from manifests, and compiled as the daemon would; iptables-save
says what is there. What a kernel may lack (counters, random ports) is taken from what the rules use, because finding
it out by doing would write. On the legacy variant libiptc, which shares no code with iptables-save, reads the built-in
chains and the canaries a second time.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import INVALID_COUNTER, LOCALHOST_COUNTER, Abilities
from kproxy.backend.iptables.diff import Delta, read_save, repair
from kproxy.backend.iptables.relayed import relay_ports
from kproxy.backend.iptables.rules import Entry, Table
from kproxy.backend.iptables.text import render_rule
from kproxy.cli.plan import load
from kproxy.config import Config, IptablesVariant
from kproxy.daemon.addresses import LocalAddresses
from kproxy.daemon.choose import make_door
from kproxy.daemon.log import configure
from kproxy.errors import ApiUnreachable, KproxyError
from kproxy.explain.show.wording import count
from kproxy.kernel.address import Addresses
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.libiptc import LegacyTables
from kproxy.kernel.sysctl import TCP_BE_LIBERAL, Sysctl
from kproxy.kernel.variant import detect_variant
from kproxy.model.change import Change
from kproxy.model.cluster import Cluster
from kproxy.model.enums import IPFamily, Kind
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from kproxy.plan.steer import Steered, places, steer
from kproxy.plan.steer import lines as relay_lines
from kproxy.source.client import Client
from kproxy.source.watch import Selection, resources, watch

_DIFFERS = "what it should hold"


def check(config: Config, warn: Callable[[str], None]) -> tuple[list[str], str]:
    """What differs, a sentence each, and a summary. Raises KproxyError where no answer can be found."""
    configure(config.verbosity, sys.stderr)
    return asyncio.run(_check(config, warn))


async def _check(config: Config, warn: Callable[[str], None]) -> tuple[list[str], str]:
    verdict = await detect_variant(
        config.iptables_backend, deadline=config.program_deadline, save_deadline=config.restore_deadline
    )
    doors = [make_door(config, family, verdict.variant) for family in IPFamily]
    present = [door for door in doors if await door.is_present()]
    if not present:
        raise KproxyError(f"iptables ({verdict.variant.value}) does not work here for any IP family; run as root")
    cluster = await _list_cluster(config, warn)
    async with Addresses() as source:
        addresses = LocalAddresses(source, again=config.bind_retry)
        await addresses.refresh()
    differences: list[str] = []
    services = relayed = 0
    for door in present:
        saved = [(await door.save(table.value)).decode(errors="replace") for table in Table]
        lines = [line for text in saved for line in text.split("\n")]
        led = _led(build_plan(cluster.snapshot(), config, door.family, addresses.known), config, lines)
        wanted = compile_plan(led.plan, config, abilities_of(saved, liberal=Sysctl().read(TCP_BE_LIBERAL) == 1))
        services, relayed = max(services, len(wanted.services)), max(relayed, len(led.origins))
        found = [*describe(repair(read_save(lines), wanted)), *(await _second_opinion(door, wanted))]
        found += relay_doubts(led, addresses.known)
        differences += [f"{door.family.value}: {difference}" for difference in found]
    where = f"{' and '.join(door.family.value for door in present)}, iptables {verdict.variant.value}"
    return differences, f"{where}, {summary(services, relayed, len(differences))}"


def summary(services: int, relayed: int, differences: int) -> str:
    """How much was compared, and the verdict."""
    ports = count(services, "service port") + (f", {relayed} of them by the relay" if relayed else "")
    if not differences:
        return f"{ports}: agrees"
    found = count(differences, "difference")
    return f"{ports}: {found}; a daemon with other flags or another file than these differs, too"


def relay_doubts(led: Steered, addresses: Collection[str]) -> Iterator[str]:
    """What the relay should do and does not, as far as rules and addresses tell."""
    missing = sorted({line.key for line, _ in relay_lines(led.plan)} - led.origins.keys())
    if missing:
        some = _some([f"{key} ({key.protocol})" for key in missing])
        are = "is" if len(missing) == 1 else "are"
        yield f"{count(len(missing), 'service port')} {are} the kernel's and should be the relay's: {some}"
    if led.plan.relay_ip and led.plan.relay_ip not in addresses:
        yield f"the relay's address {led.plan.relay_ip} is on no interface"


def _led(plan: Plan, config: Config, saved: list[str]) -> Steered:
    """The same with the relay, as far as the rules lead to it."""
    ip, sources = places(config, plan.family)
    return steer(plan, ip, relay_ports(saved, (line for line, _ in relay_lines(plan)), ip), sources=sources)


def abilities_of(saved: Iterable[str], *, liberal: bool) -> Abilities:
    """What the rules in the kernel make use of, so that what it lacks does not count as a difference."""
    text = "\n".join(saved)
    return Abilities(
        random_fully="MASQUERADE --random-fully" in text or names.POSTROUTING not in text,
        invalid_counter=INVALID_COUNTER in text,
        localhost_counter=LOCALHOST_COUNTER in text,
        drop_invalid=not liberal,
    )


def describe(delta: Delta) -> Iterator[str]:
    """A sentence for each thing that differs."""
    for entry in delta.entries:
        yield f"table {entry.table}: a rule is missing: {render_rule(entry.hook, entry.rule)}"
    for chain in (*delta.fixed, *delta.lists):
        yield f"table {chain.table}: chain {chain.name} does not hold {_DIFFERS} ({count(len(chain.rules), 'rule')})"
    for table, name in delta.declare:
        yield f"table {table}: chain {name} is missing"
    for patch in delta.patches:
        chains = [chain.name for chain in patch.chains(delta.dialect)]
        if chains:
            differ = "differs" if len(chains) == 1 else "differ"
            yield f"{patch.key} ({patch.key.protocol}): {count(len(chains), 'chain')} {differ}: {_some(chains)}"
    if delta.gone:
        belong = "belongs" if len(delta.gone) == 1 else "belong"
        names_of = _some([name for _, name in delta.gone])
        yield f"{count(len(delta.gone), 'chain')} {belong} to no Service: {names_of}"


async def _second_opinion(door: Iptables, wanted: Ruleset) -> list[str]:
    """Legacy only: the entry rules and the canaries as libiptc sees them."""
    if door.variant is not IptablesVariant.LEGACY:
        return []
    chains = {table.value: {names.CANARY} for table in Table}
    for entry in wanted.entries:
        chains[entry.table.value].add(entry.hook)
    seen = await LegacyTables(door.family).read({table: sorted(wanted) for table, wanted in chains.items()})
    return list(doubts(wanted.entries, seen))


def doubts(entries: Iterable[Entry], seen: Mapping[str, Mapping[str, Iterable[str]]]) -> Iterator[str]:
    """What of ours is not among the rules that were seen, by table and chain."""
    for table in Table:
        if names.CANARY not in seen.get(table.value, {}):
            yield f"table {table}: libiptc sees no {names.CANARY}"
    for entry in entries:
        rules = seen.get(entry.table.value, {}).get(entry.hook, ())
        if not any(rule.endswith(f"-j {_jumps_to(entry)}") for rule in rules):
            yield f"table {entry.table}: libiptc sees no jump from {entry.hook} to {_jumps_to(entry)}"


def _jumps_to(entry: Entry) -> str:
    return render_rule(entry.hook, entry.rule).rpartition(" ")[2]


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")


# --- the cluster, once ----------------------------------------------------------------------------------------


async def _list_cluster(config: Config, warn: Callable[[str], None]) -> Cluster:
    """Raises BadCredentials, ApiError."""
    if config.manifests:
        return load(config.manifests, config, warn)
    cluster = Cluster(config.hostname)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config))
        for selection in resources(config):
            cluster.apply(await _first_list(client, selection, config))
    return cluster


async def _first_list(client: Client, selection: Selection, config: Config) -> Change:
    trouble: list[KproxyError] = []

    def report(_kind: Kind, problem: KproxyError | None) -> None:
        if problem is not None:
            trouble.append(problem)

    changes: AsyncGenerator[Change, None] = watch(client, selection, config, report=report)
    try:
        async with asyncio.timeout(config.request_deadline), aclosing(changes):
            return await anext(changes)
    except TimeoutError:
        if trouble:
            raise trouble[-1] from None
        raise ApiUnreachable(f"{client.server} did not list {selection.plural} in time; try again") from None
