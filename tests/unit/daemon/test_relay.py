"""In which order sockets, workers and rules come and go; and what is left to the kernel."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from kproxy.backend.userspace.apply import Failure
from kproxy.backend.userspace.endpoints import Ejection
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.seat import Ended, LeftOut, Started
from kproxy.backend.userspace.share import Share
from kproxy.config import Config, ProxyMode
from kproxy.daemon.relay import RelayLines, tell
from kproxy.errors import KernelError
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from tests.builders import service, slice_of, snapshot

CONFIG = Config(hostname="n1", proxy_mode=ProxyMode.USERSPACE)
IP = "169.254.73.80"


class Crew:
    """A door that says what was asked of it, and refuses what it is told to."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.next = 40001
        self.full = 0  # error number of ``open``
        self.problem = ""  # of ``push``
        self.refused: set[int] = set()  # ports that workers cannot have
        self.serving = ["a worker"]

    def open(self, ip: str, protocol: Protocol, port: int = 0) -> Listener:
        if self.full:
            raise OSError(self.full, "")
        self.next += 1
        self.said.append(f"open {self.next - 1}")
        return Listener(ip, port or self.next - 1, protocol)

    async def push(self, rules: Iterable[Rule]) -> list[Failure]:
        if self.problem:
            raise KernelError(self.problem)
        pushed = list(rules)
        self.said.append(f"push {' '.join(str(rule.listener.port) for rule in pushed)}")
        return [Failure(rule, OSError(errno.EACCES, "")) for rule in pushed if rule.listener.port in self.refused]

    def shut(self, listeners: Iterable[Listener]) -> None:
        self.said += [f"shut {each.port}" for each in listeners]


@pytest.fixture
def crew() -> Crew:
    return Crew()


@pytest.fixture
def relay(crew: Crew) -> RelayLines:
    return RelayLines(IPFamily.IPV4, CONFIG, crew, claim, lambda _: "uid", again)  # type: ignore[arg-type]


async def claim(ip: str) -> bool:
    assert ip in {IP, "169.254.73.128/26"}
    return False


def again() -> None:
    pytest.fail("nobody is waited for")


def plan_of(*names: str, endpoint: str = "10.0.0.1") -> Plan:
    services = [service(name, f"172.30.0.{41 + nth}") for nth, name in enumerate(names)]
    return build_plan(snapshot(*services, *(slice_of(name, endpoint) for name in names)), CONFIG, IPFamily.IPV4)


def led(plan: Plan) -> dict[str, str]:
    return {key.name: str(each.cluster[0]) for key, each in plan.services.items()}


async def test_sockets_are_served_before_rules_lead_there_and_closed_after_none_does(
    relay: RelayLines, crew: Crew
) -> None:
    assert led(await relay.lead(plan_of("a", "b"))) == {"a": f"{IP}:40001", "b": f"{IP}:40002"}
    assert crew.said == ["open 40001", "open 40002", "push 40001 40002"]
    assert await relay.settle() == []
    crew.said.clear()
    assert led(await relay.lead(plan_of("a"))) == {"a": f"{IP}:40001"}
    assert crew.said == ["push 40001"]
    await relay.settle()
    assert crew.said == ["push 40001", "shut 40002"]
    await relay.lead(plan_of())
    await relay.settle()
    assert crew.said[2:] == ["shut 40001"]


async def test_nothing_is_asked_of_anybody_where_nothing_is_relayed(crew: Crew) -> None:
    relay = RelayLines(IPFamily.IPV4, Config(), crew, claim, str, again)  # type: ignore[arg-type]
    plan = build_plan(snapshot(service("a"), slice_of("a", "10.0.0.1")), Config(), IPFamily.IPV4)
    assert await relay.lead(plan) is plan
    assert await relay.settle() == []
    assert not crew.said


async def test_a_service_without_a_socket_is_the_kernels_and_is_named(relay: RelayLines, crew: Crew) -> None:
    crew.full = errno.EACCES
    assert led(await relay.lead(plan_of("a"))) == {"a": "10.0.0.1:8080"}
    (complaint,) = await relay.settle()
    assert (complaint.reason, complaint.problem.name, complaint.uid) == ("FailedToRelay", "default/a", "uid")
    assert "Permission denied" in complaint.problem.why
    assert len(relay.failed) == 1
    crew.full = 0
    assert led(await relay.lead(plan_of("a"))) == {"a": f"{IP}:40001"}
    assert await relay.settle() == []
    assert not relay.failed


