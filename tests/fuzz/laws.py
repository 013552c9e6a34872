"""What holds for every example, whatever is wrong with its objects.

1. Nothing raises.
2. An object that is not served as it is written is named, with the field and the remedy.
3. An object that is refused changes nothing for anybody; one that is not changes nothing for those it does not meet.
4. When it goes again, and one that was right with it, everything is as if they had never come.
5. Whatever order it came in: one after the other, or all in a list.

The journey checks more in each round (journey.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kproxy.backend.iptables.dialect import Abilities
from kproxy.config import Config
from kproxy.errors import InvalidObject
from kproxy.model.change import Change, Listed, Put, Rejected, Rejection, Removed
from kproxy.model.cluster import Cluster
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Kind
from kproxy.model.keys import ObjectKey
from kproxy.plan.plan import Plan
from kproxy.source.convert import Converter, NotOurs, Outcome, Usable
from tests.fuzz import oracle
from tests.fuzz.examples import Example
from tests.fuzz.hostile import MARKS, encode
from tests.fuzz.journey import CONFIG, Journey, Round, chains_of, check_sentence, convert
from tests.fuzz.objects import Document


class Trip(NamedTuple):
    """What an example came to. ``rounds``: by family, the world, then with its visitors, then less one of its own."""

    rounds: dict[IPFamily, list[Round]]
    accepted: int
    rejected: int
    changed: int  # rounds of the three and both families that changed the rules
    named: int  # accepted in part


def check_example(example: Example, abilities: Abilities | None = None) -> Trip:
    """AssertionError where a law does not hold; anything else that is raised breaks the first."""
    converter = Converter(service_proxy_name=example.config.service_proxy_name)
    world = _without_twins(converter, example.world)
    visitors = _without_twins(converter, example.visitors)
    arrivals = [converter.changed(each.kind, encode(each.json)) for each in visitors]
    for visitor, arrival in zip(visitors, arrivals, strict=True):
        rejected = [arrival.rejection.problem] if isinstance(arrival, Rejected) else []
        _check_named(visitor, [*getattr(arrival, "warnings", ()), *rejected])
    departures, rest = (
        [*_departures(converter, world, visitors)],
        convert(_without_first_service(world), example.config),
    )
    departures += [Removed(each.kind, key_of(converter, each)) for each in _first_service(world)]
    everybody = _without_twins(converter, [*world, *visitors])
    known, crowd = convert(world, example.config), convert(everybody, example.config)
    rounds: dict[IPFamily, list[Round]] = {}
    for family in IPFamily:
        journey = Journey(family, example.config, abilities)
        alone, together = journey.travel(known.changes), journey.travel(arrivals)
        rounds[family] = [alone, together, journey.travel(departures)]
        if journey.cluster.node is None or any(each.kind is Kind.NODE for each in world):  # its last Node stays known
            fresh = Journey(family, example.config, abilities).travel(rest.changes)
            assert rounds[family][2].plan == fresh.plan
            assert chains_of(rounds[family][2].rules) == chains_of(fresh.rules)
        _check_untouched(visitors, arrivals, alone.plan, together.plan, world)
        _check_listing(example, family, known.changes, crowd.changes, together)
    _check_served(example.config, everybody)
    return Trip(
        rounds,
        accepted=sum(not isinstance(each, Rejected) for each in arrivals),
        rejected=sum(isinstance(each, Rejected) for each in arrivals),
        changed=sum(bool(each.text) for several in rounds.values() for each in several[1:]),
        named=sum(bool(getattr(each, "warnings", ())) for each in arrivals),
    )


def _first_service(world: Iterable[Document]) -> list[Document]:
    """It goes with the visitors, for what takes its leave with chains of its own is the harder case."""
    return [each for each in world if each.kind is Kind.SERVICE][:1]


def _without_first_service(world: Sequence[Document]) -> list[Document]:
    gone = _first_service(world)
    return [each for each in world if each not in gone]


def _without_twins(converter: Converter, documents: Iterable[Document]) -> list[Document]:
    """An API server has one object of a name: the last one stays."""
    return list({(each.kind, key_of(converter, each)): each for each in documents}.values())


def key_of(converter: Converter, document: Document) -> ObjectKey:
    return _key(converter.convert(document.kind, encode(document.json)))


def _key(outcome: Outcome) -> ObjectKey:
    return outcome.object.key if isinstance(outcome, Usable) else outcome.key


def _departures(converter: Converter, world: Sequence[Document], visitors: Iterable[Document]) -> Iterator[Change]:
    homes = {(each.kind, key_of(converter, each)): each for each in world}
    for visitor in visitors:
        key = key_of(converter, visitor)
        home = homes.get((visitor.kind, key))
        yield converter.changed(home.kind, encode(home.json)) if home else Removed(visitor.kind, key)
    # The store keeps the last Node that it knew, so the node of the world has to say again what it is.
    yield from (converter.changed(each.kind, encode(each.json)) for each in world if each.kind is Kind.NODE)


# --- named ----------------------------------------------------------------------------------------------------


def _check_named(visitor: Document, problems: Iterable[InvalidObject]) -> None:
    metadata = visitor.json.get("metadata") if isinstance(visitor.json, dict) else None
    for problem in problems:
        check_sentence(problem)
        assert problem.kind == visitor.kind.value
        for field in ("namespace", "name") if visitor.kind not in {Kind.NODE, Kind.SERVICE_CIDR} else ("name",):
            text = metadata.get(field) if isinstance(metadata, dict) else None
            if isinstance(text, str) and text and text not in MARKS and text.encode(errors="ignore").decode() == text:
                assert repr(text[:10])[1:-1] in problem.name, (text, problem)


# --- nobody else is touched -----------------------------------------------------------------------------------


def _check_untouched(
    visitors: Sequence[Document], arrivals: Sequence[Change], before: Plan, after: Plan, world: Sequence[Document]
) -> None:
    if all(isinstance(each, Rejected) for each in arrivals):
        assert before == after
        return
    if any(visitor.kind is Kind.NODE for visitor in visitors):
        return  # it is where everybody stands
    touched = {service for arrival in arrivals for service in _services_of(arrival)}
    touched |= {service for each in world for service in _services_of(_arrival(each)) if _is_replaced(each, arrivals)}
    named = {note.problem.name for plan in (before, after) for note in plan.notes}
    for key, plan in before.services.items():
        if key.service not in touched and str(key.service) not in named:
            assert after.services.get(key) == plan, key


def _arrival(document: Document) -> Change:
    return Converter().changed(document.kind, encode(document.json))


def _services_of(arrival: Change) -> Iterator[ObjectKey]:
    match arrival:
        case Put(object=EndpointSlice(service=service)):
            yield service
        case Put(object=resource):
            yield resource.key
        case Removed(key=key):
            yield key


def _is_replaced(document: Document, arrivals: Iterable[Change]) -> bool:
    home = _arrival(document)
    key = getattr(getattr(home, "object", home), "key", None)
    return any(getattr(getattr(each, "object", each), "key", None) == key for each in arrivals)


def _check_listing(
    example: Example, family: IPFamily, known: Sequence[Listed], crowd: Sequence[Listed], together: Round
) -> None:
    """The visitors in a list, after a list without them: as if they had come one by one."""
    journey = Journey(family, example.config)
    journey.plan(known)
    if not any(visitor.kind is Kind.NODE for visitor in example.visitors):
        assert journey.plan(crowd) == together.plan


# --- served as written ----------------------------------------------------------------------------------------


class Plans:
    """The plans of both families for one object among neighbours that are right; equal objects are planned once."""

    def __init__(self, neighbours: Sequence[Document]) -> None:
        self._neighbours = neighbours
        self._known: dict[Outcome, tuple[Cluster, oracle.Plans]] = {}

    def check(self, document: Document) -> None:
        """The first two laws. AssertionError."""
        converter = Converter()
        outcome = converter.convert(document.kind, encode(document.json))
        _check_named(document, [outcome.problem] if isinstance(outcome, Rejection) else outcome.warnings)
        if not isinstance(outcome, Rejection) and not outcome.warnings:
            if outcome not in self._known:
                everybody = _without_twins(converter, [*self._neighbours, document])
                with_rules = document.kind is Kind.SERVICE  # the others' texts do not come into rules
                self._known[outcome] = _plan(CONFIG, convert(everybody).changes, with_rules=with_rules)
            cluster, plans = self._known[outcome]
            _check_document(document, outcome, cluster, plans)


def _plan(config: Config, changes: Sequence[Listed], *, with_rules: bool = True) -> tuple[Cluster, oracle.Plans]:
    journeys = {family: Journey(family, config) for family in IPFamily}
    plans = {
        family: journey.travel(changes).plan if with_rules else journey.plan(changes)
        for family, journey in journeys.items()
    }
    return journeys[IPFamily.IPV4].cluster, plans


def _check_served(config: Config, everybody: Sequence[Document]) -> None:
    """From scratch, so that no object lives on in a version from before."""
    found = convert(everybody, config)
    cluster, plans = _plan(config, found.changes)
    named = {problem.name for problem in found.problems}
    converter = Converter(service_proxy_name=config.service_proxy_name)
    for each in everybody:
        outcome = converter.convert(each.kind, encode(each.json))
        if not isinstance(outcome, Rejection) and str(_key(outcome)) not in named:
            _check_document(each, outcome, cluster, plans)


def _check_document(document: Document, outcome: Usable | NotOurs, cluster: Cluster, plans: oracle.Plans) -> None:
    name = str(_key(outcome))
    if any(note.problem.name == name for plan in plans.values() for note in plan.notes):
        return
    lacking = oracle.missing(document.kind, document.json, cluster, plans)
    assert not lacking, (document.kind, name, lacking)
    if document.kind is Kind.SERVICE and isinstance(outcome, Usable):
        assert not [*oracle.unwritten(document.json, plans)]
