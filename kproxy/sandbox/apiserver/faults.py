"""What a test makes the API server do wrong: refuse, throttle, stall, drop, expire.

Tests set these on a running server (`server.faults`); a user's sandbox never does. Each fault is consumed by the
requests that it hits, so that a test states how often something fails rather than for how long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kproxy.sandbox.apiserver.status import StatusError

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(slots=True)
class Failure:
    """Answer matching requests with an error, `times` times."""

    code: int
    times: int = 1
    method: str = ""
    path: str = ""
    """A regular expression searched in the path with its query."""
    retry_after: int | None = None
    """Seconds, for the Retry-After header."""

    def hits(self, method: str, path: str) -> bool:
        right_method = not self.method or self.method == method
        return self.times > 0 and right_method and re.search(self.path, path) is not None


@dataclass(slots=True)
class Faults:
    """The faults that are armed; `streaming_lists` False makes the server one that refuses sendInitialEvents."""

    failures: list[Failure] = field(default_factory=list)
    streaming_lists: bool = True

    def fail(
        self, code: int, *, times: int = 1, method: str = "", path: str = "", retry_after: int | None = None
    ) -> Failure:
        """Arm a failure; returns it, so that a test can see what is left of it."""
        failure = Failure(code, times, method, path, retry_after)
        self.failures.append(failure)
        return failure

    def clear(self) -> None:
        self.failures.clear()
        self.streaming_lists = True

    def next_failure(self, method: str, path: str) -> Failure | None:
        """Consume and return the first failure that hits a request."""
        for failure in self.failures:
            if failure.hits(method, path):
                failure.times -= 1
                return failure
        return None


def error_of(failure: Failure) -> StatusError:
    reason = _REASONS.get(failure.code, "InternalError")
    details = {"retryAfterSeconds": failure.retry_after} if failure.retry_after is not None else None
    return StatusError(failure.code, reason, f"injected fault: {failure.code} {reason}", details)
