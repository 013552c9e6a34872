"""What the trace rule's door says when the kernel refuses; all else needs a kernel (tests/netns/test_trace.py)."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Self

import pytest

from kproxy.errors import KernelError, NotPermitted
from kproxy.kernel import netlink
from kproxy.kernel.logger import _guard, _read, _write
from kproxy.kernel.netlink import attribute
from kproxy.kernel.trace_table import Selector, requests
from kproxy.kernel.tracing import TraceRule, TraceRunning
from kproxy.model.enums import IPFamily


class Socket:
    """A kernel that refuses changes, and has the tables that it is told to have."""

    refusal: KernelError
    tables: tuple[bytes, ...] = ()

    def __init__(self) -> None:
        self.raw = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def transact(self, *_: object) -> None:
        raise self.refusal

    def ask(self, *_: object) -> tuple[bytes, ...]:
        if not self.tables:
            raise netlink.failure(errno.ENOENT, "look for a trace")
        return self.tables


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> type[Socket]:
    monkeypatch.setattr(netlink, "NetfilterSocket", type("Kernel", (Socket,), {}))
    return netlink.NetfilterSocket  # type: ignore[return-value]


def enter() -> None:
    with TraceRule([Selector(IPFamily.IPV4)], rate=1, every=False):
        pass


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_that_cannot_tie_the_table_to_a_process_is_refused(kernel: type[Socket], number: int) -> None:
    kernel.refusal = netlink.failure(number, "make the trace rule")
    with pytest.raises(KernelError, match=r"Linux 5\.12.*use a newer kernel, or `kproxy explain live`"):
        enter()


def test_a_kernel_without_a_part_of_nf_tables_is_named(kernel: type[Socket]) -> None:
    kernel.refusal = netlink.failure(errno.ENOENT, "make the trace rule")
    with pytest.raises(KernelError, match="lacks a part of nf_tables"):
        enter()


def test_no_privilege_is_said_as_it_is(kernel: type[Socket]) -> None:
    kernel.refusal = netlink.failure(errno.EPERM, "make the trace rule")
    with pytest.raises(NotPermitted, match="run kproxy as root or give it CAP_NET_ADMIN"):
        enter()


@pytest.mark.parametrize(("known", "said"), [(True, r"already \(process 4711\): end"), (False, "already: end")])
def test_a_table_that_is_there_is_another_trace(kernel: type[Socket], known: bool, said: str) -> None:
    """The kernel says of a table that is another socket's no more than that it is not permitted."""
    kernel.refusal = netlink.failure(errno.EPERM, "make the trace rule")
    (_, _, _, body), *_ = requests([Selector(IPFamily.IPV4)], rate=1, every=False, process=4711)
    kernel.tables = (netlink.message(0, 0, 1, body if known else attribute(1, b"kproxy-trace\0")),)
    with pytest.raises(TraceRunning, match=said):
        enter()


async def test_the_guard_sets_the_logger_back(tmp_path: Path) -> None:
    path = tmp_path / "it's 2"
    path.write_text("nf_log_ipv4", encoding="ascii")
    async with _guard({path: "nf_log_ipv4"}, 5.0):
        _write(path, "nfnetlink_log")
    assert _read(path) == "nf_log_ipv4"


def test_a_logger_that_cannot_be_set_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="cannot be traced on this kernel"):
        _read(tmp_path / "none")
    with pytest.raises(KernelError, match="load the module nfnetlink_log"):
        _write(tmp_path / "none" / "2", "nfnetlink_log")
