"""One packet that was seen on its way: which Service took it, which endpoint got it, and by which rules.

The outcome is read from what happened, not from what the rules would do: the rule that rewrote the destination says
the endpoint, and what the packet looked like afterwards confirms it, or says it alone where the flow was known already
and no rule was asked. The survey gives the names: the owner of a chain, or the frontend whose rule was met.
Where the end of its way was not seen (arrival.py), no outcome is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedRule
from kproxy.backend.iptables.rules import Rule
from kproxy.explain.answer import Frontend, Line, Masquerade, ServicePort
from kproxy.explain.packets.masquerade import Journey, Step
from kproxy.explain.services.graph import next_chain
from kproxy.explain.services.survey import Survey
from kproxy.explain.watch.arrival import HOOKS, is_through
from kproxy.explain.watch.passages import Passage
from kproxy.model.enums import IPFamily, Protocol, family_of
from kproxy.model.packet import Packet
from kproxy.model.sighting import Kind, Sighting

_NAT = "nat"
_FOREIGN = "(a rule that nft(8) made; see `nft -a list ruleset`)"
_CHANGED = "(this rule is not in the tables any more, or was not when they were read)"


class Outcome(StrEnum):
    """What became of a packet."""

    DELIVERED = "delivered"  # rewritten to an endpoint, and let through
    REFUSED = "refused"
    DROPPED = "dropped"
    UNTOUCHED = "untouched"  # let through to where it was sent
    UNSEEN = "unseen"  # the end of its way was not told


class Rulebook(Struct, frozen=True):
    """The rules of one family and variant, and how to find the one of a sighting."""

    survey: Survey
    place: Callable[[Sighting], int]  # of a rule in its chain, from 0; -1: not known
    frontends: Mapping[int, tuple[ServicePort, Frontend]]  # by the line of their rule
    dialled: Mapping[tuple[str, int, str], tuple[ServicePort, Frontend]]  # by address, port and protocol
    rules: Mapping[tuple[str, str], Sequence[Rule]]  # by table and chain
    hooked: Mapping[tuple[str, str], str]  # policies of the built-in chains that packets meet


def open_book(
    survey: Survey, place: Callable[[Sighting], int], hooked: Collection[tuple[str, str]] | None = None
) -> Rulebook:
    """``hooked``: (table, chain) of those that the kernel asks, where the dump shows more built-in chains."""
    both = [(service, frontend) for service in survey.services for frontend in service.frontends]
    frontends = {frontend.line: (service, frontend) for service, frontend in both if frontend.line}
    dialled = {
        (frontend.address, frontend.port, service.protocol.value): (service, frontend) for service, frontend in both
    }
    rules = {
        (table, name): [saved.rule for saved in chain.rules]
        for table, chains in survey.dump.tables.items()
        for name, chain in chains.items()
    }
    policies = {
        (table, name): chain.policy
        for table, chains in survey.dump.tables.items()
        for name, chain in chains.items()
        if name in HOOKS and (hooked is None or (table, name) in hooked)
    }
    return Rulebook(survey, place, frontends, dialled, rules, policies)


class TracedRule(Struct, frozen=True):
    line: Line  # number 0: the rule is not known; its text says why
    verdict: str  # accept, drop, jump, return, ...; empty where the rules are legacy iptables'
    leads_to: str = ""  # a chain
    comment: str = ""  # without it the text of the line is easier to read


class TracedPacket(Struct, frozen=True, tag="traced"):
    """``kproxy trace``: one packet of live traffic."""

    family: IPFamily
    variant: str  # of the rules it met: "nft", "legacy", "nft, legacy"; empty: none
    protocol: str
    source: str  # IP:PORT, [IPv6]:PORT
    destination: str  # as dialled
    interface: str  # where it came in; empty: a process of the node sent it
    fate: Outcome
    service: str = ""  # ServicePort.name; empty: none
    endpoint: str = ""  # where it went instead of its destination; IP:PORT
    masquerade: Masquerade = Masquerade(wanted=False)
    known_flow: bool = False  # rewritten without a rule: the flow was known already
    relayed: bool = False  # kproxy's userspace mode: the endpoint is the relay, which chooses one
    why: str = ""  # of a packet that was dropped or refused, or whose end was not seen
    rules: tuple[TracedRule, ...] = ()


class _Met(Struct):
    sighting: Sighting
    line: Line
    saved: SavedRule | None
    book: Rulebook | None
    place: int = -1


def describe(passage: Passage, books: Mapping[tuple[IPFamily, str], Rulebook]) -> TracedPacket:
    """``books``: by family and variant."""
    met = [found for sighting in passage.sightings if (found := _look_up(sighting, books)) is not None]
    endpoint = _endpoint(passage, met)
    service, frontend = _service(met)
    if service is None and endpoint:
        service, frontend = _dialled(passage, books)
    fate, why = _end(met) or _arrival(passage, met, books) or _passed(endpoint)
    relayed = service is not None and service.relayed
    return TracedPacket(
        family=family_of(passage.header.source),
        variant=", ".join(dict.fromkeys(sighting.variant for sighting in passage.sightings)),
        protocol=passage.header.protocol,
        source=_address(passage.header.source, passage.header.source_port),
        destination=_address(passage.header.destination, passage.header.port),
        interface=passage.in_interface,
        fate=fate,
        service=service.name if service else "",
        endpoint=endpoint,
        masquerade=_masquerade(passage, met, frontend, relayed=relayed),
        known_flow=bool(endpoint) and not any(each.line.table == _NAT for each in met),
        relayed=relayed and bool(endpoint),
        why=why,
        rules=tuple(map(_traced, met)),
    )


def _traced(met: _Met) -> TracedRule:
    if met.saved is None:
        return TracedRule(met.line, met.sighting.verdict)
    comments = [match.text for match in met.saved.rule.matches if isinstance(match, r.Comment)]
    return TracedRule(met.line, met.sighting.verdict, next_chain(met.saved.rule.target), ", ".join(comments))


# --- where sightings lead -------------------------------------------------------------------------------------


def _look_up(sighting: Sighting, books: Mapping[tuple[IPFamily, str], Rulebook]) -> _Met | None:
    """None for the ends of chains that decide nothing."""
    book = books.get((sighting.family, sighting.variant))
    chains = book.survey.dump.tables.get(sighting.table, {}) if book else {}
    chain = chains.get(sighting.chain)
    if sighting.kind is Kind.POLICY:
        if sighting.verdict != "drop" and (chain is None or sighting.variant == "nft" or chain.policy != "DROP"):
            return None
        return _Met(sighting, _note(sighting, "-P DROP"), None, book)
    if sighting.kind is Kind.RETURN:
        return None
    place = book.place(sighting) if book else -1
    if book is None or chain is None or not 0 <= place < len(chain.rules):
        return _Met(sighting, _note(sighting, _CHANGED if book else _FOREIGN), None, book)
    saved = chain.rules[place]
    return _Met(sighting, book.survey.dump.line(sighting.table, sighting.chain, saved), saved, book, place)


def _note(sighting: Sighting, text: str) -> Line:
    return Line(0, sighting.table, sighting.chain, text)


# --- what became of it ----------------------------------------------------------------------------------------


def _end(met: Sequence[_Met]) -> tuple[Outcome, str] | None:
    """Where it was dropped or refused, and by what."""
    for each in met:
        target = each.saved.rule.target if each.saved else None
        where = f"{each.line.table} {each.line.chain}"
        if isinstance(target, r.RejectWith):
            return Outcome.REFUSED, _comment(
                each.saved
            ) or f"the rule at line {each.line.number}, of {where}, refuses it"
        if target is r.Verdict.DROP or (each.sighting.verdict == "drop" and each.sighting.kind is Kind.RULE):
            number = f"at line {each.line.number}, of {where}," if each.line.number else f"of {where}"
            return Outcome.DROPPED, f"the rule {number} drops it"
        if each.sighting.kind is Kind.POLICY:
            return Outcome.DROPPED, f"the policy of {where} is to drop what no rule accepts"
    return None


def _arrival(
    passage: Passage, met: Sequence[_Met], books: Mapping[tuple[IPFamily, str], Rulebook]
) -> tuple[Outcome, str] | None:
    """Where the end of its way was not seen, and what is known of that."""
    targets = {id(each.sighting): each.saved.rule.target for each in met if each.saved}
    hooked = {key: book.hooked for key, book in books.items()}
    if is_through(passage.sightings, passage.header, hooked, lambda sighting: targets.get(id(sighting))):
        return None
    last = next((f"{each.table} {each.chain}" for each in reversed(passage.sightings) if each.chain in HOOKS), "")
    behind = f"behind {last} nothing was told of it" if last else "nothing was told of it"
    return Outcome.UNSEEN, f"{behind}; routing may have lost it (no route, rp_filter)"


def _passed(endpoint: str) -> tuple[Outcome, str]:
    return (Outcome.DELIVERED if endpoint else Outcome.UNTOUCHED), ""


def _comment(saved: SavedRule | None) -> str:
    """The reason that kube-proxy's rules, and ours, give for refusing."""
    comments = [match.text for match in saved.rule.matches if isinstance(match, r.Comment)] if saved else []
    return next((text for text in comments if "has no" in text), "")


