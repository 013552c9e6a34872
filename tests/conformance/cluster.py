"""The API side of a scenario: an embedded API server on cp, the scenario's objects, and the sentinel Service.

The sentinel tells when the proxy has acted on everything written before: its port and its endpoint move together, in
both families, so both watches must have come so far. No controller runs; the scenario writes slices and status. The
kernel carries the sentinel in every mode: our relay knows of endpoints before the rules of the same round are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime
from typing import Any, Self

from kproxy.sandbox.apiserver import ApiServer
from tests.conformance import objects
from tests.conformance.probes import Answer, Prober, Target
from tests.conformance.world import NAMES, NODES, PODS

Json = dict[str, Any]
_SENTINEL = {
    "name": "hx-sentinel",
    "ns": "hx-system",
    "ip": ["10.96.255.250", "fd00:10:96::fffa"],
    "annotations": {"kproxy.io/mode": "iptables"},
}
_TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
_SENTINEL_PATIENCE = 0.3  # seconds for one look; silence means: not yet


class NotConverged(Exception):
    """The proxy did not show the sentinel in time."""


class Cluster:
    """``async with Cluster() as cluster``: the API server runs and knows the nodes. Be inside cp meanwhile."""

    def __init__(self) -> None:
        self.api = ApiServer(host=NAMES["cp"][4], port=6443, controllers=False)
        self.services: dict[str, Json] = {}  # the shorthands by name
        self.served_nodes: tuple[str, ...] = ("n1",)  # where a proxy runs
        self._moves = 0

    async def __aenter__(self) -> Self:
        await self.api.start()
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hx-system"}})
        for name in NODES:
            self.api.create(objects.node(name))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.stop()

    def resolve(self, name: str, family: int) -> str:
        """The address of a host, a pod or a Service of the scenario; KeyError when nobody is called so."""
        if name in NAMES:
            return NAMES[name][family]
        short = self.services[name]
        ips = self.api.get("Service", name, short.get("ns", "default"))["spec"]["clusterIPs"]
        return str(next(ip for ip in ips if (":" in ip) == (family == 6)))

    def owner(self, target: Target, protocol: str, *, is_node: bool) -> Json | None:
        """The Service that answers at an address and a port; ``is_node`` where the address is a node's own."""
        for each in self.api.list("Service"):
            spec = each["spec"]
            ingress = each.get("status", {}).get("loadBalancer", {}).get("ingress", ())
            ips = {*spec.get("clusterIPs", ()), *spec.get("externalIPs", ()), *(one.get("ip") for one in ingress)}
            for port in spec.get("ports", ()):
                is_at = (target.address in ips and port["port"] == target.port) or (
                    is_node and port.get("nodePort") == target.port
                )
                if is_at and port.get("protocol", "TCP").lower() == protocol:
                    return each
        return None

    def write(self, short: Json) -> None:
        """Create or replace a Service, its slices and its status."""
        self.services[short["name"]] = short
        self._put(objects.service(short))
        if "lb" in short:
            self.balance(short["name"], short["lb"])
        self._put_slices(short)

    def set_endpoints(self, name: str, endpoints: list[Any]) -> None:
        """Replace what the slices of a Service list."""
        self.services[name] = {**self.services[name], "eps": endpoints}
        self._put_slices(self.services[name])

    def balance(self, name: str, addresses: list[Any]) -> None:
        """Write a Service's load-balancer addresses."""
        namespace = self.services[name].get("ns", "default")
        self.api.set_status("Service", name, objects.ingress(addresses), namespace)

    def delete(self, name: str) -> None:
        """Delete a Service with its slices."""
        short = self.services.pop(name)
        namespace = short.get("ns", "default")
        self.api.delete("Service", name, namespace)
        for each in self.api.list("EndpointSlice", namespace):
            if each["metadata"].get("labels", {}).get("kubernetes.io/service-name") == name:
                self.delete_slice(each["metadata"]["name"], namespace)

    def delete_slice(self, name: str, namespace: str = "default") -> None:
        self.api.delete("EndpointSlice", name, namespace)

    def gather(self, count: int) -> None:
        """Write so many Services that stay whatever the scenarios do."""
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hx-crowd"}})
        for short in objects.crowd(count):
            self.write(short)
        self.services.clear()

    def clear(self) -> None:
        """Delete all that the scenario wrote, the Events that it caused, and put the Nodes back."""
        self.services.clear()
        for kind in ("Service", "EndpointSlice", "Event"):
            for each in self.api.list(kind):
                namespace, name = each["metadata"]["namespace"], each["metadata"]["name"]
                if not namespace.startswith("hx-") and (namespace, name) != ("default", "kubernetes"):
                    self.api.delete(kind, name, namespace)
        for name in NODES:
            self._put(objects.node(name))

    async def converge(self, prober: Prober, deadline: float = 60.0) -> None:
        """Move the sentinel and wait until each proxy shows it in both families; raises NotConverged."""
        self._moves += 1
        port, target = 1000 + self._moves, 8080 + self._moves % 2
        pod = list(PODS)[self._moves % 3]
        short = {**_SENTINEL, "ports": [f"tcp/{port}->{target}"], "eps": [pod]}
        self._put(objects.service(short))
        self._put_slices(short)
        wanted = {4: f"{NAMES[pod][4]}:{target}", 6: f"[{NAMES[pod][6]}]:{target}"}
        sentinels = ((4, "10.96.255.250"), (6, "[fd00:10:96::fffa]"))
        for node, (family, where) in itertools.product(self.served_nodes, sentinels):
            question = {"from": node, "to": f"{where}:{port}", "timeout": _SENTINEL_PATIENCE}
            last = Answer("nothing")
            try:
                async with asyncio.timeout(deadline):
                    while last.local != wanted[family]:
                        last = await prober.ask(question)
                        if last.outcome != "ok":
                            await asyncio.sleep(0.02)
            except TimeoutError:
                raise NotConverged(f"IPv{family} sentinel from {node} after {deadline:g} s: {last}") from None

    def _put_slices(self, short: Json) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        for each in objects.slices(short):
            each["metadata"]["annotations"] = {_TRIGGER_TIME: now}  # as the slice controller does
            self._put(each)

    def _put(self, document: Json) -> None:
        metadata = document["metadata"]
        namespace = metadata.get("namespace", "")
        with contextlib.suppress(Exception):
            metadata["resourceVersion"] = self.api.get(document["kind"], metadata["name"], namespace)["metadata"][
                "resourceVersion"
            ]
        if "resourceVersion" in metadata:
            self.api.update(document)
        else:
            self.api.create(document)
