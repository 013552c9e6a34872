"""How answers spell numbers, addresses, odds and rules."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kproxy.backend.iptables.options import unquote
from kproxy.explain.services.writer import EITHER
from kproxy.model.enums import Protocol

_NAMED = 3  # of many names
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# Another option's value is passed over, for it may look like a comment
_COMMENT = re.compile(rf"-m comment --comment (?P<text>{_QUOTED}|\S+) ?|{_QUOTED}")


def target(address: str, port: int, protocol: Protocol) -> str:
    """As ``--to`` takes it, so that a line of one answer is the question for the next."""
    return f"{join(address, port)}/{protocol.lower}"


def join(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def written(writer: str) -> str:
    """Of DumpFacts.writer."""
    return f"in kube-proxy's layout ({writer})" if writer == EITHER else f"written by {writer}"


def spoken(rule: str, chain: str) -> tuple[str, str]:
    """(what a rule of ``chain`` asks and does, its comment); a rule as iptables-save prints it."""
    comments: list[str] = []

    def taken_out(found: re.Match[str]) -> str:
        if found["text"] is None:
            return found[0]
        comments.append(unquote(found["text"]))
        return ""

    left = f"{_COMMENT.sub(taken_out, rule)} "
    return left.removeprefix(f"-A {chain} ").strip(), ", ".join(comments)


def odds(probability: float) -> str:
    return f"{probability * 100:.4g}%"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def some(names: Sequence[str], shown: int = _NAMED) -> str:
    """The first of them and how many more there are; one more than ``shown`` is shown, too."""
    few = names if len(names) <= shown + 1 else names[:shown]
    more = len(names) - len(few)
    return ", ".join(few) + (f" and {more:,} more" if more else "")
