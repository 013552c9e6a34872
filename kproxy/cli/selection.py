"""Which packets a trace marks: what was typed, against the Services that the rules have and the interfaces of the node.

Names are settled here, before anything is marked, because a name that fits nothing would be waited for in vain. A
Service may be told without its namespace while only one is called so.
Rejected: to wait for an interface that may yet appear. A typing error is more frequent, and who waits for a pod names
it with --from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from kproxy.cli.scope import Scope
from kproxy.errors import InvalidConfig
from kproxy.explain.answer import Frontend, FrontendKind, ServicePort
from kproxy.explain.services.neighbours import near
from kproxy.kernel.trace_table import Selector

_MOST_SELECTORS = 256  # rules of the scope; each is asked for every new flow
_MOST_NAMES = 5


def check_interface(scope: Scope, interfaces: Collection[str]) -> None:
    """``interfaces``: those of the node. Raises InvalidConfig where none is called so."""
    if scope.interface and scope.interface not in interfaces:
        raise InvalidConfig(
            f"--in={scope.interface}: no such interface is on this node; {_nearest(scope.interface, interfaces)}"
        )


def selectors_of(scope: Scope, services: Sequence[ServicePort]) -> list[Selector]:
    """Raises InvalidConfig where no rule knows the Service or its port, and where several are called so."""
    given = {"source": scope.source, "interface": scope.interface}
    if not scope.service:
        where = {"destination": scope.destination, "port": scope.port, "protocol": scope.protocol}
        return [Selector(family, **given, **where) for family in scope.families]  # type: ignore[arg-type]
    chosen = list(_chosen(scope, _called(scope, services)))
    found = [
        Selector(
            service.family,
            source=scope.source,
            destination=frontend.address,
            port=frontend.port,
            protocol=service.protocol,
            interface=scope.interface,
            local=not frontend.address,
        )
        for service, frontend in chosen
    ]
    found = list(dict.fromkeys(found))
    if len(found) > _MOST_SELECTORS:
        raise InvalidConfig(
            f"--service={scope.service}: it has {len(found)} addresses and ports, too many for a trace; "
            f"name one of its ports ({scope.service}:PORT), or an address with --to"
        )
    return found


def _called(scope: Scope, services: Sequence[ServicePort]) -> list[ServicePort]:
    """Its ports, of the families that are meant; at least one."""
    name = scope.service
    named = [each for each in services if each.service and name in {each.service, each.service.partition("/")[2]}]
    if not named:
        what = _nearest(name, {each.service for each in services if each.service})
        raise InvalidConfig(f"--service={name}: no rule of this node is for such a Service; {what}")
    if len(called := sorted({each.service for each in named})) > 1:
        raise InvalidConfig(f"--service={name}: which one? there are {', '.join(called[:_MOST_NAMES])}")
    if not (meant := [each for each in named if each.family in scope.families]):
        raise InvalidConfig(f"--service={name}: it has no address of the IP family that is asked for")
    return meant


def _chosen(scope: Scope, services: Sequence[ServicePort]) -> Iterator[tuple[ServicePort, Frontend]]:
    """Raises InvalidConfig where no port is called so."""
    every = [
        (service, frontend)
        for service in services
        for frontend in service.frontends
        if frontend.kind is not FrontendKind.HEALTH_CHECK
    ]
    chosen = [
        (service, frontend)
        for service, frontend in every
        if scope.service_port in {"", service.port, str(frontend.port)} and scope.protocol in {None, service.protocol}
    ]
    if not chosen:
        ports = sorted({(frontend.port, service.protocol.lower, service.port) for service, frontend in every})
        there = ", ".join(f"{number}/{protocol}" + (f" ({name})" if name else "") for number, protocol, name in ports)
        port = f":{scope.service_port}" if scope.service_port else ""
        said = f"its ports are {there}" if there else "it has none"
        raise InvalidConfig(f"--service={scope.service}{port}: the Service has no such port; {said}")
    yield from chosen


def _nearest(name: str, known: Collection[str]) -> str:
    """What may have been meant, else where to look."""
    if nearest := near(name, known):
        return f"the nearest that are there: {', '.join(nearest)}"
    names = sorted(each for each in known if each.isprintable())
    return (
        f"there are {', '.join(names[:_MOST_NAMES])}{', …' if len(names) > _MOST_NAMES else ''}"
        if names
        else "there are none"
    )
