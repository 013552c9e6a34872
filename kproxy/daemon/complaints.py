"""What is wrong with which object, said once: a log line and an Event when it appears, silence while it stays.

A relist brings every bad object again, every round repeats its notes and both families find the same clash; a user
wants to hear of each once, and again only if it went away and came back.

Who may edit a Service could make a new mistake with each edit, a line on every node. So there is a burst, which holds
the mistakes of a large cluster, and then one line a second; ``/statusz`` counts all that stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from kproxy.daemon import events
from kproxy.daemon.log import Log
from kproxy.errors import InvalidObject
from kproxy.model.change import Change, Listed, Put, Rejected, Removed
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey

_log = Log(__name__)

_BURST = 1000  # lines; then one each second
SKIPPED = "The object is skipped, all others are served"
IN_PART = "A part of the object is left out, the rest is served"
# By the problem's kind: what is wrong with a source of objects, not with one of them
KEPT = {
    "manifest": "The file cannot be read; what it said before stays in force",
    "directory": "The directory cannot be read; what it said before stays in force",
}


class Complaint(NamedTuple):
    message: str
    reason: str  # of the Event
    problem: InvalidObject
    uid: str = ""


class Complaints:
    """``uid_of``: finds the uid of an object for its Event."""

    def __init__(
        self,
        recorder: events.Recorder,
        uid_of: Callable[[Kind, ObjectKey], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recorder = recorder
        self._uid_of = uid_of
        self._clock = clock
        self._room, self._since = float(_BURST), clock()  # lines that may be written
        self._unsaid = 0
        self._objects: dict[Kind, dict[str, frozenset[InvalidObject]]] = {kind: {} for kind in Kind}
        self._standing: dict[str, frozenset[InvalidObject]] = {}

    def hear(self, change: Change) -> None:
        """Say what is new about the objects of a change, forget what it has mended."""
        match change:
            case Listed(kind=kind, rejected=rejected, warnings=warnings):
                known = self._objects[kind]
                self._objects[kind] = {}
                found = [Complaint(SKIPPED, "InvalidObject", each.problem, each.uid) for each in rejected]
                self._take(kind, [*found, *self._in_part(kind, warnings)], known)
            case Put(kind=kind, object=resource, warnings=warnings):
                self._replace(kind, str(resource.key), self._in_part(kind, warnings))
            case Removed(kind=kind, key=key, warnings=warnings):
                self._replace(kind, str(key), self._in_part(kind, warnings))
            case Rejected(kind=kind, rejection=rejection):
                complaint = Complaint(SKIPPED, "InvalidObject", rejection.problem, rejection.uid)
                self._replace(kind, rejection.problem.name, [complaint])

    def stand(self, who: str, complaints: Iterable[Complaint]) -> None:
        """All that ``who`` has to complain about at present; what was said already, by anybody, is not said again."""
        complaints = list(complaints)
        said = frozenset().union(*self._standing.values())
        for complaint in complaints:
            if complaint.problem not in said:
                self._say(complaint)
                said |= {complaint.problem}
        self._standing[who] = frozenset(each.problem for each in complaints)

    @property
    def all(self) -> frozenset[InvalidObject]:
        """Everything that is wrong at present."""
        return frozenset().union(
            *self._standing.values(), *(of for each in self._objects.values() for of in each.values())
        )

    def _in_part(self, kind: Kind, warnings: Iterable[InvalidObject]) -> list[Complaint]:
        return [
            Complaint(KEPT.get(each.kind, IN_PART), "InvalidObject", each, self._uid_of(kind, _key(each)))
            for each in warnings
        ]

    def _replace(self, kind: Kind, name: str, complaints: list[Complaint]) -> None:
        known = self._objects[kind].pop(name, None)
        self._take(kind, complaints, {name: known} if known else {})

    def _take(self, kind: Kind, complaints: list[Complaint], known: Mapping[str, frozenset[InvalidObject]]) -> None:
        for complaint in complaints:
            problem = complaint.problem
            if problem not in known.get(problem.name, ()):
                self._say(complaint)
            self._objects[kind][problem.name] = self._objects[kind].get(problem.name, frozenset()) | {problem}

    def _say(self, complaint: Complaint) -> None:
        problem = complaint.problem
        if self._has_room():
            _log.warning(
                complaint.message,
                kind=problem.kind,
                object=problem.name,
                field=problem.field,
                why=problem.why,
                remedy=problem.remedy,
            )
        self._recorder.record(events.invalid(problem, reason=complaint.reason, uid=complaint.uid))

    def _has_room(self) -> bool:
        """Whether one more line may be written; that some are not is one itself."""
        now = self._clock()
        self._room, self._since = min(_BURST, self._room + now - self._since), now
        if self._room < 1:
            if not self._unsaid:
                _log.warning("Objects have more problems than the log shall hold, some are left out; see /statusz")
            self._unsaid += 1
            return False
        self._room -= 1
        if self._unsaid and self._room > _BURST / 2:
            _log.warning("Problems of objects were left out of the log", lines=self._unsaid)
            self._unsaid = 0
        return True


def _key(problem: InvalidObject) -> ObjectKey:
    namespace, _, name = problem.name.rpartition("/")
    return ObjectKey(namespace, name)
