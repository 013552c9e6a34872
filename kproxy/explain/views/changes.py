"""What changed between two dumps, in terms of Services and endpoints: another layout of the same cluster is no change.

Lines are not compared. Written by kube-proxy or by kproxy, flat or as trees, counted or not, with comments or with
hashes alone: where the same packets go to the same places with the same odds, nothing has changed. Odds are compared
with an even share: that two endpoints became three is said by the endpoint that came, not again by everybody's odds.
What only shows in lists of endpoints (policies, affinity, source ranges) is not compared with a Service that has none,
nor are the relay's ports, which the kernel chooses anew whenever it starts.

Dumps are matched by family and variant. Where a family has one dump on each side, its variant may differ; where a side
has none of a family, that is said once, for most likely nobody asked for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

from kproxy.backend.iptables import names
from kproxy.explain.answer import Change, Changes, DumpFacts, Endpoint, Fate, Frontend, FrontendKind, ServicePort
from kproxy.explain.services.survey import Survey
from kproxy.explain.views.meaning import shown
from kproxy.explain.views.node import of_node

_SLACK = 1e-3  # of an even share: iptables-save rounds odds, and kube-proxy once wrote five digits


class _Pair(NamedTuple):
    before: Survey | None
    after: Survey | None
    label: str  # behind a service port's name; empty where there is one pair only


def compare(before: Sequence[Survey], after: Sequence[Survey]) -> Changes:
    of_nodes: list[Change] = []
    of_services: list[Change] = []
    same = 0
    for pair in _pairs(before, after):
        if pair.before is None or pair.after is None:
            of_nodes.append(Change("", "rules", _whole(pair.before), _whole(pair.after)))
            continue
        of_nodes += of_node(pair.before, pair.after, pair.label)
        old, new = _by_identity(pair.before), _by_identity(pair.after)
        for key in sorted(old.keys() | new.keys(), key=lambda key: _sorting(new.get(key) or old[key])):
            found = list(_of_service(old.get(key), new.get(key), pair.label))
            of_services += found
            same += not found
    return Changes(_facts(before), _facts(after), (*of_nodes, *of_services), same)


def _facts(surveys: Sequence[Survey]) -> tuple[DumpFacts, ...]:
    return tuple(survey.dump.facts for survey in surveys)


def _whole(survey: Survey | None) -> str:
    if survey is None:
        return ""
    facts = survey.dump.facts
    return f"rules of {' '.join(filter(None, (facts.family, facts.variant)))}, {len(survey.services)} service ports"


def _pairs(before: Sequence[Survey], after: Sequence[Survey]) -> list[_Pair]:
    left = list(after)
    found: list[tuple[Survey | None, Survey | None]] = []
    for one in before:
        family = [each for each in left if each.dump.facts.family is one.dump.facts.family]
        fitting = [each for each in family if each.dump.facts.variant == one.dump.facts.variant]
        other = fitting[0] if fitting else family[0] if len(family) == 1 and _is_alone(one, before) else None
        left = [each for each in left if each is not other]
        found.append((one, other))
    found += ((None, each) for each in left)
    families = {survey.dump.facts.family for survey in (*before, *after)}
    crowded = any(not _is_alone(survey, side) for side in (before, after) for survey in side)
    return [_Pair(one, other, _label(one or other, named=len(families) > 1, crowded=crowded)) for one, other in found]


def _is_alone(survey: Survey, side: Sequence[Survey]) -> bool:
    return sum(each.dump.facts.family is survey.dump.facts.family for each in side) == 1


def _label(survey: Survey | None, *, named: bool, crowded: bool) -> str:
    if survey is None:
        return ""
    facts = survey.dump.facts
    return " ".join(filter(None, (facts.family.value if named else "", facts.variant if crowded else "")))


# --- service ports --------------------------------------------------------------------------------------------


def _by_identity(survey: Survey) -> dict[tuple[str, int], ServicePort]:
    """By the hash that a service port's chains have or would have, which a name gives as well; else by its address."""
    found: dict[tuple[str, int], ServicePort] = {}
    seen: Counter[str] = Counter()
    for each in survey.services:
        known = not each.service and each.hash
        digest = known or names.digest(f"{each.name}{each.protocol.lower}")
        found[digest, seen[digest]] = each
        seen[digest] += 1
    return found


def _sorting(each: ServicePort) -> tuple[str, ...]:
    return each.service, each.port, each.protocol, each.hash


