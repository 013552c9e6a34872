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

    def note(self, plan: Plan, report: SyncReport) -> None:
        """The kernel holds this plan, but for what the report says."""
        self._last[plan.family] = plan, report

    def show(self) -> dict[str, str]:
        """Lines by what they begin with; one of counts says ``IPv4 12, IPv6 3``."""
        if not self._last:
            return {}
        plans = {family: self._last[family][0] for family in sorted(self._last)}
        counts = {
            "Services": {family: len({key.service for key in plan.services}) for family, plan in plans.items()},
            "Service ports": {family: len(plan.services) for family, plan in plans.items()},
            "Endpoints": {
                family: sum(len(each.reachable) for each in plan.services.values()) for family, plan in plans.items()
            },
            "Relayed service ports": {
                family: sum(each.relay is not None for each in plan.services.values()) for family, plan in plans.items()
            },
        }
        return {name: ", ".join(f"{family} {count}" for family, count in each.items()) for name, each in counts.items()}

    def name(self) -> dict[str, str]:
        """A line with the service ports that the kernel refuses; nothing where there is none."""
        refused = [
            f"{family.value} {each.key} ({each.key.protocol})"
            for family in sorted(self._last)
            for each in self._last[family][1].quarantined
        ]
        return {"Quarantined": _some(refused)} if refused else {}


def show_problems(problems: Iterable[InvalidObject]) -> Mapping[str, str]:
    """A line for each of the first problems, and how many there are; nothing where there is none."""
    said = sorted(map(str, problems))
    lines = {f"Problem {number}": each for number, each in enumerate(said[:_NAMED], 1)}
    return {"Problems": str(len(said)), **lines} if said else {}


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
