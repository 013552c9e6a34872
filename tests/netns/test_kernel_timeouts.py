"""Default timeouts of conntrack, set by netlink in the real kernel: what changes, who may, and what a flow gets.

The request's bytes are in tests/unit/kernel/test_timeouts.py, which way is tried first in
tests/unit/kernel/test_sysctl.py, the DaemonSet's pod in tests/e2e/test_deploy.py.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kproxy.errors import KernelError, NotPermitted
from kproxy.kernel import timeouts
from kproxy.kernel.timeouts import TCP_CLOSE_WAIT, TCP_ESTABLISHED, UDP, UDP_STREAM, Timeouts
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root

# As a container has it that is not privileged: /proc/sys is read-only, of root's rights one is left.
_BARE = """
set -eu
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec setpriv --no-new-privs --inh-caps=-all --bounding-set="-all$0" -- "$@"
"""


def _every() -> dict[str, int]:
    """All timeouts of this network namespace."""
    root = Path("/proc/sys")
    paths = (root / "net/netfilter").glob("nf_conntrack_*timeout*")
    return {str(path.relative_to(root)): int(path.read_text(encoding="ascii")) for path in paths}


def _bare(inside: Namespace, capabilities: str, *flags: str) -> tuple[int, str]:
    command = (sys.executable, "-m", "kproxy", "run", "--init-only", *flags)
    shell = ("unshare", "--mount", "sh", "-c", _BARE, capabilities)
    done = inside.run((*shell, *command), check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", [TCP_ESTABLISHED, TCP_CLOSE_WAIT, UDP, UDP_STREAM])
def test_one_timeout_changes_and_no_other(inside: Namespace, name: str) -> None:
    del inside
    before = _every()
    assert name in before
    Timeouts().set_to(name, 4321)
    assert _every() == before | {name: 4321}


def test_another_network_namespace_keeps_its_own(make_netns: Callable[[], Namespace]) -> None:
    one, other = make_netns(), make_netns()
    with other.enter():
        before = _every()
    with one.enter():
        Timeouts().set_to(UDP, 4321)
        assert _every() == before | {UDP: 4321}
    with other.enter():
        assert _every() == before


def test_the_right_to_administrate_the_network_is_enough(inside: Namespace) -> None:
    before = _every()
    flags = ("--conntrack-max-per-core=0", "--iptables-localhost-nodeports=false", "--conntrack-udp-timeout-stream=44s")
    status, said = _bare(inside, ",+net_admin", *flags)
    assert status == 0, said
    assert _every() == before | {TCP_ESTABLISHED: 86400, TCP_CLOSE_WAIT: 3600, UDP_STREAM: 44}
    assert said.count('"Kernel settings"') == 1
    assert said.count(", by netlink") == 3
    assert "stay" not in said
    again, said = _bare(inside, ",+net_admin", *flags)
    assert again == 0
    assert "3600 already" in said
    assert "by netlink" not in said


def test_without_it_one_line_says_why(inside: Namespace) -> None:
    before = _every()
    status, said = _bare(inside, "", "--conntrack-max-per-core=0", "--iptables-localhost-nodeports=false")
    assert status == 0, said
    assert _every() == before
    assert said.count("Some kernel settings stay as they are") == 1
    assert "/proc/sys is read-only" in said
    assert "by netlink: set nf_conntrack_tcp_timeout_close_wait: Operation not permitted" in said


def test_who_may_not_set_them_is_told(inside: Namespace) -> None:
    del inside
    os.seteuid(65534)
    try:
        with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
            Timeouts().set_to(UDP, 44)
    finally:
        os.seteuid(0)


def test_a_kernel_without_them_is_named(inside: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for a subsystem that no kernel has, it answers as one that lacks this subsystem."""
    del inside
    monkeypatch.setattr(timeouts, "_SET_DEFAULT", 15 << 8 | 3)
    with pytest.raises(KernelError, match="CONFIG_NF_CT_NETLINK_TIMEOUT"):
        Timeouts().set_to(UDP, 44)


@pytest.mark.parametrize(("ip", "program"), [("127.0.0.1", "iptables"), ("::1", "ip6tables")])
def test_a_connection_in_close_wait_lasts_an_hour_and_an_open_one_a_day(
    inside: Namespace, ip: str, program: str
) -> None:
    """What Kubernetes' own test of kube-proxy asks of CLOSE_WAIT, for both families."""
    inside.run((program, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"))  # conntrack is on
    Timeouts().set_to(TCP_ESTABLISHED, 86400)
    Timeouts().set_to(TCP_CLOSE_WAIT, 3600)
    with socket.create_server((ip, 7000), family=socket.AF_INET6 if ":" in ip else socket.AF_INET) as server:
        server.settimeout(5)
        with socket.create_connection((ip, 7000), timeout=5) as client, server.accept()[0] as accepted:
            assert 86000 < _left(inside, ip, "ESTABLISHED") <= 86400
            accepted.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # the answer to FIN, which may be delayed
            assert 3000 < _left(inside, ip, "CLOSE_WAIT") <= 3600


def _left(inside: Namespace, ip: str, state: str) -> int:
    """Seconds until conntrack forgets the connection, of which there is one."""
    family = "ipv6" if ":" in ip else "ipv4"
    (line,) = inside.run(("conntrack", "-L", "-f", family, "-p", "tcp", "--dport", "7000")).stdout.splitlines()
    _, _, seconds, said, *_ = line.split()
    assert said == state
    return int(seconds)
