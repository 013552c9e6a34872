"""Programs that people run, from one pod to others through cluster IPs that the rules lead to the relay.

The same programs at the relay's sockets, with more of what they can do and on IPv6, are tests/netns's; what becomes of
rules and workers is test_userspace.py's.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from kproxy.sandbox import probe
from kproxy.sandbox.apiserver import ApiServer
from kproxy.sandbox.host import Host
from kproxy.sandbox.nginx import Nginx, web_server
from kproxy.sandbox.workload import Ports, Workload
from tests.e2e.conftest import Json, act, eventually, flags, get, running, service, slice_of

pytestmark = pytest.mark.root
CLIENT, POD = "10.244.3.2", "10.244.4.2"
WEB, CACHE, DNS = "10.96.0.80", "10.96.0.79", "10.96.0.53"
SIZE = 20_000_000  # bytes of a download
NAMES = {f"web-{n}.example.": f"192.0.2.{n}" for n in range(100)}
PROGRAMS = ("nginx", "curl", "redis-server", "redis-benchmark", "dig")


@pytest.fixture
async def hosts(api: ApiServer) -> AsyncIterator[tuple[Host, Host]]:
    """A pod that asks, and one that serves."""
    del api  # which is in the namespace, and now so is this test
    client, pod = Host("client", (CLIENT,)), Host("pod", (POD,))
    try:
        for host in (client, pod):
            link, gateway = f"to-{host.name}", f"{host.ips[0].rpartition('.')[0]}.1"
            there = ("netns", f"/proc/{os.getpid()}/fd/{host.descriptor}")
            act("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", *there)
            act("ip", "address", "add", f"{gateway}/24", "dev", link)
            act("ip", "link", "set", link, "up")
            await host.configure(["link set lo up", "link set eth0 up", f"address add {host.ips[0]}/24 dev eth0"])
            await host.configure([f"route add default via {gateway}"])
        yield client, pod
    finally:
        await client.close()
        await pod.close()


def relayed(name: str, ip: str, port: int, *protocols: str) -> list[Json]:
    """A Service in userspace mode, and its endpoint."""
    ports = [{"name": each.lower(), "port": port, "protocol": each} for each in protocols]
    made, slices = service(name, ip, ports=ports), slice_of(name, POD)
    made["metadata"]["annotations"] = {"kproxy.io/mode": "userspace"}
    slices["ports"] = ports
    return [made, slices]


async def run(host: Host, *command: str) -> str:
    return (await host.run(command, deadline=30.0)).check().stdout


async def is_open(host: Host, port: int) -> bool:
    return (await probe.tcp(host, host.ips[0], port)).outcome != "refused"


def look_up(name: str, kind: str) -> Sequence[str] | None:
    value = NAMES.get(f"{name}.")
    return None if value is None else [value] if kind == "A" else []


async def test_programs_do_not_notice_that_a_cluster_ip_is_relayed(
    api: ApiServer, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"not installed: {' '.join(missing)}")
    client, pod = hosts
    relays = [(WEB, 80, ("TCP",)), (CACHE, 6379, ("TCP",)), (DNS, 53, ("UDP", "TCP"))]
    for name, (ip, port, protocols) in zip(("web", "cache", "dns"), relays, strict=True):
        for each in relayed(name, ip, port, *protocols):
            api.create(each)
    async with AsyncExitStack() as stack:
        nginx = Nginx(pod, tmp_path / "nginx")
        stack.push_async_callback(nginx.stop)
        (tmp_path / "large").write_bytes(large := random.Random(4).randbytes(SIZE))
        more = f"location = /large {{ root {tmp_path}; }}\n  location / {{"
        await nginx.configure(web_server("nginx", 80).replace("location / {", more), port=80)
        await stack.enter_async_context(Workload("dns", pod, Ports(dns=[53]), lookup=look_up))
        await pod.popen(("redis-server", "--bind", POD, "--save", "", "--dir", str(tmp_path), "--protected-mode", "no"))
        daemon = await stack.enter_async_context(running(tmp_path, *flags(tmp_path)))
        await daemon.ready()
        await eventually(lambda: is_open(pod, 6379), daemon)

        said = await run(client, "curl", "-sSf", "-w", " %{num_connects}\n", f"http://{WEB}/[1-100]")
        answers = [json.loads(line.rpartition(" ")[0]) for line in said.splitlines()]
        assert [each["path"] for each in answers] == [f"/{n}" for n in range(1, 101)]
        assert {each["peer"].rpartition(":")[0] for each in answers} == {"10.244.4.1"}  # the relay's
        assert [line.rpartition(" ")[2] for line in said.splitlines()] == ["1"] + ["0"] * 99
        await run(client, "curl", "-sSf", "-o", str(tmp_path / "got"), f"http://{WEB}/large")
        assert sha256((tmp_path / "got").read_bytes()).digest() == sha256(large).digest()

        batch = tmp_path / "names"
        batch.write_text("".join(f"{name} A\n" for name in NAMES), encoding="ascii")
        for how in (("+notcp",), ("+tcp", "+keepopen")):
            said = await run(client, "dig", f"@{DNS}", "+short", "+tries=1", "+time=5", *how, "-f", str(batch))
            assert said.split() == list(NAMES.values())

        size = ("-n", "2000", "-c", "20", "-P", "4", "-t", "set,get,lpush,lrange_100", "--csv")
        done = (await client.run(("redis-benchmark", "-h", CACHE, *size), deadline=30.0)).check()
        assert (len(done.stdout.splitlines()), done.stderr) == (6, "")

        _, text = await get("http://127.0.0.1:10249/metrics")
        counts = dict(
            re.findall(r'^kproxy_userspace_connections_total\{.*service="(\w+)"\} (\d+)$', text, re.MULTILINE)
        )
        assert counts["web"] == "2"
        assert int(counts["cache"]) > 4 * 20
