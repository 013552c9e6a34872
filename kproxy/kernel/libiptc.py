"""Legacy tables read and edited through libiptc (python-iptables): the second pair of eyes.

It shares no code with the iptables programs' text, so it can prove that base jumps, canaries and chosen chains are
what we think they are (tests, ``kproxy check``), and it makes the small structured edits of ``cleanup``. Never the bulk
path: a rule costs it 0.14 ms. It sees legacy tables only.

It runs in a child, ``python -m kproxy.kernel.libiptc``, one for each request: the package takes no lock (the child
does, see lock.py), its IPv6 targets fail in a process that used IPv4 before, importing it takes 30 MB, and a fault in
C code must not end the daemon. The request comes as JSON on standard input, the answer leaves as JSON on standard
output. Rules are rendered in iptables-save's words, so that two readings can be compared word by word
(iptables-save prints a second space before the name of an nfacct counter).
Rejected: python-iptables inside the daemon, for these reasons.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import kproxy
from kproxy.errors import KernelError, NotPermitted, ProgramFailed, XtablesLocked
from kproxy.kernel.legacy import legacy_tables
from kproxy.kernel.lock import xtables_lock
from kproxy.kernel.run import run
from kproxy.model.enums import IPFamily

_LOCKED, _FORBIDDEN, _FAILED = 4, 3, 1  # exit statuses of the child
_FREE_TEXT = frozenset({"comment", "nfacct-name", "log-prefix", "string"})  # what iptables-save puts in quotes
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
# Fields of a decoded rule that are no matches, with their options in iptables-save's order
_HEADER = {"src": "-s", "dst": "-d", "in-interface": "-i", "out-interface": "-o", "protocol": "-p"}
_NOT_MATCHES = frozenset({*_HEADER, "target", "goto", "counters", "fragment"})


class Request(Struct, frozen=True):
    """What the child shall do with one table. Nothing to remove: read."""

    family: IPFamily
    table: str
    lock_deadline: float  # seconds
    chains: tuple[str, ...] = ()  # to read; empty: all
    remove_jumps_to: tuple[str, ...] = ()  # rules of base chains with these targets
    remove_chains: tuple[str, ...] = ()  # emptied and deleted; absent ones are passed over


class Answer(Struct, frozen=True):
    chains: dict[str, tuple[str, ...]] = {}  # rules as iptables-save words them; absent chains are left out
    removed: int = 0  # rules of base chains, and chains


class LegacyTables:
    """The daemon's side: one child a call."""

    def __init__(self, family: IPFamily, *, lock_deadline: float = 5.0, deadline: float = 30.0) -> None:
        self._family = family
        self._lock_deadline = lock_deadline
        self._deadline = deadline

    async def read(self, table: str, chains: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """The rules of these chains, or of all. Raises XtablesLocked, NotPermitted, KernelError."""
        return (await self._ask(Request(self._family, table, self._lock_deadline, tuple(chains)))).chains

    async def remove(self, table: str, *, jumps_to: Sequence[str] = (), chains: Sequence[str] = ()) -> int:
        """Delete jumps from base chains, then chains, in one commit; returns how many were there."""
        request = Request(
            self._family, table, self._lock_deadline, remove_jumps_to=tuple(jumps_to), remove_chains=tuple(chains)
        )
        return (await self._ask(request)).removed

    async def _ask(self, request: Request) -> Answer:
        command = (sys.executable, "-m", "kproxy.kernel.libiptc")
        home = Path(kproxy.__file__).parent.parent  # found there even where kproxy is not installed
        done = await run(
            command,
            stdin=msgspec.json.encode(request),
            deadline=self._deadline,
            check=False,
            environment={"PYTHONPATH": str(home)},
        )
        if done.status == 0:
            return msgspec.json.decode(done.stdout, type=Answer)
        said = " ".join(done.stderr.split())[-300:]
        if done.status == _LOCKED:
            raise XtablesLocked(said)
        if done.status == _FORBIDDEN:
            raise NotPermitted(said)
        raise ProgramFailed(command, done.status, said)


# --- the child ------------------------------------------------------------------------------------------------


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        answer = _serve(request)
    except KernelError as error:
        sys.stderr.write(f"{error}\n")
        return {XtablesLocked: _LOCKED, NotPermitted: _FORBIDDEN}.get(type(error), _FAILED)
    except Exception as error:  # noqa: BLE001 -- iptc raises its own kinds, OSError and AttributeError alike
        said = str(error)
        sys.stderr.write(f"python-iptables, table {request.table}: {type(error).__name__}: {said}\n")
        return _FORBIDDEN if "ermission" in said else _FAILED
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def _serve(request: Request) -> Answer:
    if request.table not in legacy_tables(request.family):
        return Answer()  # opening it would create it
    import iptc  # a second of CPU: not while every other program waits for the lock

    with xtables_lock(request.lock_deadline):
        kind = iptc.Table if request.family is IPFamily.IPV4 else iptc.Table6
        table = kind(request.table, autocommit=False)
        if request.remove_jumps_to or request.remove_chains:
            return Answer(removed=_remove(table, request))
        return Answer(chains=dict(_read(iptc, table, request)))


def _read(iptc: Any, table: Any, request: Request) -> Iterator[tuple[str, tuple[str, ...]]]:
    wanted = frozenset(request.chains)
    for chain in table.chains:
        if not wanted or chain.name in wanted:
            ipv6 = request.family is IPFamily.IPV6
            decoded = (iptc.easy.decode_iptc_rule(rule, ipv6=ipv6) for rule in chain.rules)
            yield chain.name, tuple(render_rule(chain.name, rule) for rule in decoded)


def _remove(table: Any, request: Request) -> int:
    targets = frozenset(request.remove_jumps_to)
    count = 0
    for chain in table.chains:
        if chain.is_builtin():
            for rule in [rule for rule in chain.rules if rule.target.name in targets]:
                chain.delete_rule(rule)
                count += 1
    doomed = [name for name in request.remove_chains if table.is_chain(name)]
    for name in doomed:  # all are emptied first, for they may jump to each other
        table.flush_entries(name)
    for name in doomed:
        table.delete_chain(name)
    table.commit()
    return count + len(doomed)


def render_rule(chain: str, rule: dict[str, Any]) -> str:
    """A rule as python-iptables decodes it → as iptables-save prints it."""
    words = ["-A", chain]
    for field, option in _HEADER.items():
        if field in rule:
            words += _negated(option, str(rule[field]))
    for name, options in rule.items():
        if name not in _NOT_MATCHES:
            for each in options if isinstance(options, list) else [options]:
                words += ["-m", name, *_options(each)]
    target = rule.get("target")
    if isinstance(target, str):
        words += ["-g" if rule.get("goto") else "-j", target]
    elif isinstance(target, dict):
        for name, options in target.items():
            words += ["-g" if name == "goto" else "-j", *([options] if name == "goto" else [name, *_options(options)])]
    return " ".join(words)


def _options(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        values = [str(part) for part in value] if isinstance(value, list) else [str(value)]
        if values[0] == "!":
            values = values[1:]
            yield "!"
        elif values[0].startswith("!"):
            values[0] = values[0][1:]
            yield "!"
        yield f"--{name}"
        for each in values:
            if name in _FREE_TEXT:
                yield _quoted(each)
            elif each:
                yield each


def _negated(option: str, value: str) -> list[str]:
    return ["!", option, value[1:]] if value.startswith("!") else [option, value]


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


if __name__ == "__main__":
    sys.exit(main())
