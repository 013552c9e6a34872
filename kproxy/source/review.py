"""The checks that every kind of object shares, and the two things that they can say: unusable, or noted.

Names become chain hashes, comments and log lines, so a name that the API would not have let in is refused here, once,
instead of being quoted everywhere. Service names may start with a digit (gate RelaxedServiceNameValidation; spec:
model.md 11).
"""

from __future__ import annotations

import re

from kproxy.errors import InvalidObject
from kproxy.model.enums import Protocol

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_PROTOCOLS = {None: Protocol.TCP, "": Protocol.TCP} | {each.value: each for each in Protocol}
_NOTES = 5  # a slice of 1000 bad endpoints is one problem, not 1000 log lines
_SHOWN = 80  # characters of a foreign string in a message
_DIGITS = 20  # of a foreign number; 64 bits need no more


class Unusable(Exception):
    """The object cannot be used because of ``field``. Never leaves this package: it becomes an InvalidObject."""

    def __init__(self, field: str, why: str, remedy: str) -> None:
        super().__init__(field, why, remedy)
        self.field, self.why, self.remedy = field, why, remedy


class Review:
    """One object under inspection: collects what was dropped while the rest is used."""

    def __init__(self, kind: str, name: str) -> None:
        self._kind, self._name = kind, name
        self._notes: list[InvalidObject] = []
        self._more = 0

    def note(self, field: str, why: str, remedy: str, *, always: bool = False) -> None:
        """A field is dropped; the object is used without it. ``always``: of this kind an object can have only a few."""
        if always or len(self._notes) < _NOTES:
            self._notes.append(self.problem(Unusable(field, why, remedy)))
        else:
            self._more += 1

    @property
    def is_full(self) -> bool:
        """Further notes are only counted, so what they would say need not be found out."""
        return len(self._notes) >= _NOTES

    def problem(self, unusable: Unusable) -> InvalidObject:
        return InvalidObject(self._kind, self._name, field=unusable.field, why=unusable.why, remedy=unusable.remedy)

    def notes(self) -> tuple[InvalidObject, ...]:
        if not self._more:
            return tuple(self._notes)
        rest = Unusable("(other fields)", f"have {self._more} more problems like these", "repair them the same way")
        return (*self._notes, self.problem(rest))


def show(text: str) -> str:
    """A foreign string, safe for one log line."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def show_number(number: int) -> str:
    """A foreign number, which in JSON may have thousands of digits."""
    digits = str(number)
    return digits if len(digits) <= _DIGITS else f"a number of {len(digits.lstrip('-'))} digits"


def is_label(text: str) -> bool:
    """A DNS label: names of Services, namespaces and ports."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """DNS labels joined by dots, at most 253 characters: names of everything else."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def port_number(value: int | None, field: str) -> int:
    if value is None:
        raise Unusable(field, "is missing", "give a port from 1 to 65535")
    if not 1 <= value <= 65535:
        raise Unusable(field, f"is {show_number(value)}, outside 1 to 65535", "give a port in that range")
    return value


def optional_port(value: int | None, field: str) -> int:
    """0 where there is none."""
    return port_number(value, field) if value else 0


def port_name(value: str | None, field: str) -> str:
    if not value:
        return ""
    if not is_label(value):
        raise Unusable(field, f"is {show(value)}, no DNS label", "use lower-case letters, digits and '-', 63 at most")
    return value


def protocol(value: str | None, field: str) -> Protocol:
    """Nothing means TCP, which is also what the API server fills in."""
    known = _PROTOCOLS.get(value)
    if known is None:
        raise Unusable(field, f"is {show(value or '')}, an unknown protocol", "use TCP, UDP or SCTP")
    return known
