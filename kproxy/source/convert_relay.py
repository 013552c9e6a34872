"""What a Service asks of our relay by annotations, ``kproxy.io/...``, as a Wish.

An annotation must not cost a Service its traffic: one that cannot be used is told of, by name, and the node's default
counts in its place, while all others stay in force. So is a name that is none of ours, for a slip of the pen would
otherwise look like a relay that does not obey. A Service may carry these annotations while the kernel serves it; that
is no mistake, since they wait for the day on which somebody changes the mode.

What is accepted stands in one table, which the one of backend/userspace/README.md is compared with. Readings are
stricter than those of flags (no ``1_000``, no ``1e3``, no ``T`` for true): annotations are read by other programs and
people too. The bounds keep out what nobody means; the longest times are those of a forgotten unit.

Durations are Go's, as flags have them (spec: runtime.md 1); names and meanings are ours, for kube-proxy has nothing of
the kind. Rejected: one annotation with JSON in it, which tools cannot set field by field, and in which one slip would
take all the rest with it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from kproxy.config import Balance, ProxyMode
from kproxy.model.enums import Protocol
from kproxy.model.relay import NO_WISH, Wish
from kproxy.model.service import ServicePort
from kproxy.settings.kinds import read_duration, short_duration
from kproxy.source.review import Review, show
from kproxy.source.wire import UNREADABLE

PREFIX = "kproxy.io/"
_LONGEST_TEXT = 200  # characters that a value can need; an annotation may have 262144
_SHARED = 1024  # values and wishes that Services share; they are foreign, so the memory of them is bounded
_WHOLE = re.compile(r"[0-9]{1,9}")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})(%?)")
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,80}")
_decode_text = msgspec.json.Decoder(str).decode


# --- kinds of values --------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """``read`` raises a ValueError without a text; ``accepted`` says why, and fits behind "give"."""

    accepted: str
    read: Callable[[str], Any]
    show: Callable[[Any], str] = str  # the value → a text that ``read`` reads


def _check(usable: bool) -> None:
    if not usable:
        raise ValueError


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _choice(*choices: StrEnum) -> Kind:
    known = {each.value: each for each in choices}

    def read(text: str) -> StrEnum:
        _check(text in known)
        return known[text]

    return Kind(_either([*known]), read)


def _whole(high: int) -> Kind:
    def read(text: str) -> int:
        _check(_WHOLE.fullmatch(text) is not None and int(text) <= high)
        return int(text)

    return Kind(f"a whole number from 0 to {high}", read)


def _seconds(text: str, longest: float, *, or_none: bool = False) -> float:
    seconds = read_duration(text.strip())
    _check(0.001 <= seconds <= longest or (or_none and not seconds))
    return seconds


def _duration(longest: float, *, or_none: bool = True) -> Kind:
    what = f"a duration from 1ms to {short_duration(longest)}, such as 90s, 10m or 1h30m"
    return Kind(
        f"0, or {what}" if or_none else what, lambda text: _seconds(text, longest, or_none=or_none), short_duration
    )


def _show_list(values: Sequence[float]) -> str:
    return ",".join(map(short_duration, values))


def _durations(most: int, longest: float) -> Kind:
    def read(text: str) -> tuple[float, ...]:
        parts = text.split(",")
        _check(len(parts) <= most)
        return tuple([_seconds(each, longest) for each in parts])

    bounds = f"each from 1ms to {short_duration(longest)}"
    return Kind(f"1 to {most} durations, {bounds}, such as 250ms,500ms,1s,2s", read, _show_list)


def _first_and_longest(longest: float) -> Kind:
    def read(text: str) -> tuple[float, float]:
        first, last = (_seconds(each, longest) for each in text.split(","))
        _check(first <= last)
        return first, last

    bounds = f"the shorter one first, each from 1ms to {short_duration(longest)}"
    return Kind(f"two durations, {bounds}, such as 5s,5m", read, _show_list)


def _read_share(text: str) -> float:
    found = _SHARE.fullmatch(text)
    if found is None:
        raise ValueError
    share = float(found[1]) / (100 if found[2] else 1)
    _check(0 < share <= 1)
    return share


def _read_boolean(text: str) -> bool:
    _check(text in {"true", "false"})
    return text == "true"


_MONTH, _DAY, _MINUTE = 30 * 86400.0, 86400.0, 60.0


# --- the table --------------------------------------------------------------------------------------------------


class Annotation(NamedTuple):
    name: str
    field: str  # of Relay; of Wish, for the mode
    kind: Kind


ANNOTATIONS = {
    f"{PREFIX}{name}": Annotation(f"{PREFIX}{name}", field, kind)
    for name, field, kind in (
        ("mode", "mode", _choice(ProxyMode.USERSPACE, ProxyMode.IPTABLES)),
        ("balance", "balance", _choice(*Balance)),
        ("max-connections", "connections", _whole(1_000_000)),
        ("connect-deadlines", "connect_deadlines", _durations(8, _MINUTE)),
        ("idle-timeout", "idle", _duration(_MONTH, or_none=False)),
        ("silence-timeout", "silence", _duration(_MONTH)),
        ("drain-timeout", "drain", _duration(_MONTH)),
        ("slow-start", "slow_start", _duration(_DAY)),
        ("eject-after", "eject_after", _whole(1000)),
        ("eject-time", "eject_seconds", _first_and_longest(_DAY)),
        (
            "eject-floor",
            "eject_floor",
            Kind("a share above 0 and up to 1, such as 0.5 or 50%", _read_share, lambda share: f"{share:g}"),
        ),
        ("transparent", "transparent", Kind("true or false", _read_boolean, lambda value: str(value).lower())),
    )
}


# --- reading ----------------------------------------------------------------------------------------------------


def convert_wish(annotations: Mapping[str, Raw] | None, review: Review) -> Wish:
    """What can be used of a Service's annotations; all else is noted in ``review``. Never raises."""
    given = {name: value for name, value in (annotations or {}).items() if name.startswith(PREFIX)}
    if not given:
        return NO_WISH
    found: dict[str, Any] = {}
    for name, annotation in ANNOTATIONS.items():
        if name in given:
            value = _read(annotation, given[name], review)
            if value is not None:
                found[annotation.field] = value
    for name in sorted(given.keys() - ANNOTATIONS.keys()):
        _note_unknown(name, review)
    return _shared(Wish(mode=found.pop("mode", None), overrides=tuple(found.items())))


