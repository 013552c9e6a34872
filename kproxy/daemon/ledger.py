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

from collections.abc import Collection, Iterable, Mapping
from heapq import nlargest

from kproxy.model.flow import NO_TRAFFIC, Traffic
from kproxy.model.keys import ServicePortKey

_INCUMBENT, _NEWCOMER = 5, 4  # what a connection counts in the contest for series


class _Account:
    """One service port."""

    __slots__ = ("elsewhere", "ended", "living", "total", "vanished")

    def __init__(self) -> None:
        self.ended = NO_TRAFFIC
        self.living = NO_TRAFFIC  # by the last reading of the table
        self.vanished = NO_TRAFFIC  # less what was carried before we came
        self.total = NO_TRAFFIC
        self.elsewhere = NO_TRAFFIC  # what of the total is counted in the sum of the others

    def settle(self, meanwhile: Traffic) -> Traffic:
        """Raise the total by what is known now; returns by how much."""
        total, vanished = [], []
        for before, ended, living, during, gone in zip(
            self.total, self.ended, self.living, meanwhile, self.vanished, strict=True
        ):
            known = ended + living + gone
            lost = max(0, before - known - during)
            vanished.append(gone + lost)
            total.append(max(before, known + lost))
        before_all, self.total, self.vanished = self.total, Traffic(*total), Traffic(*vanished)
        return _minus(self.total, before_all)


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
        self._stirred: set[ServicePortKey] = set()  # whose total may differ at the next settling

    def discount(self, key: ServicePortKey, before: Traffic) -> None:
        """Flows that live had carried so much before this process began; none of it is ours to tell."""
        account = self._accounts.setdefault(key, _Account())
        account.vanished = _minus(account.vanished, before)
        self._stirred.add(key)

    def end(self, ended: Mapping[ServicePortKey, Traffic]) -> None:
        """These flows have ended."""
        for key, traffic in ended.items():
            account = self._accounts.setdefault(key, _Account())
            account.ended = account.ended.plus(traffic)
            self._stirred.add(key)

    def settle(self, living: Mapping[ServicePortKey, Traffic], meanwhile: Mapping[ServicePortKey, Traffic]) -> None:
        """The table was read: all flows that live, and those that ended while it was read, not yet given to ``end``."""
        for key in living:
            self._accounts.setdefault(key, _Account())
        touched = self._stirred | living.keys()
        gains: dict[ServicePortKey, Traffic] = {}
        for key in touched:
            account = self._accounts[key]
            account.living = living.get(key, NO_TRAFFIC)
            gains[key] = account.settle(meanwhile.get(key, NO_TRAFFIC))
        self._stirred = set(living)
        self._choose()
        for key, gain in gains.items():
            if key not in self._shown:
                account = self._accounts[key]
                account.elsewhere = account.elsewhere.plus(gain)
                self._others = self._others.plus(gain)

    def forget(self, keys: Iterable[ServicePortKey]) -> None:
        """These service ports are gone."""
        for key in keys:
            self._accounts.pop(key, None)
            self._stirred.discard(key)
        self._shown &= self._accounts.keys()

    def rows(self, all_ports: Collection[ServicePortKey] = ()) -> list[Row]:
        """The series, sorted, the sum of the others last. ``all_ports``: shown even without any traffic yet."""
        rows = []
        for key in sorted(self._shown.union(all_ports)):
            account = self._accounts.get(key) or _Account()
            rows.append(Row(key, _minus(account.total, account.elsewhere), account.living.flows))
        hidden = [account for key, account in self._accounts.items() if key not in self._shown]
        if hidden or self._others != NO_TRAFFIC:
            rows.append(Row(None, self._others, sum(account.living.flows for account in hidden)))
        return rows

    def _choose(self) -> None:
        if len(self._accounts) <= self._limit:
            self._shown = frozenset(self._accounts)
            return

        def weight(key: ServicePortKey) -> int:
            return self._accounts[key].total.flows * (_INCUMBENT if key in self._shown else _NEWCOMER)

        # Sorted by key first: of equals the same ones are chosen whatever came first.
        self._shown = frozenset(nlargest(self._limit, sorted(self._accounts), key=weight))


def _minus(one: Traffic, other: Traffic) -> Traffic:
    return Traffic(one.flows - other.flows, one.bytes_in - other.bytes_in, one.bytes_out - other.bytes_out)
