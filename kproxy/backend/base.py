"""What a proxy mode offers: compile a plan, and make the kernel agree with the result."""

from __future__ import annotations

from typing import Protocol, TypeVar

from msgspec import Struct

from kproxy.model.flow import Destination
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Plan

R = TypeVar("R")


class Quarantined(Struct, frozen=True):
    """A service port that the kernel refuses; everybody else is programmed without it."""

    key: ServicePortKey
    why: str  # what the program said


class Unread(Struct, frozen=True):
    """A table that could not be read; it was programmed without comparing."""

    table: str
    why: str  # what the program said


class SyncReport(Struct, frozen=True):
    """What one round did to the kernel; the daemon turns it into metrics, events and log lines."""

    full: bool  # the kernel's state was read and compared, not remembered
    rules_total: dict[str, int]  # by table: rules of ours after this round
    rules_written: dict[str, int]  # by table: rules in this round's transactions
    chains_written: int = 0
    chains_deleted: int = 0
    transactions: int = 0
    refused: int = 0  # transactions that failed on the way
    became_full: bool = False  # it began from memory, and that failed
    quarantined: tuple[Quarantined, ...] = ()
    input_bytes: int = 0
    unread: tuple[Unread, ...] = ()  # when the kernel was read last
    orphans: tuple[Destination, ...] = ()  # the kernel sent their datagrams somewhere, and no wanted rule does
    rewritten: bool = False  # it served, with chains of ours that are not as we left them, and nothing was to change


class Backend(Protocol[R]):
    """One proxy mode for one IP family."""

    def compile(self, plan: Plan, previous: R | None) -> R:
        """Pure; parts whose plan did not change are the same objects as in ``previous``."""
        ...

    async def apply(self, rules: R, *, full: bool = False) -> SyncReport:
        """Make the kernel hold ``rules``. ``full``: do not trust memory, read the kernel first.

        Raises KernelError when nothing could be written; what was in the kernel before is still there.
        """
        ...

    async def is_entered(self, table: str) -> bool:
        """A cheap look: do packets still find the way from this table's built-in chains into ours?"""
        ...
