"""The iptables programs of one address family and one variant.

Everything is text through ``iptables-restore`` and ``iptables-save``; single ``iptables`` commands are asked only where
they are cheap (the nft variant lists one chain in milliseconds; the legacy one copies the whole table, 0.4-0.8 s of
CPU at 10,000 services). Rejected: libiptc and raw sockets for writing, because the programs are what every node's
other tools agree with, and they do the locking.

Line numbers in refusals are exact for what the parser refuses. What the kernel refuses is found at COMMIT: the legacy
program then names the COMMIT line, the nft one names the rule where it can (an unknown jump target: the COMMIT line).
Source: spec iptables.md 11 and 14; the messages were read from iptables 1.8.9, both variants.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from kproxy.config import IptablesVariant
from kproxy.errors import (
    KernelError,
    NotPermitted,
    ProgramFailed,
    ProgramMissing,
    RestoreRefused,
    UnreadableTable,
    XtablesLocked,
)
from kproxy.kernel import netlink, probe
from kproxy.kernel.doors import Capabilities, Chunks, Completed, Sink
from kproxy.kernel.legacy import Footprint, legacy_tables
from kproxy.kernel.run import find_program, run
from kproxy.model.enums import IPFamily

_LINE = re.compile(r"\bline:? (\d+)\b")
_VERSION = re.compile(r"v(\d+(?:\.\d+)+)")
_CAP_NET_ADMIN = 12
_RESOURCE_PROBLEM = 4  # iptables' exit status for a held lock and for a table that changed under its hands


class Iptables:
    """The real door. One call at a time per object: a sync has one writer, and the lock would serialise them anyway."""

    def __init__(
        self, family: IPFamily, variant: IptablesVariant, *, wait: int, deadline: float, restore: float
    ) -> None:
        """All in seconds. ``wait``: for the xtables lock; ``deadline``: short programs; ``restore``: big ones."""
        self._family = family
        self._variant = variant
        self._wait = ("-w", str(max(1, wait)))  # iptables 1.8.9 takes 0 for ever
        self._deadline = deadline
        self._restore_deadline = restore
        self._program = program_prefix(family, variant)
        # What a flush monitor needs to tell our own writes from other people's (see monitor.py).
        self.pids: deque[int] = deque(maxlen=64)
        self.windows: deque[tuple[int, int | None]] = deque(maxlen=64)  # nft generations (before, after) of a write
        self.footprint = Footprint(family) if variant is IptablesVariant.LEGACY else None

    @property
    def family(self) -> IPFamily:
        return self._family

    @property
    def variant(self) -> IptablesVariant:
        return self._variant

    @property
    def restore_name(self) -> str:
        return f"{self._program}-restore"

    async def restore(self, chunks: Chunks) -> Completed:
        if self.footprint is not None:
            return await self._restore_legacy(chunks, self.footprint)
        before = netlink.nft_generation()
        self.windows.append((before, None))
        try:
            return await self._restore(chunks)
        finally:
            self.windows[-1] = (before, netlink.nft_generation())

    async def _restore_legacy(self, chunks: Chunks, footprint: Footprint) -> Completed:
        done = False
        scan = footprint.begin()
        try:
            completed = await self._restore(scan.follow(chunks))
            done = True
        finally:
            footprint.end(done=done)
        return completed

    async def restore_test(self, chunks: Chunks) -> None:
        await self._restore(chunks, "--test")

    async def _restore(self, chunks: Chunks, *options: str) -> Completed:
        command = (self.restore_name, *self._wait, "--noflush", "--counters", *options)
        done = await run(command, stdin=chunks, deadline=self._restore_deadline, check=False, on_start=self.pids.append)
        if done.status != 0:
            raise explain_failure(command, done.status, done.stderr)
        return done

    async def save(self, table: str, sink: Sink | None = None) -> bytes:
        if self.footprint is not None:
            self.footprint.read(table)
        return await self._save(table, sink)

    async def _save(self, table: str, sink: Sink | None) -> bytes:
        """As ``save``, for a caller who looks at a part only: what others did to the table is still to be told."""
        lines = _WholeLines(sink) if sink is not None else None
        # iptables-legacy-save takes no lock: the kernel hands out a table atomically (spec: iptables.md 14)
        command = (f"{self._program}-save", "-t", table)
        done = await run(command, deadline=self._restore_deadline, sink=lines, check=False)
        if done.status != 0:
            raise explain_failure(command, done.status, done.stderr)
        if lines is not None:
            lines.end()
        return done.stdout

    async def chains(self, table: str) -> frozenset[str]:
        found: set[str] = set()

        def collect(piece: bytes) -> None:
            for line in piece.split(b"\n"):
                if line.startswith(b":"):
                    found.add(line[1 : line.index(b" ")].decode(errors="replace"))

        if not self._is_absent(table):
            await self._save(table, collect)
        return frozenset(found)

    async def rules(self, table: str, chains: Sequence[str]) -> dict[str, tuple[str, ...]]:
        if self._is_absent(table):
            return {}
        if self._variant is IptablesVariant.NFT:
            listed = {chain: await self._list_chain(table, chain) for chain in chains}
            return {chain: rules for chain, rules in listed.items() if rules is not None}
        wanted: dict[str, list[str]] = {}
        asked = frozenset(chains)

        def collect(piece: bytes) -> None:
            for line in piece.split(b"\n"):
                if (
                    line.startswith(b"-A ")
                    and (chain := line[3 : line.index(b" ", 3)].decode(errors="replace")) in asked
                ):
                    wanted[chain].append(line.decode(errors="replace"))
                elif line.startswith(b":") and (chain := line[1 : line.index(b" ")].decode(errors="replace")) in asked:
                    wanted[chain] = []

        await self._save(table, collect)
        return {chain: tuple(rules) for chain, rules in wanted.items()}

    async def _list_chain(self, table: str, chain: str) -> tuple[str, ...] | None:
        command = (self._program, *self._wait, "-t", table, "-S", chain)
        done = await run(command, deadline=self._deadline, check=False)
        if done.status == 0:
            return tuple(line for line in _decoded(done.stdout) if line.startswith("-A "))
        failure = explain_failure(command, done.status, done.stderr)
        # 1.8.9 calls an absent chain incompatible, older and newer ones say that there is none by that name
        if type(failure) is ProgramFailed and chain not in await self.chains(table):
            return None
        raise failure

    async def has_rule(self, table: str, rule: str) -> bool:
        command = (self._program, *self._wait, "-t", table, "-C", *shlex.split(rule)[1:])
        done = await run(command, deadline=self._deadline, check=False)
        if done.status == 0:
            return True
        # 1: no such rule; 2: no such target chain; 3, nft: a rule that it cannot read stands in the way
        failure = explain_failure(command, done.status, done.stderr)
        if type(failure) in {ProgramFailed, UnreadableTable}:
            return False
        raise failure

    async def version(self) -> tuple[int, ...]:
        done = await run((self._program, "--version"), deadline=self._deadline)
        return parse_version(done.stdout.decode())

    async def is_present(self) -> bool:
        """Spec: iptables.md 14, presence test.

        A permission that is missing, a held lock or a machine too busy to answer is an error, not an absence: whoever
        takes it for one would leave the family out for as long as the daemon lives.
        """
        if self._family is IPFamily.IPV6 and not _has_ipv6():
            return False
        try:
            await run((self._program, *self._wait, "-t", "nat", "-S", "POSTROUTING"), deadline=self._deadline)
        except ProgramFailed as failure:
            failed = explain_failure(failure.command, failure.status, failure.stderr)
            if isinstance(failed, XtablesLocked | NotPermitted):
                raise failed from None
            return isinstance(failed, UnreadableTable)
        except ProgramMissing:
            return False
        return True

    async def probe(self) -> Capabilities:
        return await probe.try_everything(self)

    def _is_absent(self, table: str) -> bool:
        """Has a legacy table never been used here? Listing it would create it, and nft tools would then warn of it."""
        return self._variant is IptablesVariant.LEGACY and table not in legacy_tables(self._family)


def _decoded(text: bytes) -> list[str]:
    """Its lines. A comment of somebody else may hold any byte but a newline, a carriage return among them."""
    return text.decode(errors="replace").split("\n")


def program_prefix(family: IPFamily, variant: IptablesVariant) -> str:
    """``iptables-nft`` and the like where installed, else plain ``iptables``, which then must be of that variant."""
    plain = "iptables" if family is IPFamily.IPV4 else "ip6tables"
    explicit = f"{plain}-{variant.value}"
    return explicit if find_program(f"{explicit}-restore") else plain


def parse_version(text: str) -> tuple[int, ...]:
    """``iptables v1.8.9 (nf_tables)`` → (1, 8, 9); () when there is none."""
    found = _VERSION.search(text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def explain_failure(command: tuple[str, ...], status: int, stderr: str) -> KernelError:
    """The typed error for what an iptables program said."""
    said = " ".join(stderr.split())
    if "xtables lock" in said or (status == _RESOURCE_PROBLEM and "temporarily unavailable" in said):
        return XtablesLocked(
            f"{command[0]}: another program is changing the rules ({said[:200]}); "
            "kproxy tries again; if it persists, look for the holder with `fuser -v /run/xtables.lock`"
        )
    if "you must be root" in said or "ermission denied" in said or "not permitted" in said:
        return _not_permitted(command, said)
    if "initialize" in said and "table" in said and not _has_net_admin():
        return _not_permitted(command, said)  # the legacy program does not say why it cannot
    if "arsing nftables rule failed" in said:  # somebody wrote with nft into a table that is iptables'
        return UnreadableTable(command, status, stderr)
    if command[0].endswith("-restore"):
        line = _LINE.search(stderr)
        return RestoreRefused(command, status, stderr, line=int(line[1]) if line else 0)
    return ProgramFailed(command, status, stderr)


def _not_permitted(command: tuple[str, ...], said: str) -> NotPermitted:
    return NotPermitted(f"{command[0]}: {said[:200]}; run kproxy as root or give it CAP_NET_ADMIN and CAP_NET_RAW")


def _has_net_admin() -> bool:
    try:
        status = Path("/proc/thread-self/status").read_text(encoding="ascii")
    except OSError:
        return True
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is None or bool(int(effective[1], 16) >> _CAP_NET_ADMIN & 1)


def _has_ipv6() -> bool:
    """Spec: runtime.md 3."""
    if not Path("/proc/net/if_inet6").exists():
        return False
    try:
        disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text(encoding="ascii")
    except OSError:
        return True
    return disabled.strip() != "1"


class _WholeLines:
    """Cuts a stream at line ends, so that a parser never sees half a rule."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._rest = b""

    def __call__(self, piece: bytes) -> None:
        cut = piece.rfind(b"\n") + 1
        if cut == 0:
            self._rest += piece
            return
        self._sink(self._rest + piece[:cut])
        self._rest = piece[cut:]

    def end(self) -> None:
        if self._rest:
            self._sink(self._rest)
