"""Which service ports the kernel refuses, found by trying them in halves without touching what is live.

A trial writes the service ports' own chains, which is harmless: nothing but their own dispatch rules leads there. The
dispatch rules go into scratch chains that nothing jumps to, so a bad one shows there and not in the way of packets.
What has passed stays written; the scratch chains are stale to the next repair, which deletes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from kproxy.backend.iptables import dispatch, names
from kproxy.backend.iptables.compile import Ruleset
from kproxy.backend.iptables.diff import Delta
from kproxy.backend.iptables.rules import Chain, Table
from kproxy.backend.iptables.stages import Stage, Written, stage_input
from kproxy.errors import RestoreRefused
from kproxy.kernel.doors import IptablesDoor
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import ServicePlan

Quarantine = dict[ServicePortKey, tuple[ServicePlan, str]]  # the plan that was refused, and the program's words


class Trial:
    """``delta``: what the tables lack for ``wanted``, read from the kernel."""

    def __init__(self, door: IptablesDoor, chunk: int | None, wanted: Ruleset, delta: Delta, written: Written) -> None:
        self._door = door
        self._chunk = chunk
        self._wanted = wanted
        self._delta = delta
        self._written = written

    async def run(self, suspects: Sequence[ServicePortKey], quarantine: Quarantine) -> int:
        """Try all suspects and put those who are refused into ``quarantine``; returns how many trials failed."""
        if self._delta.fixed:
            await self._restore(Stage(self._delta.dialect, self._delta.fixed))
        size = self._chunk or max(len(suspects), 1)
        pieces = (suspects[start : start + size] for start in range(0, len(suspects), size))
        return sum([await self._halve(piece, quarantine) for piece in pieces])

    async def _halve(self, suspects: Sequence[ServicePortKey], quarantine: Quarantine) -> int:
        try:
            await self._restore(self._stage(suspects))
        except RestoreRefused as error:
            if len(suspects) == 1:
                quarantine[suspects[0]] = (self._wanted.services[suspects[0]], str(error))
                return 1
            middle = len(suspects) // 2
            halves = (suspects[:middle], suspects[middle:])
            return 1 + sum([await self._halve(half, quarantine) for half in halves])
        return 0

    def _stage(self, suspects: Iterable[ServicePortKey]) -> Stage:
        tried = set(suspects)
        plans = [self._wanted.services[key] for key in tried]
        lists = dispatch.edit(dispatch.NO_DISPATCH, (), plans, self._wanted.dialect.family)
        flat = replace(self._wanted.dialect, tree_threshold=sum(listing.size for listing in lists))
        chains = [dispatch.root_chain(listing, flat) for listing in lists]
        scratch = {Table.NAT: names.TRIAL, Table.FILTER: names.FILTER_TRIAL}
        return Stage(
            dialect=self._wanted.dialect,
            chains=tuple(
                Chain(table, name, tuple(rule for chain in chains if chain.table is table for rule in chain.rules))
                for table, name in scratch.items()
            ),
            patches=tuple(patch for patch in self._delta.patches if patch.key in tried),
        )

    async def _restore(self, stage: Stage) -> None:
        await self._door.restore(stage_input(stage, self._written))
