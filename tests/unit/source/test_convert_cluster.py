"""Nodes and ServiceCIDRs (spec: model.md 8 and 10)."""

from __future__ import annotations

import json
from typing import Any

from kproxy.model.enums import Kind
from kproxy.model.node import Node, ServiceCIDR
from kproxy.source.convert import Converter, Outcome, Usable


def convert(kind: Kind, **given: Any) -> Outcome:
    metadata = {"name": "n1.example.com"} | given.pop("metadata", {})
    return Converter().convert(kind, json.dumps({"metadata": metadata} | given).encode())


def test_everything_that_a_proxy_reads_of_a_node() -> None:
    outcome = convert(
        Kind.NODE,
        metadata={
            "uid": "u-1",
            "namespace": "ignored",
            "labels": {"topology.kubernetes.io/zone": "a"},
            "deletionTimestamp": "2024-01-01T00:00:00Z",
        },
        spec={"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"], "taints": [{"key": "k"}]},
        status={
            "addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "192.168.0.1"},
                {"type": "InternalIP", "address": "fd00::0001"},
            ]
        },
    )
    assert outcome == Usable(
        Node(
            name="n1.example.com",
            uid="u-1",
            zone="a",
            addresses=("192.168.0.1", "fd00::1", "203.0.113.1"),
            pod_cidrs=("10.244.1.0/24", "fd00:1::/64"),
            taints=frozenset({"k"}),
            deleting=True,
        )
    )


def test_a_bare_node_is_usable() -> None:
    assert convert(Kind.NODE) == Usable(Node("n1.example.com"))


def test_the_only_pod_cidr_of_an_old_node_counts() -> None:
    assert convert(Kind.NODE, spec={"podCIDR": "10.244.1.0/24"}) == Usable(
        Node("n1.example.com", pod_cidrs=("10.244.1.0/24",))
    )


def test_garbage_of_a_node_is_left_out_and_noted() -> None:
    outcome = convert(
        Kind.NODE, spec={"podCIDRs": ["x"]}, status={"addresses": [{"type": "InternalIP", "address": "y"}]}
    )
    assert isinstance(outcome, Usable)
    assert outcome.object == Node("n1.example.com")
    assert [note.field for note in outcome.warnings] == ["status.addresses[0].address", "spec.podCIDRs[0]"]


def test_service_cidrs_are_masked() -> None:
    outcome = convert(Kind.SERVICE_CIDR, spec={"cidrs": ["10.96.0.1/16", "fd00:96::/108", "x"]})
    assert isinstance(outcome, Usable)
    assert outcome.object == ServiceCIDR("n1.example.com", ("10.96.0.0/16", "fd00:96::/108"))
    assert [note.field for note in outcome.warnings] == ["spec.cidrs[2]"]


def test_a_service_cidr_without_a_spec_is_empty() -> None:
    assert convert(Kind.SERVICE_CIDR) == Usable(ServiceCIDR("n1.example.com"))
