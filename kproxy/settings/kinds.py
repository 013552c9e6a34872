"""The kinds of values: what a flag's text means, what a file may hold, and how the value is shown again.

One ``Kind`` serves flags, files and everything that prints settings, so these cannot disagree. What its readers raise
is a ValueError without a text: what is accepted stands in the kind, once, and fits behind "give". ``show`` gives what
JSON has, in kube-proxy's spelling, and ``accept`` reads it back to the same value.

Source of the rules: spec: runtime.md 1 and 2.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_UNITS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "µs": 1000, "ns": 1}  # nanoseconds
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|m|us|µs|ns|s)")
_ENDPOINT = re.compile(
    r"\[(?P<bracketed>[^\]]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<plain>[^:]+):(?P<port>[0-9]{1,5})|(?P<bare>.+)"
)
_INTERFACE = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@-]*")
_QUANTITY = re.compile(r"[+]?[0-9]+(?:\.[0-9]*)?(?:[kMGTPE]|[KMGTPE]i)?")
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_LARGEST = 2**31 - 1
_LONGEST = 2**63  # nanoseconds; a duration of Go's has 64 bits
PRIMARY, LOCALHOST = "primary", "localhost"


class Kind(NamedTuple):
    accepted: str
    parse: Callable[[str], Any]  # a flag's text → the value
    accept: Callable[[Any], Any]  # what a file holds → the value
    show: Callable[[Any], Any] = lambda value: value  # the value → what a file would hold
    adds: bool = False  # a flag that is given twice adds to the first


def _only(kind: type, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``read`` for values of exactly one JSON type; True is no number."""

    def accept(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError
        return read(value)

    return accept


def _same(value: Any) -> Any:
    return value


# --- text, numbers ----------------------------------------------------------------------------------------------


def _url(value: str) -> str:
    parts = urlsplit(value.strip())
    usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    if value.strip() and not usable:
        raise ValueError
    return value.strip()


def _boolean(value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise ValueError
    return value in _TRUE


def _strings(value: Any) -> list[str]:
    return [_only(str, _same)(each) for each in _only(list, _same)(value)]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _float(value: Any) -> float:
    read = float(value)
    if not math.isfinite(read):
        raise ValueError
    return read


def _share(value: Any) -> float:
    share = _float(value)
    if not 0 < share <= 1:
        raise ValueError
    return share


def _real(read: Callable[[Any], float]) -> Callable[[Any], float]:
    return lambda value: _only(int if type(value) is int else float, read)(value)


def _quantity(value: Any) -> str:
    """Bytes as Kubernetes writes them: 0, 64Ki, 1M."""
    if isinstance(value, bool) or not _QUANTITY.fullmatch(str(value)):
        raise ValueError
    return str(value)


TEXT = Kind("text", str.strip, _only(str, str.strip))
HOST = Kind("the name that `kubectl get nodes` shows", lambda text: text.strip().lower(), _only(str, str.strip))
URL = Kind("a URL such as https://10.0.0.1:6443", _url, _only(str, _url))
BOOLEAN = Kind("true or false", _boolean, _only(bool, _same))
QUANTITY = Kind("a number of bytes, such as 0 or 64Ki", _quantity, _quantity)
FLOAT = Kind("a number", _float, _real(_float), lambda value: int(value) if value == int(value) else value)
SHARE = Kind("a number above 0 and at most 1", _share, _real(_share))


def number(low: int, high: int = _LARGEST) -> Kind:
    """A whole number in a range that includes both ends."""
    accepted = f"a whole number from {low} to {high}" if high < _LARGEST else f"a whole number of {low} or more"

    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(accepted, lambda text: check(int(text)), _only(int, check))


def choice(kind: type[StrEnum]) -> Kind:
    """An empty value is kube-proxy's way of saying the default, which each kind names first."""
    first = next(iter(kind))

    def read(value: str) -> StrEnum:
        return kind(value) if value else first

    accepted = f"{', '.join(kind)}, or nothing, which means {first}" if len(kind) > 1 else f"{first}, or nothing"
    return Kind(accepted, read, _only(str, read), lambda value: value.value)


# --- durations --------------------------------------------------------------------------------------------------


def read_duration(value: str) -> float:
    """Seconds of a Go duration. Raises ValueError."""
    if value == "0":
        return 0.0
    if not re.fullmatch(rf"(?:{_DURATION.pattern})+", value):
        raise ValueError
    nanoseconds = sum(float(count) * _UNITS[unit] for count, unit in _DURATION.findall(value))
    if nanoseconds >= _LONGEST:  # infinity, too
        raise ValueError
    return round(nanoseconds) / 1e9


def go_duration(seconds: float) -> str:
    """As Go prints it: ``1h0m0s``, ``30s``, ``1.5s``, ``200ms``, ``0s``."""
    nanoseconds = round(seconds * 1e9)
    for limit, unit in ((1_000, "ns"), (1_000_000, "µs"), (1_000_000_000, "ms")):
        if 0 < nanoseconds < limit:
            return f"{_decimal(nanoseconds, limit // 1000)}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(count: int, scale: int) -> str:
    """``count / scale`` with all its digits and no more."""
    whole, rest = divmod(count, scale)
    digits = f"{rest:0{len(str(scale)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def short_duration(seconds: float) -> str:
    """The shortest that ``read_duration`` reads back, for help: ``24h``, ``30s``."""
    for unit in ("h", "m"):
        if seconds and seconds * 10**9 % _UNITS[unit] == 0:
            return f"{seconds * 10**9 / _UNITS[unit]:g}{unit}"
    return go_duration(seconds)


def _positive(value: str) -> float:
    seconds = read_duration(value)
    if not seconds:
        raise ValueError
    return seconds


def _flush(value: Any) -> float:
    return value / 1e9 if type(value) is int and value >= 0 else _only(str, read_duration)(value)


def _range(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    def accept(value: Any) -> tuple[Any, Any]:
        low, high = map(read, _only(list, _same)(value))
        if not 0 < low <= high:
            raise ValueError
        return low, high

    return accept


_A_DURATION = "a duration of 0 or more, such as 30s, 1m30s or 200ms"
DURATION = Kind(_A_DURATION, read_duration, _only(str, read_duration), go_duration)
FLUSH = Kind(f"{_A_DURATION}, or a number of nanoseconds", read_duration, _flush, go_duration)
POSITIVE = Kind("a duration above 0, such as 30s, 1m30s or 200ms", _positive, _only(str, _positive), go_duration)
FROM_TO = Kind(
    "a list of two durations above 0, the shorter one first, such as [300ms, 10s]",
    lambda text: _range(read_duration)(text.split(",")),
    _range(_only(str, read_duration)),
    lambda pair: [go_duration(each) for each in pair],
)
DURATIONS = Kind(
    "a list of durations above 0, such as [250ms, 1s]",
    lambda text: tuple(map(_positive, _words(text))),
    lambda value: tuple(map(_positive, _strings(value))),
    lambda values: [go_duration(each) for each in values],
)
SECONDS = Kind(
    "a list of two whole numbers above 0, the smaller one first, such as [300, 600]",
    lambda text: _range(int)(text.split(",")),
    _range(_only(int, _same)),
    list,
)


# --- addresses --------------------------------------------------------------------------------------------------


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value.strip()))


def read_endpoint(value: str, default_port: int) -> str:
    """``ip:port``; a bare IP gets the default port; nothing stays nothing. Raises ValueError."""
    if not value:
        return ""
    found = _ENDPOINT.fullmatch(value.strip())
    if not found:
        raise ValueError
    ip = ipaddress.ip_address(next(filter(None, found.group("bracketed", "plain", "bare"))))
    port = int(found["port"] or found["port6"] or default_port)
    if not 1 <= port <= 65535:
        raise ValueError
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def endpoint(default_port: int) -> Kind:
    def read(value: str) -> str:
        return read_endpoint(value, default_port)

    accepted = f"an IP address and a port from 1 to 65535, such as 127.0.0.1:{default_port}"
    return Kind(accepted, read, _only(str, read))


def read_cidr(value: str) -> str:
    """Canonical. Raises ValueError."""
    if "/" not in value:
        raise ValueError
    return str(ipaddress.ip_network(value.strip(), strict=False))


def _node_ports(values: list[str]) -> tuple[str, ...]:
    """``primary`` alone or CIDRs, and ``localhost`` besides."""
    words = [each.strip() for each in values if each.strip()]
    besides = (LOCALHOST,) if LOCALHOST in words else ()
    rest = [word for word in words if word != LOCALHOST]
    if set(rest) == {PRIMARY}:
        return (PRIMARY, *besides)
    return (*dict.fromkeys(map(read_cidr, rest)), *besides)


def _one_of_each(values: list[str], read: Callable[[str], str] = _address) -> tuple[str, ...]:
    found = tuple(read(each) for each in values if each.strip())
    if not found or len({":" in each for each in found}) < len(found):
        raise ValueError
    return found


def _list(values: tuple[str, ...]) -> list[str] | None:
    return list(values) or None  # Go's null is a list that nobody gave


ADDRESS = Kind("an IP address, such as 0.0.0.0 or ::", _address, _only(str, _address))
NODE_PORTS = Kind(
    "CIDRs, or the word primary instead of them; the word localhost may stand beside either",
    lambda text: _node_ports(text.split(",")),
    lambda value: _node_ports(_strings(value)),
    _list,
    adds=True,
)
ADDRESSES = Kind(
    "one IP address of each family, such as 169.254.73.80,fd00::1",
    lambda text: _one_of_each(text.split(",")),
    lambda value: _one_of_each(_strings(value)),
    list,
)
NETWORKS = Kind(
    "one network of each family, such as 169.254.73.128/26,fd00:1::/112",
    lambda text: _one_of_each(text.split(","), read_cidr),
    lambda value: _one_of_each(_strings(value), read_cidr),
    list,
)
STRINGS = Kind("a list of texts", _words, lambda value: tuple(_strings(value)), _list, adds=True)
# Kept as they are: what they mean, and whether they must mean something, depends on detectLocalMode.
CIDR_PAIR = Kind("a CIDR, or two separated by a comma", _words, _only(str, _words), ",".join)


# --- names, maps ------------------------------------------------------------------------------------------------


def interface(longest: int) -> Kind:
    """The name of one, or the beginning of such a name, that goes into rules as it is."""

    def read(value: str) -> str:
        name = value.strip()
        if name and (len(name) > longest or not _INTERFACE.fullmatch(name)):
            raise ValueError
        return name

    accepted = f"at most {longest} letters, digits and . _ @ -, as the kernel names interfaces"
    return Kind(accepted, read, _only(str, read))


def version(wanted: str) -> Kind:
    """Nothing, or this one."""

    def read(value: str) -> str:
        if value not in {"", wanted}:
            raise ValueError
        return value

    return Kind(f"{wanted}, or nothing: only the previous minor version can be shown", read, _only(str, read))


def _read_gates(text: str) -> tuple[tuple[str, bool], ...]:
    found = []
    for each in filter(None, text.split(",")):
        name, separator, state = each.partition("=")
        if not separator or not name.strip():
            raise ValueError
        found.append((name.strip(), _boolean(state.strip())))
    return tuple(found)


def _accept_gates(value: Any) -> tuple[tuple[str, bool], ...]:
    if not isinstance(value, Mapping) or not all(type(name) is str and type(on) is bool for name, on in value.items()):
        raise ValueError
    return tuple(value.items())


def _read_vmodule(text: str) -> tuple[tuple[str, int], ...]:
    found = []
    for each in filter(None, text.split(",")):
        pattern, separator, level = each.partition("=")
        if not separator:
            raise ValueError
        found.append(_module(pattern, int(level)))
    return tuple(found)


def _module(pattern: Any, level: Any) -> tuple[str, int]:
    if type(pattern) is not str or not pattern.strip() or {",", "="} & set(pattern):
        raise ValueError
    if type(level) is not int or not 0 <= level <= _LARGEST:
        raise ValueError
    return pattern.strip(), level


def _accept_vmodule(value: Any) -> tuple[tuple[str, int], ...]:
    found = []
    for each in _only(list, _same)(value):
        if not isinstance(each, Mapping) or not each.keys() <= {"filePattern", "verbosity"}:
            raise ValueError
        found.append(_module(each.get("filePattern"), each.get("verbosity", 0)))
    return tuple(found)


GATES = Kind(
    "feature gates such as AllowServiceExternalIPs=true (a file has a map of names to true or false)",
    _read_gates,
    _accept_gates,
    dict,
    adds=True,
)
VMODULE = Kind(
    "pairs such as sync=4,status=2 (a file has a list of {filePattern: sync, verbosity: 4})",
    _read_vmodule,
    _accept_vmodule,
    lambda pairs: [{"filePattern": pattern, "verbosity": level} for pattern, level in pairs],
)