def _endpoint(passage: Passage, met: Iterable[_Met]) -> str:
    """What the packet looked like later is certain; one that was dropped before that is judged by its rule."""
    first = passage.header
    for sighting in passage.sightings:
        head = sighting.header
        if head is not None and (head.destination, head.port) != (first.destination, first.port):
            return _address(head.destination, head.port)
    for each in met:
        if each.saved is not None and isinstance(target := each.saved.rule.target, r.Dnat):
            return _address(target.ip, target.port or first.port)
    return ""


def _masquerade(passage: Passage, met: Sequence[_Met], frontend: Frontend | None, *, relayed: bool) -> Masquerade:
    """Whether its source was replaced, and why. Of a known flow no rule says it."""
    first, book = passage.header, next((each.book for each in met if each.book and each.saved), None)
    steps = [Step(each.line, each.saved.rule, each.place) for each in met if each.saved]
    wanted = any(step.rule is not None and _hides(step.rule.target) for step in steps)
    if book is None or first.protocol not in set(Protocol) or not any(step.line.table == _NAT for step in steps):
        return Masquerade(wanted)
    packet = Packet(
        source=first.source,
        destination=first.destination,
        port=first.port,
        protocol=Protocol(first.protocol),
        source_port=first.source_port,
        in_interface=passage.in_interface,
        from_host=not passage.in_interface,
    )
    return Journey(steps, book.rules, frontend, packet, relayed).explain(wanted)


def _hides(target: r.Target | None) -> bool:
    return isinstance(target, r.Masquerade | r.Snat) or (
        isinstance(target, r.UnknownTarget) and target.text.startswith(("-j SNAT", "-j MASQUERADE"))
    )


def _service(met: Iterable[_Met]) -> tuple[ServicePort | None, Frontend | None]:
    """The frontend whose rule was met; else the owner of a chain that was."""
    owner: ServicePort | None = None
    for each in met:
        if each.book is None:
            continue
        if found := each.book.frontends.get(each.line.number):
            return found
        owners = each.book.survey.owners.get((each.line.table, each.line.chain), ())
        if owner is None and len(owners) == 1:
            owner = each.book.survey.services[owners[0]]
    return owner, None


def _dialled(
    passage: Passage, books: Mapping[tuple[IPFamily, str], Rulebook]
) -> tuple[ServicePort | None, Frontend | None]:
    """Of a flow that was known: whose address it is, else whose node port."""
    head = passage.header
    for address in (head.destination, ""):
        for (family, _), book in books.items():
            found = book.dialled.get((address, head.port, head.protocol))
            if found and family is family_of(head.destination):
                return found
    return None, None


def _address(ip: str, port: int) -> str:
    if not port:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
