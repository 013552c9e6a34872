"""What iptables programs say, turned into types. The programs themselves run in tests/netns/test_kernel_iptables.py."""

from __future__ import annotations

from unittest.mock import AsyncMock

import pytest

from kproxy.config import IptablesVariant
from kproxy.errors import (
    KernelError,
    NotPermitted,
    ProgramFailed,
    ProgramMissing,
    ProgramTimeout,
    RestoreRefused,
    Retry,
    XtablesLocked,
)
from kproxy.kernel import iptables
from kproxy.kernel.iptables import Iptables, _WholeLines, explain_failure, parse_version
from kproxy.model.enums import IPFamily

RESTORE = ("iptables-nft-restore", "-w", "5")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("iptables-restore: line 4 failed\n", 4),
        ("iptables-nft-restore: line 3 failed: No chain/target/match by that name.\n", 3),
        (
            "iptables-nft-restore v1.8.9 (nf_tables): \nline 12: RULE_APPEND failed (No such file): rule in chain X\n",
            12,
        ),
        ("v1.8.9 (legacy): Couldn't load match `x':No such file\n\nError occurred at line: 7\nTry `-h'\n", 7),
        ("something else\n", 0),
    ],
)
def test_the_refused_line_is_read(said: str, line: int) -> None:
    failure = explain_failure(RESTORE, 2, said)
    assert isinstance(failure, RestoreRefused)
    assert failure.line == line


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (4, "Another app is currently holding the xtables lock. Stopped waiting after 1s."),
        (4, "iptables-restore: Resource temporarily unavailable."),
    ],
)
def test_somebody_else_at_work_is_worth_another_try(status: int, said: str) -> None:
    failure = explain_failure(RESTORE, status, said)
    assert isinstance(failure, XtablesLocked)
    assert failure.retry is Retry.SOON


@pytest.mark.parametrize(
    "said",
    [
        "Could not fetch rule set generation id: Permission denied (you must be root)",
        "Fatal: can't open lock file /run/xtables.lock: Permission denied",
        "iptables v1.8.9: Operation not permitted",
    ],
)
def test_a_missing_permission_is_named(said: str) -> None:
    with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
        raise explain_failure(RESTORE, 4, said)


@pytest.mark.parametrize(("capable", "kind"), [(False, NotPermitted), (True, RestoreRefused)])
def test_legacy_does_not_say_why_so_our_own_capability_tells(
    monkeypatch: pytest.MonkeyPatch, capable: bool, kind: type[KernelError]
) -> None:
    monkeypatch.setattr(iptables, "_has_net_admin", lambda: capable)
    said = "iptables-restore: unable to initialize table 'nat'\nError occurred at line: 1"
    assert type(explain_failure(RESTORE, 2, said)) is kind


def test_a_table_that_iptables_cannot_read_is_named_with_a_remedy() -> None:
    said = "Error: unknown ipv4 meta key\niptables-nft-save v1.8.9 (nf_tables): Parsing nftables rule failed\nPerhaps"
    failure = explain_failure(("iptables-nft-save", "-t", "filter"), 3, said)
    assert "`iptables-nft-save -t filter`: the table holds rules that iptables cannot read" in str(failure)
    assert "a table of their own" in str(failure)


def test_other_programs_fail_plainly() -> None:
    assert type(explain_failure(("iptables",), 1, "No chain/target/match by that name.")) is ProgramFailed


def test_versions() -> None:
    assert parse_version("iptables v1.8.9 (nf_tables)\n") == (1, 8, 9)
    assert parse_version("?") == ()


def test_pieces_are_cut_at_line_ends() -> None:
    got: list[bytes] = []
    lines = _WholeLines(got.append)
    for piece in (b"a", b"b\nc", b"d\n", b"e"):
        lines(piece)
    lines.end()
    assert got == [b"ab\n", b"cd\n", b"e"]


def _door() -> Iptables:
    return Iptables(IPFamily.IPV4, IptablesVariant.NFT, wait=1, deadline=1, restore=1)


@pytest.mark.parametrize("error", [ProgramTimeout("slow"), KernelError("cannot be started")])
async def test_a_busy_machine_is_not_a_missing_family(monkeypatch: pytest.MonkeyPatch, error: KernelError) -> None:
    monkeypatch.setattr(iptables, "run", AsyncMock(side_effect=error))
    with pytest.raises(type(error)):
        await _door().is_present()


async def test_no_program_is_a_missing_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "run", AsyncMock(side_effect=ProgramMissing("install it")))
    assert not await _door().is_present()


@pytest.mark.parametrize("error", [XtablesLocked("held"), ProgramTimeout("slow")])
async def test_a_lock_or_a_busy_machine_is_not_a_missing_match(
    monkeypatch: pytest.MonkeyPatch, error: KernelError
) -> None:
    door = _door()
    monkeypatch.setattr(door, "restore", AsyncMock(side_effect=error))
    with pytest.raises(type(error)):
        await door.probe()
