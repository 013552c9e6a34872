"""Which objects a list or a watch is about: label and field selectors.

Parses both query parameters into one value, `Selector`, that answers from an object's index and never from its
bytes. Both grammars are small and fixed (Kubernetes: "Labels and Selectors", "Field Selectors"); a field that a
resource does not index is refused as the API server refuses it, so that a client cannot believe it filters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from kproxy.sandbox.apiserver.status import bad_request
from kproxy.sandbox.apiserver.store import Stored


class Operator(Enum):
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "!"


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def accepts(self, present: Mapping[str, str]) -> bool:
        match self.operator:
            case Operator.IN:
                return self.key in present and present[self.key] in self.values
            case Operator.NOT_IN:
                return present.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in present
            case Operator.ABSENT:
                return self.key not in present


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all hold; an empty one selects everything."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def accepts(self, stored: Stored) -> bool:
        return all(each.accepts(stored.labels) for each in self.labels) and all(
            each.accepts(stored.fields) for each in self.fields
        )


_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"^(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUALS = re.compile(rf"^(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)$")
_PRESENCE = re.compile(rf"^(?P<operator>!?)\s*(?P<key>{_KEY})$")
_COMMA_OUTSIDE_SET = re.compile(r",(?![^(]*\))")
_FIELD = re.compile(r"^(?P<key>[^=!]+)(?P<operator>==|=|!=)(?P<value>.*)$")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """Parse a labelSelector; raises BadRequest that names the requirement it cannot read."""
    parts = [part.strip() for part in _COMMA_OUTSIDE_SET.split(text)]
    return tuple(_label(part) for part in parts if part)


def _label(text: str) -> Requirement:
    if found := _SET.match(text):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], Operator(found["operator"]), values)
    if found := _EQUALS.match(text):
        operator = Operator.NOT_IN if found["operator"] == "!=" else Operator.IN
        return Requirement(found["key"], operator, frozenset({found["value"]}))
    if found := _PRESENCE.match(text):
        return Requirement(found["key"], Operator.ABSENT if found["operator"] else Operator.EXISTS)
    raise bad_request(f"unable to parse requirement: {text!r} is not a label selector requirement")


def parse_fields(text: str, known: Collection[str]) -> tuple[Requirement, ...]:
    """Parse a fieldSelector over the fields that a resource indexes; raises BadRequest for any other."""
    requirements = []
    for part in text.split(","):
        if not part.strip():
            continue
        found = _FIELD.match(part.strip())
        if not found:
            raise bad_request(f"invalid selector: {text!r}; can't understand {part!r}")
        if found["key"] not in known:
            raise bad_request(f"field label not supported: {found['key']}")
        operator = Operator.NOT_IN if found["operator"] == "!=" else Operator.IN
        requirements.append(Requirement(found["key"], operator, frozenset({found["value"]})))
    return tuple(requirements)
