"""How each symptom of deploy/TROUBLESHOOTING.md is brought about: a table of situations, by the page's sections.

A situation is a generator: it makes the cluster suffer and sees that clients do; at its ``yield`` the commands of the
section are typed (test_symptoms.py); then it mends. Where it yields a function, that is what clients do while a command
watches. They run in this order, and the last one takes the API server away.
"""

from __future__ import annotations

import asyncio
import fcntl
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.conformance.stray import SYN_ACK, build
from tests.e2e.patients import DEADLINE, Ward

W1, W2, NOBODY = "node-1=10.244.1.2", "node-2=10.244.2.2", "node-2=10.244.2.99"
CLIENT, SHELL, NODE = "192.168.100.101", "10.244.1.3", "192.168.100.11"
During = Callable[[], Awaitable[object]]
Story = Callable[[Ward], AsyncIterator[During | None]]


@dataclass(frozen=True)
class Situation:
    section: str
    commands: Sequence[str]
    story: Story
    host: str

    def __str__(self) -> str:
        return self.section.lower().replace(" ", "-")


SITUATIONS: list[Situation] = []


def situation(section: str, *commands: str, host: str = "node-1") -> Callable[[Story], Story]:
    def add(story: Story) -> Story:
        SITUATIONS.append(Situation(section, commands, story, host))
        return story

    return add


def populate(made: Ward) -> None:
    front = {"type": "LoadBalancer"}
    made.service("web", "10.96.1.1", W1, W2, type="NodePort", node_port=30080)
    made.service("empty", "10.96.1.2")
    made.service("typo", "10.96.1.3", W1, target=8888)
    made.service("silent", "10.96.1.4", W2, target=8081)
    made.service("near", "10.96.1.5", W2, internalTrafficPolicy="Local")
    made.service("front", "10.96.1.6", W2, **front, node_port=30090, vip="203.0.113.10",
                 externalTrafficPolicy="Local", healthCheckNodePort=32000)  # fmt: skip
    made.service("tls", "10.96.1.7", W1, **front, node_port=30091, vip="203.0.113.20")
    made.service("guarded", "10.96.1.9", W1, **front, node_port=30093, vip="203.0.113.22",
                 loadBalancerSourceRanges=["198.51.100.0/24"])  # fmt: skip
    made.service("sticky", "10.96.1.10", W1, W2, sessionAffinity="ClientIP")
    made.service("dns", "10.96.1.11", W1, port=53, target=5353, protocol="UDP")
    made.service("old", "10.96.1.12", W1, externalIPs=["198.51.100.1"])
    made.service("young", "10.96.1.13", W2, externalIPs=["198.51.100.1"])
    made.service("checkout", "10.96.1.15", W1, target=8888, annotations={"kproxy.io/mode": "userspace"})


# --- what stands all the time ---------------------------------------------------------------------------------


@situation(
    "The first three commands",
    "kubectl -n kube-system exec POD -- kproxy status",
    "kubectl -n kube-system exec POD -- kproxy check",
    f"kubectl -n kube-system exec POD -- kproxy explain live --from {SHELL} --to shop/web:80",
)
async def first(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("shell", "10.96.1.1", 80)).outcome == "ok"
    yield


@situation("Refused at once", f"kproxy explain live --from {SHELL} --to shop/empty:80")
async def without_endpoints(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("shell", "10.96.1.2", 80)).outcome == "refused"
    yield


@situation("Refused at once", "kproxy trace --service shop/typo --limit 1")
async def nobody_listens(patients: Ward) -> AsyncIterator[During]:
    async def ask() -> None:
        assert (await patients.ask("shell", "10.96.1.3", 80)).outcome == "refused"

    yield ask


@situation("Hangs, then times out", f"kproxy explain live --from {CLIENT} --to 203.0.113.22:80")
async def out_of_range(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("client", "203.0.113.22", 80, silence=True)).outcome == "timeout"
    assert (await patients.ask("client", NODE, 30093)).outcome == "ok"
    yield


@situation("Hangs, then times out", "kproxy trace --service shop/silent --limit 1")
async def dropped_at_the_pod(patients: Ward) -> AsyncIterator[During]:
    rule = ("INPUT", "-p", "tcp", "--dport", "8081", "-j", "DROP")
    (await patients.world.host("web-2").run(("iptables", "-A", *rule))).check()

    async def ask() -> None:
        assert (await patients.ask("shell", "10.96.1.4", 80, silence=True)).outcome == "timeout"

    yield ask
    (await patients.world.host("web-2").run(("iptables", "-D", *rule))).check()


