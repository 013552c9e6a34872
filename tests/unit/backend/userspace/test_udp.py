"""The table of sessions. With sockets: test_datagrams."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kproxy.backend.userspace.udp import Sessions


def table(limit: int = 9, idle: float = 10) -> Sessions[str, str]:
    return Sessions(limit=limit, idle=idle)


def test_a_session_lives_while_it_is_used() -> None:
    sessions = table()
    assert sessions.touch("c", 0) is None
    assert sessions.add("c", "s", 0) == []
    assert sessions.touch("c", 9) == "s"
    assert sessions.expire(18.9) == []
    assert sessions.expire(19) == ["s"]
    assert len(sessions) == 0


def test_the_one_that_was_idle_longest_goes_for_a_new_one() -> None:
    sessions = table(limit=2)
    sessions.add("a", "A", 0)
    sessions.add("b", "B", 1)
    sessions.touch("a", 2)
    assert sessions.add("c", "C", 3) == ["B"]
    assert [sessions.touch(key, 3) for key in "abc"] == ["A", None, "C"]


def test_sessions_are_removed_one_by_one_or_by_what_they_are() -> None:
    sessions = table()
    for key in "abc":
        sessions.add(key, key.upper(), 0)
    assert sessions.remove("a") == "A"
    assert sessions.remove("a") is None
    assert sessions.drop(lambda key, session: (key, session) == ("b", "B")) == ["B"]
    assert len(sessions) == 1


def test_of_a_group_the_one_that_was_idle_longest_goes_however_idle_others_are() -> None:
    sessions = table()
    for at, key in enumerate(("x1", "a1", "x2", "x3")):
        sessions.add(key, key, at, key[0])
    sessions.touch("x1", 5)
    assert sessions.take_oldest("x", lambda session: session[0] == "x") == "x2"
    sessions.add("x4", "x4", 6, "x")
    sessions.touch("x3", 7)
    assert sessions.remove("x1") == "x1"
    assert [sessions.take_oldest("x", lambda _: False) for _ in range(3)] == ["x4", "x3", None]  # it is known by now
    assert len(sessions) == 1
    assert not sessions._group_of
    assert not sessions._groups


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5))), st.integers(1, 4))
def test_every_session_that_was_added_is_either_kept_or_given_back_once(
    steps: list[tuple[str, int]], limit: int
) -> None:
    sessions, now, added, back = table(limit=limit, idle=3), 0, 0, 0
    for key, later in steps:
        now += later
        back += len(sessions.expire(now))
        if sessions.touch(key, now) is None:
            back += len(sessions.add(key, key, now))
            added += 1
        assert len(sessions) <= limit
    assert added == back + len(sessions)


class Table(RuleBasedStateMachine):
    """Against a list in the order of use."""

    LIMIT, IDLE = 4, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.sessions: Sessions[int, str] = Sessions(limit=self.LIMIT, idle=self.IDLE)
        self.model: list[tuple[int, str, float]] = []  # longest idle first
        self.now, self.made = 0.0, 0

    @rule(key=st.integers(0, 7))
    def datagram(self, key: int) -> None:
        known = next((each for each in self.model if each[0] == key), None)
        found = self.sessions.touch(key, self.now)
        if known is not None:
            assert found == known[1]
            self.model.remove(known)
            self.model.append((key, known[1], self.now))
            return
        assert found is None
        self.made += 1
        name = f"session {self.made}"
        gone = self.sessions.add(key, name, self.now, key % 2)
        self.model.append((key, name, self.now))
        assert gone == [each[1] for each in self.model[: -self.LIMIT]]
        self.model = self.model[-self.LIMIT :]

    @rule(later=st.floats(0, 12))
    def time_passes(self, later: float) -> None:
        self.now += later
        gone = [each for each in self.model if each[2] + self.IDLE <= self.now]
        assert self.sessions.expire(self.now) == [each[1] for each in gone]
        self.model = self.model[len(gone) :]

    @rule(key=st.integers(0, 7))
    def refusal(self, key: int) -> None:
        known = next((each for each in self.model if each[0] == key), None)
        assert self.sessions.remove(key) == (known and known[1])
        self.model = [each for each in self.model if each[0] != key]

    @rule(odd=st.integers(0, 1))
    def endpoint_goes(self, odd: int) -> None:
        gone = [each for each in self.model if each[0] % 2 == odd]
        assert self.sessions.drop(lambda key, _: key % 2 == odd) == [each[1] for each in gone]
        self.model = [each for each in self.model if each[0] % 2 != odd]

    @rule(odd=st.integers(0, 1))
    def one_of_a_group_goes(self, odd: int) -> None:
        known = next((each for each in self.model if each[0] % 2 == odd), None)
        members = {each[1] for each in self.model if each[0] % 2 == odd}
        assert self.sessions.take_oldest(odd, members.__contains__) == (known and known[1])
        self.model = [each for each in self.model if each != known]

    @invariant()
    def has_as_many(self) -> None:
        assert len(self.sessions) == len(self.model) <= self.LIMIT
        assert len(self.sessions._used) == len(self.model)
        assert self.sessions._group_of.keys() <= {each[0] for each in self.model}
        assert {*self.sessions._groups} == {*self.sessions._group_of.values()}


TestTable = settings(max_examples=40, stateful_step_count=30)(Table).TestCase
