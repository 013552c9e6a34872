"""A daemon's condition on one screen: what fits 24 lines of 80 columns, aligned; colour only on a terminal.

What is well is short, what is not is a sentence. Where there is more to warn of than fits, the rest is counted and
``--json`` has it: a screen that scrolls hides its first line, which is the verdict. Where there is no screen, for a
pipe or ``kubectl exec`` without ``-t``, all is said, a line for each thing, so that grep finds whole sentences.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from kproxy.cli.condition import Condition, FamilyCondition, kernel_settings

LINES, COLUMNS = 23, 80  # and one line for the prompt
_LABEL = 14  # columns of what stands before a value
_COLUMN = 14  # of a family's figure
_LONGEST = 3  # lines of a remark
GOOD, BAD, WARN, PLAIN, HEAD = "bold green", "bold red", "yellow", "", "bold"


class Line(NamedTuple):
    text: str
    style: str = PLAIN  # of rich


def show(condition: Condition, *, now: datetime, width: int | None = COLUMNS) -> list[Line]:
    """``condition`` of a program that answers. ``width`` None: there is no screen."""
    lines = list(_head(condition, now, width))
    if condition.families:
        lines += [Line(""), *_table(condition.families, now)]
    return lines + _remarks(condition, width, LINES - len(lines))


def _head(condition: Condition, now: datetime, width: int | None) -> Iterator[Line]:
    verdict = "healthy" if condition.healthy else "NOT HEALTHY"
    name = f"{condition.program} {condition.version}".strip()
    yield Line(f"{name} on {condition.node}: {verdict}", GOOD if condition.healthy else BAD)
    if condition.program == "kube-proxy":
        yield from _row("this is", "kube-proxy, not kproxy; what it says of itself follows", width)
    if condition.started:
        process = "" if condition.process is None else f"process {condition.process}, "
        since = f"{condition.started:%Y-%m-%d %H:%M:%S} UTC"
        yield from _row("runs", f"{process}for {age((now - condition.started).total_seconds())}, since {since}", width)
    for label, value in (
        ("mode", condition.mode),
        ("iptables", condition.variant),
        ("node IPs", condition.node_addresses),
        ("API server", condition.api_server.partition(": ")[0]),
        ("health", _health(condition)),
        ("relay", condition.relay),
        ("kernel", _kernel(condition)),
    ):
        if value:
            yield from _row(label, value, width)


def _health(condition: Condition) -> str:
    if not condition.health:
        return "the health server is switched off"
    return ", ".join(f"{page} {status or 'silent'}" for page, status in condition.health.items())


def _kernel(condition: Condition) -> str:
    every, troubles = kernel_settings(condition.kernel_settings)
    wanted = f"{len(every) - len(troubles)} of {len(every)} settings as wanted"
    settings = wanted if every else condition.kernel_settings
    if condition.flows is None or condition.flows_limit is None:
        return settings
    return f"{settings}; {condition.flows:,} of {condition.flows_limit:,} flows"


def _table(families: tuple[FamilyCondition, ...], now: datetime) -> Iterator[Line]:
    yield Line(" " * (_LABEL + 2) + "".join(f"{each.family:>{_COLUMN}}" for each in families), HEAD)
    rows: tuple[tuple[str, Callable[[FamilyCondition], str]], ...] = (
        ("last sync", lambda each: _ago(each.last_sync, now)),
        ("oldest change", lambda each: _pending(each.pending_seconds)),
        ("services", lambda each: _count(each.services)),
        ("service ports", lambda each: _count(each.service_ports)),
        ("  relayed", lambda each: _count(each.relayed)),
        ("  refused", lambda each: _count(each.refused)),
        ("endpoints", lambda each: _count(each.endpoints)),
        ("rules", lambda each: _count(each.rules)),
    )
    for label, show_one in rows:
        shown = [show_one(each) for each in families]
        if any(shown) and not (label.startswith(" ") and set(shown) <= {"0", ""}):
            yield Line(f"  {label:<{_LABEL}}" + "".join(f"{each or '-':>{_COLUMN}}" for each in shown))


def _remarks(condition: Condition, width: int | None, room: int) -> list[Line]:
    """Reasons before warnings; on a screen as many as fit, the first one in any case, shortened if need be."""
    remarks = [(each, BAD) for each in condition.reasons] + [(each, WARN) for each in condition.warnings]
    lines = [Line("")] if remarks else []
    for number, (text, style) in enumerate(remarks):
        left = len(remarks) - number
        most = min(_LONGEST, room - len(lines) - (left > 1))
        if width and most < 1 and number:
            lines.append(Line(f"! {left} more: see --json", style))
            break
        lines += [Line(each, style) for each in _fold(text, width, first="! ", most=max(1, most))]
    return lines


def _fold(text: str, width: int | None, *, first: str, most: int) -> list[str]:
    """At most so many lines, the others below the first one's text."""
    if width is None:
        return [first + text]
    indent = " " * len(first)
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        max_lines=most,
        placeholder=" …",
        break_on_hyphens=False,
    )


def _row(label: str, value: str, width: int | None) -> Iterator[Line]:
    for each in _fold(value, width, first=f"  {label:<{_LABEL}}", most=2):
        yield Line(each)


def _ago(moment: datetime | None, now: datetime) -> str:
    return "never" if moment is None else f"{age((now - moment).total_seconds())} ago"


def _pending(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"waits {age(seconds)}" if seconds else "none"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def age(seconds: float) -> str:
    """Two units at most: ``4 s``, ``12 min``, ``3 h 12 min``, ``5 d 2 h``."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{whole} s"