@situation("Works by pod IP, not by Service IP", f"kproxy explain live --from {SHELL} --to 10.96.1.1:8080")
async def no_port_of_it(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("shell", "10.244.1.2", 8080)).outcome == "ok"
    assert (await patients.ask("shell", "10.96.1.1", 8080, silence=True)).outcome != "ok"
    with patients.world.host("shell").inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with raw:
        raw.setblocking(False)
        raw.sendto(b"\x08\0\xf7\xff\0\0\0\0", ("10.96.1.1", 0))  # an echo request
        async with asyncio.timeout(5):
            while (answer := await asyncio.get_running_loop().sock_recv(raw, 999))[20] == 8:
                pass
        assert answer[20] != 0  # no echo reply
    yield


@situation("Works from some nodes only", f"kproxy explain live --from {SHELL} --to shop/near:80")
async def internal_local(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("shell", "10.96.1.5", 80, silence=True)).outcome == "timeout"
    assert (await patients.ask("web-2", "10.96.1.5", 80)).outcome == "ok"
    yield


@situation("A node port answers on one address only", "kproxy explain live --from host --to 127.0.0.1:30080")
async def not_on_loopback(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("node-1", NODE, 30080)).outcome == "ok"
    assert (await patients.ask("node-1", "127.0.0.1", 30080)).outcome == "refused"
    yield


@situation(
    "Works from some nodes only",
    f"kproxy explain live --from {CLIENT} --to 203.0.113.10:80",
    f"curl -s http://{NODE}:32000/",
    "curl -s http://127.0.0.1:10249/metrics | grep no_local_endpoints_total.*IPv4",
)
async def external_local(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("client", "203.0.113.10", 80, silence=True)).outcome == "timeout"
    assert (await patients.ask("client", "192.168.100.12", 30090)).outcome == "ok"
    assert (await patients.ask("client", NODE, 32000)).status == 503
    yield


@situation("The client's address is lost", f"kproxy explain live --from {CLIENT} --to {NODE}:30080")
async def masqueraded(patients: Ward) -> AsyncIterator[None]:
    answer = await patients.ask("client", NODE, 30080)
    assert answer.outcome == "ok"
    assert not answer.source_kept
    yield


@situation("A load balancer is passed by", f"kproxy explain live --from {SHELL} --to 203.0.113.20:80")
async def short_cut(patients: Ward) -> AsyncIterator[None]:
    assert (await patients.ask("shell", "203.0.113.20", 80)).name == "web-1"
    yield
    patients.api.set_status(
        "Service", "tls", {"loadBalancer": {"ingress": [{"ip": "203.0.113.20", "ipMode": "Proxy"}]}}, "shop"
    )
    await patients.until(lambda: lacks(patients, "203.0.113.20"))


async def lacks(patients: Ward, text: str) -> bool:
    return not await patients.has("node-1", text)


@situation("Sticky sessions do not stick", f"kproxy explain live --from {SHELL} --to shop/sticky:80")
async def sticky(patients: Ward) -> AsyncIterator[None]:
    assert len({(await patients.ask("shell", "10.96.1.10", 80)).name for _ in range(4)}) == 1
    yield


@situation("Uneven load", "kproxy explain live service shop/web")
async def shares(patients: Ward) -> AsyncIterator[None]:
    for _ in range(20):
        await patients.ask("shell", "10.96.1.1", 80)
    yield


@situation(
    "A pod cannot reach itself",
    "kproxy explain live --from 10.244.1.2 --to shop/web:80",
    'bridge -d link show dev veth2 | grep -o "hairpin [a-z]*"',
)
async def hairpin(patients: Ward) -> AsyncIterator[None]:
    port = f"link set {patients.world.pod('web-1').link} type bridge_slave hairpin"
    assert (await patients.ask("web-1", "10.96.1.12", 80)).name == "web-1"
    await patients.world.node("node-1").configure([f"{port} off"])
    assert (await patients.ask("web-1", "10.96.1.12", 80, silence=True)).outcome == "timeout"
    yield
    await patients.world.node("node-1").configure([f"{port} on"])


@situation("A relayed Service fails", "curl -s http://127.0.0.1:10249/metrics | grep userspace_refused")
async def relayed(patients: Ward) -> AsyncIterator[None]:
    await patients.until(lambda: patients.has("node-1", "169.254.73.80"))
    assert (await patients.ask("shell", "10.96.1.15", 80)).outcome == "broken"
    yield


# --- what begins and ends -------------------------------------------------------------------------------------


@situation(
    "UDP goes nowhere after a pod was replaced",
    f"kproxy explain live --from {SHELL}:20053 --to shop/dns:53/udp",
)
async def stale_udp(patients: Ward) -> AsyncIterator[None]:
    away = "-r 10.244.1.99 -q 10.244.1.3 --reply-port-src 5353 --reply-port-dst 20053"
    flow = f"conntrack -I -p udp -s {SHELL} -d 10.96.1.11 --sport 20053 --dport 53 {away} -t 60"
    assert "1 flow entries have been created" in await patients.type(flow)
    with patients.world.host("shell").inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((SHELL, 20053))
        client.settimeout(0.3)
        client.sendto(b"?", ("10.96.1.11", 53))
        with pytest.raises(TimeoutError):
            client.recv(99)
    yield