def _of_service(old: ServicePort | None, new: ServicePort | None, label: str) -> Iterator[Change]:
    named = max(filter(None, (new, old)), key=lambda each: bool(each.service))
    who = " ".join(filter(None, (named.name, named.protocol.value, label)))
    if old is None or new is None:
        yield Change(who, "service", _summary(old), _summary(new))
        return
    found = [*_frontends(old, new)]
    if old.endpoints and new.endpoints:
        found += _settings(old, new)
    if old.relayed != new.relayed:
        found.append(("rules", _carrier(old), _carrier(new)))
    elif not new.relayed:
        found += _endpoints(old, new)
    yield from (Change(who, what, before, after) for what, before, after in found)


def _summary(each: ServicePort | None) -> str:
    if each is None:
        return ""
    where = ", ".join(_place(frontend) for frontend in each.frontends) or "no address"
    ends = len(each.endpoints)
    return f"{where}: {ends or 'no'} endpoint{'s' * (ends != 1)}"


def _carrier(each: ServicePort) -> str:
    return "carried by kproxy's relay" if each.relayed else "balanced by the kernel"


_Found = tuple[str, str, str]  # what, before, after


def _frontends(old: ServicePort, new: ServicePort) -> Iterator[_Found]:
    before, after = ({_identity(each): each for each in service.frontends} for service in (old, new))
    for key in dict.fromkeys((*before, *after)):
        one, other = before.get(key), after.get(key)
        if one is None or other is None or one.fate is not other.fate:
            yield "frontend", _fate(one), _fate(other)


def _identity(each: Frontend) -> tuple[bool, bool, str, int]:
    """Rules of a refused address do not tell an external IP from a load balancer's."""
    kind = each.kind
    return kind is FrontendKind.CLUSTER_IP, kind is FrontendKind.HEALTH_CHECK, each.address, each.port


def _place(each: Frontend) -> str:
    address = f"[{each.address}]" if ":" in each.address else each.address
    return f"{each.kind.value} {address}:{each.port}" if address else f"{each.kind.value} {each.port}"


def _fate(each: Frontend | None) -> str:
    if each is None:
        return ""
    if each.fate is Fate.DELIVERED:
        return _place(each)
    return f"{_place(each)}: {each.fate.value}" + (f", {each.why}" if each.why else "")


def _settings(old: ServicePort, new: ServicePort) -> Iterator[_Found]:
    for which in ("internal", "external"):
        one, other = (getattr(each, f"{which}_policy") for each in (old, new))
        if one and other and one != other:
            yield "policy", f"{which} traffic policy {one}", f"{which} traffic policy {other}"
    if old.affinity_seconds != new.affinity_seconds:
        yield "affinity", _affinity(old), _affinity(new)
    if set(old.source_ranges) != set(new.source_ranges):
        yield "source ranges", _ranges(old), _ranges(new)


def _affinity(each: ServicePort) -> str:
    return f"a client keeps its endpoint for {each.affinity_seconds} s" if each.affinity_seconds else "none"


def _ranges(each: ServicePort) -> str:
    return ", ".join(each.source_ranges) or "any source"


def _endpoints(old: ServicePort, new: ServicePort) -> Iterator[_Found]:
    before, after = ({(each.ip, each.port): each for each in service.endpoints} for service in (old, new))
    for key in dict.fromkeys((*before, *after)):
        one, other = before.get(key), after.get(key)
        if one is None or other is None:
            yield "endpoint", shown(one) if one else "", shown(other) if other else ""
    for which, one_list, other_list in (("all", old.cluster, new.cluster), ("this node's", old.local, new.local)):
        if one_list and other_list:
            yield from _odds(which, one_list, other_list)
            if which != "all" and old.cluster and new.cluster:
                yield from _moved(one_list, other_list, before.keys() & after.keys())


def _odds(which: str, old: Sequence[Endpoint], new: Sequence[Endpoint]) -> Iterator[_Found]:
    before = {(each.ip, each.port): each for each in old}
    for other in new:
        one = before.get((other.ip, other.port))
        if one is None or abs(one.probability - other.probability) < _SLACK / len(new):
            continue
        if abs(one.probability * len(old) - other.probability * len(new)) > _SLACK:
            where = f"{shown(other)} among {which}"
            yield "odds", f"{where}: {one.probability:.2%}", f"{where}: {other.probability:.2%}"


def _moved(old: Sequence[Endpoint], new: Sequence[Endpoint], staying: Container[tuple[str, int]]) -> Iterator[_Found]:
    """Endpoints that stay, but are no longer, or newly, among this node's."""
    before, after = ({(each.ip, each.port): each for each in side} for side in (old, new))
    for key, each in (before | after).items():
        if (key in before) != (key in after) and key in staying:
            text = f"{shown(each)} among this node's"
            yield "endpoint", text if key in before else "", text if key in after else ""
