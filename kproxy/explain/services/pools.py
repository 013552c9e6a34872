"""Which endpoints a service's chain chooses among, and with what odds.

A list of ``statistic`` rules, a tree of such lists, chains of endpoints or rewrites in the list itself: all are walked
in the same way, with the share of packets that reaches a rule. What a chain does not rewrite returns to the rule behind
the jump, as in the kernel, so that an endpoint's chain that is empty costs nobody but itself. A rule that asks for more
than chance (a source, an interface) is for some clients only, and no part of the list.

The walk keeps its own stack and counts its steps: a dump is untrusted, its chains may lead to themselves, or to each
other in so many ways that nobody could follow them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from kproxy.backend.iptables.parse import SavedChain, SavedRule
from kproxy.backend.iptables.rules import (
    Comment,
    Dnat,
    Jump,
    Nfacct,
    OfProtocol,
    Ports,
    RecentCheck,
    RecentSet,
    Source,
    Statistic,
    UnknownTarget,
)

MARKS = frozenset({"KUBE-MARK-MASQ", "KUBE-MARK-DROP"})
_FREE = frozenset({Comment, OfProtocol, RecentSet, Nfacct})  # matches that let through every packet of the service port
_ENDPOINTS_RULES = 8  # at most, of an endpoint's chain; kube-proxy writes two
_DEEPEST = 16  # chains below each other; kproxy's trees need 4
_STEPS_PER_RULE, _STEPS_AT_LEAST = 8, 10_000
_ARROW = re.compile(r" -> (?:\[([^\]]+)\]|([^\[\]: ]+)):(\d{1,5})$")


class Choice(NamedTuple):
    """One endpoint of a list."""

    ip: str
    port: int
    probability: float
    packets: int  # that were led to it here; -1: not counted
    chain: str  # of the endpoint's own; empty: it has none
    line: int  # of the rule that rewrites


class Pool(Struct, frozen=True):
    choices: tuple[Choice, ...] = ()
    affinity_seconds: int = 0
    chains: tuple[str, ...] = ()  # all that belong to the list, its own first
    drops: bool = False  # whom no endpoint takes is marked to be dropped (kube-proxy up to 1.25)


class _Rewrite(NamedTuple):
    ip: str
    port: int
    line: int


class _Frame:
    """A chain on the way down."""

    __slots__ = ("chain", "left", "rest")

    def __init__(self, chain: SavedChain, share: float) -> None:
        self.chain = chain.name
        self.rest = iter(chain.rules)
        self.left = share  # of packets, that reaches the next rule


class Pools:
    """The lists of one dump's nat table; each is walked once."""

    def __init__(self, chains: Mapping[str, SavedChain]) -> None:
        self._chains = chains
        self._known: dict[str, Pool] = {}
        self._rewrites: dict[str, _Rewrite | None] = {}
        rules = sum(len(chain.rules) for chain in chains.values())
        self._steps = _STEPS_PER_RULE * rules + _STEPS_AT_LEAST

    def pool(self, name: str) -> Pool:
        """Of a chain that is not there: an empty one."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = _Walk(self).walk(name) if name in self._chains else Pool()
        return found

    def chain(self, name: str) -> SavedChain | None:
        return self._chains.get(name)

    def has_patience(self, chain: SavedChain) -> bool:
        """Whether there is some left for a chain's rules."""
        self._steps -= len(chain.rules) + 1
        return self._steps > 0

    def rewrite(self, name: str) -> _Rewrite | None:
        """Where an endpoint's chain leads every packet; None of other chains."""
        if name in self._rewrites:
            return self._rewrites[name]
        chain = self._chains.get(name)
        found = self._rewrites[name] = _rewrite_of(chain) if chain else None
        return found