async def test_want_of_files_is_said_once_for_all_services(
    relay: RelayLines, crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    crew.full = errno.EMFILE
    with caplog.at_level("INFO", logger="kproxy"):
        for names in (("a",), ("a", "b")):
            await relay.lead(plan_of(*names))
            assert await relay.settle() == []
        crew.full = 0
        await relay.lead(plan_of("a"))
        await relay.settle()
    assert [each.message for each in caplog.records] == [
        "There are not files enough to relay all Services, the kernel serves the rest",
        "All Services are relayed that should be",
    ]


async def test_what_workers_cannot_have_is_the_kernels_and_closed_when_no_rule_leads_there(
    relay: RelayLines, crew: Crew
) -> None:
    await relay.lead(plan_of("a", "b"))
    await relay.settle()
    crew.refused = {40002}
    crew.said.clear()
    assert led(await relay.lead(plan_of("a", "b"))) == {"a": f"{IP}:40001", "b": "10.0.0.1:8080"}
    assert crew.said == ["push 40001 40002"]
    (complaint,) = await relay.settle()
    assert complaint.problem.name == "default/b"
    assert crew.said[1:] == ["shut 40002"]


async def test_nobody_is_led_to_workers_that_do_not_answer(
    relay: RelayLines, crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    crew.problem = "no worker answers"
    for _ in range(2):
        assert led(await relay.lead(plan_of("a"))) == {"a": "10.0.0.1:8080"}
        assert await relay.settle() == []
    assert [each.message for each in caplog.records].count("The relay is not used, the kernel serves its Services") == 1
    assert len(relay.failed) == 1


async def test_those_who_are_led_there_already_stay_when_workers_do_not_answer(relay: RelayLines, crew: Crew) -> None:
    await relay.lead(plan_of("a"))
    await relay.settle()
    crew.problem = "no worker answers"
    assert led(await relay.lead(plan_of("a", "b"))) == {"a": f"{IP}:40001", "b": "10.0.0.1:8080"}


async def test_the_kernel_serves_until_a_worker_does(crew: Crew) -> None:
    """And again, should all of them be gone."""
    asked = asyncio.Event()
    relay = RelayLines(IPFamily.IPV4, CONFIG, crew, claim, str, asked.set)  # type: ignore[arg-type]
    for _ in range(2):
        crew.serving.clear()
        asked.clear()
        assert led(await relay.lead(plan_of("a"))) == {"a": "10.0.0.1:8080"}
        await relay.settle()
        async with asyncio.timeout(5):
            await asked.wait()
        crew.serving.append("a worker")
        assert led(await relay.lead(plan_of("a"))) == {"a": f"{IP}:40001"}
        await relay.settle()
    assert crew.said == ["open 40001", *["push 40001"] * 4]


async def test_workers_that_do_not_come_are_told_and_waited_for_again(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()
    relay = RelayLines(IPFamily.IPV4, CONFIG, crew, claim, str, asked.set)  # type: ignore[arg-type]
    crew.problem = "no worker serves"
    crew.serving.clear()
    with caplog.at_level("INFO", logger="kproxy"):
        for _ in range(2):
            await relay.lead(plan_of("a"))
            async with asyncio.timeout(5):
                await asked.wait()
            asked.clear()
        crew.problem = ""
        crew.serving.append("a worker")
        assert led(await relay.lead(plan_of("a"))) == {"a": f"{IP}:40001"}
    assert [each.message for each in caplog.records] == [
        "The relay is not used, the kernel serves its Services",
        "The relay is used again",
    ]


async def test_an_address_that_was_gone_is_told(crew: Crew, caplog: pytest.LogCaptureFixture) -> None:
    async def claim(_: str) -> bool:
        return True

    relay = RelayLines(IPFamily.IPV4, CONFIG, crew, claim, str, again)  # type: ignore[arg-type]
    assert relay.ip == ""
    await relay.lead(plan_of("a"))
    assert (relay.ip, caplog.records) == (IP, [])
    await relay.lead(plan_of("a"))
    assert [each.message for each in caplog.records] == ["The relay's address was gone, it is back"]


async def test_a_node_that_does_not_get_the_address_relays_nothing(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_: str) -> bool:
        raise KernelError("the kernel did not add the address")

    relay = RelayLines(IPFamily.IPV4, CONFIG, crew, refuse, str, again)  # type: ignore[arg-type]
    assert led(await relay.lead(plan_of("a"))) == {"a": "10.0.0.1:8080"}
    assert not crew.said
    (record,) = caplog.records
    assert "did not add the address" in str(vars(record))


async def test_who_cannot_speak_for_clients_speaks_for_itself(crew: Crew, caplog: pytest.LogCaptureFixture) -> None:
    claimed = []

    async def claim(ip: str) -> bool:
        claimed.append(ip)
        if "/" in ip:
            raise KernelError("no")
        return False

    config = replace(CONFIG, userspace_transparent=True, cluster_cidr=("10.0.0.0/8",))
    relay = RelayLines(IPFamily.IPV4, config, crew, claim, str, again)  # type: ignore[arg-type]
    plan = build_plan(snapshot(service("a"), slice_of("a", "10.0.0.1")), config, IPFamily.IPV4)
    for _ in range(3):
        assert led(await relay.lead(plan)) == {"a": f"{IP}:40001"}
    assert claimed == [IP, "169.254.73.128/26"] * 3
    assert [each.message for each in caplog.records] == ["Endpoints see this node instead of their clients"]


async def test_who_retires_changes_nothing_any_more(relay: RelayLines, crew: Crew) -> None:
    assert not relay.retire()
    other = RelayLines(IPFamily.IPV4, CONFIG, crew, claim, str, again)  # type: ignore[arg-type]
    await other.lead(plan_of("a"))
    assert other.retire()
    crew.said.clear()
    plan = plan_of("a", "b")
    assert await other.lead(plan) is plan
    await other.settle()
    assert not crew.said


def test_what_happens_to_workers_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="kproxy"):
        tell(Started(0, 7, Share(2048, 1250, 20000)))
        tell(Ended(0, 7, "was killed by SIGKILL", 0.1))
        key = ServicePortKey("default", "a", "", Protocol.TCP)
        tell(LeftOut(1, tuple(Ejection(key, f"10.0.0.{n}:80", 3, 5.0) for n in range(1, 8))))
    assert [each.message for each in caplog.records] == [
        "A worker of the relay serves",
        "A worker of the relay ended, starting another",
        "Endpoints cannot be reached, new connections leave them out for a while",
    ]
    fields = vars(caplog.records[-1])["fields"]
    assert fields["endpoints"] == "10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80, 10.0.0.5:80, …"
    assert (fields["count"], fields["seconds"]) == (7, 5.0)
