"""Every error that kproxy raises.

An error says which object it is about, what is wrong and what to do; its class says whether trying again can help.
"""

from __future__ import annotations

from enum import Enum


class Retry(Enum):
    """What may help after a failure."""

    NEVER = "never"  # the same call will fail again until somebody changes something
    SOON = "soon"  # somebody else is in the way for a moment
    LATER = "later"  # the other side is away; back off


class KproxyError(Exception):
    """The root of the tree."""

    retry = Retry.NEVER


class InvalidConfig(KproxyError):
    """A flag or a configuration field cannot be used; ``problems`` lists all of them, not only the first."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class InvalidObject(KproxyError):
    """One API object, or one of its fields, cannot be used; every other object is served."""

    def __init__(self, kind: str, name: str, *, field: str, why: str, remedy: str) -> None:
        self.kind = kind  # "Service", "EndpointSlice", ...
        self.name = name  # "namespace/name", or "name" where there is no namespace
        self.field = field  # a path such as "spec.ports[0].nodePort"
        self.why = why
        self.remedy = remedy
        super().__init__(f"{kind} {name}: {field} {why}; {remedy}")

    # Notes hold problems and plans hold notes: two that say the same are the same.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, InvalidObject) and self._said == other._said

    def __hash__(self) -> int:
        return hash(self._said)

    @property
    def _said(self) -> tuple[str, ...]:
        return (self.kind, self.name, self.field, self.why, self.remedy)


class Unsupported(KproxyError):
    """The plan needs something that this backend, kernel or program does not have."""


# --- the API server -------------------------------------------------------------------------------------------


class ApiError(KproxyError):
    """The API server did not do what we asked.

    ``status``: the HTTP status, 0 where there was no answer. ``wait``: the seconds that the server asked us to stay
    away (Retry-After).
    """

    retry = Retry.LATER

    def __init__(self, message: str, *, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait


class ApiUnreachable(ApiError):
    """No answer: refused, timed out, cut off, or a certificate that does not fit."""


class ApiRefused(ApiError):
    """401 or 403: the credentials or the RBAC rules are wrong; said once, tried again with back-off."""


class ResourceExpired(ApiError):
    """410 Gone, or an ERROR event: the resourceVersion is too old; list again."""

    retry = Retry.SOON


class BadCredentials(KproxyError):
    """No usable kubeconfig, or a credential plugin failed."""


# --- the kernel and its programs ------------------------------------------------------------------------------


class KernelError(KproxyError):
    """A program or a system call failed."""

    retry = Retry.LATER


class ProgramMissing(KernelError):
    """A program such as iptables-restore is not installed."""

    retry = Retry.NEVER


class ProgramTimeout(KernelError):
    """A program did not end before its deadline and was killed."""


class ProgramFailed(KernelError):
    """A program ended with a status other than 0."""

    def __init__(self, command: tuple[str, ...], status: int, stderr: str) -> None:
        self.command = command
        self.status = status
        self.stderr = stderr
        said = " ".join(stderr.split()) or "nothing on standard error"
        super().__init__(f"{command[0]} ended with status {status}: {said[:400]}")


class RestoreRefused(ProgramFailed):
    """iptables-restore refused its input; ``line`` counts from 1, 0 where it did not say."""

    def __init__(self, command: tuple[str, ...], status: int, stderr: str, *, line: int = 0) -> None:
        super().__init__(command, status, stderr)
        self.line = line


class UnreadableTable(ProgramFailed):
    """A table holds a rule that iptables cannot print; the table can be written all the same."""

    def __str__(self) -> str:
        said = " ".join(self.stderr.split())
        return (
            f"`{' '.join(self.command)}`: the table holds rules that iptables cannot read ({said[:200]}); "
            "move them into a table of their own, or install a newer iptables"
        )


class XtablesLocked(KernelError):
    """Another program held /run/xtables.lock for longer than we wait."""

    retry = Retry.SOON


class NotPermitted(KernelError):
    """The kernel said EPERM; the process lacks CAP_NET_ADMIN."""

    retry = Retry.NEVER


# --- questions from outside -----------------------------------------------------------------------------------


class CannotListen(KproxyError):
    """An address for a server cannot be bound, and --bind-address-hard-fail says that this is fatal."""


# --- dumps ----------------------------------------------------------------------------------------------------


class UnreadableDump(KproxyError):
    """A dump is not what iptables-save prints; ``line`` counts from 1, 0 where no line is to blame."""

    def __init__(
        self,
        line: int,
        why: str,
        *,
        remedy: str = "give the whole output of iptables-save or ip6tables-save",
        name: str = "",
    ) -> None:
        self.line = line
        self.why = why
        self.remedy = remedy
        self.name = name  # of the file; empty where only one thing was given
        where = [f"line {line}"] if line else []
        super().__init__(": ".join([*([name] if name else []), *where, f"{why}; {remedy}"]))
