"""Other addresses, names and hashes: what they keep of the old ones, and that nothing leads back."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.explain.show.aliases import _RANGES, Aliases, is_kept, read_address

secrets = st.binary(min_size=16, max_size=16)
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6, network="2000::/3") | st.ip_addresses(v=6, network="fd00::/8")


def shared(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> int:
    """The length of the longest network that both are in."""
    return one.max_prefixlen - (int(one) ^ int(other)).bit_length()


@given(secrets, st.one_of(st.tuples(v4, v4), st.tuples(v6, v6)))
def test_addresses_share_as_much_as_before(secret: bytes, pair: tuple[IPv4Address, IPv4Address]) -> None:
    aliases = Aliases(secret)
    one, other = map(aliases.address, pair)
    assert shared(one, other) == shared(*pair)
    assert one.version == pair[0].version


@given(secrets, v4, st.integers(1, 32))
def test_an_address_stays_in_its_network(secret: bytes, address: IPv4Address, length: int) -> None:
    aliases = Aliases(secret)
    network = ip_network(f"{address}/{length}", strict=False)
    if is_kept(network.network_address) != is_kept(address):
        return  # a network around everything special, such as 0.0.0.0/1
    other = ip_network(f"{aliases.address(network.network_address, length)}/{length}")
    assert aliases.address(address) in other


@pytest.mark.parametrize(
    "network",
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fd00::/8", "fc00::/8", "fe80::/10", "2000::/3"],
)
@given(secrets, st.data())
def test_private_stays_private_and_public_public(network: str, secret: bytes, data: st.DataObject) -> None:
    inside = ip_network(network)
    address = data.draw(st.ip_addresses(network=network))
    assert Aliases(secret).address(address) in inside


@given(secrets, v4)
def test_nothing_comes_into_a_special_range(secret: bytes, address: IPv4Address) -> None:
    def special(one: IPv4Address | IPv6Address) -> list[bool]:
        return [each.version == 4 and one in each for each in _RANGES]

    assert special(Aliases(secret).address(address)) == special(address)


@given(secrets)
def test_what_is_the_same_everywhere_stays(secret: bytes) -> None:
    aliases = Aliases(secret)
    for text in ("0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.240.0", "::", "::1", "ff02::1"):
        assert str(aliases.address(ip_address(text))) == text


def test_another_secret_makes_other_aliases() -> None:
    address = ip_address("10.244.1.7")
    one, same, other = Aliases(b"a" * 16), Aliases(b"a" * 16), Aliases(b"b" * 16)
    assert one.address(address) == same.address(address) != other.address(address)
    assert one.hash("LOLE4ISW44XBNF3G") == same.hash("LOLE4ISW44XBNF3G") != other.hash("LOLE4ISW44XBNF3G")


@given(secrets, st.sets(st.ip_addresses(v=4, network="10.244.0.0/16"), min_size=1, max_size=200))
def test_no_alias_is_an_address_that_was_there(secret: bytes, addresses: set[IPv4Address]) -> None:
    aliases = Aliases(secret)
    aliases.meet(addresses)
    assert not addresses & set(map(aliases.address, addresses))


def test_addresses_so_dense_that_aliases_must_meet_them_end_all_the_same() -> None:
    addresses = {ip_address(f"192.168.{third}.{fourth}") for third in range(256) for fourth in range(0, 256, 16)}
    aliases = Aliases(b"x" * 16)
    aliases.meet(addresses)
    assert len(set(map(aliases.address, addresses))) == len(addresses)


def test_names_are_numbered_by_kind_and_kept() -> None:
    aliases = Aliases(b"x" * 16)
    assert [aliases.name("a", "pod"), aliases.name("b", "pod"), aliases.name("c")] == ["pod-1", "pod-2", "word-1"]
    assert aliases.name("a", "node") == "pod-1"
    assert aliases.knows("a")
    assert not aliases.knows("pod-1")


def test_hashes_keep_their_letters() -> None:
    aliases = Aliases(b"x" * 16)
    assert re.fullmatch("[A-Z2-7]{16}", aliases.hash("LOLE4ISW44XBNF3G"))
    assert re.fullmatch("[A-Z2-7]{5}", aliases.hash("ABCDE"))
    assert re.fullmatch("[0-9A-F]{4}", aliases.digits("FD00"))


def test_what_is_no_address() -> None:
    assert read_address("10.0.0.256") is None
    assert read_address("10:20:30") is None
