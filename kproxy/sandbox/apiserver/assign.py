"""Which addresses and node ports one Service gets, keeps and gives back.

Fills a validated Service from the allocator and returns what could not be had, in the API server's words. Fixed
requests are served before free choices, so that a Service can never take the port its own later line asks for.

Source: Kubernetes "Service" (type NodePort; choosing your own port), KEP-563 for the second family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kproxy.sandbox.apiserver.allocate import Allocator, Network, RangeFull
from kproxy.sandbox.apiserver.formats import family
from kproxy.sandbox.apiserver.service_defaults import (
    is_headless,
    needs_cluster_ip,
    needs_health_check_port,
    needs_node_ports,
)
from kproxy.sandbox.apiserver.status import Cause, Json, StatusError, invalid_value
from kproxy.sandbox.apiserver.store import Key

Networks = Mapping[str, Sequence[Network]]
"""Family (IPv4 or IPv6) to the ranges of the cluster's ServiceCIDRs."""


def assign(spec: Json, allocator: Allocator, networks: Networks, holder: Key) -> list[Cause]:
    """Allocate what a Service asks for or needs, inside the caller's claim; returns what it may not have."""
    causes: list[Cause] = []
    try:
        if needs_cluster_ip(spec) and not is_headless(spec):
            causes += _assign_addresses(spec, allocator, networks, holder)
        causes += _assign_node_ports(spec, allocator, holder)
        if needs_health_check_port(spec):
            causes += _assign_health_check_port(spec, allocator, holder)
    except RangeFull as full:
        message = "failed to allocate a cluster IP or node port: range is full"
        raise StatusError(500, "InternalError", message) from full
    return causes


def give_back(spec: Json, allocator: Allocator, holder: Key, *, kept: Json | None = None) -> None:
    """Free what `spec` held and `kept`, its successor, does not."""
    after = kept or {}
    for address in set(_addresses(spec)) - set(_addresses(after)):
        allocator.addresses.give_back(address, holder)
    for port in _node_ports(spec) - _node_ports(after):
        allocator.ports.give_back(port, holder)


def adopt(spec: Json, allocator: Allocator, holder: Key) -> None:
    """Note what a Service that was stored unseen holds; a clash stays with the first holder."""
    for address in _addresses(spec):
        allocator.addresses.take(address, holder)
    for port in _node_ports(spec):
        allocator.ports.take(port, holder)


def _addresses(spec: Json) -> list[str]:
    listed = spec.get("clusterIPs") or [spec.get("clusterIP") or "None"]
    return [address for address in listed if address != "None"]


def _node_ports(spec: Json) -> set[int]:
    ports = {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
    return ports | ({spec["healthCheckNodePort"]} if spec.get("healthCheckNodePort") else set())


def _assign_addresses(spec: Json, allocator: Allocator, networks: Networks, holder: Key) -> list[Cause]:
    wanted: list[str] = list(spec.get("clusterIPs") or ())
    for address in wanted:
        refusal = allocator.take_address(address, networks.get(family(address), ()), holder)
        if refusal:
            detail = f"failed to allocate IP {address}: {refusal}"
            return [invalid_value("spec.clusterIPs", wanted, detail)]
    lacking = spec["ipFamilies"][len(wanted) :]
    wanted += [allocator.next_address(networks.get(each, ()), holder) for each in lacking]
    spec["clusterIPs"] = wanted
    spec["clusterIP"] = wanted[0]
    return []


def _assign_node_ports(spec: Json, allocator: Allocator, holder: Key) -> list[Cause]:
    causes = []
    chosen: dict[int, tuple[int, set[str]]] = {}
    ports = spec.get("ports") or []
    for index, port in enumerate(ports):
        number = port.get("nodePort")
        if number:
            refusal = allocator.take_port(number, holder)
            if refusal:
                causes.append(invalid_value(f"spec.ports[{index}].nodePort", number, refusal))
            chosen.setdefault(port["port"], (number, set()))[1].add(port["protocol"])
    if causes or not needs_node_ports(spec):
        return causes
    for port in ports:
        if port.get("nodePort"):
            continue
        # One number for both protocols of one port: 53/UDP and 53/TCP of kube-dns stay together.
        number, protocols = chosen.get(port["port"], (0, set()))
        if not number or port["protocol"] in protocols:
            number, protocols = allocator.next_port(holder), set()
        port["nodePort"] = number
        chosen[port["port"]] = (number, protocols | {port["protocol"]})
    return []


def _assign_health_check_port(spec: Json, allocator: Allocator, holder: Key) -> list[Cause]:
    wanted = spec.get("healthCheckNodePort")
    if not wanted:
        spec["healthCheckNodePort"] = allocator.next_port(holder)
        return []
    refusal = allocator.take_port(wanted, holder)
    return [invalid_value("spec.healthCheckNodePort", wanted, refusal)] if refusal else []
