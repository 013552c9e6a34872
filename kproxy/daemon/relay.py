"""Services in userspace mode, of one family: the sockets of our relay, and the plan that leads to them.

Make before break, in both directions. Before a round's rules are written, the sockets that they lead to are open and
the workers know whom to serve; only when the rules are in the kernel are sockets closed that no rule leads to any more.
What fails on the way stays with the kernel, which serves every Service as well: a socket that cannot be opened, workers
that do not answer. It is told by an Event, and tried again by later rounds (schedule.py).

Before the daemon ends it writes the rules that serve without the relay (``retire``). So a restart refuses nobody: new
connections are the kernel's meanwhile, and those that the relay has may go on for ``relay_shutdown``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator

from kproxy.backend.userspace.compile import relay_rules
from kproxy.backend.userspace.counts import SHORT_OF_FILES
from kproxy.backend.userspace.crew import Crew
from kproxy.backend.userspace.endpoints import Ejection
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.seat import Ended, Event, LeftOut, Started
from kproxy.config import Config
from kproxy.daemon.complaints import Complaint
from kproxy.daemon.log import Log
from kproxy.errors import InvalidObject, KernelError
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.plan.plan import Detector, Plan, ServicePlan
from kproxy.plan.steer import Line, Steered, lines, places, steer

_log = Log(__name__)
_NAMED = 5  # endpoints in one line of the log


class RelayLines:
    """``claim``: makes an address, or a network in CIDR notation, this node's; whether it was not before. It may raise
    KernelError. ``again``: asks for another round.
    """

    def __init__(
        self,
        family: IPFamily,
        config: Config,
        crew: Crew,
        claim: Callable[[str], Awaitable[bool]],
        uid_of: Callable[[ObjectKey], str],
        again: Callable[[], None],
    ) -> None:
        self._family = family
        self._crew = crew
        self._claim = claim
        self._uid_of = uid_of
        self._hold = config.relay_hold
        self._again = again
        self._ip, self._sources = places(config, family)
        self._open: dict[Line, Listener] = {}
        self._served: dict[Line, ServicePlan] = {}  # what the workers know
        self._seen: tuple[Detector, str] = None, ""  # by which they know whose address endpoints see
        self._wanted: dict[Line, ServicePlan] = {}
        self._idle: set[Line] = set()  # open, and no worker serves them
        self._failed: dict[Line, OSError] = {}
        self._awaited: asyncio.Task[None] | None = None  # workers, of whom none serves
        self._steered: Steered | None = None
        self._is_retired = False
        self._said = ""  # what stands in the way of all
        self._is_short = False  # of files
        self._is_hiding = False  # clients that were to be seen

    @property
    def ip(self) -> str:
        """The address that this node must have; empty: none."""
        return self._ip if self._open else ""

    @property
    def failed(self) -> frozenset[Line]:
        """What the relay should carry, and the kernel does."""
        return frozenset(self._wanted.keys() - (self._open.keys() - self._idle))

    async def lead(self, plan: Plan) -> Plan:
        """What the kernel is to do, so that ``plan`` comes true with the relay's help."""
        if self._is_retired:
            return plan
        self._wanted = dict(lines(plan))
        if not self._wanted:
            self._failed.clear()
            if not self._open:
                return plan
        if self._wanted:
            await self._serve(plan)
        ready = self._open.keys() - self._idle if self._crew.serving else set[Line]()
        ports = {line: self._open[line].port for line in ready}
        self._steered = await asyncio.to_thread(steer, plan, self._ip, ports, self._steered, sources=self._sources)
        return self._steered.plan

    async def settle(self) -> list[Complaint]:
        """The kernel has what ``lead`` said: close what nobody is led to. Returns what stands in the way."""
        if not self._is_retired:
            self._close((self._open.keys() - self._wanted.keys()) | self._idle)
            self._idle.clear()
        return list(self._complaints())

    def retire(self) -> bool:
        """From now on ``lead`` changes nothing; whether there is anything that leads to the relay."""
        self._is_retired = True
        if self._awaited is not None:
            self._awaited.cancel()
        return bool(self._open)

    async def _serve(self, plan: Plan) -> None:
        """Have the workers serve what is wanted, as far as sockets can be had."""
        try:
            if await self._claim(self._ip) and self._open:
                _log.warning("The relay's address was gone, it is back", family=self._family, address=self._ip)
            sources = await self._claim_sources()
            new = await asyncio.to_thread(self._open_missing)  # ten thousand sockets take a while
        except KernelError as error:
            self._say(str(error))
            return
        seen = plan.detector, sources
        changed = {
            line: service
            for line, service in self._wanted.items()
            if line in self._open and (self._served.get(line) is not service or seen != self._seen)
        }
        told = {line: self._open[line] for line in changed}
        rules = await asyncio.to_thread(relay_rules, plan, told, sources)
        if not self._crew.serving:
            await self._await_workers(rules)
        if not self._crew.serving:
            return
        try:
            failures = await self._crew.push(rules)
        except KernelError as error:
            self._say(str(error))
            self._idle.update(new)
            return
        self._say("")
        self._served.update(changed)
        self._seen = seen
        errors = {failure.rule.listener: failure.error for failure in failures}
        refused = {line: errors[at] for line, at in self._open.items() if at in errors}
        self._failed.update(refused)
        self._idle.update(refused)

    async def _await_workers(self, rules: list[Rule]) -> None:
        """Workers take a moment to start. If that is a long one, the kernel serves meanwhile: only one round waits."""
        if self._open and self._awaited is None:
            self._awaited = asyncio.create_task(self._start(rules))
            await asyncio.wait({self._awaited}, timeout=self._hold)

    async def _start(self, rules: list[Rule]) -> None:
        try:
            await self._crew.push(rules)
        except KernelError as error:
            self._say(str(error))
        finally:
            self._awaited = None
        self._again()

    async def _claim_sources(self) -> str:
        """Whence the relay may speak for clients; empty: endpoints see this node instead."""
        if not any(each.relay is not None and each.relay.transparent for each in self._wanted.values()):
            return ""
        try:
            await self._claim(self._sources)
        except KernelError as error:
            if not self._is_hiding:
                _log.warning("Endpoints see this node instead of their clients", family=self._family, err=error)
            self._is_hiding = True
            return ""
        self._is_hiding = False
        return self._sources

    def _open_missing(self) -> list[Line]:
        """Returns those that are open now."""
        self._failed.clear()
        new = []
        for line in sorted(self._wanted.keys() - self._open.keys(), key=str):
            try:
                self._open[line] = self._crew.open(self._ip, line.key.protocol)
            except OSError as error:
                self._failed[line] = error
            else:
                new.append(line)
        return new

    def _close(self, gone: Iterable[Line]) -> None:
        lines = list(gone)
        for line in lines:
            self._served.pop(line, None)
        self._crew.shut([self._open.pop(line) for line in lines])

    def _say(self, problem: str) -> None:
        if problem and problem != self._said:
            _log.warning("The relay is not used, the kernel serves its Services", family=self._family, err=problem)
        elif self._said and not problem:
            _log.info("The relay is used again", family=self._family)
        self._said = problem

    def _say_short(self, sockets: int) -> None:
        if sockets:
            _log.warning(
                "There are not files enough to relay all Services, the kernel serves the rest",
                family=self._family,
                missing=sockets,
                remedy="raise RLIMIT_NOFILE, or relay fewer Services",
            )
        else:
            _log.info("All Services are relayed that should be", family=self._family)

    def _complaints(self) -> Iterator[Complaint]:
        """Want of files is the node's misfortune, and said once; anything else is a Service's."""
        short = sum(error.errno in SHORT_OF_FILES for error in self._failed.values())
        if bool(short) is not self._is_short and (short or not self.failed):
            self._is_short = bool(short)
            self._say_short(short)
        for line, error in self._failed.items():
            if error.errno in SHORT_OF_FILES:
                continue
            why = os.strerror(error.errno) if error.errno else str(error)
            problem = InvalidObject(
                "Service",
                str(line.key.service),
                field=f"spec.ports[{line.key.port or line.key.protocol}]",
                why=f"has no socket of the relay: {why}",
                remedy="see the kernel's log",
            )
            message = "A Service cannot be relayed, the kernel serves it"
            yield Complaint(message, "FailedToRelay", problem, self._uid_of(line.key.service))


def tell(event: Event) -> None:
    """Log what happened to a worker."""
    match event:
        case Started(seat, pid, share):
            _log.info("A worker of the relay serves", worker=seat, pid=pid, **share._asdict())
        case Ended(seat, pid, why, wait):
            _log.warning("A worker of the relay ended, starting another", worker=seat, pid=pid, why=why, seconds=wait)
        case LeftOut(seat, ejections):
            _tell_ejections(seat, ejections)


def _tell_ejections(worker: int, ejections: Iterable[Ejection]) -> None:
    """One line for each service port: where a node is lost, many endpoints are."""
    by_service: dict[ServicePortKey, list[Ejection]] = {}
    for each in ejections:
        by_service.setdefault(each.key, []).append(each)
    for key, out in by_service.items():
        _log.warning(
            "Endpoints cannot be reached, new connections leave them out for a while",
            service=key,
            endpoints=", ".join(each.target for each in out[:_NAMED]) + (", …" if len(out) > _NAMED else ""),
            count=len(out),
            seconds=max(each.seconds for each in out),
            worker=worker,
        )
