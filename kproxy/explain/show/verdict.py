"""The answer about one packet as text: what becomes of it, why, and then by which rules.

Where a way depends on something that rules do not show, odds of different conditions do not add up; then no sum is
told, but each way with its condition. Of the ways the first ``WAYS`` are told rule by rule, the first of them whole and
the others by the rules in which they differ, for they differ in the endpoint that chance picks and in little else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from kproxy.explain.answer import Fate, Line, PacketAnswer, Question, Way
from kproxy.explain.show.listing import STYLES, endpoints, rules, warnings
from kproxy.explain.show.paper import BLANK, Block, Piece, Span, line
from kproxy.explain.show.wording import count, join, odds, some, target

WAYS = 3
_WORDS = {
    Fate.DELIVERED: "Delivered",
    Fate.REFUSED: "Refused",
    Fate.DROPPED: "Dropped",
    Fate.UNTOUCHED: "Not a service packet",
}
_MEANS = {
    Fate.DELIVERED: "goes to an endpoint",
    Fate.REFUSED: "is refused, the client is told so at once",
    Fate.DROPPED: "is dropped, the client waits in vain",
    Fate.UNTOUCHED: "is taken by no Service, it goes where it was sent",
}


def packet(answer: PacketAnswer, rows: int, shown: int) -> Iterator[Block]:
    """``rows``: of tables; ``shown``: how many ways are told rule by rule."""
    yield from _verdict(answer)
    yield from _facts(answer)
    if answer.warnings:
        yield BLANK
        yield from warnings(answer.warnings)
    if answer.endpoints:
        yield BLANK
        yield from endpoints(answer.endpoints, rows)
    before: Sequence[Line] = ()
    common = set(_common(answer.ways))
    for way in answer.ways[:shown]:
        yield BLANK
        yield from _way(way, before, common, is_told=len({each.fate for each in answer.ways}) == 1)
        before = before or way.path
    if rest := answer.ways[shown:]:
        yield BLANK
        yield line(f"… and {count(len(rest), 'more way')}; all of them: --all")


def _verdict(answer: PacketAnswer) -> Iterator[Block]:
    fates = {way.fate for way in answer.ways}
    name = f"{'a packet of a known flow' if answer.established else 'a new flow'} {_name(answer.question)}"
    if len(fates) < 2:
        yield line(Span(_WORDS[answer.fate], STYLES[answer.fate]), f": {name} {_end(answer)}")
        return
    certain = len({way.depends for way in answer.ways}) == 1
    common = set(_common(answer.ways))
    said: list[Piece] = [Span("It depends", STYLES[answer.fate]), f": {name} "]
    for fate in (each for each in Fate if each in fates):
        ways = [way for way in answer.ways if way.fate is fate]
        share = f" in {odds(sum(way.probability for way in ways))}" if certain else _provided(ways, common)
        reasons = dict.fromkeys(way.why for way in ways if way.why)
        why = f", for one of {len(reasons)} reasons" if len(reasons) > 1 else "".join(f": {each}" for each in reasons)
        said += ["; or " if len(said) > 2 else "", f"{_MEANS[fate]}{share}{why}"]
    yield line(*said)


def _provided(ways: Sequence[Way], common: set[str]) -> str:
    """The condition of a fate, where there is one."""
    conditions = {tuple(each for each in way.depends if each not in common) for way in ways}
    only = conditions.pop() if len(conditions) == 1 else ()
    return f", provided {'; '.join(only)}" if only else ""


def _name(question: Question) -> str:
    sender = join(question.source, question.source_port) if question.source_port else question.source
    if question.here or not question.source:
        sender = "a process on the node" + (f" ({sender})" if sender else "")
    elif question.interface:
        sender += f" by {question.interface}"
    mark = f" with mark {question.mark:#x}" if question.mark else ""
    there = target(question.destination, question.port, question.protocol)
    named = f"{question.service} ({there})" if question.service else there
    return f"from {sender} to {named}{mark}"


def _end(answer: PacketAnswer) -> str:
    whose = f" of {answer.service}" if answer.service else ""
    why = next((f": {way.why}" for way in answer.ways if way.why), "")
    ends = {way.endpoint for way in answer.ways if way.endpoint}
    strange = ends & {join(each.ip, each.port) for each in answer.endpoints if not each.line}
    if answer.fate is not Fate.DELIVERED:
        return _MEANS[answer.fate] + why
    if answer.relayed and ends:
        return f"goes to kproxy's relay at {some(sorted(ends))}, which chooses an endpoint{whose}"
    if strange:
        but = f"{some(sorted(strange))}, which is no endpoint{whose or ' of a Service'}"
        return f"goes to {but}" if strange == ends else f"goes to an endpoint{whose}, or to {but}"
    known = f"endpoint {next(iter(ends))}" if len(ends) == 1 else f"one of {count(len(ends), 'endpoint')}"
    unread = any(not way.endpoint for way in answer.ways)
    return f"goes to {known}{whose}" + (", or where a rule leads that cannot be read" if unread else "")


def _facts(answer: PacketAnswer) -> Iterator[Block]:
    if answer.service and answer.frontend:
        frontend = answer.frontend
        there = target(frontend.address or "*", frontend.port, answer.question.protocol)
        place = f" (line {frontend.line})" if frontend.line else ""
        yield _fact("service", f"{answer.service}, at its {frontend.kind.value} {there}{place}")
    if answer.nearest:
        predicate = f" (fails at {answer.nearest.predicate})" if answer.nearest.predicate else ""
        yield _fact("nearest", answer.nearest.message + predicate)
        if answer.nearest.line:
            yield from rules([answer.nearest.line], 11)
    told = [way for way in answer.ways if way.fate is Fate.DELIVERED or way.masquerade.wanted]
    yield from _sources(told, whole=len(told) == len(answer.ways))
    if answer.flow:
        yield _fact("flow", answer.flow)
    for depends in _common(answer.ways):
        yield _fact("provided", depends)
    for question in answer.asks:
        yield _fact("ask", question)


def _sources(ways: Sequence[Way], *, whole: bool) -> Iterator[Block]:
    """What becomes of the source; of several things that can, in how many of the ways. ``whole``: these are all."""
    found: dict[str, list[Way]] = {}
    for way in ways:
        found.setdefault(_source(way), []).append(way)
    certain = whole and len({way.depends for way in ways}) == 1
    for text, alike in islice(found.items(), WAYS):
        share = f"in {odds(sum(way.probability for way in alike))} " if certain and len(found) > 1 else ""
        yield _fact("source", share + text)
    if len(found) > WAYS:
        yield _fact("source", f"… and {count(len(found) - WAYS, 'more reason')}; all of them: --json")


def _fact(name: str, text: str) -> Block:
    return line(Span(f"{name:9}", "dim"), text, indent=2, hang=9)


def _common(ways: Sequence[Way]) -> Sequence[str]:
    """What all ways depend on."""
    first, *others = ways or [Way(0, Fate.UNTOUCHED)]
    return [each for each in first.depends if all(each in way.depends for way in others)]


def _source(way: Way) -> str:
    where = f" (line {way.masquerade.line})" if way.masquerade.line else ""
    said = "replaced by the node's (SNAT)" if way.masquerade.wanted else "kept"
    return f"{said}: {way.masquerade.why}{where}" if way.masquerade.why else f"{said}{where}"


def _way(way: Way, before: Sequence[Line], common: set[str], *, is_told: bool) -> Iterator[Block]:
    """``before``: the rules of the first way; ``common``: conditions that are told; ``is_told``: why is, too."""
    said: list[Piece] = [Span(f"{odds(way.probability)} ", "bold"), Span(way.fate.value, STYLES[way.fate])]
    if way.endpoint:
        said.append(f" to {way.endpoint}")
    if way.masquerade.wanted:
        said.append(", its source replaced")
    if way.why and not is_told:
        said.append(f": {way.why}")
    if own := [each for each in way.depends if each not in common]:
        said.append(f", provided {'; '.join(own)}")
    known = frozenset(before)
    differ = [each for each in way.path if each not in known]
    if len(differ) < len(way.path):
        *missing, last = [str(each.number) for each in before if each not in way.path and each.number] or [""]
        numbers = f"lines {', '.join(missing)} and {last}" if missing else f"line {last}"
        without = f" without {numbers}" if last else ""
        said.append(Span(f"; the rules above{without}" + (", with" if differ else ""), "dim"))
    yield line(*said)
    yield from rules(differ)
