"""Are we in contact with the API server? Said when it changes, not at every attempt.

Four watches meet the same outage, each with its own words and as often as its back-off allows; an operator wants one
line when it begins, one when it ends, and one for each kind of object that alone is refused. Losing contact is no
reason to be unhealthy: the rules in the kernel go on serving, and a restart would not bring the API server back.
``/statusz`` shows how it is at present. Whatever a watch brings was heard, a bookmark, too, and these come about once a
minute; but only the answer to a request ends an outage, for one watch may go on while all others are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kproxy.daemon.log import Log
from kproxy.errors import ApiError, ApiUnreachable, BadCredentials, KproxyError, ResourceExpired
from kproxy.model.enums import Kind

_log = Log(__name__)
_UNREACHABLE, _UNAUTHORIZED = "unreachable", "unauthorized"
_SHARED = {_UNREACHABLE, _UNAUTHORIZED}


class Contact:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds, to measure ages with."""
        self._clock = clock
        self._troubles: dict[Kind, str] = {}
        self._said: dict[Kind, str] = {}  # what the last failure of each kind in trouble was
        self._heard: float | None = None  # when it said something last

    def show(self) -> str:
        """One line for people."""
        heard = "not heard yet" if self._heard is None else f"heard {self._clock() - self._heard:.0f} s ago"
        if not self._troubles:
            return heard if self._heard is None else f"answers, {heard}"
        said = {trouble: self._said[kind] for kind, trouble in self._troubles.items()}  # one outage, one sentence
        return f"no news, {heard}: {'; '.join(said.values())}"

    def hear(self) -> None:
        """A watch brought a line. Called for each of them, so nothing more is done."""
        self._heard = self._clock()

    def report(self, kind: Kind, problem: KproxyError | None) -> None:
        """One attempt for one kind: what went wrong, or None."""
        if problem is None:
            self._heard = self._clock()
            self._recovered(kind)
        elif isinstance(problem, ResourceExpired):
            _log.verbose(2, "Listing again", kind=kind.value, why=problem)  # part of the protocol
        else:
            self._troubled(kind, problem)

    def _troubled(self, kind: Kind, problem: KproxyError) -> None:
        trouble = _class_of(kind, problem)
        self._said[kind] = str(problem)
        if self._troubles.get(kind) == trouble:
            return
        known = trouble in self._troubles.values()
        self._troubles[kind] = trouble
        if known:
            _log.verbose(2, "No news from the API server", kind=kind.value, err=problem)
        else:
            _log.warning(
                "No news from the API server, trying again; rules in the kernel stay", kind=kind.value, err=problem
            )

    def _recovered(self, kind: Kind) -> None:
        """An answer about one kind ends what concerned all of them: a quiet kind has no news to tell for minutes."""
        before = self._troubles
        self._troubles = {each: trouble for each, trouble in before.items() if each != kind and trouble not in _SHARED}
        shared = not _SHARED.isdisjoint(before.values())  # its end is told even where one kind stays refused for ever
        if shared or (before and not self._troubles):
            _log.info("The API server answers again")


def _class_of(kind: Kind, problem: KproxyError) -> str:
    """What an outage is called; what concerns one kind alone is an outage of its own."""
    match problem:
        case ApiUnreachable() | BadCredentials():
            return _UNREACHABLE
        case ApiError(status=401):
            return _UNAUTHORIZED
        case ApiError():
            return f"{kind.value} {problem.status}"
        case _:
            return f"{kind.value} {problem}"
