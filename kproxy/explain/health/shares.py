"""What chances and counters tell: odds that do not add up, shares that no chance explains, rules nobody ever met.

Chance is tested rule by rule: of the packets that came as far as a ``statistic`` rule, those it took are binomial with
its probability. All rules of a chain are written at once, so their counters began together; counters of KUBE-SEP chains
did not (a new endpoint's are young), which is why shares are not compared by them. A service with affinity is left
out, for one client is one decision there, however many packets.

Rules are rewritten by proxies now and then, and count from zero afterwards: zero says "not since then".
Source: spec iptables.md 7.4 and 11.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import NamedTuple

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedChain, SavedRule
from kproxy.explain import answer
from kproxy.explain.answer import Endpoint, Fate, ServicePort, Severity
from kproxy.explain.services.graph import Graph, Place, hash_of, is_branch, next_chain
from kproxy.explain.services.survey import Survey

_POOLS = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-XLB-")
_FEWEST = 100  # packets below which nothing is said of shares
_SIGMAS = 5.0  # standard deviations: by chance once in two million rules
_FEWEST_SENT = 20  # packets to a service port below which silence of its endpoints may be a moment's
_SUM, _RATIO = 1e-4, 1.1  # kube-proxy once wrote five decimals
_EXAMPLES = 3


def look(graph: Graph, survey: Survey) -> Iterator[answer.Warning]:
    for service in survey.services:
        for kind, endpoints in (("", service.cluster), ("local ", service.local)):
            yield from _odds(service, kind, endpoints)
    if graph.dump.facts.counters:
        yield from _never_matched(graph)
        yield from _uneven(graph, survey)
        for service in survey.services:
            yield from _swallowed(service)


# --- odds -----------------------------------------------------------------------------------------------------


def _odds(service: ServicePort, kind: str, endpoints: tuple[Endpoint, ...]) -> Iterator[answer.Warning]:
    chances = [each.probability for each in endpoints]
    if not chances:
        return
    line = min(each.line for each in endpoints)
    total = sum(chances)
    if abs(total - 1) > _SUM:
        yield answer.Warning(
            "odds-incomplete",
            Severity.ERROR,
            f"the odds of {service.name}'s {len(chances)} {kind}endpoints add up to {total:.4g}, not to 1: "
            + ("other packets pass all of them and go nowhere" if total < 1 else "the rules contradict each other"),
            "restart the proxy, which writes the chain again; then find out who changed it",
            line,
            service.name,
        )
    elif max(chances) > min(chances) * _RATIO:
        least, most = (f"{each * 100:.3g}%" for each in (min(chances), max(chances)))
        yield answer.Warning(
            "odds-uneven",
            Severity.WARNING,
            f"the odds of {service.name}'s {len(chances)} {kind}endpoints differ, from {least} to {most}: "
            "its rules stand in the wrong order, or somebody changed them",
            "restart the proxy, which writes the chain again",
            line,
            service.name,
        )


# --- counters -------------------------------------------------------------------------------------------------


def _never_matched(graph: Graph) -> Iterator[answer.Warning]:
    nat = r.Table.NAT.value
    rules = [
        saved
        for (table, name), chain in graph.chains.items()
        if table == nat and (name in {names.SERVICES, names.NODE_PORTS} or is_branch(table, name))
        for saved in chain.rules
        if not is_branch(nat, next_chain(saved.rule.target)) and next_chain(saved.rule.target) != names.NODE_PORTS
    ]
    unmet = [saved for saved in rules if saved.packets == 0]
    if not unmet or len(unmet) == len(rules):  # all: the counters are as young as the rules
        return
    shown = ", ".join(dict.fromkeys(filter(None, map(_name, unmet[: 3 * _EXAMPLES]))))
    yield answer.Warning(
        "never-matched",
        Severity.NOTE,
        f"{len(unmet)} of the {len(rules)} rules of {graph.place}nat that lead to Services counted no packet since "
        "they were written last" + (f": {_first(shown)}" if shown else ""),
        "kube-proxy writes them with every sync; take a later dump to know more",
        unmet[0].line,
    )


def _name(saved: SavedRule) -> str:
    return next((match.text.strip() for match in saved.rule.matches if isinstance(match, r.Comment)), "")


def _first(shown: str) -> str:
    parts = shown.split(", ")
    return ", ".join(parts[:_EXAMPLES]) + (", …" if len(parts) > _EXAMPLES else "")


def _swallowed(service: ServicePort) -> Iterator[answer.Warning]:
    """Packets came to a service port, and its endpoints' rules saw none of them."""
    if service.source_ranges or not service.endpoints or any(each.packets < 0 for each in service.endpoints):
        return
    came = sum(each.packets for each in service.frontends if each.fate is Fate.DELIVERED and each.packets > 0)
    if came < _FEWEST_SENT or any(each.packets for each in service.endpoints):
        return
    yield answer.Warning(
        "dispatched-not-delivered",
        Severity.WARNING,
        f"{came} packets came to {service.name} and no rule of its {len(service.endpoints)} endpoints counted one",
        "if these rules were not written a moment ago, a rule between them takes the packets: look at its chains",
        min(each.line for each in service.endpoints),
        service.name,
    )


class _Choice(NamedTuple):
    """A rule that takes some of what comes to it."""

    line: int
    probability: float
    took: int
    came: int

    @property
    def sigmas(self) -> float:
        return (self.took - self.came * self.probability) / sqrt(self.came * self.probability * (1 - self.probability))


def _uneven(graph: Graph, survey: Survey) -> Iterator[answer.Warning]:
    sticky = {service.hash for service in survey.services if service.affinity_seconds}
    named = {service.hash: service.name for service in survey.services if service.hash}
    for (table, name), chain in graph.chains.items():
        if table != r.Table.NAT or not name.startswith(_POOLS) or is_branch(table, name):
            continue
        key = hash_of(name)
        if key in sticky or any(isinstance(m, r.RecentCheck) for saved in chain.rules for m in saved.rule.matches):
            continue
        odd = max(_choices(chain), key=lambda each: abs(each.sigmas), default=None)
        if odd is None or abs(odd.sigmas) < _SIGMAS:
            continue
        yield _uneven_chain(graph, (table, name), odd, named.get(key, ""))


def _choices(chain: SavedChain) -> Iterator[_Choice]:
    """From the last rule to the first, adding up who came as far."""
    behind = 0
    for saved in reversed(chain.rules):
        chance = next((m.probability for m in saved.rule.matches if isinstance(m, r.Statistic)), None)
        if chance is None:
            if saved.rule.target is not None and not _is_mark(saved):
                behind += max(saved.packets, 0)
            continue
        came = behind + max(saved.packets, 0)
        if came >= _FEWEST and 0 < chance < 1:
            yield _Choice(saved.line, chance, saved.packets, came)
        behind = came


def _is_mark(saved: SavedRule) -> bool:
    return next_chain(saved.rule.target) == names.MARK_MASQ


def _uneven_chain(graph: Graph, place: Place, odd: _Choice, service: str) -> answer.Warning:
    table, name = place
    whose = f" ({service})" if service else ""
    return answer.Warning(
        "uneven-shares",
        Severity.WARNING,
        f"a rule of {graph.place}{table} {name}{whose} took {odd.took} of {odd.came} packets that came to it and "
        f"should have taken {odd.probability * 100:.3g}%: chance does that less than once in a million",
        "look whether somebody changed the chain; packets of one connection are counted once",
        odd.line,
        service,
    )
