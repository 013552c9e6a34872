"""What the last rounds left behind, for ``/statusz``: how much is served, by whom, and what the kernel refuses.

Metrics have numbers and no names; a log has names and they scroll away. What stands at present is asked for rarely
(``kproxy status``), so nothing is counted in a round: the last plan and report are kept, which the round has anyway,
and counted when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kproxy.backend.base import SyncReport
from kproxy.errors import InvalidObject
from kproxy.model.enums import IPFamily
from kproxy.plan.plan import Plan

_NAMED = 10  # service ports, or problems: what a page for people holds


class Rounds:
    def __init__(self) -> None:
        self._last: dict[IPFamily, tuple[Plan, SyncReport]] = {}
        self._counted: dict[IPFamily, tuple[Plan, dict[str, int]]] = {}  # so that who asks often costs little

    def note(self, plan: Plan, report: SyncReport) -> None:
        """The kernel holds this plan, but for what the report says."""
        self._last[plan.family] = plan, report

    def show(self) -> dict[str, str]:
        """Lines by what they begin with; one of counts says ``IPv4 12, IPv6 3``."""
        shown: dict[str, str] = {}
        for family in sorted(self._last):
            for name, number in self._count(self._last[family][0]).items():
                shown[name] = f"{shown[name]}, {family} {number}" if name in shown else f"{family} {number}"
        return shown

    def _count(self, plan: Plan) -> dict[str, int]:
        counted = self._counted.get(plan.family)
        if counted is None or counted[0] is not plan:
            counted = self._counted[plan.family] = plan, count(plan)
        return counted[1]

    def name(self) -> dict[str, str]:
        """A line with the service ports that the kernel refuses; nothing where there is none."""
        refused = [
            f"{family.value} {each.key} ({each.key.protocol})"
            for family in sorted(self._last)
            for each in self._last[family][1].quarantined
        ]
        return {"Quarantined": _some(refused)} if refused else {}


def count(plan: Plan) -> dict[str, int]:
    """What one family serves; an endpoint counts for each service port that it has. 10,000 services: 40 ms."""
    services = plan.services.values()
    return {
        "Services": len({key.service for key in plan.services}),
        "Service ports": len(plan.services),
        "Endpoints": sum(len(each.reachable) for each in services),
        "Relayed service ports": sum(each.relay is not None for each in services),
    }


def show_problems(problems: Iterable[InvalidObject]) -> Mapping[str, str]:
    """A line for each of the first problems, and how many there are; nothing where there is none."""
    said = sorted(map(str, problems))
    lines = {f"Problem {number}": each for number, each in enumerate(said[:_NAMED], 1)}
    return {"Problems": str(len(said)), **lines} if said else {}


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
