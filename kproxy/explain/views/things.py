"""Everything about one thing in a dump: a Service, a chain, an endpoint.

A name is taken as people give it: with or without namespace, port or protocol. One that fits several things finds them
all, for a dump cannot say which was meant; one that fits nothing is refused with the nearest names that are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedRule
from kproxy.errors import InvalidConfig
from kproxy.explain.answer import ChainAnswer, Endpoint, EndpointAnswer, Line, ServiceAnswer, ServicePort
from kproxy.explain.services.entrances import read_name
from kproxy.explain.services.graph import next_chain
from kproxy.explain.services.neighbours import instead
from kproxy.explain.services.survey import Survey, is_live, whereabouts
from kproxy.explain.views.meaning import meaning, shown

_ENDPOINT = re.compile(r"\[(?P<v6>[^\[\]]+)\](?::(?P<port6>\d{1,5}))?|(?P<v4>[0-9.]+):(?P<port4>\d{1,5})")
_Test = Callable[[str, str, SavedRule], bool]  # of (table, chain, rule)


def service(surveys: Sequence[Survey], name: str) -> ServiceAnswer:
    """``namespace/name``, ``name``, both with ``:port``, or a hash. Raises InvalidConfig where there is none."""
    found: list[ServicePort] = []
    lines: list[Line] = []
    for survey in surveys:
        places = [place for place, each in enumerate(survey.services) if _is_called(each, name)]
        found += (survey.services[place] for place in places)
        if places:
            lines += _lines(survey, _of_services(survey, frozenset(places)))
    if not found:
        port = ":" in name
        known = (each.name if port else each.service for survey in surveys for each in survey.services)
        raise _not_found("Service", name, known, surveys)
    return ServiceAnswer(tuple(found), tuple(lines))


def _is_called(each: ServicePort, name: str) -> bool:
    if name in {each.service, each.name, each.hash, each.service.partition("/")[2]}:
        return bool(name)
    wanted, colon, port = name.rpartition(":")
    return (
        bool(colon) and port in {each.port, _number(each)} and wanted in {each.service, each.service.partition("/")[2]}
    )


def _number(each: ServicePort) -> str:
    """The port's number, by which people know it better than by its name."""
    return str(each.frontends[0].port) if each.frontends else ""


def _of_services(survey: Survey, places: frozenset[int]) -> _Test:
    """Rules of their chains, rules that lead there, and those that refuse in their stead."""
    own = {place for place, whose in survey.owners.items() if places.intersection(whose)}
    numbers = {each.line for place in places for each in survey.services[place].frontends}
    names = {(survey.services[place].service, survey.services[place].port) for place in places}
    protocols = {survey.services[place].protocol for place in places}

    def concerns(table: str, chain: str, saved: SavedRule) -> bool:
        if saved.line in numbers or (table, chain) in own or (table, next_chain(saved.rule.target)) in own:
            return True
        if table != r.Table.FILTER or isinstance(saved.rule.target, r.Jump | None):
            return False
        told = next((read_name(match.text) for match in saved.rule.matches if isinstance(match, r.Comment)), None)
        if told is None or not told.service:
            return False
        protocol = next((match.protocol for match in saved.rule.matches if isinstance(match, r.OfProtocol)), None)
        return (told.service, told.port) in names and protocol in protocols

    return concerns


# --- chains ---------------------------------------------------------------------------------------------------