class _Walk:
    """One list."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._found: dict[tuple[str, int, str], Choice] = {}
        self._kept: dict[str, int] = {}  # packets that affinity led to an endpoint's chain
        self._chains: dict[str, None] = {}
        self._seconds = 0
        self._drops = False
        self._frames: list[_Frame] = []

    def walk(self, name: str) -> Pool:
        self._enter(name, 1.0)
        frames = self._frames
        while frames:
            frame = frames[-1]
            for saved in frame.rest:
                self._meet(saved, frame)
                if frames[-1] is not frame:
                    break
            else:
                frames.pop()
                if frames:  # what came back goes on behind the jump
                    frames[-1].left += frame.left
        choices = tuple(map(self._with_kept, self._found.values()) if self._kept else self._found.values())
        return Pool(choices, self._seconds, tuple(self._chains), self._drops)

    def _enter(self, name: str, share: float) -> bool:
        chain, frames = self._pools.chain(name), self._frames
        if chain is None or len(frames) >= _DEEPEST or (frames and any(frame.chain == name for frame in frames)):
            return False
        if not self._pools.has_patience(chain):
            return False
        self._chains[name] = None
        self._frames.append(_Frame(chain, share))
        return True

    def _meet(self, saved: SavedRule, frame: _Frame) -> None:
        share = frame.left
        target = saved.rule.target
        for match in saved.rule.matches:
            if type(match) in _FREE:
                continue
            if isinstance(match, Statistic):
                share *= match.probability
            elif isinstance(match, RecentCheck):
                self._remember(match, saved)
                return
            elif not isinstance(match, Ports) or match.high:
                return  # for some clients only
        if isinstance(target, Jump):
            self._follow(target.chain, share, saved, frame)
        elif isinstance(target, Dnat):
            self._choose(_Rewrite(target.ip, target.port, saved.line), "", share, saved)
            frame.left -= share
        elif isinstance(target, UnknownTarget) and target.text.startswith("-j DNAT"):
            self._choose(told(saved) or _Rewrite("", 0, saved.line), "", share, saved)
            frame.left -= share

    def _remember(self, match: RecentCheck, saved: SavedRule) -> None:
        self._seconds = max(self._seconds, match.seconds)
        if isinstance(saved.rule.target, Jump) and saved.packets > 0:
            chain = saved.rule.target.chain
            self._kept[chain] = self._kept.get(chain, 0) + saved.packets

    def _follow(self, name: str, share: float, saved: SavedRule, frame: _Frame) -> None:
        if name in MARKS:
            self._drops |= name == "KUBE-MARK-DROP"
            return
        rewrite = self._pools.rewrite(name)
        if rewrite is not None:
            self._chains[name] = None
            self._choose(rewrite if rewrite.port else told(saved, rewrite.line) or rewrite, name, share, saved)
            frame.left -= share
        elif self._enter(name, share):
            frame.left -= share

    def _choose(self, to: _Rewrite, chain: str, share: float, saved: SavedRule) -> None:
        ip, port, line = to
        key = (ip, port, chain)
        before = self._found.get(key)
        packets = saved.packets
        if before is not None:
            share += before.probability
            packets = max(packets, 0) + before.packets if before.packets >= 0 else packets
        self._found[key] = Choice(ip, port, share, packets, chain, line)

    def _with_kept(self, choice: Choice) -> Choice:
        kept = self._kept.get(choice.chain, 0) if choice.chain else 0
        return choice._replace(packets=choice.packets + kept) if kept else choice


def _rewrite_of(chain: SavedChain) -> _Rewrite | None:
    """The one rule by which an endpoint's chain rewrites every packet; other chains choose among several, or none."""
    if len(chain.rules) > _ENDPOINTS_RULES:
        return None
    found: _Rewrite | None = None
    for saved in chain.rules:
        target = saved.rule.target
        if isinstance(target, Dnat):
            to = _Rewrite(target.ip, target.port, saved.line)
        elif isinstance(target, UnknownTarget) and target.text.startswith("-j DNAT"):
            # "DNAT [unsupported revision]": this iptables cannot print what another version wrote
            to = _Rewrite(_hairpin(chain), 0, saved.line)
        elif isinstance(target, Jump) and target.chain not in MARKS:
            return None
        else:
            continue
        if found is not None or not _is_for_all(saved):
            return None
        found = to
    return found


def _is_for_all(saved: SavedRule) -> bool:
    for match in saved.rule.matches:
        if type(match) not in _FREE and not (isinstance(match, Ports) and not match.high):
            return False
    return True


def _hairpin(chain: SavedChain) -> str:
    """The endpoint's address as the rule says it that masquerades a pod which reaches itself."""
    sources = (match for saved in chain.rules for match in saved.rule.matches if isinstance(match, Source))
    return next((match.cidr.partition("/")[0] for match in sources if not match.negated), "")


def told(saved: SavedRule, line: int = 0) -> _Rewrite | None:
    """The endpoint that a rule's comment names: ``default/web -> 10.244.1.7:8080``."""
    for match in saved.rule.matches:
        if isinstance(match, Comment) and (found := _ARROW.search(match.text)):
            return _Rewrite(found[1] or found[2], int(found[3]), line or saved.line)
    return None
