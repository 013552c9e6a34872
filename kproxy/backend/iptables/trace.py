"""Where does a packet go? Walk it through rules as the kernel would, and keep the rules it met.

The packet is the first of its flow, so it is NEW and meets the nat table; ``Host.flow`` says otherwise. Where chance
decides (``statistic``) every way is followed with its probability; where something decides that rules cannot show (a
match we do not know) both ways are followed and the outcome says what it depends on. Nothing is guessed.

The order of hooks is netfilter's (enum nf_ip_hook_priorities). A packet from outside meets raw, mangle and nat
PREROUTING; then, its destination rewritten, mangle, filter, security and nat INPUT, or mangle, filter and security
FORWARD and mangle and nat POSTROUTING. One from a process on the node meets raw, mangle, nat, filter and security
OUTPUT, and mangle and nat POSTROUTING; if it is for the node itself it comes in again by lo, where it meets the same
as a packet from outside, except nat, which has already been asked.

Ways that come to the same place in the same state are one way from there on, so that a hundred unknown matches in a
row do not make 2^100 ways. What is still too much is left out and counted (``Walk.left_out``), never silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedTables
from kproxy.backend.iptables.rewrite import UNTRACKED, change, steer, translate, translations, words
from kproxy.backend.iptables.rules import Rule, Verdict
from kproxy.backend.iptables.state import Host, State, Tracked
from kproxy.backend.iptables.ways import Condition, Met, Way, given, join, split
from kproxy.model.packet import Packet

__all__ = [
    "BrokenTables", "DanglingJump", "Delivered", "Dropped", "EndlessJump", "Fate", "Host", "Met", "Outcome",
    "Policies", "Refused", "Tables", "Tracked", "Untouched", "Walk",
    "chains_of", "fates", "policies_of", "trace", "walk",
]  # fmt: skip

Tables = Mapping[tuple[str, str], Sequence[Rule]]  # (table, chain) → rules; built-in chains included
Policies = Mapping[tuple[str, str], str]  # (table, built-in chain) → ACCEPT or DROP; missing: ACCEPT

MISSING = "chain "  # how a condition begins that is about one of these
POLICY = -1  # position of a Met that is a built-in chain's policy
MOST_WAYS = 10_000  # that are followed at once; more than the endpoints of any Service
MOST_STEPS = 5_000_000  # rules asked in all: some ten seconds
_ENTERED = 30  # steps that a chain costs besides its rules: two jumps in each of forty chains are 2^40 ways
_MANY = 1000  # ways that may pile up until they are joined
_MANY_ENDS = 32  # rules that drop or refuse, told one by one
MOST_DEEP = 150  # chains in chains; nf_tables takes 16

_NEW = frozenset({"NEW"})


class Delivered(Struct, frozen=True):
    """DNATed to an endpoint."""

    ip: str  # 0.0.0.0 or ::, by REDIRECT: the address of the interface by which it came in
    port: int
    masquerade: bool


class Refused(Struct, frozen=True):
    """The client gets an ICMP error or a reset."""


class Dropped(Struct, frozen=True):
    """The client hears nothing."""


class Untouched(Struct, frozen=True):
    """No rule rewrote the destination: the packet goes where it was sent."""

    masquerade: bool = False


Fate = Delivered | Refused | Dropped | Untouched


class Outcome(Struct, frozen=True):
    """``path`` ends with Met(table, hook, -1) where the policy of a built-in chain dropped the packet.

    Where the source is replaced, the last rule of the path whose target is MASQUERADE or SNAT did it; the mark that it
    asked for was set by the last SetMark before it, outside of POSTROUTING.
    """

    probability: float  # given ``depends``
    fate: Fate
    path: tuple[Met, ...]
    depends: tuple[str, ...] = ()  # what rules cannot show; empty: certain
    source: str = ""  # what SNAT writes, as in the rule; empty: nothing, or what MASQUERADE finds on the way out


class Walk(Struct, frozen=True):
    outcomes: tuple[Outcome, ...]
    left_out: int = 0  # ways that were given up, because there were too many


class BrokenTables(ValueError):
    """Rules that no kernel can hold."""


class DanglingJump(BrokenTables):
    """A rule jumps to a chain that does not exist."""


class EndlessJump(BrokenTables):
    """Chains lead back to themselves, or are nested deeper than anything could follow."""


class _Saved(Mapping[tuple[str, str], Sequence[Rule]]):
    """A dump's rules; of a hundred thousand a packet meets few chains, and many ways meet the same long one."""

    def __init__(self, saved: SavedTables) -> None:
        self._saved = saved
        self._opened: dict[tuple[str, str], Sequence[Rule]] = {}

    def __getitem__(self, key: tuple[str, str]) -> Sequence[Rule]:
        if (rules := self._opened.get(key)) is None:
            table, chain = key
            rules = self._opened[key] = [each.rule for each in self._saved[table][chain].rules]
        return rules

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((table, chain) for table, chains in self._saved.items() for chain in chains)

    def __len__(self) -> int:
        return sum(map(len, self._saved.values()))


