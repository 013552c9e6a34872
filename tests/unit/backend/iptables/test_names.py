"""Names of chains: kube-proxy's where it has them, and what is safe where it has none."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.iptables import names
from kproxy.backend.iptables.rules import Table
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Pool, Target

WEB = ServicePortKey("ns1", "svc1", "p80", Protocol.TCP)
SAFE = re.compile(r"[A-Za-z_.][A-Za-z0-9/_.-]*")  # what nft reads back as one word


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (WEB, "XPGD46QRK7WJZT7O"),
        (ServicePortKey("default", "kubernetes", "https", Protocol.TCP), "NPX46M4PTMTKRN6Y"),
        (ServicePortKey("kube-system", "kube-dns", "dns", Protocol.UDP), "TCOU7JCQXEZGVUNU"),
        (ServicePortKey("ns5", "svc5", "", Protocol.TCP), "AKFUVGUFFVMIM5BS"),
    ],
)
def test_a_service_port_has_kube_proxys_hash(key: ServicePortKey, expected: str) -> None:
    assert names.service_hash(key) == expected


@pytest.mark.parametrize(
    ("ip", "port", "expected"),
    [("10.180.0.1", 80, "SXIVWICOYRO3J4NJ"), ("fd00:10::1", 8080, "2YRJFLCBJYQOU77L")],
)
def test_an_endpoint_has_kube_proxys_hash(ip: str, port: int, expected: str) -> None:
    assert names.endpoint_chain(WEB, Target(ip, port, local=True)) == f"KUBE-SEP-{expected}"


def test_an_ipv4_network_is_readable() -> None:
    assert names.address_chain("KUBE-SVC-", IPFamily.IPV4, 0x0A600140, 26) == "KUBE-SVC-10.96.1.64/26"


def test_an_ipv6_network_shows_the_digits_where_it_ends() -> None:
    network = int(IPv6Address("fd00:10:96::1:140"))
    name = names.address_chain("KUBE-SVC-", IPFamily.IPV6, network, 122)
    assert name.startswith("KUBE-SVC-0001.0140/122-")


def test_two_ipv6_networks_that_end_alike_have_different_names() -> None:
    ends = (int(IPv6Address(f"{start}::1:140")) for start in ("fd00", "fd01"))
    assert len({names.address_chain("KUBE-SVC-", IPFamily.IPV6, end, 122) for end in ends}) == 2


PREFIXES = st.sampled_from(
    (names.NAT_BRANCH, names.REJECT_BRANCH, names.EXTERNAL_BRANCH, names.FIREWALL_BRANCH, names.HEALTH_BRANCH)
)
PORTS = st.integers(0, 65535)


@given(PREFIXES, st.sampled_from(IPFamily), st.integers(0, (1 << 128) - 1), st.integers(1, 128), PORTS, PORTS)
def test_a_branchs_name_fits_and_is_one_word_to_nft(
    prefix: str, family: IPFamily, address: int, length: int, low: int, high: int
) -> None:
    number = address & ((1 << family.bits) - 1)
    for name in (
        names.address_chain(prefix, family, number, length % (family.bits + 1)),
        names.node_port_chain(prefix, Protocol.SCTP, low, high),
        names.port_chain(prefix, number, Protocol.SCTP, low, high),
    ):
        assert len(name) <= names.LONGEST
        assert SAFE.fullmatch(name)


def test_all_parts_of_a_service_have_names_of_their_own_that_fit() -> None:
    chain = names.pool_chain(Pool.LOCAL, names.service_hash(WEB))
    parts = {names.part_chain(chain, number) for number in range(names.MOST_PARTS)}
    assert len(parts) == names.MOST_PARTS
    assert max(map(len, parts)) == names.LONGEST


def test_every_branch_of_a_nat_tree_is_one_that_kube_proxy_would_delete() -> None:
    assert names.NAT_BRANCH in names.PREFIXES[Table.NAT]


@pytest.mark.parametrize(
    ("table", "chain"),
    [
        (Table.NAT, "KUBE-HOSTPORTS"),
        (Table.NAT, "KUBE-KUBELET-CANARY"),
        (Table.FILTER, "KUBE-FIREWALL"),
        (Table.FILTER, "KUBE-SVC-X"),
        (Table.MANGLE, "KUBE-SERVICES"),
        (Table.NAT, "DOCKER"),
    ],
)
def test_chains_of_others_are_not_ours(table: Table, chain: str) -> None:
    assert not names.is_ours(table, chain)


def test_chains_of_fixed_name_are_ours_but_never_stale() -> None:
    for table, fixed in names.FIXED.items():
        assert all(names.is_ours(table, chain) and not names.is_perishable(table, chain) for chain in fixed)
