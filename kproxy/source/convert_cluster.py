"""Nodes and ServiceCIDRs (spec: model.md 8 and 10)."""

from __future__ import annotations

import sys

from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node, ServiceCIDR
from kproxy.source import wire
from kproxy.source.address import parse_cidr, parse_ip
from kproxy.source.review import Review, show


def convert_node(key: ObjectKey, metadata: wire.Metadata, given: wire.Node, review: Review) -> Node:
    spec = given.spec or wire.NodeSpec()
    status = given.status or wire.NodeStatus()
    zone = metadata.labels.zone if metadata.labels else None
    pod_cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    return Node(
        name=key.name,
        uid=metadata.uid or "",
        zone=sys.intern(zone) if zone else None,
        addresses=_addresses(status.addresses or [], review),
        pod_cidrs=_cidrs(pod_cidrs, "spec.podCIDRs", review),
        taints=frozenset(taint.key for taint in spec.taints or [] if taint.key),
        deleting=bool(metadata.deletion_timestamp),
    )


def convert_service_cidr(key: ObjectKey, given: wire.ServiceCIDR, review: Review) -> ServiceCIDR:
    cidrs = (given.spec.cidrs if given.spec else None) or []
    return ServiceCIDR(name=key.name, cidrs=_cidrs(cidrs, "spec.cidrs", review))


def _addresses(given: list[wire.NodeAddress], review: Review) -> tuple[str, ...]:
    """InternalIPs come first whatever the order of the object; host names and DNS names are no addresses."""
    found: dict[str, None] = {}
    for wanted in ("InternalIP", "ExternalIP"):
        for index, each in enumerate(given):
            if each.type != wanted or not each.address:
                continue
            ip = parse_ip(each.address)
            if ip is not None:
                found[ip] = None
            else:
                why = f"is {show(each.address)}, no IP address, and is left out"
                review.note(f"status.addresses[{index}].address", why, "correct the kubelet's --node-ip")
    return tuple(found)


def _cidrs(texts: list[str], field: str, review: Review) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for index, text in enumerate(texts):
        cidr = parse_cidr(text.strip())
        if cidr is not None:
            found[cidr] = None
        elif text:
            review.note(f"{field}[{index}]", f"is {show(text)}, no CIDR, and is left out", "write it as 10.0.0.0/16")
    return tuple(found)
