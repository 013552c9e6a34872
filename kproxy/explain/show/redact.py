"""The same answer without what it tells about the cluster: ``--redact``, for tickets.

Decides what is replaced: every text of an answer is read word by word, and what is neither ours (``vocabulary.py``)
nor a number is replaced, by the same alias everywhere (``aliases.py``). What was asked for by its shape keeps it: a
chain's name keeps its kind, a network its length, a service port stays namespace/name:port. Ports, counters, marks,
line numbers and odds stay, and so do names that every cluster has.

A name that is learned to be the cluster's goes even where it is also a word of ours, so that a Service called ``web``
does not show in a sentence; only the options of a rule are read as iptables would read them, or ``-p tcp`` would
change with a Service called ``tcp``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

from msgspec import Struct

from kproxy.explain.answer import Answer, DumpFacts, Endpoint, Line, Question, ServicePort
from kproxy.explain.show.aliases import Address, Aliases, read_address
from kproxy.explain.show.vocabulary import ATOM, is_ours

_Shape = TypeVar("_Shape", bound=Struct)
_NAME = r"[^\W_](?:[\w.-]*[^\W_])?"
_SERVICE = re.compile(rf"(?<![\w./:-])({_NAME})/({_NAME})(?::({_NAME}))?")
_V4 = r"\d{1,3}(?:\.\d{1,3}){3}"
_V6 = r"[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*[0-9a-fA-F:]|::"
_ADDRESS = re.compile(
    rf"(?P<low>(?<![\w.:-]){_V4})-(?P<high>{_V4})(?![\w-]|\.\w)"
    rf"|(?<![\w.:-])(?P<ip>{_V4}|{_V6})(?:/(?P<length>\d{{1,3}}(?![\w.:])|{_V4}))?(?![\w-]|\.\w)"
)
_CHAIN = re.compile(
    r"(?<![\w-])(?P<kind>KUBE-[A-Z]+-)"
    r"(?:(?P<hash>[A-Z2-7]{16})(?P<part>-[0-9A-Z]{2})?"
    rf"|(?P<network>{_V4})/(?P<length>\d+)"
    r"|(?P<groups>[0-9A-F]{4}\.[0-9A-F]{4})/(?P<bits>\d+)-(?P<short>[A-Z2-7]{5})"
    r"|(?P<ports>[A-Z]+-\d+-)(?:(?P<end>[A-Z2-7]{8})|\d+))(?![\w-])"
)
_MAC = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}(?![\w:])")
_HASH = re.compile(r"(?<![\w-])[A-Z2-7]{16}(?![\w-])")
_COMMENT = re.compile(r'(--comment )("(?:[^"\\]|\\.)*"|\S+)')
_INTERFACE = re.compile(r"(?:^|\s)(?:-[io]|--(?:in|out)-interface|--physdev-(?:in|out)) (\S+)")
_JUMP = re.compile(r"(?:^|\s)-(?:[jgAN]|-jump|-goto) (\S+)")
_ENDED = re.compile(r"\W+$")
_KINDS: dict[tuple[type[Struct], str], str] = {
    (ServicePort, "port"): "port",
    (Endpoint, "node"): "node",
    (Question, "interface"): "interface",
}
# Fields of which everything is ours, whatever a dump says
_PLAIN = {(DumpFacts, "variant"), (DumpFacts, "writer"), (Endpoint, "state")}


def redact(answer: Answer, secret: bytes) -> Answer:
    """``secret``: at least 16 bytes of chance; the same secret gives the same aliases."""
    return _Redaction(answer, Aliases(secret[:63])).of(answer)


class _Redaction:
    """First all names are learned, so that one means the same before and behind the place that tells what it is."""

    def __init__(self, answer: Answer, aliases: Aliases) -> None:
        self.aliases = aliases
        self._done: dict[str, str] = {}  # sentences; most texts of a large answer stand in it many times
        self._shaped: dict[str, str | None] = {}
        met: set[Address] = set()
        for holder, field, text in dict.fromkeys(_texts(answer)):
            self._learn(holder, field, text)
            met.update(_addresses(text))
        aliases.meet(met)

    def of(self, value: _Shape) -> _Shape:
        """A struct with all its texts replaced."""
        held = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return type(value)(**{name: each and self._redacted(each, type(value), name) for name, each in held})

    def _redacted(self, value: Any, holder: type[Struct], name: str) -> Any:
        """Numbers and our own words, which are enumerations, stay."""
        if type(value) is str:
            if (holder, name) in _PLAIN:
                return value
            return self.rule(value) if holder is Line or name == "predicate" else self.sentence(value)
        if type(value) is tuple:
            return tuple(self._redacted(each, holder, name) for each in value)
        return self.of(value) if isinstance(value, Struct) else value

    # --- learning -------------------------------------------------------------------------------------------------

    def _learn(self, holder: type[Struct], field: str, text: str) -> None:
        if kind := _KINDS.get((holder, field)):
            self._name(text, kind)
        elif field == "chain" and not _CHAIN.fullmatch(text):
            self._name(text, "chain")
        elif (holder, field) == (Endpoint, "pod"):
            namespace, _, pod = text.rpartition("/")
            self._name(namespace, "namespace")
            self._name(pod, "pod")
        else:
            self._learn_rule(text)
            self._learn_services(text, exact=field in {"service", "services"} and holder is not Question)

    def _learn_rule(self, text: str) -> None:
        for found in _INTERFACE.finditer(text):
            self._name(_ENDED.sub("", found[1]), "interface")
        for found in _JUMP.finditer(text):
            if not _CHAIN.fullmatch(found[1]):
                self._name(found[1], "chain")

    def _learn_services(self, text: str, *, exact: bool) -> None:
        """``exact``: a text that is nothing but names."""
        for found in _SERVICE.finditer(_ADDRESS.sub(" ", _CHAIN.sub(" ", text))):
            parts = [part for part in found.groups() if part]
            if exact or not all(map(is_ours, parts)):
                for part, kind in zip(parts, ("namespace", "service", "port"), strict=False):
                    self._name(part, kind, ours=exact)

    def _name(self, name: str, kind: str, *, ours: bool = True) -> None:
        """Give a name its alias; ``ours``: even where it is a word of ours and no name that every cluster has."""
        if name and not (_is_common(name) or (not ours and is_ours(name))):
            self.aliases.name(name, kind)

    # --- replacing ------------------------------------------------------------------------------------------------

    def sentence(self, text: str) -> str:
        if (other := self._done.get(text)) is None:
            other = self._done[text] = self._text(text, rule=False)
        return other

    def rule(self, text: str) -> str:
        pieces = _COMMENT.split(text)
        for nth in range(0, len(pieces), 3):
            pieces[nth] = self._text(pieces[nth], rule=True)
        for nth in range(2, len(pieces), 3):
            pieces[nth] = self.sentence(pieces[nth])
        return "".join(pieces)

    def _text(self, text: str, *, rule: bool) -> str:
        """Shapes first, and what is between them word by word."""
        return "".join(self._between(piece, rule=rule) if plain else piece for plain, piece in self._shapes(text))

    def _shapes(self, text: str) -> Iterator[tuple[bool, str]]:
        """(whether it is still to be read, piece)"""
        at = 0
        for found in _SHAPE.finditer(text):
            shape = found[0]
            if shape not in self._shaped:
                self._shaped[shape] = self._shape(shape)
            if (other := self._shaped[shape]) is None:
                continue
            yield True, text[at : found.start()]
            yield False, other
            at = found.end()
        yield True, text[at:]

    def _shape(self, text: str) -> str | None:
        if found := _CHAIN.fullmatch(text):
            return self._chain(found)
        if _MAC.fullmatch(text):
            return self.aliases.name(text.lower(), "mac")
        if _HASH.fullmatch(text):
            return self.aliases.hash(text)
        found = _ADDRESS.fullmatch(text)
        return self._address(found) if found else None

    def _chain(self, found: re.Match[str]) -> str:
        kind, aliases = found["kind"], self.aliases
        if found["hash"]:
            return f"{kind}{aliases.hash(found['hash'])}{found['part'] or ''}"
        if found["network"]:
            address = read_address(found["network"])
            return f"{kind}{aliases.address(address, int(found['length']))}/{found['length']}" if address else kind
        if found["groups"]:
            first, second = found["groups"].split(".")
            groups = f"{aliases.digits(first)}.{aliases.digits(second)}"
            return f"{kind}{groups}/{found['bits']}-{aliases.hash(found['short'])}"
        return f"{kind}{found['ports']}{aliases.hash(found['end'])}" if found["end"] else found[0]

    def _address(self, found: re.Match[str]) -> str | None:
        if found["low"]:
            low, high = read_address(found["low"]), read_address(found["high"])
            return f"{self.aliases.address(low)}-{self.aliases.address(high)}" if low and high else None
        address, length = read_address(found["ip"]), found["length"]
        if address is None:
            return None
        bits = _bits(length) if length else None
        if bits is not None and bits > address.max_prefixlen:
            return None
        return str(self.aliases.address(address, bits)) + (f"/{length}" if length else "")

    def _between(self, text: str, *, rule: bool) -> str:
        def other(found: re.Match[str]) -> str:
            word = found[0]
            if rule and is_ours(word):
                return word
            if not self.aliases.knows(word) and is_ours(word):
                return word
            return self.aliases.name(word)

        return ATOM.sub(other, text)


_SHAPE = re.compile("|".join(re.sub(r"\?P<\w+>", "?:", each.pattern) for each in (_CHAIN, _MAC, _ADDRESS, _HASH)))
_COMMON = frozenset(
    {
        *(
            "kube-system",
            "kube-public",
            "kube-node-lease",
            "default",
            "kubernetes",
            "kube-dns",
            "coredns",
            "metrics-server",
        ),
        *("http", "https", "dns", "dns-tcp", "metrics", "grpc", "tcp", "udp", "sctp", "tls", "host"),
        *("lo", "cni0", "cbr0", "docker0", "flannel.1"),
    }
)


def _is_common(name: str) -> bool:
    """Whether every cluster has it; and targets, built-in chains and fixed ones, which are no words of sentences."""
    return (
        name in _COMMON or name.isdigit() or (not name.islower() and is_ours(name)) or bool(_ETHERNET.fullmatch(name))
    )


_ETHERNET = re.compile(r"(?:eth|bond|br|ens|eno|enp\d+s|wlan)\d+")


def _bits(length: str) -> int | None:
    """Of a length, or a mask; none of a mask with holes."""
    if length.isdigit():
        return int(length)
    mask = read_address(length)
    ones = f"{int(mask):032b}".rstrip("0") if mask else "0"
    return None if "0" in ones else len(ones)


def _addresses(text: str) -> Iterator[Address]:
    for found in _ADDRESS.finditer(text):
        for part in (found["low"], found["high"], found["ip"]):
            if part and (address := read_address(part)):
                yield address


def _texts(value: Any) -> Iterator[tuple[type[Struct], str, str]]:
    """(struct, field, text) of everything that says something; numbers and our own words are passed over."""
    holder = type(value)
    for field in value.__struct_fields__:
        held = getattr(value, field)
        for each in held if type(held) is tuple else (held,):
            if type(each) is str:
                if each:
                    yield holder, field, each
            elif isinstance(each, Struct):
                yield from _texts(each)
