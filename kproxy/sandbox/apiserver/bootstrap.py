"""What a cluster contains before anybody asks for anything: namespaces, its ServiceCIDR, the Service `kubernetes`.

A real API server makes the same objects at its first start, and proxies and users meet them at once: the first
address of the range is taken, and `kubectl get svc` is never empty.

The endpoints of `default/kubernetes` name the server only if it listens on an address that others can reach. An
API server refuses to advertise loopback, because every node would translate it to itself; here the list is empty
instead.

Source: Kubernetes "Namespaces" (initial namespaces), KEP-1880 (the ServiceCIDR named kubernetes).
"""

from __future__ import annotations

from ipaddress import ip_network

from kproxy.sandbox.apiserver.endpointslices import SERVICE_NAME, SKIP_MIRROR
from kproxy.sandbox.apiserver.formats import family, routable
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import named
from kproxy.sandbox.apiserver.status import Json

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


def bootstrap(registry: Registry, address: str, port: int) -> None:
    """Create the initial objects; `address` and `port` are where the server listens."""
    for name in NAMESPACES:
        registry.create(named("Namespace"), "", {"metadata": {"name": name}})
    cidr = {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": list(registry.cidrs)}}
    registry.create(named("ServiceCIDR"), "", cidr)
    first = str(ip_network(registry.cidrs[0]).network_address + 1)
    labels = {"component": "apiserver", "provider": "kubernetes"}
    service: Json = {
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "clusterIP": first,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    }
    registry.create(named("Service"), "default", service)
    advertise(registry, address, port)


def advertise(registry: Registry, address: str, port: int) -> None:
    """Say in the endpoints of `default/kubernetes` where the server can be reached, if it can."""
    reachable = not routable(address)
    listed: Json = {"name": "https", "port": port, "protocol": "TCP"}
    labels = {SKIP_MIRROR: "true"}
    endpoints: Json = {"metadata": {"name": "kubernetes", "namespace": "default", "labels": labels}}
    if reachable:
        endpoints["subsets"] = [{"addresses": [{"ip": address}], "ports": [listed]}]
    registry.put(named("Endpoints"), ("default", "kubernetes"), endpoints)
    each: Json = {
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {SERVICE_NAME: "kubernetes"}},
        "addressType": family(address) or "IPv4",
        "ports": [listed],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}] if reachable else [],
    }
    registry.put(named("EndpointSlice"), ("default", "kubernetes"), each)
