"""The closed choices of the Kubernetes API that a service proxy reads, spelt as the API spells them."""

from enum import Enum, StrEnum


class IPFamily(StrEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"

    @property
    def bits(self) -> int:
        return 32 if self is IPFamily.IPV4 else 128


def family_of(ip: str) -> IPFamily:
    """The family of an address or CIDR that is already canonical."""
    return IPFamily.IPV6 if ":" in ip else IPFamily.IPV4


class Protocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    @property
    def lower(self) -> str:  # type: ignore[override]  # netfilter spells protocols in lower case
        return _LOWER[self]


_LOWER = {protocol: protocol.value.casefold() for protocol in Protocol}


class ServiceType(StrEnum):
    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class TrafficPolicy(StrEnum):
    CLUSTER = "Cluster"
    LOCAL = "Local"


class Kind(Enum):
    """The kinds of object that are watched; the value is the API's spelling, used in messages."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    ENDPOINTS = "Endpoints"
    NODE = "Node"
    SERVICE_CIDR = "ServiceCIDR"
