"""One round, with the backend's and the doors' twins: what follows from success, and what failure leaves."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from kproxy.backend.base import Quarantined, SyncReport
from kproxy.backend.iptables.apply import IptablesBackend
from kproxy.backend.iptables.compile import Ruleset
from kproxy.backend.userspace.crew import Crew
from kproxy.config import Config
from kproxy.daemon.complaints import Complaints
from kproxy.daemon.events import Recorder
from kproxy.daemon.family import Family, Shared, now
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.relay import tell
from kproxy.daemon.rivalry import Rivalry
from kproxy.daemon.status import Health
from kproxy.errors import KernelError, NotPermitted
from kproxy.kernel.doors import Capabilities
from kproxy.kernel.fake import FakeAddresses, FakeConntrack, FakeIptables
from kproxy.model.change import Put
from kproxy.model.enums import IPFamily, Kind, Protocol
from kproxy.model.flow import Flow
from kproxy.model.keys import ServicePortKey
from tests.builders import cluster, node, port, service, slice_of, udp

V4 = IPFamily.IPV4


class World:
    def __init__(self, *flows: Flow) -> None:
        self.config = Config(hostname="n1", cluster_cidr=("10.0.0.0/8",))
        self.cluster = cluster(
            service("dns", ports=[udp(53)]), slice_of("dns", "10.1.0.1", protocol=Protocol.UDP), node()
        )
        self.door = FakeIptables()
        self.conntrack = FakeConntrack(flows=flows)
        self.health = Health((V4,), sync_period=30.0)
        self.metrics = Metrics()
        recorder = Recorder(None, "n1")
        self.shared = Shared(
            self.config,
            self.cluster,
            health=self.health,
            metrics=self.metrics,
            recorder=recorder,
            complaints=Complaints(recorder, lambda _kind, _key: ""),
            addresses=tuple,
            claim=FakeAddresses().claim,
            crew=Crew(self.config, workers=1, told=tell),
        )
        backend = IptablesBackend(self.config, self.door, Capabilities(nfacct=False))
        self.family = Family(V4, self.shared, backend, self.conntrack, Rivalry(longest=30.0, calm=3600.0))
        self.health.started(V4, now())
        self.health.queued(V4, now())

    def put_endpoint(self, ip: str) -> None:
        slice_ = slice_of("dns", ip, protocol=Protocol.UDP)
        change = Put(Kind.ENDPOINT_SLICE, slice_)
        self.cluster.apply(change)
        self.family.note(change)
        self.health.queued(V4, now())


def flow(endpoint: str) -> Flow:
    return Flow(Protocol.UDP, "10.2.0.9", 4000, "172.30.0.41", 53, endpoint, 8080)


async def test_a_round_brings_the_cluster_into_the_kernel_and_says_so() -> None:
    world = World()
    await world.family.sync(full=True)
    assert world.health.ready
    assert world.health.pending_seconds(V4, now()) == 0
    assert world.family.synced.is_set()
    assert any("10.1.0.1:8080" in rule for rules in world.door.tables["nat"].values() for rule in rules)
    assert (
        'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1\n'
        in world.metrics.answer().body.decode()
    )


async def test_a_failed_round_leaves_everything_pending() -> None:
    world = World()
    world.door.fail_next(NotPermitted("no"))
    with pytest.raises(KernelError):
        await world.family.sync(full=True)
    assert not world.health.ready
    assert world.health.pending_seconds(V4, now()) > 0
    assert not world.family.synced.is_set()


async def test_flows_to_an_endpoint_that_left_are_forgotten_after_success_alone() -> None:
    world = World(flow("10.1.0.1"))
    await world.family.sync(full=True)
    assert world.conntrack.count() == 1
    world.put_endpoint("10.1.0.2")
    world.door.fail_next(NotPermitted("no"))
    with pytest.raises(KernelError):
        await world.family.sync(full=False)
    assert world.conntrack.count() == 1
    await world.family.sync(full=True)
    assert world.conntrack.count() == 0


async def test_flows_that_went_past_missing_rules_are_forgotten_with_the_repair() -> None:
    world = World()
    await world.family.sync(full=True)
    world.conntrack.flows.add(flow("10.1.0.1"))
    await world.family.sync(full=True)
    world.door.flush()
    unrewritten = replace(flow("172.30.0.41"), source_port=4001, reply_port=53)
    world.conntrack.flows.add(unrewritten)
    await world.family.sync(full=True)
    assert world.conntrack.flows == {flow("10.1.0.1")}


async def test_a_repair_that_seemed_to_fail_makes_flows_suspect_all_the_same() -> None:
    world = World()
    await world.family.sync(full=True)
    world.conntrack.flows.add(replace(flow("172.30.0.41"), source_port=4001, reply_port=53))
    world.door.fail_next(NotPermitted("no answer in time"))  # yet what it wrote is there
    with pytest.raises(KernelError):
        await world.family.sync(full=True)
    await world.family.sync(full=True)
    assert not world.conntrack.flows


async def test_flows_that_cannot_be_cleaned_are_tried_after_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(flow("10.1.0.9"))

    async def refuse(_queries: object) -> list[Flow]:
        raise KernelError("busy")

    with monkeypatch.context() as patched:
        patched.setattr(world.conntrack, "dump", refuse)
        assert await world.family.sync(full=True) == {"flows"}
    assert world.health.ready
    assert world.conntrack.count() == 1
    assert not await world.family.sync(full=False)
    assert world.conntrack.count() == 0


async def test_a_service_port_that_is_left_out_calls_for_another_round(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    apply = IptablesBackend.apply
    left_out = Quarantined(ServicePortKey("default", "dns", "", Protocol.UDP), "no memory")

    async def leave_out(backend: IptablesBackend, rules: Ruleset, *, full: bool = False) -> SyncReport:
        return replace(await apply(backend, rules, full=full), quarantined=(left_out,))

    with monkeypatch.context() as patched:
        patched.setattr(IptablesBackend, "apply", leave_out)
        assert await world.family.sync(full=True) == {left_out.key}
    assert not await world.family.sync(full=True)


@pytest.mark.parametrize(("refused", "healthy"), [(("dns",), True), (("dns", "web"), False)])
async def test_a_node_on_which_nobody_is_served_is_not_healthy(
    monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...], healthy: bool
) -> None:
    world = World()
    for each in (service("web", "172.30.0.42", ports=[udp(53)]), service("none", "172.30.0.43")):
        world.cluster.apply(Put(Kind.SERVICE, each))
    world.cluster.apply(Put(Kind.ENDPOINT_SLICE, slice_of("web", "10.1.0.3", protocol=Protocol.UDP)))
    apply = IptablesBackend.apply
    left_out = tuple(Quarantined(ServicePortKey("default", name, "", Protocol.UDP), "no memory") for name in refused)

    async def leave_out(backend: IptablesBackend, rules: Ruleset, *, full: bool = False) -> SyncReport:
        return replace(await apply(backend, rules, full=full), quarantined=left_out)

    with monkeypatch.context() as patched:
        patched.setattr(IptablesBackend, "apply", leave_out)
        await world.family.sync(full=True)
    assert world.health.ready is healthy
    assert (world.health.pending_seconds(V4, now()) == 0) is healthy
    await world.family.sync(full=True)
    assert world.health.ready


async def test_flows_to_a_service_that_went_while_nobody_looked_are_forgotten() -> None:
    before = World()
    await before.family.sync(full=True)
    gone = replace(flow("10.1.0.1"), destination="172.30.0.99")
    world = World(flow("10.1.0.1"), gone, replace(gone, port=54))
    tables = {name: (await before.door.save(name)).decode() for name in ("filter", "nat")}
    for name, text in tables.items():
        await world.door.restore(text.replace("172.30.0.41", "172.30.0.99").encode())
        assert name == "filter" or "172.30.0.99" in text.replace("172.30.0.41", "172.30.0.99")
    await world.family.sync(full=True)
    assert world.conntrack.flows == {flow("10.1.0.1"), replace(gone, port=54)}


async def test_a_table_that_cannot_be_read_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.door.unreadable.add("filter")
    with caplog.at_level("WARNING", logger="kproxy"):
        for _ in range(3):
            await world.family.sync(full=True)
    (record,) = caplog.records
    assert record.message == "A table cannot be read, programming it all the same"
    world.door.unreadable.clear()
    await world.family.sync(full=True)
    world.door.unreadable.add("filter")
    with caplog.at_level("WARNING", logger="kproxy"):
        await world.family.sync(full=True)
    assert len(caplog.records) == 2


async def test_the_latency_of_a_change_is_measured_when_it_arrives() -> None:
    world = World()
    await world.family.sync(full=True)
    slice_ = slice_of("dns", "10.1.0.3", protocol=Protocol.UDP)
    triggered = replace(slice_, triggered=time.time() + 60)
    world.family.note(Put(Kind.ENDPOINT_SLICE, triggered))
    await world.family.sync(full=False)
    assert 'network_programming_duration_seconds_count{ip_family="IPv4"} 1\n' in world.metrics.answer().body.decode()


async def test_a_rival_is_told_at_its_third_rewriting(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await world.family.sync(full=True)
    for _ in range(4):
        await world.door.restore(b"*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j RETURN\nCOMMIT\n")
        await world.family.sync(full=True)
    assert caplog.text.count("Another proxy writes the same chains") == 1


async def test_node_ports_that_are_not_restricted_as_configured_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.config = world.shared.config = replace(world.config, nodeport_addresses=("primary",))
    world.cluster.apply(Put(Kind.SERVICE, service("web", "172.30.0.42", ports=[port(node_port=30080)])))
    world.cluster.apply(Put(Kind.NODE, node(addresses=())))
    for _ in range(2):
        await world.family.sync(full=False)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "Node ports are not restricted"
    ]
    assert [problem.field for problem in world.shared.complaints.all] == ["status.addresses"]
    world.shared.addresses = lambda: ("192.168.0.3",)
    world.cluster.apply(Put(Kind.NODE, node()))
    for _ in range(2):
        await world.family.sync(full=False)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"][1:] == [
        "Node ports are not served"
    ]
    world.shared.addresses = lambda: ("192.168.0.2",)
    await world.family.sync(full=False)
    assert not world.shared.complaints.all
