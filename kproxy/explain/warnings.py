"""What in a dump looks like trouble, or will matter when something fails.

Each check is about one subject and stands with its like: how chains hang together (``structure.py``), who else writes
rules on the node (``strangers.py``), what counters and odds tell (``shares.py``), what given objects and the host
add (``drift.py``, here). A warning must be true of a healthy node, too, or not be given there: what every node has is
a note at most. Nothing here takes more than a few walks over the dump.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kproxy.explain import answer, structure
from kproxy.explain.answer import DumpFacts, Fate, Frontend, FrontendKind, ServicePort, Severity
from kproxy.explain.facts import HostFacts
from kproxy.explain.graph import Graph
from kproxy.explain.survey import Survey

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def warn(surveys: Sequence[Survey], objects: object, facts: HostFacts) -> tuple[answer.Warning, ...]:
    """All that is to be said, the gravest first, then by line."""
    del objects, facts
    graphs = [Graph(each.dump, _place(each.dump.facts, surveys)) for each in surveys]
    found: dict[answer.Warning, None] = {}
    for graph, survey in zip(graphs, surveys, strict=True):
        found |= dict.fromkeys(structure.look(graph))
        found |= dict.fromkeys(_without_endpoints(survey))
    return tuple(sorted(found, key=lambda each: (_ORDER[each.severity], each.line, each.code, each.message)))


def _place(facts: DumpFacts, surveys: Sequence[Survey]) -> str:
    """What tells this dump from the others, as the beginning of a noun."""
    families = {each.dump.facts.family for each in surveys}
    variants = {each.dump.facts.variant for each in surveys}
    words = [facts.family.value] if len(families) > 1 else []
    words += [facts.variant] if len(variants) > 1 and facts.variant else []
    return "".join(f"{word} " for word in words)


# --- services -------------------------------------------------------------------------------------------------


def _without_endpoints(survey: Survey) -> Iterator[answer.Warning]:
    for service in survey.services:
        for local in (False, True):
            dead = [each for each in service.frontends if _is_dead(each) and ("local" in each.why) == local]
            if dead:
                yield _dead(service, dead, local=local)


def _is_dead(frontend: Frontend) -> bool:
    return frontend.fate in {Fate.REFUSED, Fate.DROPPED}


def _dead(service: ServicePort, dead: list[Frontend], *, local: bool) -> answer.Warning:
    where = ", ".join(map(show_frontend, dead))
    if not local:
        return answer.Warning(
            "no-endpoints",
            Severity.WARNING,
            f"{service.name} ({service.protocol}) has no endpoints: who asks {where} is {dead[0].fate}",
            f"look whether its pods are ready: kubectl get endpointslices -n {_namespace(service)}",
            min(each.line for each in dead),
            service.name,
        )
    inside = any(each.kind is FrontendKind.CLUSTER_IP for each in dead)
    return answer.Warning(
        "no-local-endpoints",
        Severity.WARNING if inside else Severity.NOTE,
        f"{service.name} ({service.protocol}) has no endpoint on this node and its traffic policy is Local: "
        f"who asks {where} here is {dead[0].fate}",
        "run a pod of it on this node, ask another node, or set the traffic policy to Cluster",
        min(each.line for each in dead),
        service.name,
    )


def _namespace(service: ServicePort) -> str:
    return service.service.partition("/")[0] or "NAMESPACE"


def show_frontend(frontend: Frontend) -> str:
    if not frontend.address:
        return f"{frontend.kind} {frontend.port}"
    host = f"[{frontend.address}]" if ":" in frontend.address else frontend.address
    return f"{frontend.kind} {host}:{frontend.port}"
