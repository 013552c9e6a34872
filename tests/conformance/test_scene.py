"""How results are judged: by the record, by the probe, or by what the probe says of a mode; who owns an address."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conformance.cluster import Cluster
from tests.conformance.objects import ingress, service
from tests.conformance.probes import Target
from tests.conformance.scene import Scene

REFUSED = {"outcome": "refused"}


def scene(mode: str, recorded: dict[str, Any] | None) -> Scene:
    nobody: Any = None
    proxy: Any = SimpleNamespace(mode=mode)
    return Scene({"name": "s"}, recorded, {}, nobody, nobody, proxy)


@pytest.mark.parametrize(
    ("mode", "recorded", "judged", "unexpected"),
    [
        ("iptables", {"a": {"outcome": "ok"}}, set(), 0),  # for the comparison with the record
        ("userspace", {"a": {"outcome": "ok"}}, {"a"}, 0),
        ("iptables", None, {"a"}, 1),
        ("userspace", None, {"a"}, 0),
    ],
)
async def test_what_a_probe_says_of_a_mode_decides_in_place_of_the_record(
    mode: str, recorded: dict[str, Any] | None, judged: set[str], unexpected: int
) -> None:
    made = scene(mode, recorded)

    async def ask() -> dict[str, Any]:
        return REFUSED

    await made.settle({"id": "a", "expect": "ok", "userspace": {"expect": "reject"}}, ask)
    assert made.results == {"a": REFUSED}
    assert (made.judged, len(made.unexpected)) == (judged, unexpected)


def test_the_owner_of_an_address_and_a_port_is_found_by_each_way_in() -> None:
    cluster = Cluster()
    spec = {"externalIPs": ["198.51.100.7"]}
    ports = ["t:tcp/80->8080@30080", "u:udp/90"]
    web = service({"name": "web", "ip": "10.96.1.1", "ports": ports, "spec": spec})
    cluster.api.load([{**web, "status": ingress(["203.0.113.9"])}])

    def owned(address: str, port: int, protocol: str = "tcp", *, is_node: bool = False) -> bool:
        return cluster.owner(Target(address, port), protocol, is_node=is_node) is not None

    assert all(owned(address, 80) for address in ("10.96.1.1", "198.51.100.7", "203.0.113.9"))
    assert owned("10.96.1.1", 90, "udp")
    assert not owned("10.96.1.1", 80, "udp")
    assert not owned("10.96.1.2", 80)
    assert owned("192.168.100.11", 30080, is_node=True)
    assert not owned("192.0.2.1", 30080)