def note_unrelayed(wish: Wish, ports: Sequence[ServicePort], review: Review) -> None:
    """SCTP that was meant for the relay. Said only where a Service asks; that of a whole node is no surprise."""
    sctp = [index for index, port in enumerate(ports) if port.protocol is Protocol.SCTP]
    if wish.mode is ProxyMode.USERSPACE and sctp:
        which = f"spec.ports[{sctp[0]}]" + (f" and {len(sctp) - 1} more are" if len(sctp) > 1 else " is")
        why = f"is userspace, but {which} SCTP, which stays with the kernel"
        review.note(f"metadata.annotations[{PREFIX}mode]", why, "give SCTP ports a Service of their own", always=True)


def _read(annotation: Annotation, value: Raw, review: Review) -> Any:
    """None where it cannot be used."""
    field = f"metadata.annotations[{annotation.name}]"
    try:
        text = _decode_text(value)
    except UNREADABLE:
        said = show(bytes(value).decode(errors="replace"))
        why = f"holds {said}, which is no text; the node's default is used"
        review.note(field, why, f"give {annotation.kind.accepted}, in quotes", always=True)
        return None
    try:
        _check(len(text) <= _LONGEST_TEXT)
        return _parse(annotation.name, text)
    except ValueError:
        why = f"is {show(text)}, which it cannot be; the node's default is used"
        review.note(field, why, f"give {annotation.kind.accepted}", always=True)
        return None


@lru_cache(maxsize=_SHARED)
def _parse(name: str, text: str) -> Any:
    """Remembered, for thousands of Services say the same. Raises ValueError."""
    return ANNOTATIONS[name].kind.read(text.strip())


def _note_unknown(name: str, review: Review) -> None:
    word = name.removeprefix(PREFIX)[:_LONGEST_TEXT].lower()
    known = [each.removeprefix(PREFIX) for each in ANNOTATIONS]
    near = [] if review.is_full else difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    shown = name if _NAME.fullmatch(name) else show(name)
    why = "is no annotation of kproxy's, and is ignored" + (f" (did you mean {PREFIX}{near[0]}?)" if near else "")
    remedy = "correct the name" if near else f"remove it, or use one of {PREFIX}{{{','.join(known)}}}"
    review.note(f"metadata.annotations[{shown}]", why, remedy)


@lru_cache(maxsize=_SHARED)
def _shared(wish: Wish) -> Wish:
    """One object for all that ask for the same: thousands of Services do."""
    return wish if wish != NO_WISH else NO_WISH
