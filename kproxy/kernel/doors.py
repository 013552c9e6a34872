"""The doors to the machine: what the rest of the program may ask of the kernel, and the values that pass through.

Backends and the daemon depend on these protocols only. Behind each stands a real door (iptables.py, conntrack.py,
accounting.py, nfacct.py, sysctl.py, timeouts.py, address.py, monitor.py) and a twin over memory (fake.py) that refuses
what the kernel refuses.
Rejected: letting callers depend on the concrete classes and patching those in tests; a patched method agrees to
everything, and that is how a jump to a missing chain reaches a node.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from kproxy.config import IptablesVariant
from kproxy.model import enums
from kproxy.model.enums import IPFamily
from kproxy.model.flow import Destination, Flow, Traffic

# What a program reads from standard input. Chunks are written as they come and never joined: at 10,000 services of
# 10 endpoints the text is 33 MB.
Chunks = bytes | Iterable[bytes] | AsyncIterable[bytes]
Sink = Callable[[bytes], object]


class Completed(Struct, frozen=True):
    """A program that ended."""

    status: int
    stdout: bytes  # empty when it went to a sink
    stderr: str  # its first kilobytes
    pid: int
    seconds: float  # wall clock
    cpu_seconds: float  # user and system
    peak_rss: int  # bytes


class Verdict(Struct, frozen=True):
    """Which iptables this node uses, and the reason for the log."""

    variant: IptablesVariant  # never AUTO
    why: str


class Capabilities(Struct, frozen=True):
    """What this kernel and these programs can do for one family; found out by trying, once, at start."""

    comment: bool = True
    addrtype: bool = True
    conntrack: bool = True
    statistic: bool = True
    recent: bool = True
    sctp: bool = True
    nfacct: bool = True
    random_fully: bool = True  # MASQUERADE --random-fully
    missing: tuple[tuple[str, str], ...] = ()  # (field name above, what the program said), for the log


class TableState(Struct, frozen=True):
    """A legacy table measured from outside: changes whenever somebody commits another number or size of rules."""

    entries: int  # rules, policies and chain heads together
    size: int  # bytes
    hooks: tuple[int, ...]  # where each base chain begins and ends: tells an edit of base chains from one elsewhere


class Flush(Struct, frozen=True):
    """Another program removed something that may be ours; the receiver reads the kernel and repairs."""

    family: IPFamily | None  # None: cannot tell, check both
    table: str  # "" when it cannot be told
    why: str  # for the log: who, what
    # Only rules of built-in chains went: a firewall's, a container's, or our way in. A look at those chains tells.
    is_certain: bool = True


class FlowQuery(Struct, frozen=True):
    """Which flows are wanted; an empty or 0 field matches anything.

    ``keep`` holds endpoints (address, port): flows answered by one of them are left out. With it a query says "all
    flows to this frontend that go somewhere else than to a serving endpoint", and a healthy table returns nothing.
    """

    protocol: enums.Protocol
    destination: str = ""  # original direction: what the client dialled
    port: int = 0
    reply_source: str = ""  # the endpoint
    reply_port: int = 0
    keep: frozenset[tuple[str, int]] = frozenset()


class SysctlOutcome(Struct, frozen=True):
    """What became of one wish; ``why`` is empty when it was fulfilled."""

    name: str
    before: int | None  # None: could not be read
    wanted: int
    after: int | None
    why: str = ""
    # The file is not there or must not be written, which says nothing of the number: another way may be open.
    refused: bool = False
    by_netlink: bool = False

    @property
    def changed(self) -> bool:
        return self.before != self.after


class Address(Struct, frozen=True):
    """An address of one of this node's interfaces, in canonical text."""

    ip: str
    interface: int  # index
    loopback: bool


