"""``kproxy cleanup``: remove the rules of a service proxy, ours or kube-proxy's, and nothing else.

Both variants and both families are looked at, whatever this node uses now, because rules that somebody forgot in the
other variant are the classic leftover. Each table is read, and what is ours in it goes in one transaction: the jumps
from built-in chains first, then the chains. KUBE-FIREWALL is the kubelet's, too, and stays with its jumps; sysctls,
counters and flows stay as they are (spec: iptables.md 16). A table that holds nothing of ours is not written, and a
legacy table that nobody has used is not even read, because reading would create it.

Rejected: deleting by the names that we would write today; what is found is what is removed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable

from kproxy.backend.iptables import names
from kproxy.backend.iptables.parse import parse_rule
from kproxy.backend.iptables.rules import Jump, Table
from kproxy.config import Config, IptablesVariant
from kproxy.daemon.doors import make_door
from kproxy.daemon.log import configure
from kproxy.errors import KernelError, NotPermitted, ProgramMissing, Retry
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.libiptc import LegacyTables
from kproxy.kernel.run import find_program
from kproxy.model.enums import IPFamily

_TRIES = 3  # when somebody else writes the table meanwhile
_FEW = 500  # chains that are removed by structured edits; more in bulk, as text
_VARIANTS = (IptablesVariant.NFT, IptablesVariant.LEGACY)


def clean_up(config: Config) -> tuple[list[str], list[str]]:
    """What was done, and what could not be done; sentences."""
    configure(config.verbosity, sys.stderr)
    return asyncio.run(_clean_all(config))


async def _clean_all(config: Config) -> tuple[list[str], list[str]]:
    said: list[str] = []
    problems: list[str] = []
    doors = [make_door(config, family, variant) for variant in _VARIANTS for family in IPFamily]
    # Where only the plain programs are installed, both variants would be the same one
    doors = [door for door in doors if find_program(door.restore_name) and _is_explicit(door)] or doors[:2]
    for door in doors:
        for table in Table:
            try:
                removed = await clean_table(door, table)
            except NotPermitted as error:
                return said, [f"kproxy: {error}"]
            except KernelError as error:
                problems.append(f"kproxy: {_place(door, table)} was not cleaned: {error}")
            else:
                if removed:
                    said.append(f"{_place(door, table)}: removed {removed} chains and what jumped to them")
    return said or [] if problems else said or ["nothing to remove: no rules of a service proxy on this node"], problems


async def clean_table(door: Iptables, table: Table) -> int:
    """Remove what is ours from one table; returns how many chains that was. Raises KernelError."""
    for attempt in range(1, _TRIES + 1):
        if not any(names.is_ours(table, chain) for chain in await door.chains(table.value)):
            return 0
        saved = (await door.save(table.value)).decode(errors="replace").splitlines()
        chains, text = removal(table, saved)
        try:
            if door.variant is IptablesVariant.LEGACY and len(chains) <= _FEW:
                await LegacyTables(door.family).remove(table.value, jumps_to=chains, chains=chains)
            else:
                await door.restore(text.encode())
        except ProgramMissing:
            raise
        except KernelError as error:
            if attempt == _TRIES or error.retry is Retry.NEVER:
                raise
        else:
            return len(chains)
    raise AssertionError


def removal(table: Table, saved: Iterable[str]) -> tuple[list[str], str]:
    """The chains of ours that a saved table holds, and the restore input that removes them. Pure."""
    chains: list[str] = []
    jumps: list[str] = []
    for line in saved:
        if line.startswith(":"):
            name = line[1:].partition(" ")[0]
            if names.is_ours(table, name):
                chains.append(name)
        elif line.startswith("-A "):
            chain = line[3:].partition(" ")[0]
            if not names.is_ours(table, chain) and names.is_ours(table, _target(line)):
                jumps.append(f"-D {line[3:]}")
    declared = [f":{name} - [0:0]" for name in chains]  # in a restore this empties them
    deleted = [f"-X {name}" for name in chains]
    return chains, "\n".join([f"*{table.value}", *declared, *jumps, *deleted, "COMMIT", ""])


def _target(line: str) -> str:
    """The chain that a rule jumps to; parsed, because a stranger's comment may well contain ``-j KUBE-SERVICES``."""
    _, rule = parse_rule(line)
    return rule.target.chain if isinstance(rule.target, Jump) else ""


def _is_explicit(door: Iptables) -> bool:
    return door.variant.value in door.restore_name


def _place(door: Iptables, table: Table) -> str:
    return f"{door.restore_name.removesuffix('-restore')} table {table.value}"
