"""What changed between two dumps of a node besides its Services: who wrote, by which ways packets come in, who else."""

from __future__ import annotations

from collections.abc import Iterator

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.explain.answer import Change
from kproxy.explain.health.strangers import owner_of
from kproxy.explain.services.graph import HOOKS, is_proxys, next_chain
from kproxy.explain.services.survey import Survey
from kproxy.explain.services.writer import EITHER

_MOST = 5  # names in one sentence


def of_node(before: Survey, after: Survey, label: str) -> Iterator[Change]:
    """``label``: which of several dumps it is."""
    where = f"{label}: " if label else ""
    for old, new in _found(before, after):
        yield Change("", "rules", where + old if old else "", where + new if new else "")


def _found(before: Survey, after: Survey) -> Iterator[tuple[str, str]]:
    """(before, after) of each thing that differs."""
    one, other = before.dump.facts, after.dump.facts
    for what, old, new in (
        ("written by ", *_writers(one.writer, other.writer)),
        ("variant ", one.variant, other.variant),
        ("iptables ", one.version, other.version),
    ):
        if old != new:
            yield what + (old or "?"), what + (new or "?")
    yield from _differing("", _entries(before), _entries(after))
    if _mark(before) != _mark(after):
        yield _mark(before), _mark(after)
    yield from _policies(before, after)
    strangers = _strangers(before), _strangers(after)
    for owner in dict.fromkeys((*strangers[0], *strangers[1])):
        yield from _differing(f"chains of {owner}: ", *(side.get(owner, {}) for side in strangers))


def _writers(old: str, new: str) -> tuple[str, str]:
    """Where one of them is not proven, nothing says that they differ."""
    return ("", "") if EITHER in {old, new} and old and new else (old, new)


def _differing(what: str, old: dict[str, None], new: dict[str, None]) -> Iterator[tuple[str, str]]:
    gone = [each for each in old if each not in new]
    come = [each for each in new if each not in old]
    if gone or come:
        yield _listed(what, gone), _listed(what, come)


def _listed(what: str, texts: list[str]) -> str:
    if not texts:
        return ""
    more = len(texts) - _MOST
    return what + ", ".join(texts[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _entries(survey: Survey) -> dict[str, None]:
    """Jumps of built-in chains into a proxy's."""
    return {
        f"{table} {hook} leads to {chain}": None
        for table, chains in sorted(survey.dump.tables.items())
        for hook in sorted(HOOKS & chains.keys())
        for saved in chains[hook].rules
        if (chain := next_chain(saved.rule.target)) and is_proxys(chain)
    }


def _mark(survey: Survey) -> str:
    chain = survey.dump.tables.get("nat", {}).get(names.MARK_MASQ)
    marks = (saved.rule.target for saved in (chain.rules if chain else ()))
    found = next((each for each in marks if isinstance(each, r.SetMark)), None)
    return f"what is to be masqueraded has mark {found.value:#x}" if found else ""


def _policies(before: Survey, after: Survey) -> Iterator[tuple[str, str]]:
    for table, chains in sorted(after.dump.tables.items()):
        for hook in sorted(HOOKS & chains.keys()):
            old = before.dump.tables.get(table, {}).get(hook)
            if old is not None and old.policy != chains[hook].policy:
                yield f"{table} {hook} has policy {old.policy}", f"{table} {hook} has policy {chains[hook].policy}"


def _strangers(survey: Survey) -> dict[str, dict[str, None]]:
    """Chains by whose they are."""
    found: dict[str, dict[str, None]] = {}
    for table, chains in sorted(survey.dump.tables.items()):
        for chain in sorted(chains):
            if chain not in HOOKS and not is_proxys(chain):
                found.setdefault(owner_of(chain) or "others", {})[f"{table} {chain}"] = None
    return found
