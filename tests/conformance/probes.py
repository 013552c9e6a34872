"""Asks a service many times and says, in the words of the records, what came of it.

Questions of one probe are asked side by side, one after the other where the probe says ``serial``. An answer is
``refused`` for a reset or an ABORT, ``icmp-unreachable`` with types and codes for an ICMP error; the two look alike to
a TCP client and are told apart by `icmp`. ``balanced`` is a chi-square test at p = 1e-5 over those that answered.
A probe that our relay ``carried`` tells of every address of a node alike (see `relayed`).
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kproxy.sandbox.host import Host
from tests.conformance import icmp, sctp
from tests.conformance.world import NAMES, NODE_ADDRESSES, source_name

Json = dict[str, Any]
Resolve = Callable[[str, int], str]  # a name and a family to an address

NODE = "the node"  # whom a backend saw that our relay asked
DEADLINE = 1.5  # seconds for one question: above the first retransmission, whose loss would look like a DROP
DEFAULT_QUESTIONS = 4
_ENOUGH_TO_JUDGE = 12  # answers, for a chi-square test
# Chi-square at p = 1e-5 for 1, 2, ... degrees of freedom.
_CRITICAL = (19.51, 23.03, 25.90, 28.47, 30.86, 33.11, 35.26, 37.33)
_REPORT_ERRORS = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR, IPV6_RECVERR
_SIDE_BY_SIDE = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """How one question ended."""

    outcome: str
    name: str = ""
    local: str = ""  # address:port at which the backend was reached
    peer: str = ""  # the address that the backend saw
    source: str = ""  # the address from which it was asked
    icmp: tuple[int, int] | None = None

    @property
    def seen(self) -> str:
        """Whom the backend saw, as records call it."""
        return "client" if self.peer == self.source else source_name(self.peer)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a probe goes."""

    address: str
    port: int

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4


def parse_target(text: str, resolve: Resolve) -> Target:
    """``web:80``, ``web/6:80``, ``10.96.1.1:80``, ``[fd00::1]:80``."""
    where, _, number = text.rpartition(":")
    if where.startswith("["):
        return Target(where.strip("[]"), int(number))
    name, _, family = where.partition("/")
    return Target(name if name[0].isdigit() else resolve(name, int(family or 4)), int(number))


def probe_id(probe: Json) -> str:
    """The name under which a probe is recorded."""
    return str(probe.get("id") or f"{probe['from']}>{probe['to']}/{probe.get('proto', 'tcp')}")


