"""Rules against the objects that were given: what ought to be there and is not, and what is there and ought not to be.

Objects and rules are taken one after the other, so a difference may be a moment old: hence warnings, no errors. What a
node may rightly leave out is not missed: endpoints under topology hints or a Local policy, endpoints that are not
ready. Services that no proxy serves, or another one, were left out when the objects were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kproxy.explain import answer
from kproxy.explain.answer import Frontend, FrontendKind, ServicePort, Severity
from kproxy.explain.read.objects import Objects
from kproxy.explain.services.survey import Survey
from kproxy.model.endpoint import Endpoint
from kproxy.model.enums import IPFamily, family_of
from kproxy.model.keys import ServicePortKey
from kproxy.model.service import Service
from kproxy.model.service import ServicePort as Port

_LATER = "if it stays so when both are taken anew, the proxy does not follow the API server: look at its log"
_SHOWN = 4
_Place = tuple[str, int, str]  # address, port, protocol
_Key = tuple[str, str, str]  # namespace/name, port, protocol


def look(surveys: Sequence[Survey], objects: Objects) -> Iterator[answer.Warning]:
    """Of one family after the other, whichever variant serves it."""
    if not objects.services:
        return
    for family in dict.fromkeys(survey.dump.facts.family for survey in surveys):
        mine = [survey for survey in surveys if survey.dump.facts.family is family]
        if any({"nat", "filter"} <= survey.dump.tables.keys() for survey in mine):
            yield from _look(family, [service for survey in mine for service in survey.services], objects)


def _look(family: IPFamily, served: Sequence[ServicePort], objects: Objects) -> Iterator[answer.Warning]:
    found: dict[_Key, ServicePort] = {(each.service, each.port, each.protocol): each for each in served}
    owners: dict[_Place, ServicePort] = {
        (front.address, front.port, each.protocol): each for each in served for front in each.frontends
    }
    for key, service, port in objects.ports():
        if not any(family_of(ip) is family for ip in service.cluster_ips):
            continue
        have = found.pop((str(key.service), key.port, key.protocol), None)
        if have is None:
            yield answer.Warning(
                "service-not-programmed",
                Severity.WARNING,
                f"{key} ({key.protocol}, {family.value}) is among the given objects and no rule is for it",
                _LATER,
                0,
                str(key),
            )
            continue
        yield from _frontends(family, have, service, port, owners)
        if objects.slices:
            yield from _endpoints(family, have, key, objects)
    for have in found.values():
        if have.service and have.named_by != "chain":
            yield answer.Warning(
                "service-gone",
                Severity.WARNING,
                f"rules serve {have.name} ({have.protocol}, {family.value}), which is not among the given objects",
                _LATER,
                min((each.line for each in have.frontends), default=0),
                have.name,
            )


def _frontends(
    family: IPFamily, have: ServicePort, service: Service, port: Port, owners: Mapping[_Place, ServicePort]
) -> Iterator[answer.Warning]:
    there = {(each.address, each.port) for each in have.frontends}
    wanted = [
        Frontend(kind, ip, port.port)
        for kind, ips in (
            (FrontendKind.CLUSTER_IP, service.cluster_ips),
            (FrontendKind.EXTERNAL_IP, service.external_ips),
            (FrontendKind.LOAD_BALANCER_IP, service.load_balancer_vips),
        )
        for ip in ips
        if family_of(ip) is family and (ip, port.port) not in there
    ]
    if port.node_port and not any(number == port.node_port for _, number in there):
        wanted.append(Frontend(FrontendKind.NODE_PORT, "", port.node_port))
    lost = []
    for each in wanted:
        owner = owners.get((each.address, each.port, have.protocol))
        if owner is None:
            lost.append(show_frontend(each))
            continue
        yield answer.Warning(
            "duplicate-claim",
            Severity.WARNING,
            f"{show_frontend(each)}/{have.protocol} is claimed by {have.name} and by {owner.name}, "
            "to which the rules give it",
            f"give {have.name} another address or port",
            min(other.line for other in owner.frontends),
            have.name,
        )
    if lost:
        yield answer.Warning(
            "frontend-not-programmed",
            Severity.WARNING,
            f"no rule is for {_some(lost)} of {have.name} ({have.protocol}), which the given objects have",
            _LATER,
            0,
            have.name,
        )


def _endpoints(family: IPFamily, have: ServicePort, key: ServicePortKey, objects: Objects) -> Iterator[answer.Warning]:
    if have.relayed:
        return
    given = {
        (endpoint.ip, port.port): endpoint
        for each in objects.slices.get(key.service, ())
        if each.family is family
        for port in each.ports
        if (port.name, port.protocol) == (key.port, key.protocol)
        for endpoint in each.endpoints
    }
    lines = {(each.ip, each.port): each.line for each in have.endpoints}
    stale = [place for place in lines if place not in given]
    if stale:
        yield answer.Warning(
            "endpoint-stale",
            Severity.WARNING,
            f"rules send packets for {have.name} ({have.protocol}) to {_some(map(_show, stale))}, which the given "
            f"objects do not have",
            _LATER,
            min(lines[place] for place in stale),
            have.name,
        )
    missed = [place for place, endpoint in given.items() if place not in lines and endpoint.ready]
    if missed and not _may_leave_out(have, given.values()):
        yield answer.Warning(
            "endpoint-not-programmed",
            Severity.WARNING,
            f"no rule sends packets for {have.name} ({have.protocol}) to {_some(map(_show, missed))}, which the given "
            f"objects call ready",
            _LATER,
            0,
            have.name,
        )


def _may_leave_out(have: ServicePort, endpoints: Iterable[Endpoint]) -> bool:
    """Whether this node may rightly know a part of the endpoints only."""
    hinted = any(each.zone_hints or each.node_hints for each in endpoints)
    return hinted or (have.internal_policy == "Local" and not have.cluster)


def show_frontend(frontend: Frontend) -> str:
    """Its kind and place, such as ``cluster IP 10.96.0.1:80``."""
    if not frontend.address:
        return f"{frontend.kind} {frontend.port}"
    return f"{frontend.kind} {_show((frontend.address, frontend.port))}"


def _show(place: tuple[str, int]) -> str:
    ip, port = place
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _some(names: Iterable[str]) -> str:
    texts = list(names)
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
