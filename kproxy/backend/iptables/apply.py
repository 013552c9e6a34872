"""Makes the tables of one family hold a ruleset: the only file of this mode that performs.

What was applied is remembered, so an ordinary round writes only what changed. Memory is replaced after success alone;
after any failure, at the start, and when somebody asks for healing, the kernel is read first and repaired.

A refused transaction must neither lose a change nor cost the other services theirs. So, in this order: whoever else
held the lock gets another moment; then the kernel is read again, for another program may have changed it under us;
then the service ports that changed are tried in halves until the offender stands alone. A trial writes the service
port's own chains and puts its dispatch rules into a chain that nothing jumps to, so what is live stays as it was until
the answer is known. Offenders are quarantined: reported with the program's words, and tried again when their plan
changes or at the next full round. Everybody else is programmed. Where even a trial without suspects is refused, the
kernel is unwell and nobody an offender: the round fails.

Nothing that works is taken away for an offence: a service port whose earlier rules are in the tables goes on with
them, provided that all their addresses and ports are still its own. One without is left out of the dispatch.

Rejected: mapping "line 4711 failed" to a service; the nft variant answers with the line of the COMMIT when the kernel
refuses, and that is the case that matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.base import Quarantined, SyncReport, Unread
from kproxy.backend.iptables import names, reading
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import INVALID_COUNTER, LOCALHOST_COUNTER, Abilities
from kproxy.backend.iptables.diff import Delta, diff, holds_others, read_save, repair
from kproxy.backend.iptables.orphans import unwanted
from kproxy.backend.iptables.stages import Written, stage_input, stages
from kproxy.backend.iptables.text import canonical, render_rule
from kproxy.backend.iptables.trial import Trial
from kproxy.config import Config, IptablesVariant
from kproxy.errors import KernelError, RestoreRefused, Retry
from kproxy.kernel.doors import Capabilities, IptablesDoor
from kproxy.model.flow import Destination
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Plan, ServicePlan


class Offence(Struct, frozen=True):
    """Why a service port is in quarantine."""

    plan: ServicePlan  # what was refused
    why: str  # the program's words
    stays: ServicePlan | None  # what it goes on with; None: nothing


class IptablesBackend:
    """iptables mode for one IP family; see backend/base.py.

    ``counters``: nfacct objects that exist. ``drop_invalid``: whether packets that conntrack cannot place are dropped;
    not on a node whose conntrack is liberal about TCP windows.
    """

    def __init__(
        self,
        config: Config,
        door: IptablesDoor,
        capabilities: Capabilities,
        *,
        counters: Collection[str] = (),
        drop_invalid: bool = True,
    ) -> None:
        self._config = config
        self._door = door
        self._abilities = Abilities(
            random_fully=capabilities.random_fully,
            recent=capabilities.recent,
            sctp=capabilities.sctp,
            invalid_counter=capabilities.nfacct and INVALID_COUNTER in counters,
            localhost_counter=capabilities.nfacct and LOCALHOST_COUNTER in counters,
            drop_invalid=drop_invalid,
        )
        self._applied: Ruleset | None = None  # what the last success left in the tables
        self._is_certain = False  # they hold it still, as far as we know
        self._quarantine: dict[ServicePortKey, Offence] = {}
        self._unread: tuple[Unread, ...] = ()  # when the tables were read last
        self._orphans: set[Destination] = set()  # found since the last success
        self._rewritten = False  # when the tables were read last

    @property
    def applied(self) -> Ruleset | None:
        """What the tables hold as far as we know; None: they must be read."""
        return self._applied if self._is_certain else None

    def compile(self, plan: Plan, previous: Ruleset | None = None) -> Ruleset:
        return compile_plan(plan, self._config, self._abilities, previous)

    async def apply(self, rules: Ruleset, *, full: bool = False) -> SyncReport:
        """Make the tables hold ``rules``. Raises KernelError; then the next round is a full one."""
        if full:
            self._quarantine.clear()
        left, before = self.applied, None if full else self.applied
        full, self._is_certain, self._rewritten = before is None, False, False
        written, refused, became_full = Written(), 0, False
        wanted = self._tolerated(rules)
        try:
            delta = await self._delta(before, wanted)
            self._rewritten &= not delta.is_empty and left is not None and diff(left, wanted).is_empty
            await self._write(delta, written)
        except KernelError as error:
            # In the way for a moment: the lock, or another program's change between our reading and our writing.
            if error.retry is Retry.NEVER:
                raise
            wanted, refused = await self._insist(before, rules, wanted, written)
            full, became_full, self._rewritten = True, not full, False
        self._applied, self._is_certain = wanted, True
        report = self._report(wanted, rules, written)
        return replace(report, full=full, refused=refused, became_full=became_full)

    async def is_entered(self, table: str) -> bool:
        if self._applied is None:
            return False
        entries = [entry for entry in self._applied.entries if entry.table == table]
        try:
            if any(each.table == table for each in self._unread):
                return all([await self._door.has_rule(table, render_rule(entry.hook, entry.rule)) for entry in entries])
            found = await self._door.rules(table, sorted({entry.hook for entry in entries}))
        except KernelError:
            return False
        held = {canonical(line) for rules in found.values() for line in rules}
        return all(render_rule(entry.hook, entry.rule) in held for entry in entries)

    @property
    def _chunk(self) -> int | None:
        """Service ports in one transaction; None: any number, for on legacy each costs a copy of the whole table."""
        return self._config.restore_chunk if self._door.variant is IptablesVariant.NFT else None

    # --- one transaction, or its stages -----------------------------------------------------------------------

    async def _delta(self, applied: Ruleset | None, wanted: Ruleset) -> Delta:
        if applied is not None:
            return diff(applied, wanted)
        dump = await reading.read_tables(self._door)
        # Seconds of arithmetic at 10,000 services: in a thread, so that whoever asks for our health gets an answer.
        saved = await asyncio.to_thread(read_save, dump.lines)
        self._unread = dump.unread
        self._orphans |= unwanted(saved.datagrams, wanted.services.values())
        delta = await asyncio.to_thread(repair, saved, wanted)
        # Entered and with rules that are not ours: nobody flushed these chains, but somebody else wrote them.
        is_entered = all(entry.hook == names.FIREWALL for entry in delta.entries)
        self._rewritten = is_entered and holds_others(saved, delta)
        return await reading.without_doubt(delta, self._door, dump.unread) if dump.unread else delta

    async def _write(self, delta: Delta, written: Written) -> None:
        if delta.is_empty:
            return
        for stage in stages(delta, self._chunk):
            await self._door.restore(stage_input(stage, written))

    # --- when it is refused -----------------------------------------------------------------------------------

    def _tolerated(self, rules: Ruleset) -> Ruleset:
        """With earlier plans, or none, for those in quarantine; a service port whose plan changed is let out."""
        for key, offence in tuple(self._quarantine.items()):
            if rules.services.get(key) != offence.plan:
                del self._quarantine[key]
        instead = {key: offence.stays for key, offence in self._quarantine.items() if offence.stays is not None}
        return rules.without(self._quarantine, instead)

    def _accuse(self, offenders: Mapping[ServicePortKey, str], rules: Ruleset) -> None:
        for key, why in offenders.items():
            new = rules.services[key]
            old = self._applied.services.get(key) if self._applied else None
            # Accused again while in quarantine: what it was to go on with is refused, too.
            if old is not None and (key in self._quarantine or old == new or not _is_within(old, new)):
                old = None
            self._quarantine[key] = Offence(new, why, stays=old)

    async def _insist(
        self, before: Ruleset | None, rules: Ruleset, wanted: Ruleset, written: Written
    ) -> tuple[Ruleset, int]:
        """Read, repair, and leave out as few as possible. Returns what the tables hold then, and how many refusals."""
        delta = await self._delta(None, wanted)
        try:
            await self._write(delta, written)
        except RestoreRefused:
            if delta.gone and await self._succeeds(replace(delta, gone=()), written):
                return wanted, 2  # somebody else's rule refers to a chain that we no longer need; it does no harm
        else:
            return wanted, 1
        refused = 3 if delta.gone else 2
        suspects = [patch.key for patch in delta.patches] if before is None else list(_changed(before, wanted))
        first = frozenset(suspects)
        for _ in range(2):
            trial = Trial(self._door, self._chunk, wanted, delta, written)
            await trial.run(suspects)
            self._accuse(trial.offenders, rules)
            refused += trial.refused
            wanted = self._tolerated(rules)
            delta = await self._delta(None, wanted)
            if await self._succeeds(delta, written):
                return wanted, refused
            refused += 1
            suspects = [key for key in wanted.services if key not in first or key in self._quarantine]
        await self._write(delta, written)  # no service port is to blame: raises what is
        return wanted, refused

    async def _succeeds(self, delta: Delta, written: Written) -> bool:
        try:
            await self._write(delta, written)
        except RestoreRefused:
            return False
        return True

    def _report(self, wanted: Ruleset, rules: Ruleset, written: Written) -> SyncReport:
        orphans, self._orphans = tuple(sorted(self._orphans)), set()
        quarantined = (Quarantined(key, _sentence(offence)) for key, offence in self._quarantine.items())
        return SyncReport(
            full=False,
            rules_total=wanted.rules_total(),
            rules_written=written.rules,
            chains_written=written.chains,
            chains_deleted=written.deleted,
            transactions=written.transactions,
            quarantined=(*rules.unsupported, *quarantined),
            input_bytes=written.bytes,
            unread=self._unread,
            orphans=orphans,
            rewritten=self._rewritten,
        )


def _is_within(old: ServicePlan, new: ServicePlan) -> bool:
    """Whether everything on which the old plan listens is granted to the service port still."""
    granted = {(frontend.ip, frontend.port) for frontend in new.frontends}
    port = old.health_check_port
    return granted.issuperset((each.ip, each.port) for each in old.frontends) and port in {0, new.health_check_port}


def _sentence(offence: Offence) -> str:
    return offence.why if offence.stays is None else f"{offence.why}; its rules from before stay"


def _changed(before: Ruleset, wanted: Ruleset) -> Iterator[ServicePortKey]:
    same = before.dialect == wanted.dialect
    return (key for key, plan in wanted.services.items() if not same or before.services.get(key) is not plan)
