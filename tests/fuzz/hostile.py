"""What may be wrong with an object: values that do not belong there, and edits that put them anywhere.

A mutation takes an object that is right and spoils one place of it, so that everything else of the object still drives
the program deep into its decisions; objects of pure noise are refused at the door and test the door alone. Values come
from lists of things that have broken other programs: hypothesis chooses, and a failing example stays readable.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Texts that ``encode`` replaces by JSON that Python's writer would not write.
DEEP, LONG, INFINITE = "@deep@", "@long@", "@infinite@"
MARKS = {DEEP: "[" * 20_000 + "]" * 20_000, LONG: "9" * 5000, INFINITE: "1e999"}

IPS = [
    *("010.096.000.001", "10.96.0.001", "10.96.0.1 ", " 10.96.0.1", "10.96.0.1\n"),
    *("10.96.0.1/32", "10.96.0.1,10.96.0.2"),
    *("1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.-4", "0x7f.0.0.1", "2130706433", "1.2.3.4:80", f"{'9' * 200}.1.1.1"),
    *("0.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.169.254", "224.0.0.1", "239.1.1.1", "255.255.255.255"),
    *("::ffff:10.96.0.1", "::ffff:a60:1", "::10.96.0.1", "64:ff9b::1.2.3.4", "FD00:10:96::A", "fd00:10:96:0:0:0:0:b"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fd00:10:96::1%0", "ff02::1", "ff0e::1", "[::1]", "1::2::3", "fd00::g"),
    *("localhost", "example.com", "\u0661\u0660.96.0.1", "\uff11\uff10.96.0.1", "None", "none", "null", "any"),
]  # fmt: skip
CIDRS = [
    *("0.0.0.0/0", "10.0.0.0/0", "::/0", "fd00::/0", "::ffff:0:0/96", "::ffff:10.0.0.0/104", "::ffff:10.0.0.0/8"),
    *("10.0.0.1/8", "010.000.000.000/008", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/", "/8", "10.0.0.0"),
    *("10.0.0.0/255.0.0.0", "10.0.0.0/8/8", "10.0.0.0/\u0668", " 10.0.0.0/8 ", "\t10.0.0.0/8\n", "10.0.0.0 /8"),
    *("fd00::1/64", "fd00::/129", "fd00::/00000000000000064", f"10.0.0.0/{'9' * 30}", "fe80::%1/64", "203.0.113.7/32"),
]  # fmt: skip
NUMBERS = [
    *(0, -1, 1, 53, 80, 443, 30000, 65535, 65536, 10**9, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(10**30, -(10**30), 10**300, 10**4000, LONG, INFINITE, 80.5, 80.0, -0.0, 1e308, 1e-320, True, False, "80", "0x50"),
    *(86400, 86401, 10800, 2147483, 2147484),
]  # fmt: skip
WORDS = [
    *("tcp", "Tcp", "TCP", "UDP", "udp ", "SCTP", "sctp", "ICMP", "all", "local", "Local", "LOCAL"),
    *("Cluster", "cluster"),
    *("ClientIP", "clientip", "clientIP", "None", "ClusterIP", "NodePort", "nodeport", "LoadBalancer", "ExternalName"),
    *("VIP", "Proxy", "proxy", "IPv4", "ipv4", "IPv6", "FQDN", "true", "false", "yes", "ns", "a", "b", "web"),
    *("n1", "N1"),
    *("2024-01-01T00:00:00Z", "2024-01-01", "2024-13-41T25:61:61Z"),
    *("9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00Z"),
    *("2024-01-01T00:00:00.123456789Z", "0001-01-01T00:00:00+23:59", "primary", "InternalIP", "ExternalIP", "Hostname"),
]  # fmt: skip
TEXTS = [
    *("", " ", "\t", '"', "'", "\\", '\\"', "''", '""', 'a"b', "a'b", "a b", "a\\", "a\nb", "a\rb", "a\x00b", "a\x1bb"),
    *("a\n-A INPUT -j ACCEPT\nCOMMIT\n", 'a" -j ACCEPT -m comment --comment "', "a\nCOMMIT\n*nat\n-F\nCOMMIT"),
    *("\n", "\x7f"),
    *("--", "-", "-A", "-j DROP", "--dport 22 -j ACCEPT", "!", "#", "# a", "*nat", "COMMIT", ":KUBE-SERVICES - [0:0]"),
    *("KUBE-SERVICES", "KUBE-MARK-MASQ", "$(reboot)", "`id`", "${PATH}", "%s%n%d", "{}", "{0}", "\\x41"),
    *("\\n", "a;b|c"),
    *("\u00fc", "\u202eabc", "a\u2028b", "a\u0085b", "\u200b", "\ufeffa", "\ud800", "a\udfff", "\U0001f600"),
    *("\u0130", "\uffff"),
    *("x" * 63, "x" * 64, "x" * 253, "x" * 254, "x" * 300, "x" * 5000, ".".join(["x" * 63] * 4), ".".join("x" * 127)),
    *("A", "Web", "-a", "a-", "a_b", "a/b", "a.b", ".a", "a..b", "../..", "a:b", "a/b:c", "default", "1a"),
    *("0", "a\u0301"),
    *("a,b", "a=b", "a\tb", "[", "]", "@", "~", "a%00b", "&#10;", "\u0000" * 3, "a" + "\n" * 300),
]  # fmt: skip
STRUCTURES: list[Any] = [
    None,
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": None},
    {"name": None},
    [1, "a", None],
    [[[[[]]]]],
    "[]",
    "{}",
    DEEP,
]
EVERYTHING = [*IPS, *CIDRS, *NUMBERS, *WORDS, *TEXTS, *STRUCTURES]
NAMES = [*TEXTS, *WORDS]

VALUES = st.sampled_from(EVERYTHING) | st.sampled_from(IPS) | st.sampled_from(NUMBERS) | st.text(max_size=20)
BROKEN_BYTES = [
    *(b"", b" ", b"\x00", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"[", b'"', b"null", b"true", b"1", b'"a"'),
    *(b"[]", b"{}"),
    *(b"NaN", b"-", b"{'a':1}", b"{}{}", b'{"a":1,}', b"//", b'{"metadata":{"name":"a","name":{}}}', b"\xed\xa0\x80"),
    *(b'"\xff"', b'{"metadata":{"name":"a\xff","namespace":"ns"}}', b'{"metadata":null}', b'{"metadata":[]}', b"\r"),
]  # fmt: skip

Path = tuple[Any, ...]
# What no service proxy reads is spoilt more rarely than what it does.
_UNREAD = {
    "apiVersion",
    "kind",
    "uid",
    "resourceVersion",
    "selector",
    "targetRef",
    "targetPort",
    "ipFamilyPolicy",
    "app",
}


def paths(value: Any, at: Path = ()) -> list[Path]:
    """Every place of a document, the root first."""
    found = [at]
    match value:
        case dict():
            found += [path for key, inner in value.items() for path in paths(inner, (*at, key))]
        case list():
            found += [path for place, inner in enumerate(value[:20]) for path in paths(inner, (*at, place))]
    return found


def put(document: Any, path: Path, value: Any) -> Any:
    """A copy in which ``value`` stands at ``path``."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return changed