def chains_of(saved: SavedTables) -> Tables:
    return _Saved(saved)


def policies_of(saved: SavedTables) -> Policies:
    return {
        (table, name): chain.policy
        for table, chains in saved.items()
        for name, chain in chains.items()
        if chain.policy != "-"
    }


def trace(
    tables: Tables, packet: Packet, host: Host | None = None, policies: Policies | None = None
) -> tuple[Outcome, ...]:
    """All ways that ``packet`` can go, likeliest first. Raises BrokenTables."""
    return walk(tables, packet, host, policies).outcomes


def walk(
    tables: Tables, packet: Packet, host: Host | None = None, policies: Policies | None = None, *, cut: bool = False
) -> Walk:
    """The same, and whether all were followed. ``cut``: what meets a missing chain goes on, and depends on that."""
    walker = _Walker(tables, host or Host(), policies or {}, cut=cut)
    walker.walk(packet)
    outcomes = sorted(walker.outcomes(), key=lambda outcome: -outcome.probability)
    return Walk(tuple(outcomes), walker.left_out)


def fates(outcomes: Sequence[Outcome]) -> dict[Fate, float]:
    """Fate → probability, over all ways that lead there."""
    summed: dict[Fate, float] = {}
    for outcome in outcomes:
        summed[outcome.fate] = summed.get(outcome.fate, 0.0) + outcome.probability
    return summed


def _ended(fate: Fate, ways: list[Way]) -> list[Way]:
    """As few as tell by which rule a packet ended, or which source its endpoint sees."""
    if isinstance(fate, Delivered | Untouched):
        return join(ways, lambda way: way.state.source)
    last = {way.trail and way.trail[1] for way in ways}
    return join(ways, lambda way: (way.trail and way.trail[1]) if len(last) <= _MANY_ENDS else None)


class _Ends(NamedTuple):
    """Where a chain lets go of packets that are still on their way."""

    returned: list[Way]  # to the chain that jumped here
    accepted: list[Way]  # by this table


