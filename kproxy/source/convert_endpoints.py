"""EndpointSlices, and legacy Endpoints in the same shape (spec: model.md 3).

A large cluster has 100,000 endpoints on a few thousand nodes: equal names of nodes, ports and zones are one object, as
are equal sets of hints, which makes an endpoint 150 bytes instead of 400. Rejected: ``sys.intern``, which on Python
3.12 never forgets a name, so that whoever invents new ones takes the node's memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from kproxy.model.endpoint import Endpoint, Endpoints, EndpointSlice, SlicePort
from kproxy.model.enums import IPFamily, family_of
from kproxy.model.keys import ObjectKey
from kproxy.source import wire
from kproxy.source.address import is_reserved, parse_ip
from kproxy.source.review import Review, Unusable, is_label, port_name, port_number, protocol, show

_FAMILIES = {family.value: family for family in IPFamily}
_SHARED = 4096  # distinct sets of hints; the names in them are foreign, so the memory of them is bounded
_NAMES = 65536  # distinct names
_LONGEST_NAME = 253  # characters, which the API allows
_LONGEST_SET = 1024  # characters of a set of hints
_ALWAYS = wire.Conditions()


class EndpointsConverter:
    """Converts slices and Endpoints; remembers names and sets of hints, which repeat from endpoint to endpoint.

    ``api_defaults``: the objects have not been through an API server, so what it fills in is filled in here.
    """

    def __init__(self, *, api_defaults: bool = False) -> None:
        self._unnamed = "" if api_defaults else None  # what a port without a name is called; None: it is no port
        self._sets: dict[tuple[str, ...], frozenset[str]] = {}
        self._names: dict[str, str] = {}

    def convert_slice(
        self, key: ObjectKey, metadata: wire.Metadata, given: wire.EndpointSlice, review: Review
    ) -> EndpointSlice | None:
        """None: belongs to no Service that a proxy serves."""
        labels = metadata.labels or wire.Labels()
        if labels.headless is not None or given.address_type == "FQDN":
            return None
        if not labels.service_name:
            review.note("metadata.labels", "lack kubernetes.io/service-name", "name the Service that it belongs to")
            return None
        if not is_label(labels.service_name):
            raise Unusable(
                "metadata.labels[kubernetes.io/service-name]",
                f"is {show(labels.service_name)}, which cannot be a Service's name",
                "name the Service that it belongs to",
            )
        family = _FAMILIES.get(given.address_type or "")
        if family is None:
            raise Unusable("addressType", f"is {show(given.address_type or '')}", "use IPv4 or IPv6")
        return EndpointSlice(
            key=key,
            service=ObjectKey(key.namespace, labels.service_name),
            family=family,
            ports=self._ports(given.ports or [], self._unnamed, "ports", review),
            endpoints=tuple(self._endpoints(given.endpoints or [], family, review)),
            triggered=_seconds(metadata.annotations.triggered) if metadata.annotations else 0.0,
        )

    def convert_endpoints(
        self, key: ObjectKey, metadata: wire.Metadata, given: wire.Endpoints, review: Review
    ) -> Endpoints | None:
        """One slice for each subset and family. None: no Service can have this name, or it is headless."""
        if not is_label(key.name) or (metadata.labels and metadata.labels.headless is not None):
            return None
        triggered = _seconds(metadata.annotations.triggered) if metadata.annotations else 0.0
        slices: list[EndpointSlice] = []
        for index, subset in enumerate(given.subsets or []):
            where = f"subsets[{index}]"
            ports = self._ports(subset.ports or [], "", f"{where}.ports", review)  # Endpoints leave empty names out
            found = [
                *self._subset_endpoints(subset.addresses or [], f"{where}.addresses", review, ready=True),
                *self._subset_endpoints(
                    subset.not_ready_addresses or [], f"{where}.notReadyAddresses", review, ready=False
                ),
            ]
            for family in IPFamily:
                endpoints = tuple(each for each in found if family_of(each.ip) is family)
                if endpoints:
                    # No object's name holds a slash, so this key is nobody else's.
                    slice_key = ObjectKey(key.namespace, f"{key.name}/{index}-{family.value}")
                    slices.append(EndpointSlice(slice_key, key, family, ports, endpoints, triggered))
        return Endpoints(key, tuple(slices))

    def _endpoints(self, given: list[wire.Endpoint], family: IPFamily, review: Review) -> Iterable[Endpoint]:
        for index, each in enumerate(given):
            if not each.addresses:
                review.note(
                    f"endpoints[{index}].addresses", "is empty, and the endpoint is left out", "give an address"
                )
                continue
            ip = _endpoint_ip(each.addresses[0], f"endpoints[{index}].addresses[0]", review)
            if ip is None:
                continue
            if family_of(ip) is not family:
                why = f"is {ip} in a slice of {family} addresses, and is left out"
                review.note(f"endpoints[{index}].addresses[0]", why, "put it into a slice of its own family")
                continue
            conditions, hints = each.conditions or _ALWAYS, each.hints
            yield Endpoint(
                ip,
                self._name(each.node_name) if each.node_name else None,
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
                self._share(hints.for_zones) if hints else None,
                self._share(hints.for_nodes) if hints else None,
            )

    def _share(self, hints: list[wire.Hint] | None) -> frozenset[str] | None:
        names = tuple(hint.name for hint in hints if hint.name) if hints else ()
        if not names:
            return None
        shared = self._sets.get(names)
        if shared is None:
            if sum(map(len, names)) > _LONGEST_SET:
                return frozenset(names)
            if len(self._sets) >= _SHARED:
                self._sets.clear()
            shared = self._sets[names] = frozenset(map(self._name, names))
        return shared

    def _name(self, text: str) -> str:
        """The same text, and as far as is known the same object."""
        if len(text) > _LONGEST_NAME:
            return text
        if len(self._names) >= _NAMES:
            self._names.clear()
        return self._names.setdefault(text, text)

    def _ports(
        self, given: list[wire.EndpointPort], unnamed: str | None, where: str, review: Review
    ) -> tuple[SlicePort, ...]:
        """A port without a name or a number matches no Service's port, and is left out as upstream does."""
        ports: list[SlicePort] = []
        for index, each in enumerate(given):
            field = f"{where}[{index}]"
            name = unnamed if each.name is None else each.name
            if name is None or not each.port:
                lacking = "name" if name is None else "port"
                why = (
                    "is missing, and the port is left out"
                    if name is None
                    else "is missing or 0, and the port is left out"
                )
                review.note(f"{field}.{lacking}", why, "give it what the Service's port has")
                continue
            ports.append(
                SlicePort(
                    self._name(port_name(name, f"{field}.name")),
                    protocol(each.protocol, f"{field}.protocol"),
                    port_number(each.port, f"{field}.port"),
                )
            )
        return tuple(ports)

    def _subset_endpoints(
        self, given: list[wire.EndpointAddress], where: str, review: Review, *, ready: bool
    ) -> Iterable[Endpoint]:
        for index, each in enumerate(given):
            ip = _endpoint_ip(each.ip or "", f"{where}[{index}].ip", review)
            if ip is not None:
                node = self._name(each.node_name) if each.node_name else None
                yield Endpoint(ip, node, ready=ready, serving=ready)


def _endpoint_ip(text: str, field: str, review: Review) -> str | None:
    ip = parse_ip(text)
    if ip is None:
        review.note(field, f"is {show(text)}, no IP address, and is left out", "write an IP address")
    elif is_reserved(ip):
        review.note(field, f"is {ip}, an address that only a node itself can reach", "give an address of the pod")
        return None
    return ip


def _seconds(timestamp: str | None) -> float:
    """RFC 3339 with nanoseconds to seconds since the epoch; 0 where it is missing or is none."""
    try:
        moment = datetime.fromisoformat(timestamp or "")
        return max(0.0, moment.timestamp()) if moment.tzinfo else 0.0
    except (ValueError, OverflowError, OSError):
        return 0.0