def look(document: Any, path: Path) -> Any:
    """What stands there; None where nothing does."""
    for step in path:
        try:
            document = document[step]
        except (LookupError, TypeError):
            return None
    return document


def _remove(document: Any, path: Path) -> Any:
    if not path:
        return None
    parent = copy.deepcopy(look(document, path[:-1]))
    del parent[path[-1]]
    return put(document, path[:-1], parent)


_EDITS = st.sampled_from(["value"] * 2 + ["like"] * 4 + ["twin"] * 5 + ["twice", "extra"])


@st.composite
def mutated(draw: st.DrawFn, document: Any, *, most: int = 3, twin: Any = None) -> Any:
    """The document with one to ``most`` things wrong; sometimes what is put there is right by chance.

    ``twin``: another document of the kind, from which something may be taken over.
    """
    for _ in range(draw(st.integers(1, most))):
        places = paths(document)
        if draw(st.integers(0, 7)):
            places = [path for path in places if _UNREAD.isdisjoint(path)]
        path = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.integers(0, 7)):
            document = put(document, path, draw(_edited(look(document, path), look(twin, path))))
        else:
            document = _remove(document, path)
    return document


@st.composite
def _edited(draw: st.DrawFn, found: Any, twin: Any) -> Any:
    """What comes to stand where ``found`` was."""
    match draw(_EDITS):
        case "value":
            return draw(VALUES)
        case "twin" if twin is not None:
            return twin
        case "twice":
            return [*found, *copy.deepcopy(found)] if isinstance(found, list) else [found]
        case "extra" if isinstance(found, dict):
            return {**found, draw(st.sampled_from(NAMES)): draw(VALUES)}
        case "extra" if isinstance(found, list):
            return [*found, draw(VALUES)]
        case _:
            return draw(st.sampled_from(like(found)))


def like(found: Any) -> list[Any]:
    """Wrong, but of the right type: such values get past the decoder."""
    match found:
        case bool():
            return [True, False]
        case int():
            return [number for number in NUMBERS if type(number) is int]
        case str() if "/" in found and found[0].isalnum() and found[-1].isdigit():
            return CIDRS
        case str() if "." in found or found.count(":") > 1:
            return IPS
        case str():
            return NAMES
        case _:
            return EVERYTHING


def encode(document: Any) -> bytes:
    """JSON as an API server would write it, had it let the object in. Lone surrogates are escaped, as JSON allows."""
    text = json.dumps(document, separators=(",", ":"))
    for mark, raw in MARKS.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode()


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with something wrong below the level of JSON: cut off, one changed, doubled, or others altogether."""
    match draw(st.sampled_from(["cut", "byte", "doubled", "other", "byte"])):
        case "cut":
            return data[: draw(st.integers(0, max(0, len(data) - 1)))]
        case "byte" if data:
            at = draw(st.integers(0, len(data) - 1))
            return (
                data[:at]
                + draw(st.sampled_from([b"\x00", b"\xff", b"\xc3", b'"', b"\\", b"{", b"}", b",", b"9"]))
                + data[at + 1 :]
            )
        case "doubled":
            return data + data
        case _:
            return draw(st.sampled_from(BROKEN_BYTES) | st.binary(max_size=30))
