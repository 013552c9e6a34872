"""A balancer in any order of events: rules change, endpoints fail and answer, clients come back, time passes."""

from __future__ import annotations

from collections import Counter
from math import ceil
from random import Random
from typing import Any

from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.endpoints import Endpoint, ServicePort
from kproxy.config import Balance
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import key, settings
from tests.unit.backend.userspace.sockets import rule as made_rule

TARGETS = [Target(f"10.0.0.{n}", 80, local=False) for n in range(7)]
SOME = st.lists(st.sampled_from(TARGETS), min_size=1, unique=True)
CLIENTS = st.sampled_from("abcdef")
REMEMBERED, AFFINITY = 4, 20


class Machine(RuleBasedStateMachine):
    @initialize(
        asked=st.fixed_dictionaries(
            {
                "balance": st.sampled_from(Balance),
                "eject_floor": st.sampled_from([0.0, 0.5, 0.7, 1.0]),
                "slow_start": st.sampled_from([0.0, 8.0]),
                "eject_seconds": st.just((5.0, 40.0)),
                "affinity": st.sampled_from([0, AFFINITY]),
            }
        ),
        dice=st.randoms(use_true_random=False),
        listed=SOME,
    )
    def begin(self, asked: dict[str, Any], dice: Random, listed: list[Target]) -> None:
        self.now = 0.0
        self.affinity = asked.pop("affinity")
        self.relay = asked
        self.service = ServicePort(key(), settings(**asked))
        self.balancer = Balancer(self.service, chance=lambda: dice.getrandbits(16), clients=REMEMBERED)
        self.latest: dict[str, tuple[Target, float]] = {}  # of each client, the longest idle first
        self.flows: list[Endpoint] = []
        self.follow(listed)

    def follow(self, listed: list[Target]) -> None:
        self.targets = listed
        self.balancer.follow(made_rule(1, *listed, affinity=self.affinity, **self.relay), self.now)

    def ejected(self) -> set[Endpoint]:
        """Those that a flow would not be given at first."""
        self.balancer.choose("nobody", self.now)  # it looks when it is asked
        return set(self.balancer.endpoints) - set(self.balancer._ready)

    def expected(self, client: str) -> Target | None:
        """Where affinity leads."""
        target, at = self.latest.get(client, (None, 0.0))
        if not self.affinity or target not in self.targets or at + AFFINITY <= self.now:
            return None
        endpoint = next(each for each in self.balancer.endpoints if each.target == target)
        return None if endpoint.ejected_until > self.now else target

    @rule(listed=SOME)
    def rule_changes(self, listed: list[Target]) -> None:
        self.follow(listed)

    @rule(seconds=st.sampled_from([0.5, 3.0, 7.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(client=CLIENTS, dead=st.sets(st.sampled_from(TARGETS)))
    def flow(self, client: str, dead: set[Target]) -> None:
        """A client tries endpoints until one answers; those who are dead are told."""
        away, expected, tried = self.ejected(), self.expected(client), []
        for endpoint in self.balancer.attempts(client, self.now):
            assert endpoint not in tried
            assert endpoint.target in self.targets
            tried.append(endpoint)
            if endpoint.target in dead:
                self.balancer.failed(endpoint, self.now)
                continue
            endpoint.active += 1
            self.flows.append(endpoint)
            self.balancer.reached(endpoint, client, self.now)
            self.latest.pop(client, None)
            self.latest[client] = endpoint.target, self.now
            self.latest = dict(list(self.latest.items())[-REMEMBERED:])
            break
        else:
            assert {each.target for each in tried} == set(self.targets) <= dead
        assert tried[0] not in away
        if expected is not None:
            assert tried[0].target == expected

    @rule()
    def flow_ends(self) -> None:
        if self.flows:
            self.flows.pop(0).active -= 1

    @rule(turns=st.integers(1, 3))
    def all_take_their_turns(self, turns: int) -> None:
        """Without a client that was there before, and without newcomers, each gets as much as any other."""
        if self.relay["balance"] is not Balance.ROUND_ROBIN or self.relay["slow_start"] or self.affinity:
            return
        ready = set(self.balancer.endpoints) - self.ejected()
        flows = turns * len(ready) + 1
        counted = Counter(self.balancer.choose("nobody", self.now) for _ in range(flows))
        assert set(counted) == ready
        assert max(counted.values()) - min(counted.values()) <= 1

    @invariant()
    def enough_stay(self) -> None:
        count = len(self.targets)
        assert len(self.balancer.endpoints) == count
        assert len(self.ejected()) <= count - max(1, ceil(count * self.relay["eject_floor"] - 1e-9))

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.balancer.service.had) <= REMEMBERED
        known = {*self.service._endpoints.values(), *self.service._past.values()}
        assert len(self.service._endpoints) == len(self.targets)
        assert known <= {*self.balancer.endpoints, *self.flows, *self.service._past.values()}
        assert len(self.service._past) <= len(TARGETS)

    @invariant()
    def flows_are_counted(self) -> None:
        for each in self.balancer.endpoints:
            assert each.active == self.flows.count(each)


TestMachine = Machine.TestCase
TestMachine.settings = examples(max_examples=60, stateful_step_count=40)
