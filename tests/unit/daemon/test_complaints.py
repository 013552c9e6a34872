"""Each problem is heard once, and again only after it was mended."""

from __future__ import annotations

import pytest

from kproxy.daemon.complaints import Complaint, Complaints
from kproxy.daemon.events import Event, Recorder
from kproxy.errors import InvalidObject
from kproxy.model.change import Listed, Put, Rejected, Rejection, Removed
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from tests.builders import service

KEY = ObjectKey("default", "web")


class Ears(Recorder):
    def __init__(self) -> None:
        super().__init__(None, "n1")
        self.heard: list[Event] = []

    def record(self, event: Event) -> None:
        self.heard.append(event)


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
def complaints(ears: Ears) -> Complaints:
    return Complaints(ears, lambda _kind, key: f"uid of {key}")


def problem(field: str = "spec.a", name: str = "default/web") -> InvalidObject:
    return InvalidObject("Service", name, field=field, why="is odd", remedy="change it")


def rejected(field: str = "spec.a") -> Rejected:
    return Rejected(Kind.SERVICE, Rejection(KEY, "u1", problem(field)))


def listed(*problems: InvalidObject) -> Listed:
    return Listed(Kind.SERVICE, (), tuple(Rejection(KEY, "u1", each) for each in problems))


def test_a_rejected_object_is_one_line_and_one_event(
    complaints: Complaints, ears: Ears, caplog: pytest.LogCaptureFixture
) -> None:
    complaints.hear(rejected())
    complaints.hear(listed(problem()))
    complaints.hear(rejected())
    (event,) = ears.heard
    assert (event.reason, event.regarding, event.uid) == ("InvalidObject", KEY, "u1")
    (record,) = caplog.records
    assert record.__dict__["fields"]["field"] == "spec.a"


def test_another_problem_of_the_same_object_is_news(complaints: Complaints, ears: Ears) -> None:
    complaints.hear(rejected())
    complaints.hear(rejected("spec.b"))
    assert [event.note for event in ears.heard] == ["spec.a is odd; change it", "spec.b is odd; change it"]


@pytest.mark.parametrize("mending", [Put(Kind.SERVICE, service("web")), Removed(Kind.SERVICE, KEY), listed()])
def test_what_was_mended_and_comes_back_is_news(
    complaints: Complaints, ears: Ears, mending: Put | Removed | Listed
) -> None:
    complaints.hear(rejected())
    complaints.hear(mending)
    complaints.hear(rejected())
    assert len(ears.heard) == 2


def test_a_field_that_was_dropped_is_told_with_the_objects_uid(complaints: Complaints, ears: Ears) -> None:
    complaints.hear(Put(Kind.SERVICE, service("web"), (problem(),)))
    complaints.hear(Put(Kind.SERVICE, service("web"), (problem(), problem("spec.b"))))
    assert [event.uid for event in ears.heard] == ["uid of default/web"] * 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("manifest", "The file cannot be read; what it said before stays in force"),
        ("directory", "The directory cannot be read; what it said before stays in force"),
        ("Service", "A part of the object is left out, the rest is served"),
    ],
)
def test_a_file_is_not_told_as_a_part_of_an_object(
    complaints: Complaints, caplog: pytest.LogCaptureFixture, kind: str, message: str
) -> None:
    wrong = InvalidObject(kind, "a", field="(the file)", why="is odd", remedy="repair it")
    complaints.hear(Listed(Kind.SERVICE, (), (), (wrong,)))
    assert [record.getMessage() for record in caplog.records] == [message]


def test_what_stands_is_said_once_by_whoever_finds_it_first(complaints: Complaints, ears: Ears) -> None:
    clash = Complaint("A clash", "NodePortConflict", problem(), "u1")
    complaints.stand("IPv4", [clash])
    complaints.stand("IPv6", [clash])
    complaints.stand("IPv4", [clash])
    assert [event.reason for event in ears.heard] == ["NodePortConflict"]
    complaints.stand("IPv4", [])
    complaints.stand("IPv6", [])
    complaints.stand("IPv4", [clash])
    assert len(ears.heard) == 2


def test_all_that_is_wrong_at_present_can_be_asked_for(complaints: Complaints) -> None:
    assert complaints.all == frozenset()
    complaints.hear(rejected())
    complaints.stand("IPv4", [Complaint("clash", "Clash", problem("spec.b"))])
    complaints.stand("IPv6", [Complaint("clash", "Clash", problem("spec.b"))])
    assert complaints.all == {problem(), problem("spec.b")}
    complaints.hear(Removed(Kind.SERVICE, KEY))
    complaints.stand("IPv6", [])
    assert complaints.all == {problem("spec.b")}
    complaints.stand("IPv4", [])
    assert complaints.all == frozenset()


def test_who_makes_a_new_mistake_with_each_edit_does_not_fill_the_disk(
    ears: Ears, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    complaints = Complaints(ears, lambda _kind, _key: "", clock=lambda: now[0])
    for number in range(3000):
        complaints.hear(rejected(f"spec.a{number}"))
    assert len(caplog.records) == 1001  # and one that says so
    assert len(complaints.all) == 1
    assert len(ears.heard) == 3000
    now[0] += 2
    for number in range(10):
        complaints.hear(rejected(f"spec.b{number}"))
    assert len(caplog.records) == 1003
    now[0] += 600
    complaints.hear(rejected("spec.c"))
    assert [record.getMessage() for record in caplog.records[1003:]] == [
        "Problems of objects were left out of the log",
        "The object is skipped, all others are served",
    ]