@situation("Old pods keep their connections", "kproxy explain live --from 10.244.1.3:20080 --to shop/tls:80")
async def draining(patients: Ward) -> AsyncIterator[None]:
    with patients.world.host("shell").inside():
        client = socket.socket()
        client.bind((SHELL, 20080))
    with client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("10.96.1.7", 80))
        patients.endpoints("tls", NOBODY)
        await patients.until(lambda: patients.has("node-1", "10.244.2.99:8080"))
        yield
    patients.endpoints("tls", W1)


@situation(
    "Connections are reset now and then",
    "kproxy explain live | grep INVALID",
    "curl -s http://127.0.0.1:10249/metrics | grep invalid_dropped",
)
async def invalid(patients: Ward) -> AsyncIterator[None]:
    with patients.world.host("web-1").inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        for number in range(3):
            segment = build(("10.244.1.2", 8080), (CLIENT, 50000 + number), 1, 1, flags=SYN_ACK)
            raw.sendto(segment, (CLIENT, 0))
    yield


@situation("A Service is refused, or served in part", "kproxy status")
async def refused(patients: Ward) -> AsyncIterator[None]:
    patients.sick.touch()
    patients.service("bad", "10.96.1.66", W1)
    await patients.until(lambda: quarantined(patients, 1))
    assert (await patients.ask("shell", "10.96.1.66", 80, silence=True)).outcome != "ok"
    assert (await patients.ask("shell", "10.96.1.1", 80)).outcome == "ok"
    yield
    patients.sick.unlink()
    patients.api.delete("Service", "bad", "shop")
    await patients.until(lambda: quarantined(patients, 0))


async def quarantined(patients: Ward, number: int) -> bool:
    printed = await patients.type("curl -s http://127.0.0.1:10249/metrics")
    return f'kproxy_quarantined_services{{ip_family="IPv4"}} {number}' in printed


@situation("Other programs change rules", 'kubectl -n kube-system logs POD | grep -E "Another program|repaired"')
async def flushed(patients: Ward) -> AsyncIterator[None]:
    before = patients.log("node-1").count("repaired")
    await patients.type("iptables-nft -t nat -F KUBE-SERVICES")
    await patients.until(lambda: patients.log("node-1").count("repaired") > before)
    assert (await patients.ask("shell", "10.96.1.1", 80)).outcome == "ok"
    yield


@situation("Other programs change rules", "kproxy explain live | grep variants")
async def both(patients: Ward) -> AsyncIterator[None]:
    old = "-A KUBE-SERVICES -d 10.96.1.1/32 -p tcp --dport 80 -j DNAT --to-destination 10.244.9.9:80"
    lines = ("*nat", ":KUBE-SERVICES - [0:0]", "-A PREROUTING -j KUBE-SERVICES", old, "COMMIT")
    legacy = ("iptables-legacy-restore", "--noflush")
    (await patients.world.host("node-1").run(legacy, stdin="\n".join(lines) + "\n")).check()
    yield
    with patients.world.host("shell").inside():
        client = socket.socket()
    with client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("10.96.1.4", 80))
        await patients.stop("node-1")
        await patients.start("node-1")
        await patients.until(lambda: "Removed what another service proxy" in patients.log("node-1"))
        await loop.sock_sendall(client, b"are you there?\n")
        async with asyncio.timeout(DEADLINE):
            assert await loop.sock_recv(client, 99)
    assert "KUBE" not in await patients.type("iptables-legacy-save")


@situation("Rules are old", "kproxy status", host="node-2")
async def locked(patients: Ward) -> AsyncIterator[None]:
    with patients.lock("node-2").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patients.endpoints("web", W1)
        await patients.until(lambda: "Sync failed" in patients.log("node-2"))
        await patients.until(lambda: ill(patients))
        yield
    await patients.until(lambda: "Sync works again" in patients.log("node-2"))


async def ill(patients: Ward) -> bool:
    return (await patients.ask("node-2", "192.168.100.12", 10256, "/livez")).status == 503


@situation("kproxy does not answer", "kproxy status")
async def hung(patients: Ward) -> AsyncIterator[None]:
    patients.proxies["node-1"].send_signal(signal.SIGSTOP)
    try:
        assert (await patients.ask("shell", "10.96.1.1", 80)).outcome == "ok"
        yield
    finally:
        patients.proxies["node-1"].send_signal(signal.SIGCONT)


@situation("The API server is silent", "kproxy status")
async def silent_api(patients: Ward) -> AsyncIterator[None]:
    await patients.api.stop()
    await patients.until(lambda: "No news from the API server" in patients.log("node-1"))
    assert (await patients.ask("shell", "10.96.1.1", 80)).outcome == "ok"
    yield