class IptablesDoor(Protocol):
    """iptables of one family and one variant. Errors: KernelError and its subclasses."""

    @property
    def family(self) -> IPFamily: ...

    @property
    def variant(self) -> IptablesVariant: ...

    async def restore(self, chunks: Chunks) -> Completed:
        """Run ``iptables-restore --noflush --counters``; each table is atomic, earlier tables stay done.

        Raises RestoreRefused, XtablesLocked, NotPermitted, ProgramTimeout, ProgramMissing.
        """
        ...

    async def restore_test(self, chunks: Chunks) -> None:
        """As restore, but nothing is committed. Checks syntax only: the kernel is not asked."""
        ...

    async def save(self, table: str, sink: Sink | None = None) -> bytes:
        """The table as iptables-save prints it. With ``sink``: given to it in pieces of whole lines, returns b""."""
        ...

    async def chains(self, table: str) -> frozenset[str]:
        """The names of all chains of the table, base chains included."""
        ...

    async def rules(self, table: str, chains: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The rules ("-A ...", as iptables-save prints them) of some chains; a chain that is absent is left out."""
        ...

    async def has_rule(self, table: str, rule: str) -> bool:
        """Is this rule ("-A CHAIN ...", as iptables-save prints it) there? Says no where it cannot be told.

        Works also where another rule of the table makes ``save`` fail. Not for rules with ports: ip6tables-legacy takes
        one for another there (1.8.9).
        """
        ...

    async def version(self) -> tuple[int, ...]: ...

    async def is_present(self) -> bool:
        """Can this family be programmed here? Says no to a missing program, kernel support or permission."""
        ...

    async def probe(self) -> Capabilities:
        """Try every optional match in a scratch chain that nothing jumps to; never fails as a whole."""
        ...


class ConntrackDoor(Protocol):
    """The node's conntrack table, one family."""

    @property
    def family(self) -> IPFamily: ...

    async def dump(self, queries: Sequence[FlowQuery]) -> list[Flow]:
        """Every flow that matches any of the queries, each once. Raises KernelError."""
        ...

    async def delete(self, flows: Iterable[Flow]) -> int:
        """Forget exactly these flows; returns how many were still there. Raises KernelError."""
        ...

    def count(self) -> int:
        """Entries of both families and all protocols."""
        ...


class AccountingDoor(Protocol):
    """What flows carried whose destination a rule rewrote, both families. Errors: KernelError."""

    def open(self) -> None:
        """Flows that end are told from here on."""
        ...

    def close(self) -> None: ...

    @property
    def lost(self) -> int:
        """How many flows ended without being told, because nobody read fast enough."""
        ...

    async def wait(self) -> None:
        """Until a flow has ended that was not told yet."""
        ...

    def ended(self, limit: int) -> tuple[int, dict[Destination, Traffic]]:
        """What flows carried that ended since it was asked last: how many were read, and their sums.

        Fewer than ``limit`` read: there are no more.
        """
        ...

    async def living(self) -> dict[Destination, Traffic]:
        """What the flows in the table have carried so far."""
        ...


class NfacctDoor(Protocol):
    """Named packet counters that rules may refer to (-m nfacct)."""

    def ensure(self, name: str) -> None:
        """Make the counter unless it exists. Raises KernelError."""
        ...

    def read(self, name: str) -> tuple[int, int] | None:
        """(packets, bytes), or None when there is no such counter. Raises KernelError."""
        ...

    def delete(self, name: str) -> None:
        """Remove the counter; no error when it is absent. Raises KernelError."""
        ...


class SysctlDoor(Protocol):
    """Numbers under /proc/sys, named with slashes (net/ipv4/conf/all/route_localnet), or by an absolute path."""

    def read(self, name: str) -> int | None:
        """The number, or None when it is absent or cannot be read."""
        ...

    def set_to(self, name: str, value: int) -> SysctlOutcome:
        """Write the number unless it is there already; never raises."""
        ...

    def raise_to(self, name: str, value: int) -> SysctlOutcome:
        """Write the number unless there is as large a one already; never raises."""
        ...


class TimeoutDoor(Protocol):
    """Conntrack's default timeouts, named as their sysctls."""

    def set_to(self, name: str, seconds: int) -> None:
        """The sysctl shows it then. Raises KernelError."""
        ...


class AddressDoor(Protocol):
    """The addresses of this node's interfaces."""

    async def list(self, family: IPFamily) -> tuple[Address, ...]:
        """All addresses of the family, sorted. Raises KernelError."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Something changed: list again. Changes that come close together are one."""
        ...

    async def claim(self, ip: str) -> bool:
        """Have ``ip`` on this node; False: it was there. Raises KernelError."""
        ...

    async def release(self, ip: str) -> bool:
        """Remove what ``claim`` added; False: it was not there. Raises KernelError."""
        ...

    async def claim_network(self, cidr: str) -> bool:
        """Have all addresses of ``cidr`` on this node, unseen; False: it had them. Raises KernelError."""
        ...

    async def release_network(self, cidr: str) -> bool:
        """Remove what ``claim_network`` added; False: it was not there. Raises KernelError."""
        ...


class FlushDoor(Protocol):
    """Tells when another program removes rules."""

    def flushes(self) -> AsyncIterator[Flush]: ...
