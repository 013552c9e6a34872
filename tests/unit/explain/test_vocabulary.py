"""Which words are ours. That nothing else gets through is shown in test_redact."""

from __future__ import annotations

import pytest

from kproxy.explain.show.vocabulary import is_ours, words


@pytest.mark.parametrize(
    "word",
    [
        *("comment", "ctstate", "icmp-port-unreachable", "MASQUERADE", "random-fully", "statistic"),  # of rules
        *("KUBE-SERVICES", "KUBE-MARK-DROP", "PREROUTING", "cali-FORWARD", "CILIUM_PRE_nat", "DOCKER-USER"),
        *("endpoints", "Endpoints", "masquerade", "session", "nearest"),  # of sentences
        *("53", "0x4000", "1.8.9", "v1.8.9", "30s", "1h2m3s", "8h", "100", "12kB", "net.ipv4.conf.all.route_localnet"),
        *("kube-system", "kube-dns", "default", "eth0", "ens3", "enp0s3", "cni0", "lo"),
    ],
)
def test_ours(word: str) -> None:
    assert is_ours(word)


@pytest.mark.parametrize(
    "word",
    [
        *("payments", "ledger-5f7c", "acme", "ACME-IN", "calif00b4r", "worker-a.eu.internal", "veth0a1b2c"),
        *("LOLE4ISW44XBNF3G", "KUBE-SVC-LOLE4ISW44XBNF3G", "CILIUM_x", "s3cret", "0xzz", "名前", "ip-10-1-2-3"),
    ],
)
def test_not_ours(word: str) -> None:
    assert not is_ours(word)


def test_docstrings_are_not_read_for_they_are_full_of_examples() -> None:
    """Here stands a word that no sentence of kproxy has: zyxwvut."""
    assert "zyxwvut" not in words()
    assert 500 < len(words()) < 5000
