"""The request that sets a default timeout. What the kernel makes of it: tests/netns/test_kernel_timeouts.py."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from kproxy.errors import KernelError, NotPermitted
from kproxy.kernel import netlink
from kproxy.kernel.timeouts import LONGEST, TCP_CLOSE_WAIT, TCP_ESTABLISHED, UDP, UDP_STREAM, Timeouts, body

Ask = Callable[..., list[bytes]]


@pytest.mark.parametrize(
    ("name", "protocol", "timeout"),
    [(TCP_ESTABLISHED, 6, 3), (TCP_CLOSE_WAIT, 6, 5), (UDP, 17, 1), (UDP_STREAM, 17, 2)],
)
def test_a_request_names_one_timeout_of_one_protocol(name: str, protocol: int, timeout: int) -> None:
    packed = body(name, 0x01020304)
    outer = {number: packed[first:last] for number, first, last in netlink.attributes(packed, 0, len(packed))}
    assert outer == {2: b"\0\2", 3: bytes([protocol]), 4: outer[4]}
    (inner,) = netlink.attributes(outer[4], 0, len(outer[4]))
    assert (inner[0], outer[4][inner[1] : inner[2]]) == (timeout, b"\1\2\3\4")
    assert len(packed) % 4 == 0


def _answer(monkeypatch: pytest.MonkeyPatch, number: int) -> list[tuple[object, ...]]:
    asked: list[tuple[object, ...]] = []

    def ask(_: netlink.NetfilterSocket, *request: object) -> list[bytes]:
        asked.append(request)
        if number:
            raise netlink.failure(number, "set it")
        return []

    monkeypatch.setattr(netlink.NetfilterSocket, "ask", ask)
    return asked


def test_it_is_sent_to_the_subsystem_of_timeouts_and_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answer(monkeypatch, 0)
    Timeouts().set_to(UDP, 0)
    Timeouts().set_to(UDP, LONGEST)
    assert [request[:2] for request in asked] == [(0x803, netlink.ACK)] * 2
    assert [request[3] for request in asked] == [body(UDP, 0), body(UDP, LONGEST)]
    assert asked[0][4] == "set nf_conntrack_udp_timeout"


@pytest.mark.parametrize("seconds", [-1, LONGEST + 1, 50 * 86400, 2**32])
def test_what_the_kernel_would_count_wrongly_is_not_sent(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    asked = _answer(monkeypatch, 0)
    with pytest.raises(KernelError, match=f"{seconds} s"):
        Timeouts().set_to(TCP_ESTABLISHED, seconds)
    assert asked == []


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.EINVAL, KernelError, "CONFIG_NF_CT_NETLINK_TIMEOUT"),
        (errno.EOPNOTSUPP, KernelError, "set it: Operation not supported"),
        (errno.EPERM, NotPermitted, "CAP_NET_ADMIN"),
    ],
)
def test_a_refusal_is_typed_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[KernelError], says: str
) -> None:
    _answer(monkeypatch, number)
    with pytest.raises(kind, match=says):
        Timeouts().set_to(TCP_CLOSE_WAIT, 3600)
