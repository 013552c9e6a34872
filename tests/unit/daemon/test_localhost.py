"""What is said and counted about our listeners on loopback. That they relay is tests/unit/backend/userspace's."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from kproxy.backend.userspace import door, mmsg
from kproxy.backend.userspace.counts import LIMIT
from kproxy.backend.userspace.rules import Listener
from kproxy.config import Config
from kproxy.daemon.localhost import LocalhostCollector, LocalhostPorts, warn_of_route_localnet
from kproxy.kernel.fake import FakeSysctl
from kproxy.kernel.sysctl import ROUTE_LOCALNET
from kproxy.model.enums import IPFamily, Protocol, ServiceType
from kproxy.model.keys import ObjectKey
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from tests.builders import port, service, slice_of, snapshot

CONFIG = Config(hostname="n1", nodeport_addresses=("primary", "localhost"), relay_sweep=0.01)
V4 = IPFamily.IPV4


def plan_for(*ports: tuple[int, Protocol], config: Config = CONFIG) -> Plan:
    """A Service for each node port."""
    objects = []
    for number, protocol in ports:
        spec = [port(80, "a", protocol=protocol, node_port=number)]
        name = f"s{number}"
        objects += [service(name, f"172.30.0.{len(objects)}", ports=spec, type=ServiceType.NODE_PORT, uid="u1")]
        objects += [slice_of(name, "10.0.0.1", port_name="a", protocol=protocol)]
    return build_plan(snapshot(*objects), config, V4, ())


@pytest.fixture
async def ports() -> AsyncIterator[LocalhostPorts]:
    made = LocalhostPorts(V4, CONFIG, lambda key: f"uid of {key}")
    yield made
    await made.reconcile(plan_for())


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield int(holder.getsockname()[1])


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def fields(record: object) -> dict[str, object]:
    return record.__dict__["fields"]  # type: ignore[no-any-return]


async def test_a_taken_port_is_its_services_misfortune_alone(ports: LocalhostPorts, taken: int) -> None:
    number = free()
    (complaint,) = await ports.reconcile(plan_for((taken, Protocol.TCP), (number, Protocol.TCP)))
    assert (complaint.reason, complaint.uid) == ("FailedToListenLocalhostNodePort", f"uid of default/s{taken}")
    assert str(complaint.problem) == (
        f"Service default/s{taken}: spec.ports[a].nodePort cannot be served at 127.0.0.1:{taken}/TCP: "
        f"Address already in use; end the program that has it (`ss -tlnp sport = :{taken}`), "
        "or give the Service another node port"
    )
    assert (ports.failed, ports.open, ports.unserved) == ({Listener("127.0.0.1", taken, Protocol.TCP)}, 1, 1)
    assert await ports.reconcile(plan_for()) == []
    assert (ports.failed, ports.open, ports.unserved) == (set(), 0, 0)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "give kproxy CAP_NET_BIND_SERVICE, or give the Service a node port above 1023"),
        (errno.EIO, "see the kernel's log"),
    ],
)
async def test_the_remedy_fits_the_error(
    ports: LocalhostPorts, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    refuse(monkeypatch, number)
    (complaint,) = await ports.reconcile(plan_for((80, Protocol.UDP)))
    assert complaint.problem.remedy == remedy


def refuse(patched: pytest.MonkeyPatch, number: int) -> None:
    def bind(_sock: object, _listener: object) -> None:
        raise OSError(number, "no")

    patched.setattr(door, "bind", bind)


@pytest.mark.parametrize(
    ("number", "why"), [(errno.EADDRNOTAVAIL, "no such loopback address"), (errno.EMFILE, "RLIMIT_NOFILE")]
)
async def test_what_ails_the_node_is_one_line_for_all_services(
    ports: LocalhostPorts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, why: str
) -> None:
    plan = plan_for((30001, Protocol.TCP), (30002, Protocol.TCP))
    with monkeypatch.context() as patched:
        refuse(patched, number)
        assert [await ports.reconcile(plan) for _ in range(2)] == [[], []]
        assert len(ports.failed) == 2
    (record,) = caplog.records
    assert why in str(fields(record)["why"])
    await ports.reconcile(plan_for())
    refuse(monkeypatch, number)
    await ports.reconcile(plan)
    assert len(caplog.records) == 2


async def test_sctp_is_said_once_and_counted(ports: LocalhostPorts, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_for((30001, Protocol.SCTP))
    with caplog.at_level("INFO", logger="kproxy"):
        assert [await ports.reconcile(plan) for _ in range(2)] == [[], []]
    (record,) = caplog.records
    assert (record.message, str(fields(record)["service"])) == (
        "An SCTP node port is not served on loopback",
        "default/s30001:a",
    )
    assert (ports.unserved, ports.failed) == (1, set())


async def test_many_refusals_are_one_line(ports: LocalhostPorts, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(ports.run())
        ports.counts[Protocol.TCP].refused[LIMIT] += 1000
        while not caplog.records:  # noqa: ASYNC110 -- a log tells nobody
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.03)
        task.cancel()
    (record,) = caplog.records
    assert (record.message, fields(record)["times"], fields(record)["why"]) == (
        "Connections to node ports on loopback were refused",
        1000,
        "there are as many connections as may be",
    )


async def test_services_that_are_gone_are_forgotten(ports: LocalhostPorts) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(ports.run())
        await ports.reconcile(plan_for((free(), Protocol.TCP)))
        assert ports._listeners.tallies()
        await ports.reconcile(plan_for())
        while ports._listeners.tallies():  # noqa: ASYNC110 -- it tells nobody
            await asyncio.sleep(0.01)
        task.cancel()


async def test_the_caps_leave_files_for_everything_else() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (800, hard))
    try:
        few = LocalhostPorts(V4, CONFIG, str)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert few._listeners._streams._limit == 100
    assert few._listeners._datagrams._sessions._limit == 50


@pytest.mark.parametrize("files", [800, 600_000])
async def test_the_limits_are_said_once_and_a_low_one_with_its_remedy(
    files: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    made = LocalhostPorts(V4, CONFIG, str)
    with caplog.at_level("INFO", logger="kproxy"):
        await made.reconcile(plan_for())
        assert caplog.records == []
        for _ in range(2):
            await made.reconcile(plan_for((free(), Protocol.TCP)))
        await made.reconcile(plan_for())
    (record,) = caplog.records
    said = fields(record)
    assert (said["files"], said["connections"]) == (files, min(65536, files // 8))
    assert said.get("remedy") == ("for more, raise RLIMIT_NOFILE to 524288" if files == 800 else None)


async def test_that_datagrams_go_one_by_one_is_said_once_where_there_are_any(
    ports: LocalhostPorts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mmsg, "is_available", lambda: False)
    with caplog.at_level("INFO", logger="kproxy"):
        for protocol, times in ((Protocol.TCP, 0), (Protocol.UDP, 1), (Protocol.UDP, 1)):
            await ports.reconcile(plan_for((free(), protocol)))
            assert sum("one by one" in each.message for each in caplog.records) == times


def samples(collector: LocalhostCollector) -> dict[str, float]:
    return {
        f"{each.name}{{{','.join(each.labels.values())}}}": each.value
        for metric in collector.collect()
        for each in metric.samples
    }


async def test_metrics_name_family_protocol_and_reason_and_no_service(ports: LocalhostPorts, taken: int) -> None:
    await ports.reconcile(plan_for((free(), Protocol.TCP), (taken, Protocol.TCP), (30001, Protocol.SCTP)))
    ports.counts[Protocol.UDP].flows = 3
    ports.counts[Protocol.UDP].dropped = 4
    found = samples(LocalhostCollector({V4: ports}))
    assert {name: value for name, value in found.items() if value} == {
        "kproxy_localhost_nodeport_connections_total{IPv4,UDP}": 3,
        "kproxy_localhost_nodeport_datagrams_dropped_total{IPv4}": 4,
        "kproxy_localhost_nodeport_listeners{IPv4}": 1,
        "kproxy_localhost_nodeport_unserved{IPv4}": 2,
    }
    assert "kproxy_localhost_nodeport_refused_total{IPv4,TCP,limit}" in found
    assert "kproxy_localhost_nodeport_connections_active{IPv4,TCP}" in found


@pytest.mark.parametrize(("addresses", "value", "lines"), [(("localhost",), 1, 1), (("localhost",), 0, 0), ((), 1, 0)])
def test_route_localnet_is_told_to_those_who_asked_to_do_without_it(
    addresses: tuple[str, ...], value: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    sysctl = FakeSysctl({ROUTE_LOCALNET: value})
    warn_of_route_localnet(Config(nodeport_addresses=addresses), sysctl)
    assert [fields(record)["remedy"] for record in caplog.records] == [
        "unless another program needs it: sysctl -w net.ipv4.conf.all.route_localnet=0"
    ] * lines
    assert sysctl.read(ROUTE_LOCALNET) == value


async def test_a_plan_without_the_word_opens_nothing() -> None:
    ports = LocalhostPorts(V4, CONFIG, lambda key: str(ObjectKey(*key)))
    assert await ports.reconcile(plan_for((30001, Protocol.TCP), config=Config(hostname="n1"))) == []
    assert ports.open == 0