def chain(surveys: Sequence[Survey], name: str) -> ChainAnswer:
    """``KUBE-SVC-…``, or ``nat/KUBE-SERVICES`` where several tables have it. Raises InvalidConfig."""
    table, slash, rest = name.partition("/")
    wanted = {table} if slash and any(table in survey.dump.tables for survey in surveys) else None
    called = rest if wanted else name
    tables: dict[str, str] = {}  # → what it means there
    whose: dict[str, None] = {}
    referrers: list[Line] = []
    lines: list[Line] = []
    for survey in surveys:
        leading = list(_lines(survey, lambda _table, _chain, saved: next_chain(saved.rule.target) == called))
        leading = [line for line in leading if wanted is None or line.table in wanted]
        for each in wanted or (survey.dump.tables.keys() | {line.table for line in leading}):
            there = [line for line in leading if line.table == each]
            saved = survey.dump.tables.get(each, {}).get(called)
            if saved is None and not there:
                continue
            said, services = meaning(survey, each, called)
            tables.setdefault(each, said)
            whose |= dict.fromkeys(services)
            lines += (survey.dump.line(each, called, rule) for rule in (saved.rules if saved else ()))
        referrers += leading
    if not tables:
        known = (chain for survey in surveys for chains in survey.dump.tables.values() for chain in chains)
        raise _not_found("chain", name, known, surveys)
    said = next(iter(tables.values()))
    if len(tables) > 1:
        said = "; ".join(f"in {table}: {text}" for table, text in sorted(tables.items()))
    return ChainAnswer(", ".join(sorted(tables)), called, said, tuple(whose), tuple(referrers), tuple(lines))


# --- endpoints ------------------------------------------------------------------------------------------------


def endpoint(surveys: Sequence[Survey], text: str) -> EndpointAnswer:
    """``10.244.1.7:8080``, ``10.244.1.7``, ``[fd00::1]:80`` or ``fd00::1``. Raises InvalidConfig."""
    ip, port = _read_endpoint(text)
    found: list[ServicePort] = []
    lines: list[Line] = []
    for survey in surveys:
        served = [each for each in survey.services if any(_is_at(one, ip, port) for one in each.endpoints)]
        found += served
        if served:
            own = {one.chain for each in served for one in (*each.cluster, *each.local) if _is_at(one, ip, port)} - {""}
            lines += _lines(survey, _of_endpoint(own, ip, port))
    if not found:
        known = (shown(one) for survey in surveys for each in survey.services for one in each.endpoints)
        raise _not_found("endpoint", text, known, surveys)
    there = f"[{ip}]" if ":" in ip and port else ip
    return EndpointAnswer(f"{there}:{port}" if port else ip, tuple(found), tuple(lines))


def _read_endpoint(text: str) -> tuple[str, int]:
    found = _ENDPOINT.fullmatch(text)
    address, port = (found["v6"] or found["v4"], found["port6"] or found["port4"]) if found else (text, None)
    try:
        ip = str(ip_address(address))
    except ValueError:
        raise InvalidConfig(f"{text[:80]!r} is no endpoint; give IP:PORT or IP, such as 10.244.1.7:8080") from None
    return ip, int(port or 0)


def _is_at(each: Endpoint, ip: str, port: int) -> bool:
    return each.ip == ip and (not port or each.port == port)


def _of_endpoint(own: set[str], ip: str, port: int) -> _Test:
    def concerns(_table: str, chain: str, saved: SavedRule) -> bool:
        target = saved.rule.target
        if chain in own or next_chain(target) in own:
            return True
        return isinstance(target, r.Dnat) and target.ip == ip and (not port or target.port == port)

    return concerns


# --- both -----------------------------------------------------------------------------------------------------


def _lines(survey: Survey, concerns: _Test) -> Iterator[Line]:
    """In the order of the dump."""
    found = [
        (saved.line, table, name, saved)
        for table, chains in survey.dump.tables.items()
        for name, chain in chains.items()
        for saved in chain.rules
        if concerns(table, name, saved)
    ]
    found.sort(key=lambda each: each[0])
    return (survey.dump.line(table, name, saved) for _, table, name, saved in found)


def _not_found(what: str, name: str, known: Iterable[str], surveys: Sequence[Survey]) -> InvalidConfig:
    shown_name = name[:80] if name.isprintable() else ascii(name)[:80]
    remedy = instead(what, name, known, live=is_live(surveys))
    return InvalidConfig(f"{what} {shown_name} is not {whereabouts(*surveys)}; {remedy}")
