"""The chains that every node has; that they equal kube-proxy's is in test_compile.py."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.dialect import Fixtures
from kproxy.backend.iptables.fixed import entries, fixed_chains, node_port_tail, relay_guard, relay_pass, unserved
from kproxy.backend.iptables.rules import Table
from kproxy.backend.iptables.text import render_rule
from kproxy.model.enums import IPFamily
from kproxy.plan.plan import NodePorts

V4 = Fixtures(IPFamily.IPV4, 1 << 14, NodePorts(localhost=True))
V6 = Fixtures(IPFamily.IPV6, 1 << 14, NodePorts())


def tail(fixtures: Fixtures) -> list[str]:
    prefix = "-A KUBE-SERVICES "
    comment = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" '
    lines = (render_rule(names.SERVICES, rule) for rule in node_port_tail(fixtures))
    return [line.removeprefix(prefix).replace(comment, "") for line in lines]


@pytest.mark.parametrize(
    ("fixtures", "expected"),
    [
        (V4, ["-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"]),
        (
            replace(V4, node_ports=NodePorts()),
            ["! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"],
        ),
        (V6, ["! -d ::1/128 -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"]),
        (
            replace(V4, node_ports=NodePorts(addresses=("10.0.0.1", "10.0.0.2"))),
            ["-d 10.0.0.1/32 -j KUBE-NODEPORTS", "-d 10.0.0.2/32 -j KUBE-NODEPORTS"],
        ),
        (replace(V4, node_ports=NodePorts(addresses=())), []),
    ],
)
def test_node_ports_listen_where_the_plan_says(fixtures: Fixtures, expected: list[str]) -> None:
    assert tail(fixtures) == expected


@pytest.mark.parametrize(("fixtures", "ip"), [(V4, "169.254.73.80/32"), (V6, "fd6b::1/128")])
def test_the_relay_is_for_those_alone_whom_a_services_rules_led_there(fixtures: Fixtures, ip: str) -> None:
    assert relay_guard(fixtures) == ()
    (rule,) = relay_guard(replace(fixtures, relay_ip=ip.split("/", maxsplit=1)[0]))
    assert render_rule(names.PROXY_FIREWALL, rule) == (
        f"-A KUBE-PROXY-FIREWALL -d {ip} "
        '-m comment --comment "traffic to the relay that came by no service will be dropped" '
        "-m conntrack ! --ctstate DNAT -j DROP"
    )


@pytest.mark.parametrize(
    ("fixtures", "cidr", "kind"),
    [(V4, "10.96.0.0/16", "icmp-port-unreachable"), (V6, "fd00:10:96::/108", "icmp6-port-unreachable")],
)
def test_a_service_address_at_which_nothing_was_translated_is_refused(fixtures: Fixtures, cidr: str, kind: str) -> None:
    assert unserved(fixtures) == ()
    (rule,) = unserved(replace(fixtures, service_cidrs=(cidr,)))
    assert render_rule(names.SERVICES, rule) == (
        f'-A KUBE-SERVICES -d {cidr} -m comment --comment "no service answers at this address and port" '
        f"-m conntrack ! --ctstate DNAT -j REJECT --reject-with {kind}"
    )


def test_what_the_relay_sends_is_led_to_it_no_second_time() -> None:
    assert relay_pass(V4) == ()
    (rule,) = relay_pass(replace(V4, relay_ip="169.254.73.80"))
    assert render_rule(names.SERVICES, rule) == (
        '-A KUBE-SERVICES -m comment --comment "traffic of the relay is translated no second time" '
        "-m mark --mark 0x2000/0x2000 -j RETURN"
    )


def forward(fixtures: Fixtures) -> list[str]:
    (chain,) = (each for each in fixed_chains(fixtures) if each.name == names.FORWARD)
    return [render_rule(chain.name, rule) for rule in chain.rules]


def test_packets_that_conntrack_cannot_place_are_dropped_unless_it_is_liberal() -> None:
    assert forward(V4)[0] == "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    assert forward(replace(V4, drop_invalid=False)) == forward(V4)[1:]


def test_dropped_packets_are_counted_where_there_is_a_counter() -> None:
    counted = forward(replace(V4, invalid_counter=True))[0]
    assert "-m nfacct --nfacct-name ct_state_invalid_dropped_pkts" in counted


def test_the_mark_is_the_one_that_is_configured() -> None:
    text = "\n".join(
        render_rule(chain.name, rule) for chain in fixed_chains(replace(V4, mark=4)) for rule in chain.rules
    )
    assert "0x4000" not in text
    assert "--set-xmark 0x4/0x4" in text
    assert "! --mark 0x4/0x4" in text


def test_masquerading_keeps_ports_where_random_ones_are_not_to_be_had() -> None:
    (chain,) = (each for each in fixed_chains(replace(V4, random_fully=False)) if each.name == names.POSTROUTING)
    assert render_rule(chain.name, chain.rules[-1]).endswith("-j MASQUERADE")


@pytest.mark.parametrize(
    ("fixtures", "guarded"), [(V4, True), (V6, False), (replace(V4, node_ports=NodePorts()), False)]
)
def test_loopback_is_guarded_where_node_ports_open_it(fixtures: Fixtures, guarded: bool) -> None:
    assert any(entry.hook == names.FIREWALL for entry in entries(fixtures)) is guarded


def test_every_table_has_its_canary() -> None:
    assert {chain.table for chain in fixed_chains(V4) if chain.name == names.CANARY} == set(Table)


@pytest.mark.parametrize(("fixtures", "network"), [(V4, "169.254.73.128/26"), (V6, "fd6b::/112")])
def test_nothing_leaves_the_node_as_from_where_the_relay_speaks_for_clients(fixtures: Fixtures, network: str) -> None:
    def exits(fixtures: Fixtures) -> list[str]:
        (chain,) = (each for each in fixed_chains(fixtures) if each.name == names.POSTROUTING)
        return [render_rule(chain.name, rule) for rule in chain.rules]

    first = (
        f"-A KUBE-POSTROUTING -s {network} "
        '-m comment --comment "traffic of the relay for a client that conntrack has forgotten" '
        "-j MASQUERADE --random-fully"
    )
    assert exits(replace(fixtures, relay_sources=network)) == [first, *exits(fixtures)]
