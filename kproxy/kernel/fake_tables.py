"""iptables tables in memory that say no where the programs and the kernel say no.

Every refusal here was seen from iptables 1.8.9 first: jumps to missing chains, doubled and referenced chains, names
above 28 characters, unknown matches, targets and options, matches without their protocol, targets in the wrong table,
addresses of the other family, ports and comments out of range, loops. Where the two variants differ in when they
refuse, this refuses at once. A table changes at COMMIT as a whole or not at all; tables before it stay done.
Rejected: recording calls; a test would then state what was asked, not what the kernel holds.
Source: spec iptables.md 11 and 14, iptables-extensions(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from kproxy.kernel.doors import Capabilities
from kproxy.kernel.fake_rules import TARGETS, VERDICTS, Refused, RuleCheck, demand, split_words
from kproxy.model.enums import IPFamily

BASE_CHAINS = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "raw": ("PREROUTING", "OUTPUT"),
}
NAME_LIMIT = 28
_COUNTERS = re.compile(r"^\[\d+:\d+\] ")


class Kernel:
    """The tables of one family."""

    def __init__(self, family: IPFamily, capabilities: Capabilities, counters: set[str]) -> None:
        self._family = family
        self._capabilities = capabilities
        self._counters = counters
        self._checked: dict[tuple[str, str], str] = {}  # (table, rule without its chain) → target
        self._all_works = all(
            getattr(capabilities, name) for name in Capabilities.__struct_fields__ if name != "missing"
        )
        self.tables: dict[str, dict[str, tuple[str, ...]]] = {
            table: dict.fromkeys(chains, ()) for table, chains in BASE_CHAINS.items()
        }
        self.policies = {(table, chain): "ACCEPT" for table, chains in BASE_CHAINS.items() for chain in chains}

    def restore(self, lines: Iterable[str], *, commit: bool = True) -> None:
        """iptables-restore --noflush. Raises Refused; tables before the refused one stay as they were restored."""
        table: _Trial | None = None
        number = 0
        for number, line in enumerate(lines, 1):
            try:
                if not line.strip() or line.startswith("#"):
                    continue
                if table is None:
                    demand(line.startswith("*") and line[1:] in self.tables, f"no table: {line}")
                    table = _Trial(self, line[1:])
                elif line == "COMMIT":
                    table.finish()
                    if commit:
                        self.tables[table.name] = table.chains
                        self.policies.update(table.policies)
                    table = None
                else:
                    table.perform(_COUNTERS.sub("", line))
            except Refused as refusal:
                raise Refused(refusal.why, number) from None
        if table is not None:
            raise Refused("COMMIT expected", number + 1)

    def save(self, table: str) -> Iterator[str]:
        chains = self.tables[table]
        base = BASE_CHAINS[table]
        yield f"*{table}"
        for chain in base:
            yield f":{chain} {self.policies[table, chain]} [0:0]"
        order = [*base, *sorted(chain for chain in chains if chain not in base)]
        for chain in order[len(base) :]:
            yield f":{chain} - [0:0]"
        for chain in order:
            for rule in chains[chain]:
                yield f"-A {chain} {rule}"
        yield "COMMIT"

    def check_rule(self, table: str, rule: str) -> str:
        """The target of a rule that may stand in the table; "" when it has none. Raises Refused."""
        known = self._checked.get((table, rule))
        if known is None:
            known = self._checked[table, rule] = RuleCheck(self._family, table, rule).target
        capable = self._capabilities
        words = split_words(rule) if "nfacct" in rule or not self._all_works else []
        for word, value in pairwise(words):
            demand(word != "-m" or getattr(capable, value, True), f"Couldn't load match `{value}'")
            demand(word != "--nfacct-name" or value in self._counters, f"no nfacct counter {value}")
        demand("--random-fully" not in words or capable.random_fully, "unknown option --random-fully")
        return known


class _Trial:
    """One table between its ``*name`` and its COMMIT."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel = kernel
        self.name = name
        self.chains = dict(kernel.tables[name])
        self.policies: dict[tuple[str, str], str] = {}
        self._building: dict[str, list[str]] = {}  # chains being appended to, as lists

    def perform(self, line: str) -> None:
        if line.startswith(":"):
            self._declare(line)
            return
        words = line.split(maxsplit=2)
        demand(len(words) >= 2, f"bad line: {line}")
        verb, chain, rule = words[0], words[1], words[2] if len(words) > 2 else ""
        if verb == "-N":
            demand(chain not in self.chains, "Chain already exists.")
            self._create(chain)
            return
        demand(chain in self.chains, "No chain/target/match by that name.")
        match verb:
            case "-A":
                self._list(chain).append(self._checked(rule))
            case "-I":
                place, rule = _leading_number(rule)
                self._list(chain).insert(place - 1, self._checked(rule))
            case "-D":
                demand(rule in self._list(chain), "Bad rule (does a matching rule exist in that chain?).")
                self._list(chain).remove(rule)
            case "-F":
                self._building[chain] = []
            case "-X":
                self._delete(chain)
            case _:
                raise Refused(f"unknown command {verb}")

    def finish(self) -> None:
        for chain, rules in self._building.items():
            self.chains[chain] = tuple(rules)
        self._building.clear()
        self._refuse_loops()

    def _declare(self, line: str) -> None:
        words = line[1:].split()
        demand(len(words) >= 2, f"bad chain line: {line}")
        chain, policy = words[:2]
        if chain in BASE_CHAINS[self.name]:
            demand(policy in {"ACCEPT", "DROP", "-"}, f"bad policy {policy}")
            if policy != "-":
                self.policies[self.name, chain] = policy
            return
        demand(policy == "-", f"a policy for user-defined chain {chain}")
        if chain in self.chains:
            self._building[chain] = []
        else:
            self._create(chain)

    def _create(self, chain: str) -> None:
        demand(len(chain) <= NAME_LIMIT, f"Invalid chain name `{chain}' (28 chars max)")
        demand(not chain.startswith(("-", "!")) and chain not in VERDICTS, f"Invalid chain name `{chain}'")
        self.chains[chain] = ()
        self._building[chain] = []

    def _delete(self, chain: str) -> None:
        demand(chain not in BASE_CHAINS[self.name], f"{chain} is a base chain")
        demand(not self._rules(chain), "Directory not empty.")
        for other in self.chains:
            for rule in self._rules(other):
                demand(self._kernel.check_rule(self.name, rule) != chain, "Too many links.")
        del self.chains[chain]
        self._building.pop(chain, None)

    def _checked(self, rule: str) -> str:
        target = self._kernel.check_rule(self.name, rule)
        known = not target or target in VERDICTS or target in TARGETS or target in self.chains
        demand(known, f"Couldn't load target `{target}':No such file or directory")
        demand(target not in BASE_CHAINS[self.name], f"a jump to the base chain {target}")
        return rule

    def _list(self, chain: str) -> list[str]:
        return self._building.setdefault(chain, list(self.chains[chain]))

    def _rules(self, chain: str) -> Iterable[str]:
        return self._building.get(chain, self.chains[chain])

    def _refuse_loops(self) -> None:
        done: set[str] = set()
        for start in self.chains:
            path: list[tuple[str, Iterator[str]]] = [(start, self._jumps(start))] if start not in done else []
            above = {start}
            while path:
                chain, jumps = path[-1]
                target = next(jumps, None)
                if target is None:
                    done.add(chain)
                    above.discard(chain)
                    path.pop()
                elif target in above:
                    raise Refused("Too many levels of symbolic links")
                elif target not in done:
                    above.add(target)
                    path.append((target, self._jumps(target)))

    def _jumps(self, chain: str) -> Iterator[str]:
        for rule in self.chains[chain]:
            target = self._kernel.check_rule(self.name, rule)
            if target in self.chains:
                yield target


def _leading_number(rule: str) -> tuple[int, str]:
    first, _, rest = rule.partition(" ")
    return (int(first), rest) if first.isdecimal() else (1, rule)
