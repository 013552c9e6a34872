"""Which HTTP proxy stands between us and the API server: the environment's variables, read as Go reads them. Pure.

kubeadm copies HTTPS_PROXY and NO_PROXY of the machine it ran on into the service proxy's pods, and there NO_PROXY
holds the cluster's ranges, ports and domains. Rejected: Python's urllib, which knows neither CIDRs nor ports in it and
would send us to a proxy that kube-proxy passes by; ALL_PROXY, which Go does not read.
Source: golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_PORTS = {"http": "80", "https": "443"}


def proxy_for(server: str, environment: Mapping[str, str]) -> str:
    """The proxy's URL for the http or https URL ``server``; empty: none. Raises ValueError where its port is none."""
    parts = urlsplit(server)
    variable = f"{parts.scheme}_proxy"
    proxy = environment.get(variable.upper()) or environment.get(variable, "")
    exceptions = environment.get("NO_PROXY") or environment.get("no_proxy", "")
    if not proxy or _is_direct(parts.hostname or "", str(parts.port or _PORTS[parts.scheme]), exceptions):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_direct(host: str, port: str, exceptions: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_fits(each.strip(), host, port, address) for each in exceptions.lower().split(",") if each.strip())


def _fits(entry: str, host: str, port: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:  # a name, or an address with a port
        network = None
    if network is not None:
        return address is not None and address in network
    if entry.startswith("["):
        name, _, wanted = entry[1:].partition("]")
    else:
        name, _, wanted = entry.partition(":")
    if wanted.lstrip(":") not in {"", port}:
        return False
    suffix = name.removeprefix("*")
    return host == name or host.endswith(suffix if suffix.startswith(".") else f".{suffix}")
