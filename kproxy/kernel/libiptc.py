"""Legacy tables read and edited through libiptc (python-iptables): the second pair of eyes.

It shares no code with the iptables programs' text, so it can prove that base jumps, canaries and chosen chains are
what we think they are (tests, ``kproxy check``), and ``cleanup`` has it remove the jumps from base chains: by their
target, in whatever words they were written. Never the bulk path: a rule costs it 0.14 ms. It sees legacy tables only.

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
from collections.abc import Iterator, Mapping, Sequence
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
    """What the child shall do under one holding of the lock."""

    family: IPFamily
    lock_deadline: float  # seconds
    tables: dict[str, tuple[str, ...]]  # chains to read, none: all; or the targets whose jumps shall go
    remove: bool = False


class Answer(Struct, frozen=True):
    tables: dict[str, dict[str, tuple[str, ...]]] = {}  # table, chain, rules as iptables-save words them
    removed: int = 0


class LegacyTables:
    """Our side: one child a call."""

    def __init__(self, family: IPFamily, *, lock_deadline: float = 5.0, deadline: float = 30.0) -> None:
        self._family = family
        self._lock_deadline = lock_deadline
        self._deadline = deadline

    async def read(self, tables: Mapping[str, Sequence[str]]) -> dict[str, dict[str, tuple[str, ...]]]:
        """The rules of these chains of each table, of all where none is named; what is absent is left out.

        Raises XtablesLocked, NotPermitted, KernelError.
        """
        wanted = {table: tuple(chains) for table, chains in tables.items()}
        return (await self._ask(Request(self._family, self._lock_deadline, wanted))).tables

    async def remove_jumps(self, tables: Mapping[str, Sequence[str]]) -> int:
        """Delete the rules of base chains that jump to these chains of each table; returns how many there were.

        One commit a table, in the given order. Raises as ``read``; a table is then as it was, or done.
        """
        targets = {table: tuple(chains) for table, chains in tables.items()}
        return (await self._ask(Request(self._family, self._lock_deadline, targets, remove=True))).removed

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
        sys.stderr.write(f"python-iptables, {', '.join(request.tables)}: {type(error).__name__}: {said}\n")
        return _FORBIDDEN if "ermission" in said else _FAILED
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def _serve(request: Request) -> Answer:
    used = legacy_tables(request.family)
    asked = {name: frozenset(chains) for name, chains in request.tables.items() if name in used}
    if not asked:
        return Answer()  # opening a table that is not in use would create it
    import iptc  # a second of CPU: not while every other program waits for the lock

    ipv6 = request.family is IPFamily.IPV6
    kind = iptc.Table6 if ipv6 else iptc.Table
    with xtables_lock(request.lock_deadline):
        opened = {name: kind(name, autocommit=False) for name in asked}
        if request.remove:
            return Answer(removed=sum(_remove_jumps(opened[name], targets) for name, targets in asked.items()))
        return Answer({name: dict(_read(iptc, opened[name], chains, ipv6=ipv6)) for name, chains in asked.items()})


def _read(iptc: Any, table: Any, wanted: frozenset[str], *, ipv6: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for chain in table.chains:
        if not wanted or chain.name in wanted:
            decoded = (iptc.easy.decode_iptc_rule(rule, ipv6=ipv6) for rule in chain.rules)
            yield chain.name, tuple(render_rule(chain.name, rule) for rule in decoded)


def _remove_jumps(table: Any, targets: frozenset[str]) -> int:
    count = 0
    for chain in table.chains:
        if chain.is_builtin():
            for rule in [rule for rule in chain.rules if rule.target.name in targets]:
                chain.delete_rule(rule)
                count += 1
    if count:
        table.commit()
    return count


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
