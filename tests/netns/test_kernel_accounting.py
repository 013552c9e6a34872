"""What the real kernel says of flows that a rule sent elsewhere: living and ended, both families.

Shapes of messages are in tests/unit/kernel/test_accounting.py, the whole daemon in tests/e2e/test_service_metrics.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.errors import NotPermitted
from kproxy.kernel import accounting
from kproxy.kernel.accounting import Accounting
from kproxy.kernel.sysctl import Sysctl, tune_accounting
from kproxy.model.enums import Protocol
from kproxy.model.flow import Destination, Traffic
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root

V4, V6 = "10.96.0.10", "fd00:96::10"
HEADERS = {V4: 28, V6: 48}  # of IP and UDP
ENDPOINTS = {V4: "10.9.9.9", V6: "fd00:9::9"}
PREPARATION = f"""
address add {ENDPOINTS[V4]}/32 dev lo
address add {ENDPOINTS[V6]}/128 dev lo nodad
route add 10.96.0.0/16 dev lo src {ENDPOINTS[V4]}
route add fd00:96::/64 dev lo src {ENDPOINTS[V6]}
"""


@pytest.fixture
def door(inside: Namespace) -> Iterator[Accounting]:
    subprocess.run(["ip", "-batch", "-"], input=PREPARATION, text=True, check=True, timeout=20)
    for ip, program in ((V4, "iptables"), (V6, "ip6tables")):
        endpoint = f"[{ENDPOINTS[ip]}]" if ":" in ip else ENDPOINTS[ip]
        rule = f"-t nat -A OUTPUT -d {ip} -p udp --dport 53 -j DNAT --to-destination {endpoint}:5353"
        inside.run((program, *rule.split()))
    tune_accounting(Sysctl())
    opened = Accounting()
    opened.open()
    yield opened
    opened.close()


def ask(to: str, size: int, answer: int, times: int = 1, port: int = 53) -> None:
    """As many datagrams, each from a port of its own, each answered."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind((ENDPOINTS.get(to, to), 5353))
        for number in range(times):
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.bind(("", 20000 + number))  # chance might take a port twice, and that is one flow
                client.sendto(b"q" * size, (to, port))
                _, caller = server.recvfrom(2048)
                server.sendto(b"a" * answer, caller)
                assert len(client.recv(2048)) == answer


def forget_all(inside: Namespace) -> None:
    inside.run(("conntrack", "-F"))


@pytest.mark.parametrize("ip", [V4, V6])
def test_every_flow_is_told_with_its_bytes_while_it_lives_and_once_when_it_ends(
    door: Accounting, inside: Namespace, ip: str
) -> None:
    ask(ip, 100, 200, times=300)
    header = HEADERS[ip]
    expected = {Destination(Protocol.UDP, ip, 53): Traffic(300, 300 * (100 + header), 300 * (200 + header))}
    assert door.living_now() == expected
    assert door.ended(10) == (0, {})
    forget_all(inside)
    read, first = door.ended(200)
    rest, second = door.ended(200)
    assert (read, rest) == (200, 100)
    (total,) = {key: first[key].plus(second[key]) for key in first}.items()
    assert dict([total]) == expected
    assert door.living_now() == {}
    assert door.lost == 0


def test_flows_that_no_rule_sent_elsewhere_wake_nobody(door: Accounting, inside: Namespace) -> None:
    ask(ENDPOINTS[V4], 10, 10, times=50, port=5353)
    assert "sport=5353" in inside.run(("conntrack", "-L", "-p", "udp")).stdout
    assert door.living_now() == {}
    forget_all(inside)
    assert door.ended(100) == (0, {})


async def test_waiting_ends_when_a_flow_does(door: Accounting, inside: Namespace) -> None:
    ask(V4, 1, 1)
    forget_all(inside)
    await door.wait()
    assert door.ended(10)[0] == 1


def test_what_does_not_fit_is_lost_and_counted(
    inside: Namespace, door: Accounting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "_RECEIVE_BUFFER", 1 << 14)
    small = Accounting()
    small.open()
    ask(V4, 1, 1, times=200)
    forget_all(inside)
    assert door.ended(1000)[0] == 200
    lost = small.lost
    assert lost > 0
    assert small.ended(1000)[0] == 200 - lost
    ask(V4, 1, 1)
    forget_all(inside)
    assert small.ended(10)[0] == 1  # it goes on
    small.close()
    assert small.lost == lost


def test_accounting_is_off_until_it_is_asked_for(inside: Namespace) -> None:
    inside.run(("iptables", "-t", "nat", "-A", "OUTPUT", "-d", "10.96.0.0/16", "-j", "RETURN"))
    acct, events = (Path("/proc/sys/net/netfilter", f"nf_conntrack_{name}") for name in ("acct", "events"))
    assert acct.read_text() == "0\n"
    before = events.read_text()
    assert [outcome.why for outcome in tune_accounting(Sysctl())] == ["", ""]
    assert acct.read_text() == "1\n"
    assert events.read_text() == before  # it was on already


def test_who_may_not_listen_is_told(inside: Namespace) -> None:
    del inside
    os.seteuid(65534)
    try:
        with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
            Accounting().open()
    finally:
        os.seteuid(0)
