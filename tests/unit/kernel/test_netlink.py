"""Messages packed and walked; answers of the real kernel are in tests/netns."""

from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import NotPermitted
from kproxy.kernel import netlink


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40))))
def test_walking_undoes_packing(fields: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(number, value) for number, value in fields)
    assert len(data) % 4 == 0
    walked = [(number, data[first:last]) for number, first, last in netlink.attributes(data, 0, len(data))]
    assert walked == fields


@given(st.lists(st.binary(max_size=30).map(lambda body: body + bytes(-len(body) % 4)), min_size=1))
def test_a_buffer_is_split_into_its_messages(bodies: list[bytes]) -> None:
    messages = [netlink.message(1, 0, 2, body) for body in bodies]
    assert list(netlink.split(b"".join(messages))) == messages


@given(st.binary(max_size=64))
def test_garbage_ends_the_walk(data: bytes) -> None:
    assert all(last <= len(data) for _, _, last in netlink.attributes(data, 0, len(data)))
    list(netlink.split(data))


def test_refusals_are_typed() -> None:
    assert isinstance(netlink.failure(errno.EPERM, "x"), NotPermitted)
    other = netlink.failure(errno.ENOENT, "read y")
    assert isinstance(other, netlink.NetlinkError)
    assert (other.errno, str(other)) == (errno.ENOENT, "read y: No such file or directory")


def test_text_ends_at_its_zero() -> None:
    assert netlink.text(b"nat\0") == "nat"
    assert netlink.text(None) == ""
    assert netlink.find(netlink.attribute(3, b"x"), 0, 8, 4) is None
