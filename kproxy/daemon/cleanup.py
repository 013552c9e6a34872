"""``kproxy cleanup``: remove the rules of a service proxy, ours or kube-proxy's in any of its modes, and nothing else.

Both variants and both families are looked at, whatever this node uses now, because rules that somebody forgot in the
other variant are the classic leftover. What is ours and how it goes is backend/iptables/cleanup.py's, what else there
is modes.py's; here, each table is tried on its own, and again when somebody else was writing it. A table that holds
nothing of ours is not written, and a legacy table that nobody has used is not even read, because reading would create
it.

The relay's addresses go as well; its conntrack entries end by themselves.

Rejected: deleting by the names that we would write today; what is found is what is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator

from kproxy.backend.iptables.cleanup import ORDER, Cleaned, Ours, cleanup, is_ours
from kproxy.backend.iptables.rules import Table
from kproxy.config import Config, IptablesVariant
from kproxy.daemon.choose import make_door
from kproxy.daemon.log import Log, configure
from kproxy.daemon.modes import Done, clean_modes
from kproxy.errors import KernelError, NotPermitted, Retry
from kproxy.kernel.address import Addresses
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.libiptc import LegacyTables
from kproxy.kernel.run import find_program
from kproxy.model.enums import IPFamily

_log = Log(__name__)
_TRIES = 3  # when somebody else writes the table meanwhile
_VARIANTS = (IptablesVariant.NFT, IptablesVariant.LEGACY)


def clean_up(config: Config) -> tuple[list[str], list[str]]:
    """What was done, and what could not be done; sentences."""
    configure(config.verbosity, sys.stderr)
    done = asyncio.run(_clean_all(config))
    return done.said, [f"kproxy: {problem}" for problem in done.problems]


async def _clean_all(config: Config) -> Done:
    done = Done()
    doors = [make_door(config, family, variant) for variant in _VARIANTS for family in IPFamily]
    # Where only the plain programs are installed, both variants would be the same one
    doors = [door for door in doors if find_program(door.restore_name) and is_explicit(door)] or doors[:2]
    try:
        for door in doors:
            done.add(await clean_variant(door, config))
        done.add(await clean_modes(config, IPFamily))
        done.add(await clean_relay(config))
    except NotPermitted as error:
        done.problems.append(str(error))
    if not done.said and not done.problems:
        done.said.append("nothing to remove: no rules of a service proxy on this node")
    return done


async def clean_relay(config: Config) -> Done:
    """Remove what only our relay wants on this node: its addresses. Never fails as a whole."""
    done = Done()
    async with Addresses(deadline=config.program_deadline) as addresses:
        for ip in config.relay_address:
            with contextlib.suppress(KernelError):  # it does no harm, and a family may not be there
                if await addresses.release(ip):
                    done.said.append(f"removed the relay's address {ip}")
        for cidr in config.relay_sources:
            with contextlib.suppress(KernelError):
                if await addresses.release_network(cidr):
                    done.said.append(f"removed the relay's route {cidr}")
    return done


async def clean_variant(door: Iptables, config: Config) -> Done:
    """Remove what is ours from all tables of one family and variant. Raises NotPermitted; nothing else is fatal."""
    done = Done()
    await remove_jumps(door, config)
    for table in ORDER:
        try:
            cleaned = await clean_table(door, table)
        except NotPermitted:
            raise
        except KernelError as error:
            done.problems.append(f"{_place(door, table)} was not cleaned: {error}")
        else:
            done.said += _describe(_place(door, table), cleaned)
    return done


async def clean_table(door: Iptables, table: Table, ours: Ours = is_ours) -> Cleaned:
    """Remove what is ours from one table. Raises KernelError."""
    for attempt in range(1, _TRIES + 1):
        try:
            if not await _chains_of_ours(door, table, ours):
                break  # nor is a legacy table read that nobody has used, because that would create it
            return await cleanup(door, (table,), ours)
        except KernelError as error:
            if attempt == _TRIES or error.retry is Retry.NEVER:
                raise
    return Cleaned(0, 0)


async def remove_jumps(door: Iptables, config: Config) -> int:
    """Legacy variant: what leads into our chains goes first, by libiptc, in one child for all tables.

    Whatever it cannot do, for want of the package too, is left to the restore that follows and works without it.
    """
    if door.variant is not IptablesVariant.LEGACY:
        return 0
    editor = LegacyTables(door.family, lock_deadline=config.xtables_wait, deadline=config.program_deadline)
    try:
        found = {table.value: await _chains_of_ours(door, table) for table in ORDER}
        targets = {table: chains for table, chains in found.items() if chains}
        return await editor.remove_jumps(targets) if targets else 0
    except KernelError as error:
        _log.verbose(1, "libiptc did not remove the jumps, iptables-restore does", family=door.family, err=error)
        return 0


async def _chains_of_ours(door: Iptables, table: Table, ours: Ours = is_ours) -> list[str]:
    return sorted(chain for chain in await door.chains(table.value) if ours(table, chain))


def _describe(place: str, cleaned: Cleaned) -> Iterator[str]:
    if cleaned.chains:
        yield f"{place}: removed {cleaned.chains} chains and what jumped to them"
    if cleaned.kept:
        yield f"{place}: emptied {', '.join(cleaned.kept)}; rules of others jump there, so the chains stay"


def is_explicit(door: Iptables) -> bool:
    """Whether the door's programs are of its variant for certain, and not plain ``iptables``, whatever that is."""
    return door.variant.value in door.restore_name


def _place(door: Iptables, table: Table) -> str:
    return f"{door.restore_name.removesuffix('-restore')} table {table.value}"
