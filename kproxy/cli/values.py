"""What one flag's value may be: text → value.

Every reader raises ValueError, whose text says what is accepted and fits behind "give".
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from enum import StrEnum
from urllib.parse import urlsplit

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|us|µs|ns|s)")
_ENDPOINT = re.compile(
    r"\[(?P<bracketed>[^\]]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<plain>[^:]+):(?P<port>[0-9]{1,5})|(?P<bare>.+)"
)
_INTERFACE = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@-]*")
_GATE = "AllowServiceExternalIPs"
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


def text(value: str) -> str:
    return value.strip()


def url(value: str) -> str:
    try:
        parts = urlsplit(value.strip())
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if value.strip() and not usable:
        raise ValueError("a URL such as https://10.0.0.1:6443")
    return value.strip()


def interface(value: str, longest: int) -> str:
    """A name, or the beginning of one, that goes into rules as it is."""
    name = value.strip()
    if name and (len(name) > longest or not _INTERFACE.fullmatch(name)):
        raise ValueError(f"at most {longest} letters, digits and . _ @ -, as the kernel names interfaces")
    return name


def boolean(value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError("true or false")


def duration(value: str) -> float:
    """Seconds of a Go duration."""
    if value == "0":
        return 0.0
    if not re.fullmatch(rf"(?:{_DURATION.pattern})+", value):
        raise ValueError("a duration of 0 or more, such as 30s, 1m30s or 200ms")
    return math.fsum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(value))


def number(value: str, low: int, high: int) -> int:
    accepted = f"a whole number from {low} to {high}" if high < 2**31 - 1 else f"a whole number of {low} or more"
    try:
        read = int(value)
    except ValueError:
        raise ValueError(accepted) from None
    if not low <= read <= high:
        raise ValueError(accepted)
    return read


def choice(value: str, kind: type[StrEnum]) -> StrEnum:
    """An empty value is kube-proxy's way of saying the default, which each kind names first."""
    if not value:
        return next(iter(kind))
    for each in kind:
        if each.value == value:
            return each
    raise ValueError("one of " + ", ".join(each.value for each in kind))


def address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value.strip()))
    except ValueError:
        raise ValueError("an IP address, such as 0.0.0.0 or ::") from None


def endpoint(value: str, default_port: int) -> str:
    """``ip:port``; a bare IP gets the default port; nothing stays nothing, which leaves the default."""
    if not value:
        return ""
    found = _ENDPOINT.fullmatch(value.strip())
    host = next(filter(None, found.group("bracketed", "plain", "bare"))) if found else ""
    port = int(found["port"] or found["port6"] or default_port) if found else 0
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise ValueError(f"an IP address and a port from 1 to 65535, such as 127.0.0.1:{default_port}")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def cidr(value: str) -> str:
    if "/" not in value:
        raise ValueError("a CIDR such as 10.244.0.0/16")
    try:
        return str(ipaddress.ip_network(value.strip(), strict=False))
    except ValueError:
        raise ValueError("a CIDR such as 10.244.0.0/16") from None


def cidr_pair(value: str) -> tuple[str, ...]:
    networks = _list(value, cidr)
    families = {":" in each for each in networks}
    if len(networks) > 2 or len(families) < len(networks):
        raise ValueError("one CIDR, or two separated by a comma, one of each IP family")
    return networks


def nodeport_addresses(value: str) -> tuple[str, ...]:
    if value.strip() == "primary":
        return ("primary",)
    try:
        return _list(value, cidr)
    except ValueError:
        raise ValueError("CIDRs separated by commas, or the single word primary") from None


def external_ips_gate(value: str) -> bool:
    """Of the feature gates only AllowServiceExternalIPs changes anything here."""
    allowed = True
    for each in filter(None, value.split(",")):
        gate, separator, state = each.partition("=")
        if not separator:
            raise ValueError("pairs such as AllowServiceExternalIPs=true, separated by commas")
        enabled = boolean(state.strip())
        if gate.strip() == _GATE:
            allowed = enabled
    return allowed


def ignored_gates(value: str) -> list[str]:
    """The names of all feature gates that mean nothing here, of which some may be misspelt."""
    gates = (each.partition("=")[0].strip() for each in value.split(","))
    return [gate for gate in gates if gate and gate != _GATE]


def _list(value: str, read: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(read(each) for each in value.split(",") if each.strip())


def show_duration(seconds: float) -> str:
    """The shortest that ``duration`` reads back."""
    for unit in ("h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"
