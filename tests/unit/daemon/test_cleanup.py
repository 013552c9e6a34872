"""What a saved table loses. The real tables are in test_e2e_daemon.py."""

from kproxy.backend.iptables.rules import Table
from kproxy.daemon.cleanup import removal

SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-FIREWALL - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m comment --comment "mine -j KUBE-SERVICES" -j DOCKER
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-SERVICES -d 10.0.0.1/32 -j KUBE-SVC-AAAAAAAAAAAAAAAA
COMMIT
""".splitlines()


def test_jumps_then_chains_and_nothing_of_others() -> None:
    chains, text = removal(Table.NAT, SAVED)
    assert chains == ["KUBE-SERVICES", "KUBE-SVC-AAAAAAAAAAAAAAAA"]
    assert text.splitlines() == [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "-X KUBE-SERVICES",
        "-X KUBE-SVC-AAAAAAAAAAAAAAAA",
        "COMMIT",
    ]


def test_of_kube_proxys_tables_kube_firewall_stays() -> None:
    assert removal(Table.FILTER, ["*filter", ":KUBE-FIREWALL - [0:0]", "-A INPUT -j KUBE-FIREWALL"])[0] == []