class Prober:
    """Asks from the hosts of a world; ``backends`` remembers who answered, for ``same_as``."""

    def __init__(self, hosts: dict[str, Host], resolve: Resolve) -> None:
        self._hosts = hosts
        self._resolve = resolve
        self._errors = {name: icmp.Errors(host) for name, host in hosts.items()}
        self.backends: dict[str, set[str]] = {}

    def close(self) -> None:
        for errors in self._errors.values():
            errors.close()

    async def record(self, probe: Json) -> Json:
        """Ask as the probe says and describe the answers as a record does."""
        count = int(probe.get("n", DEFAULT_QUESTIONS))
        answers: list[Answer] = []
        if probe.get("serial"):
            for number in range(count):
                if number and "gap" in probe:
                    await asyncio.sleep(probe["gap"])
                answers.append(await self.ask(probe))
        else:
            gate = asyncio.Semaphore(_SIDE_BY_SIDE)

            async def ask() -> Answer:
                async with gate:
                    return await self.ask(probe)

            # Affinity begins with the first answer: those who ask at the same moment may be sent anywhere.
            first = [await self.ask(probe)] if probe.get("affinity") else []
            answers = [*first, *await asyncio.gather(*(ask() for _ in range(count - len(first))))]
        record = _describe(probe, answers)
        self.backends[probe_id(probe)] = {answer.name for answer in answers if answer.outcome == "ok"}
        if "same_as" in probe:
            same = self.backends.get(probe_id(probe)) == self.backends.get(probe["same_as"])
            record[f"same_backend_as_{probe['same_as']}"] = same
        return record

    async def connect(self, name: str, target: Target) -> socket.socket:
        """A connected TCP socket of a host; raises OSError, TimeoutError among them."""
        sock = _socket(self._hosts[name], target, "tcp")
        try:
            async with asyncio.timeout(DEADLINE):
                await asyncio.get_running_loop().sock_connect(sock, (target.address, target.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def ask(self, probe: Json) -> Answer:
        """Ask once."""
        target = parse_target(probe["to"], self._resolve)
        protocol = probe.get("proto", "tcp")
        host, errors = self._hosts[probe["from"]], self._errors[probe["from"]]
        deadline = float(probe.get("timeout", DEADLINE))
        if protocol == "icmp":
            return await _echo(host, target, deadline)
        if protocol == "sctp":
            return await _init(host, errors, target, int(probe.get("sport", 0)), deadline)
        source = NAMES[probe["src"]][target.family] if "src" in probe else ""
        with _socket(host, target, protocol) as sock:
            sock.bind((source, int(probe.get("sport", 0))))
            source_port = sock.getsockname()[1]  # a refused socket no longer knows it
            try:
                async with asyncio.timeout(deadline):
                    return await _talk(sock, target)
            except TimeoutError:
                outcome = "timeout"
            except ConnectionRefusedError:
                outcome = "refused"
            except (ConnectionError, EOFError):
                outcome = "reset"
            except OSError as error:
                outcome = f"error-{error.errno}"
            heard = errors.take(target.family, protocol, source_port)
            return Answer("icmp-unreachable", icmp=heard) if heard else Answer(outcome)


def is_balanced(counts: Sequence[int]) -> bool:
    """Whether these numbers of answers may come from endpoints that are chosen with equal probability."""
    mean = sum(counts) / len(counts)
    critical = _CRITICAL[min(len(counts) - 1, len(_CRITICAL)) - 1]
    return sum((count - mean) ** 2 / mean for count in counts) <= critical


def _describe(probe: Json, answers: Sequence[Answer]) -> Json:
    masked = probe.get("mask", [])
    outcomes = sorted({answer.outcome for answer in answers})
    record: Json = {"outcome": outcomes[0] if len(outcomes) == 1 else f"mixed:{'+'.join(outcomes)}"}
    told = sorted({answer.icmp for answer in answers if answer.icmp})
    if told:
        record["icmp"] = [list(each) for each in told]
    good = [answer for answer in answers if answer.outcome == "ok"]
    if not good or probe.get("proto") == "icmp":
        return record
    backends = Counter(answer.name for answer in good)
    endpoints = {answer.local for answer in good}
    record["backends"] = f"{len(backends)} of the set" if "backends" in masked else sorted(backends)
    if "source" not in masked:
        record["source_seen"] = sorted({_seen(answer, is_carried=bool(probe.get("carried"))) for answer in good})
    if probe.get("ports"):
        record["backend_ports"] = sorted({int(answer.local.rpartition(":")[2]) for answer in good})
    if probe.get("affinity"):
        record["sticky"] = len(endpoints) == 1
    elif len(backends) > 1 and len(good) >= _ENOUGH_TO_JUDGE:
        record["balanced"] = is_balanced(list(backends.values()))
    if "many" in probe:
        record["distinct_ok"] = len(endpoints) >= probe["many"]
    return record


def _seen(answer: Answer, *, is_carried: bool) -> str:
    return NODE if is_carried and answer.peer in NODE_ADDRESSES else answer.seen


def _socket(host: Host, target: Target, protocol: str) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if target.family == 6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    sock.setsockopt(*_REPORT_ERRORS[target.family], 1)
    return sock


async def _talk(sock: socket.socket, target: Target) -> Answer:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (target.address, target.port))
    source = sock.getsockname()[0]
    await loop.sock_sendall(sock, b"hello\n")
    line = await loop.sock_recv(sock, 65536)
    if not line:
        raise EOFError
    return _understand(json.loads(line), source)


def _understand(facts: Json, source: str) -> Answer:
    return Answer("ok", facts["name"], facts["local"], facts["peer"].rpartition(":")[0].strip("[]"), source)


async def _echo(host: Host, target: Target, deadline: float) -> Answer:
    try:
        await icmp.echo(host, target.address, deadline)
    except TimeoutError:
        return Answer("timeout")
    except (ConnectionRefusedError, PermissionError):  # how a socket hears of it from afar, and from its own host
        return Answer("icmp-unreachable", icmp=(3, 3) if target.family == 4 else (1, 4))
    return Answer("ok")


async def _init(host: Host, errors: icmp.Errors, target: Target, source_port: int, deadline: float) -> Answer:
    source_port = source_port or random.randrange(20000, 60000)
    try:
        outcome, facts = await sctp.ask(host, target.address, target.port, source_port, deadline)
    except (TimeoutError, ConnectionRefusedError):
        outcome, facts = "timeout", {}
    if outcome == "ok":
        return _understand(facts, facts["source"])
    heard = errors.take(target.family, "sctp", source_port)
    return Answer("icmp-unreachable", icmp=heard) if heard else Answer(outcome)
