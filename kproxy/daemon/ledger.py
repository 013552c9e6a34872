"""What each service port's flows have carried since this process began, and which of that is shown; pure.

A total is what ended flows carried plus what living flows have carried so far. The two are read one after the other,
and flows end meanwhile, so a reading of the table comes with the flows that ended while it ran: each of those was seen
in it or was not. The sum without them is a lower bound of the truth and the sum with them an upper one. A total is
raised to the lower bound and never lowered, for a Prometheus counter that falls is taken for a restart. Where it is
above even the upper bound, flows vanished without a word (their messages were lost, or they are older than the
listening), and from there on their share is added for ever. Nothing is kept for a flow; of 100,000 flows with an entry
each, that would be 25 MB.

At most ``shown`` service ports have series of their own, those with the most connections; the others are one sum, so
that the totals of a node stay right. Each connection and byte is in exactly one of them: what was counted in the sum
stays there when a service port gets its own series, and those begin without it. Whoever has series keeps them until
another has a quarter more connections, because a series that comes and goes is worth little. A service port that is
deleted takes its series along at once; what it had in the sum stays, for a sum must not fall either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from heapq import nlargest, nsmallest
from operator import lt

from kproxy.model.flow import NO_TRAFFIC, Traffic
from kproxy.model.keys import ServicePortKey

_INCUMBENT, _NEWCOMER = 5, 4  # what a connection counts in the contest for series


class _Account:
    """One service port."""

    __slots__ = ("base", "elsewhere", "living", "total")

    def __init__(self) -> None:
        # What is added to the living: flows that ended, those that vanished, less what was carried before we came.
        self.base = NO_TRAFFIC
        self.living = NO_TRAFFIC  # by the last reading of the table
        self.total = NO_TRAFFIC
        self.elsewhere = NO_TRAFFIC  # what of the total is counted in the sum of the others

    def settle(self, living: Traffic, meanwhile: Traffic) -> None:
        """Raise the total by what is known now."""
        self.living = living
        known = self.base.plus(living)
        if any(map(lt, known, self.total)):
            lost = Traffic(
                *(max(0, was - is_ - gone) for was, is_, gone in zip(self.total, known, meanwhile, strict=True))
            )
            self.base = self.base.plus(lost)
            known = Traffic(*map(max, known, self.total))
        self.total = known


class Row:
    """What one series says; ``key`` None: all service ports that have none."""

    __slots__ = ("active", "key", "total")

    def __init__(self, key: ServicePortKey | None, total: Traffic, active: int) -> None:
        self.key = key
        self.total = total
        self.active = active  # flows that live, by the last reading


class Ledger:
    def __init__(self, shown: int) -> None:
        """``shown``: how many service ports may have series of their own."""
        self._limit = shown
        self._accounts: dict[ServicePortKey, _Account] = {}
        self._shown: frozenset[ServicePortKey] = frozenset()
        self._others = NO_TRAFFIC
        self._stirred: set[ServicePortKey] = set()  # to whose base something was added since the last settling
        self._lived: set[ServicePortKey] = set()  # who had flows at the last settling

    def discount(self, key: ServicePortKey, before: Traffic) -> None:
        """Flows that live had carried so much before this process began; none of it is ours to tell."""
        account = self._accounts.setdefault(key, _Account())
        account.base = account.base.minus(before)
        self._stirred.add(key)

    def end(self, ended: Mapping[ServicePortKey, Traffic]) -> None:
        """These flows have ended."""
        for key, traffic in ended.items():
            account = self._accounts.setdefault(key, _Account())
            account.base = account.base.plus(traffic)
            self._stirred.add(key)

    def settle(self, living: Mapping[ServicePortKey, Traffic], meanwhile: Mapping[ServicePortKey, Traffic]) -> None:
        """The table was read: all flows that live, and those that ended while it was read, not yet given to ``end``."""
        before: list[tuple[ServicePortKey, _Account, Traffic]] = []
        for key in (self._stirred | self._lived) - living.keys():
            self._settle(key, NO_TRAFFIC, meanwhile, before)
        for key, now in living.items():
            account = self._accounts.get(key)
            if account is None or account.living != now or key in self._stirred:
                self._settle(key, now, meanwhile, before)
        self._lived, self._stirred = set(living), set()
        self._choose()
        for key, account, total in before:
            if key not in self._shown and account.total != total:
                gain = account.total.minus(total)
                account.elsewhere = account.elsewhere.plus(gain)
                self._others = self._others.plus(gain)

    def _settle(
        self,
        key: ServicePortKey,
        living: Traffic,
        meanwhile: Mapping[ServicePortKey, Traffic],
        before: list[tuple[ServicePortKey, _Account, Traffic]],
    ) -> None:
        account = self._accounts.get(key) or self._accounts.setdefault(key, _Account())
        before.append((key, account, account.total))
        account.settle(living, meanwhile.get(key, NO_TRAFFIC))

    def forget(self, keys: Collection[ServicePortKey]) -> None:
        """These service ports are gone."""
        for key in keys:
            self._accounts.pop(key, None)
        self._stirred.difference_update(keys)
        self._lived.difference_update(keys)
        self._shown = self._shown.difference(keys)

    def rows(self, all_ports: Collection[ServicePortKey] = ()) -> list[Row]:
        """The series, sorted, the sum of the others last. ``all_ports``: shown even without any traffic yet."""
        rows = []
        for key in sorted(self._shown.union(all_ports)):
            account = self._accounts.get(key) or _Account()
            rows.append(Row(key, account.total.minus(account.elsewhere), account.living.flows))
        hidden = [account for key, account in self._accounts.items() if key not in self._shown]
        if hidden or self._others != NO_TRAFFIC:
            rows.append(Row(None, self._others, sum(account.living.flows for account in hidden)))
        return rows

    def _choose(self) -> None:
        if len(self._accounts) <= self._limit:
            self._shown = frozenset(self._accounts)
            return
        shown, accounts = self._shown, self._accounts
        weights = {
            key: account.total.flows * (_INCUMBENT if key in shown else _NEWCOMER) for key, account in accounts.items()
        }
        least = nlargest(self._limit, weights.values())[-1]
        above = [key for key, weight in weights.items() if weight > least]
        # Of equals the same ones are chosen, whatever came first.
        equal = nsmallest(self._limit - len(above), (key for key, weight in weights.items() if weight == least))
        self._shown = frozenset((*above, *equal))
