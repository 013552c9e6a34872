"""Which service ports the kernel refuses, found by trying them in halves without touching what is live.

A trial writes the service ports' own chains, which is harmless: nothing but their own dispatch rules leads there. The
dispatch rules go into scratch chains that nothing jumps to, so a bad one shows there and not in the way of packets.
What has passed stays written; the scratch chains are stale to the next repair, which deletes them.

A kernel that refuses everything for a while, for want of memory or of a module that is loaded a moment later, makes
everybody look like an offender. So nobody is accused unless the plainest rule passes (the control): once before the
first trial, and again right after the refusal of a single service port, for the kernel may give up in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from kproxy.backend.iptables import dispatch, names
from kproxy.backend.iptables.compile import Ruleset
from kproxy.backend.iptables.diff import Delta
from kproxy.backend.iptables.rules import Chain, Rule, Verdict
from kproxy.backend.iptables.stages import Stage, Written, stage_input
from kproxy.errors import RestoreRefused
from kproxy.kernel.doors import IptablesDoor
from kproxy.model.keys import ServicePortKey

_PLAINEST = Rule((), Verdict.RETURN)


class Trial:
    """``delta``: what the tables lack for ``wanted``, read from the kernel."""

    def __init__(self, door: IptablesDoor, chunk: int | None, wanted: Ruleset, delta: Delta, written: Written) -> None:
        self._door = door
        self._chunk = chunk
        self._wanted = wanted
        self._delta = delta
        self._written = written
        self.offenders: dict[ServicePortKey, str] = {}  # with the program's words
        self.refused = 0  # trials

    async def run(self, suspects: Sequence[ServicePortKey]) -> None:
        """Try all suspects; those who are refused are ``offenders`` then. Raises KernelError: nobody is to blame."""
        if self._delta.fixed:
            await self._restore(Stage(self._delta.dialect, self._delta.fixed))
        await self._control()
        size = self._chunk or max(len(suspects), 1)
        for start in range(0, len(suspects), size):
            await self._halve(suspects[start : start + size])

    async def _halve(self, suspects: Sequence[ServicePortKey]) -> None:
        try:
            await self._restore(self._stage(suspects))
        except RestoreRefused as error:
            self.refused += 1
            if len(suspects) == 1:
                await self._control()
                self.offenders[suspects[0]] = str(error)
                return
            middle = len(suspects) // 2
            await self._halve(suspects[:middle])
            await self._halve(suspects[middle:])

    async def _control(self) -> None:
        """Without suspects. Raises RestoreRefused."""
        chains = tuple(Chain(table, name, (_PLAINEST,)) for table, name in names.SCRATCH)
        await self._restore(Stage(self._wanted.dialect, chains))

    def _stage(self, suspects: Iterable[ServicePortKey]) -> Stage:
        tried = set(suspects)
        plans = [self._wanted.services[key] for key in tried]
        lists = dispatch.edit(dispatch.NO_DISPATCH, (), plans, self._wanted.dialect.family)
        flat = replace(self._wanted.dialect, tree_threshold=sum(listing.size for listing in lists))
        chains = [dispatch.root_chain(listing, flat) for listing in lists]
        return Stage(
            dialect=self._wanted.dialect,
            chains=tuple(
                Chain(table, name, tuple(rule for chain in chains if chain.table is table for rule in chain.rules))
                for table, name in names.SCRATCH
            ),
            patches=tuple(patch for patch in self._delta.patches if patch.key in tried),
        )

    async def _restore(self, stage: Stage) -> None:
        await self._door.restore(stage_input(stage, self._written))