class _Walker:
    def __init__(self, tables: Tables, host: Host, policies: Policies, *, cut: bool) -> None:
        self.tables = tables
        self.host = host
        self.policies = policies
        self.cut = cut
        self.left_out = 0
        self._steps = 0
        self._found: dict[Fate, list[Way]] = {}
        self._most: dict[Fate, int] = {}  # ways to a fate that may pile up

    def outcomes(self) -> list[Outcome]:
        return [
            Outcome(way.probability, fate, way.path, way.depends(), way.state.source)
            for fate, ways in self._found.items()
            for way in _ended(fate, ways)
        ]

    # --- hooks ------------------------------------------------------------------------------------------------

    def walk(self, packet: Packet) -> None:
        if packet.from_host:
            start = [Way(State(packet, packet, "OUTPUT", way_out=self.host.interface_to(packet.destination)))]
            ways = self._nat(self._pass(("mangle",), self._track(self._pass(("raw",), start))))
            ways = self._leave(self._pass(("filter", "security"), ways))
            self._arrive(self._return_by_lo(ways))
            return
        start = [Way(State(packet, packet, "PREROUTING", way_in=packet.in_interface or None))]
        ways = self._nat(self._pass(("mangle",), self._track(self._pass(("raw",), start))))
        local = self._enter([way for way in ways if self._is_local(way)], "INPUT")
        self._arrive(self._nat(self._pass(("mangle", "filter", "security"), local)))
        forwarded = self._enter([way for way in ways if not self._is_local(way)], "FORWARD")
        self._arrive(self._leave(self._pass(("mangle", "filter", "security"), forwarded)))

    def _leave(self, ways: list[Way]) -> list[Way]:
        return self._nat(self._pass(("mangle",), self._enter(ways, "POSTROUTING")))

    def _return_by_lo(self, ways: list[Way]) -> list[Way]:
        """What the node sends to itself comes in again; what it sends to others is gone. Nat has been asked."""
        gone = [way for way in ways if not self._is_local(way)]
        back = self._pass(("raw", "mangle"), self._enter([way for way in ways if self._is_local(way)], "PREROUTING"))
        return [*gone, *self._pass(("mangle", "filter", "security"), self._enter(back, "INPUT"))]

    def _is_local(self, way: Way) -> bool:
        return way.state.steered or self.host.is_local(way.state.packet.destination)

    def _enter(self, ways: list[Way], hook: str) -> list[Way]:
        return [replace(way, state=self._at(hook, way.state)) for way in ways]

    def _at(self, hook: str, state: State) -> State:
        packet = state.packet
        way_in = "lo" if packet.from_host else packet.in_interface or None
        way_out: str | None = ""
        if hook in {"FORWARD", "POSTROUTING"}:
            way_out = self.host.interface_to(packet.destination)
        if hook == "POSTROUTING":
            way_in = "" if packet.from_host else None  # kernels before 5.7 do not say there how it came in
        return replace(state, hook=hook, way_in=way_in, way_out=way_out)

    def _track(self, ways: list[Way]) -> list[Way]:
        flow = self.host.flow
        if flow is None:
            states, mark = _NEW, 0
        else:
            done = (*(("DNAT",) if flow.destination else ()), *(("SNAT",) if flow.source else ()))
            states, mark = frozenset((*flow.states, *done)), flow.mark
        return [
            way
            if way.state.states == UNTRACKED
            else replace(way, state=replace(way.state, states=states, flow_mark=mark))
            for way in ways
        ]

    def _nat(self, ways: list[Way]) -> list[Way]:
        """Only a flow's first packet asks; packets without a flow are not translated."""
        untracked = [way for way in ways if way.state.states == UNTRACKED]
        tracked = [way for way in ways if way.state.states != UNTRACKED]
        if self.host.flow is None:
            return [*untracked, *self._pass(("nat",), tracked)]
        return [*untracked, *(replace(way, state=translate(way.state, self.host.flow)) for way in tracked)]

    def _pass(self, tables: Sequence[str], ways: list[Way]) -> list[Way]:
        """Through one hook's chains of these tables; those that go on."""
        for table in tables:
            if not ways:
                break
            hook = ways[0].state.hook
            if (table, hook) not in self.tables:
                continue
            ends = self._chain(table, hook, ways, ())
            if self.policies.get((table, hook)) == Verdict.DROP:
                met = Met(table, hook, POLICY)
                self._end(Dropped(), [way.meeting(met) for way in ends.returned])
                ends = _Ends([], ends.accepted)
            ways = self._few(join([*ends.returned, *ends.accepted]))
        return ways

    def _arrive(self, ways: list[Way]) -> None:
        for way in ways:
            state = way.state
            if state.rewritten:
                self._end(Delivered(state.packet.destination, state.packet.port, state.masquerade), [way])
            else:
                self._end(Untouched(state.masquerade), [way])

    def _end(self, fate: Fate, ways: list[Way]) -> None:
        found = self._found.setdefault(fate, [])
        found += [way.at_its_end() for way in ways]
        if len(found) > self._most.get(fate, _MANY):
            found[:] = self._few(_ended(fate, found))
            self._most[fate] = max(_MANY, 2 * len(found))

    def _few(self, ways: list[Way]) -> list[Way]:
        if len(ways) <= MOST_WAYS:
            return ways
        self.left_out += len(ways) - MOST_WAYS
        return sorted(ways, key=lambda way: -way.probability)[:MOST_WAYS]

    # --- chains -----------------------------------------------------------------------------------------------

    def _chain(self, table: str, chain: str, ways: list[Way], above: tuple[str, ...]) -> _Ends:
        """``above``: the chains that led here."""
        self._steps += _ENTERED
        if (rules := self._rules(table, chain, above)) is None:
            return _Ends(given(ways, f"{MISSING}{chain} of {table}, which this dump lacks, lets it go on"), [])
        ends = _Ends([], [])
        most = _MANY
        for position, rule in enumerate(rules):
            self._steps += len(ways)
            if self._steps > MOST_STEPS:
                self.left_out += len(ways)
                return ends
            taken: list[Way] = []
            missed: list[Way] = []
            for way in ways:
                split(rule, way, self.host, taken, missed)
            if taken:
                met = Met(table, chain, position)
                going_on = self._target(table, rule, [way.meeting(met) for way in taken], (*above, chain), ends)
                missed = self._few(join([*missed, *going_on]))
                if max(map(len, ends)) > most:
                    ends = _Ends(self._few(join(ends.returned)), self._few(join(ends.accepted)))
                    most = 2 * max(most, *map(len, ends))
            ways = missed
            if not ways:
                break
        return _Ends(join([*ends.returned, *ways]), join(ends.accepted))

    def _rules(self, table: str, chain: str, above: tuple[str, ...]) -> Sequence[Rule] | None:
        """None: it is missing, and that may be. Raises BrokenTables."""
        rules = self.tables.get((table, chain))
        if rules is None and not self.cut:
            raise DanglingJump(f"{table} has no chain {chain}")
        if chain in above:
            raise EndlessJump(f"{table} chain {chain} leads back to itself: {' > '.join((*above, chain)[-6:])}")
        if len(above) > MOST_DEEP:
            raise EndlessJump(f"{table} chains are nested more than {MOST_DEEP} deep, down to {chain}")
        return rules

    def _target(self, table: str, rule: Rule, ways: list[Way], above: tuple[str, ...], ends: _Ends) -> list[Way]:
        """Those that go on to the next rule; the others are added to ``ends``, or have ended."""
        match rule.target:
            case r.Jump(chain) | r.Goto(chain):
                below = self._chain(table, chain, ways, above)
                ends.accepted.extend(below.accepted)
                if isinstance(rule.target, r.Jump):
                    return below.returned
                ends.returned.extend(below.returned)
            case Verdict.ACCEPT:
                ends.accepted.extend(ways)
            case Verdict.RETURN:
                ends.returned.extend(ways)
            case Verdict.DROP:
                self._end(Dropped(), ways)
            case r.RejectWith():
                self._end(Refused(), ways)
            case r.Tproxy() | r.Queue():
                ends.accepted.extend(self._hand_over(rule.target, ways))
            case target:
                return self._change(target, ways, ends)
        return []

    def _hand_over(self, target: r.Tproxy | r.Queue, ways: list[Way]) -> list[Way]:
        """Those that a program of the node accepts."""
        said = words(target)
        if isinstance(target, r.Queue):
            self._end(Dropped(), given(ways, f"{said} drops it"))
            return given(ways, f"{said} accepts it")
        self._end(Dropped(), given(ways, f"no socket listens for {said}"))
        found = [replace(way, state=steer(target, way.state)) for way in ways]
        return given(found, f"a socket listens for {said}")

    def _change(self, target: r.Target | None, ways: list[Way], ends: _Ends) -> list[Way]:
        if target is None:
            return ways
        if (translated := self._translate(target, ways)) is not None:
            ends.accepted.extend(translated)
            return []
        if isinstance(target, r.UnknownTarget):
            self._end(Dropped(), given(ways, f"{target.text} drops it"))
            ends.accepted.extend(given(ways, f"{target.text} accepts it"))
            return given(ways, f"{target.text} lets it go on")
        return [replace(way, state=change(target, way.state)) for way in ways]

    def _translate(self, target: r.Target, ways: list[Way]) -> list[Way] | None:
        """None: the target does no such thing."""
        found: list[Way] = []
        for way in ways:
            choices = translations(target, way.state)
            if choices is None:
                return None
            for state, condition in choices:
                after = replace(way, state=state)
                found.append(after.given(Condition((condition,), holds=True)) if condition else after)
        return found
