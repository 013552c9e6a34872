"""Addresses as clusters spell them. What is done with an address that is none: test_convert_*.py."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model.enums import IPFamily, family_of
from kproxy.source.address import is_reserved, parse_cidr, parse_ip


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.96.0.1", "10.96.0.1"),
        ("172.30.0.041", "172.30.0.41"),
        ("0172.030.000.0000041", "172.30.0.41"),
        ("FD00:0::0001", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::10.0.0.1", "::a00:1"),
        ("::", "::"),
    ],
)
def test_an_address_becomes_canonical(text: str, canonical: str) -> None:
    assert parse_ip(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.2.3", "1.2.3.4.5", "256.0.0.1", "1.2.3.0400", "fe80::1%eth0", "10.0.0.1\n", " 10.0.0.1", "1.2.3.4\0",
     "\u0661.2.3.4", "1." + "0" * 500 + ".3.4", "-1.2.3.4", "0x1.2.3.4", ":::"],
)  # fmt: skip
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_ip(text) is None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.000/025", "203.0.113.0/25"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00::1/64", "fd00::/64"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
    ],
)
def test_a_cidr_becomes_canonical_and_masked(text: str, canonical: str) -> None:
    assert parse_cidr(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "/8", "10.0.0.0/\u0668",
     "::ffff:10.0.0.0/8", "10.0.0.0/" + "0" * 200],
)  # fmt: skip
def test_what_is_no_cidr_is_none(text: str) -> None:
    assert parse_cidr(text) is None


@given(st.ip_addresses())
def test_canonical_text_is_what_ipaddress_prints_and_stays(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(ip, "ipv4_mapped", None)
    assert parse_ip(ip.exploded) == str(mapped or ip)
    assert parse_ip(str(mapped or ip)) == str(mapped or ip)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    parse_ip(text)
    parse_cidr(text)


def test_the_family_is_told_by_the_colon() -> None:
    assert family_of("10.0.0.1") is IPFamily.IPV4
    assert family_of("fd00::/64") is IPFamily.IPV6


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "169.254.169.254", "224.0.0.1", "239.1.2.3", "::1", "fe80::1", "febf::1", "ff02::1"]
)
def test_what_means_something_else_on_each_node_is_reserved(ip: str) -> None:
    assert is_reserved(ip)


@pytest.mark.parametrize("ip", ["12.7.0.1", "169.25.4.1", "240.0.0.1", "fe8::1", "ff::1", "fec0::1", "fd00::1", "::2"])
def test_what_looks_similar_is_not(ip: str) -> None:
    assert not is_reserved(ip)
