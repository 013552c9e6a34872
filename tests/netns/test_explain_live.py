"""The rules and facts of a live host; that nothing of it is touched.

What dumps mean is in tests/unit/explain; how one conntrack table is read in test_kernel_conntrack.py.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kproxy.config import IptablesVariant
from kproxy.explain.answer import Question
from kproxy.explain.health.warnings import warn
from kproxy.explain.read import live
from kproxy.explain.read.objects import NOTHING
from kproxy.explain.services.survey import survey
from kproxy.kernel.legacy import legacy_tables
from kproxy.model.enums import IPFamily, Protocol
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root

RULES = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-LOLE4ISW44XBNF3G - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
-A OUTPUT -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p udp -m comment --comment "default/web cluster IP" -m udp --dport 80 \
-j KUBE-SVC-LOLE4ISW44XBNF3G
-A KUBE-SVC-LOLE4ISW44XBNF3G -m recent --name KUBE-SEP-AAAAAAAAAAAAAAAA --rcheck --seconds 60 --reap \
-j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-LOLE4ISW44XBNF3G -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p udp -m recent --name KUBE-SEP-AAAAAAAAAAAAAAAA --set -m udp \
-j DNAT --to-destination 10.244.0.1:8080
COMMIT
"""
RULES6 = RULES.replace("10.96.0.1/32", "fd00::1/128").replace("10.244.0.1:8080", "[fd00::a]:8080")
QUESTION = Question(source="", source_port=0, destination="10.96.0.1", port=80, protocol=Protocol.UDP, interface="")


def restore(where: Namespace, variant: IptablesVariant, rules: str = RULES, program: str = "iptables") -> None:
    where.run((f"{program}-{variant.value}-restore", "--noflush"), input=rules)


def send_one(source: str = "192.0.2.7", destination: str = "10.96.0.1") -> None:
    """A datagram to the Service, which ends in this namespace."""
    with socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 41000))
        sender.sendto(b"?", (destination, 80))


@pytest.fixture
def node(inside: Namespace) -> Namespace:
    inside.run(("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0"))
    inside.run(("ip", "link", "set", "far0", "up"))
    for address in ("192.0.2.7/24", "fd00:2::7/64"):
        inside.run(("ip", "address", "add", address, "dev", "eth0", *(("nodad",) if ":" in address else ())))
    inside.run(("ip", "link", "set", "eth0", "up"))
    inside.run(("ip", "route", "add", "default", "dev", "eth0"))
    inside.run(("ip", "-6", "route", "add", "default", "dev", "eth0"))
    return inside


@pytest.mark.parametrize("variant", [IptablesVariant.NFT, IptablesVariant.LEGACY])
def test_the_rules_of_the_variant_in_use_are_read_with_counters(node: Namespace, variant: IptablesVariant) -> None:
    restore(node, variant)
    restore(node, variant, RULES6, "ip6tables")
    send_one()
    dumps, _ = live.read_host()
    assert [(each.facts.family, each.facts.variant) for each in dumps] == [
        (IPFamily.IPV4, variant.value),
        (IPFamily.IPV6, variant.value),
    ]
    assert all(each.facts.counters for each in dumps)
    (service,) = survey(dumps[0]).services
    assert (service.name, service.frontends[0].packets) == ("default/web", 1)


def test_a_host_without_rules_has_no_dumps_and_gets_no_tables(node: Namespace) -> None:
    dumps, facts = live.read_host()
    assert dumps == ()
    assert [each.code for each in warn((), NOTHING, facts)] == ["no-proxy"]
    assert node.run(("nft", "list", "tables")).stdout == ""
    assert all(legacy_tables(family) == frozenset() for family in IPFamily)


def test_reading_one_variant_brings_no_tables_of_the_other(node: Namespace) -> None:
    restore(node, IptablesVariant.NFT)
    before = node.run(("nft", "list", "ruleset")).stdout
    live.read_host()
    assert legacy_tables(IPFamily.IPV4) == legacy_tables(IPFamily.IPV6) == frozenset()
    assert node.run(("nft", "list", "ruleset")).stdout == before


def test_reading_the_legacy_one_brings_no_further_table(node: Namespace) -> None:
    restore(node, IptablesVariant.LEGACY)
    live.read_host()
    assert legacy_tables(IPFamily.IPV4) == {"nat"}
    assert legacy_tables(IPFamily.IPV6) == frozenset()
    assert node.run(("nft", "list", "tables")).stdout == ""


def test_both_variants_are_read_and_warned_of(node: Namespace) -> None:
    restore(node, IptablesVariant.LEGACY)
    restore(node, IptablesVariant.NFT)
    dumps, facts = live.read_host()
    assert [each.facts.variant for each in dumps] == ["nft", "legacy"]
    codes = [each.code for each in warn([survey(each) for each in dumps], NOTHING, facts)]
    assert "rules-in-both-variants" in codes
    assert "legacy-tables-present" not in codes


@pytest.mark.usefixtures("node")
def test_addresses_and_settings_are_facts() -> None:
    Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("0", encoding="ascii")
    Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1", encoding="ascii")
    facts = live.read_facts()
    assert {"192.0.2.7", "fd00:2::7"} <= facts.addresses
    assert not facts.addresses & {"127.0.0.1", "::1"}
    assert facts.route_localnet == {"eth0"}
    liberal = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").read_text(encoding="ascii").strip()
    assert facts.be_liberal is (liberal == "1")


def test_a_client_that_came_is_remembered(node: Namespace) -> None:
    restore(node, IptablesVariant.NFT)
    assert live.remembered("192.0.2.7") == frozenset()
    send_one()
    dumps, _ = live.read_host()
    for given in ((), dumps):
        assert live.remembered("192.0.2.7", given) == {"KUBE-SEP-AAAAAAAAAAAAAAAA"}
        assert live.remembered("192.0.2.70", given) == frozenset()
    facts = live.read_facts()
    assert facts.recent_clients is not None
    assert facts.recent_clients > 0


def test_an_ipv6_client_is_remembered_however_it_is_written(node: Namespace) -> None:
    restore(node, IptablesVariant.NFT, RULES6, "ip6tables")
    send_one("fd00:2::7", "fd00::1")
    assert live.remembered("fd00:2:0::7") == {"KUBE-SEP-AAAAAAAAAAAAAAAA"}


def test_the_flow_of_a_packet_is_found(node: Namespace) -> None:
    restore(node, IptablesVariant.NFT)
    assert live.flows(QUESTION) == ()
    send_one()
    addresses = live.read_facts().addresses
    (flow,) = live.flows(QUESTION, addresses)
    assert (flow.source, flow.source_port, flow.reply_source, flow.reply_port) == (
        "192.0.2.7",
        41000,
        "10.244.0.1",
        8080,
    )
    assert live.flows(QUESTION) == ()


def test_without_root_there_is_one_sentence_with_what_to_do(node: Namespace) -> None:
    restore(node, IptablesVariant.NFT)
    program = "import os\nfrom kproxy.explain.read.live import read_host\n"
    program += "os.setgid(65534); os.setuid(65534); read_host()"
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=False)
    said = "kproxy.errors.NotPermitted: reading this host's rules needs root: run `sudo kproxy explain live`"
    assert done.stderr.strip().splitlines()[-1].startswith(said)
