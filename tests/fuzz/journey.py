"""The whole way in one place, from bytes as an API server sends them to the input of iptables-restore.

What a round must keep, whatever came in, is checked here as it is made, so that every fuzz test checks all of it:
later rounds equal first rounds, the text says what the rules say, and nothing gets out of its quotes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.diff import Delta, Saved, diff, repair
from kproxy.backend.iptables.parse import parse_rule
from kproxy.backend.iptables.stages import Written, stage_input, stages
from kproxy.backend.iptables.text import render_rule
from kproxy.config import Config
from kproxy.errors import InvalidObject
from kproxy.model.change import Change, Listed
from kproxy.model.cluster import Cluster
from kproxy.model.enums import IPFamily, Kind
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from kproxy.source.convert import Converter, Usable
from kproxy.source.wire import decode_page
from tests.fuzz.hostile import encode
from tests.fuzz.objects import NODE, Document

CONFIG = Config(hostname=NODE, cluster_cidr=("10.244.0.0/16", "fd00:10:244::/56"))
ADDRESSES = ("192.168.0.2", "127.0.0.1", "fd00:192::2", "::1", "10.96.0.3")
_LONGEST_MESSAGE = 2000  # characters: a log line, and nearly two Events
_CHAIN = r"[A-Z][A-Za-z0-9./_-]{0,27}"
_LINE = re.compile(rf"\*(?:nat|filter|mangle)|COMMIT|:{_CHAIN} - \[0:0\]|-[AI] {_CHAIN}(?: [\x20-\x7e]+)?|-X {_CHAIN}")
# What one thing that was asked for may cost in text: a rule, its chain, its comment.
_BYTES_EACH, _BYTES_FIXED = 1500, 20_000


class Round(NamedTuple):
    """What one family's round made. ``text``: the input for iptables-restore --noflush, empty where nothing changed."""

    plan: Plan
    rules: Ruleset
    text: bytes


class Travellers(NamedTuple):
    """What became of a list of documents."""

    changes: list[Listed]
    problems: list[InvalidObject]  # of rejected objects, and of parts of others


def convert(documents: Sequence[Document], config: Config = CONFIG) -> Travellers:
    """Every kind as a page of a list: an API server's answer."""
    changes: list[Listed] = []
    converter = Converter(service_proxy_name=config.service_proxy_name)
    for kind in Kind:
        items = [encode(each.json) for each in documents if each.kind is kind]
        page = decode_page(b'{"metadata":{"resourceVersion":"1"},"items":[' + b",".join(items) + b"]}")
        changes.append(converter.listed(kind, page.items or []))
    problems = [rejection.problem for change in changes for rejection in change.rejected]
    problems += [warning for change in changes for warning in change.warnings]
    for problem in problems:
        check_sentence(problem)
    return Travellers(changes, problems)


def is_usable(document: Document, config: Config = CONFIG) -> bool:
    converter = Converter(service_proxy_name=config.service_proxy_name)
    return isinstance(converter.convert(document.kind, encode(document.json)), Usable)


class Journey:
    """One family's rounds over a cluster that changes."""

    def __init__(self, family: IPFamily, config: Config = CONFIG, abilities: Abilities | None = None) -> None:
        self.family, self.config = family, config
        self.abilities = abilities or Abilities()
        self.cluster = Cluster(config.hostname)
        self.last: Round | None = None

    def plan(self, changes: Iterable[Change]) -> Plan:
        """Apply and plan, as if for the first time."""
        for change in changes:
            self.cluster.apply(change)
        return build_plan(self.cluster.snapshot(), self.config, self.family, ADDRESSES)

    def travel(self, changes: Iterable[Change]) -> Round:
        """Apply, plan, compile, render; the next round starts from this one. AssertionError where a law is broken."""
        scratch, before = self.plan(changes), self.last
        snapshot = self.cluster.snapshot()
        plan = build_plan(snapshot, self.config, self.family, ADDRESSES, before.plan if before else None)
        rules = compile_plan(plan, self.config, self.abilities, before.rules if before else None)
        if before is not None:
            assert plan == scratch
            assert list(plan.services) == list(scratch.services)
            assert chains_of(rules) == chains_of(compile_plan(scratch, self.config, self.abilities))
        delta = repair(Saved({}), rules) if before is None else diff(before.rules, rules)
        text = render(delta, None)
        check_text(text)
        check_size(plan, text)
        for note in plan.notes:
            check_sentence(note.problem)
        self.last = Round(plan, rules, text)
        return self.last


def chains_of(rules: Ruleset) -> dict[tuple[str, str], tuple[r.Rule, ...]]:
    found = [*rules.chains()]
    made = {(chain.table.value, chain.name): chain.rules for chain in found}
    assert len(made) == len(found), "two chains have one name"
    return made


def render(delta: Delta, chunk: int | None) -> bytes:
    if delta.is_empty:
        return b""
    return b"".join(block for stage in stages(delta, chunk) for block in stage_input(stage, Written()))


# --- what must hold -------------------------------------------------------------------------------------------


def check_sentence(problem: InvalidObject) -> None:
    """One line for a log, that a terminal may print, and that says which object, which field, and what to do."""
    text = str(problem)
    assert text.isprintable(), ascii(text)
    assert len(text) <= _LONGEST_MESSAGE, ascii(text[:300])
    assert all((problem.kind, problem.name, problem.field, problem.why, problem.remedy)), ascii(text)


def check_text(text: bytes) -> None:
    """Every line is one that we may write, reads back as the rule that it is, and jumps to a chain that exists."""
    lines = text.decode("ascii").split("\n")
    assert lines.pop() == ""
    opened = False
    for line in lines:
        assert _LINE.fullmatch(line), ascii(line)
        assert opened is not line.startswith("*"), line
        opened = line != "COMMIT"
        if line.startswith(("-A ", "-I ")):
            check_rule(f"-A{line[2:]}")
    assert not opened


@lru_cache(maxsize=50_000)
def check_rule(line: str) -> None:
    chain, rule = parse_rule(line)
    assert render_rule(chain, rule) == line
    for each in rule.matches:
        assert not isinstance(each, r.Unknown), line
        match each:
            case r.Comment(text=text):
                assert len(text) <= 255, line
            case r.Ports(low=low, high=high):
                assert 0 <= low <= high <= 65535, line
            case r.RecentCheck(seconds=seconds):
                assert 1 <= seconds <= 86400, line
    match rule.target:
        case r.UnknownTarget():
            raise AssertionError(line)
        case r.Dnat(port=port):
            assert 1 <= port <= 65535, line
    words = shlex.split(line)  # reads quotes by rules of its own
    comments = [match.text for match in rule.matches if isinstance(match, r.Comment)]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--comment"] == comments
    assert words.count("-j") == (rule.target is not None), line


def check_size(plan: Plan, text: bytes) -> None:
    """Not more text than what was asked for explains. Sources are asked for once for each port that has VIPs."""
    asked = 0
    for each in plan.services.values():
        sources = max((len(frontend.allowed_sources) for frontend in each.frontends), default=0)
        asked += 1 + len(each.frontends) + sources + 2 * len(each.cluster) + 2 * len(each.local)
    if plan.services:
        assert len(text) <= _BYTES_FIXED + _BYTES_EACH * asked + len(names.SERVICES)
