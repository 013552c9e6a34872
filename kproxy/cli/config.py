"""``kproxy config``: what is in force, and who said so. As a table for people, as a file for kproxy, as JSON.

What was changed stands out and defaults step back, because the question is nearly always why this node behaves
otherwise than another one. kube-proxy's settings that mean nothing here are shown only where somebody gave them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kproxy.settings.resolve import Origin, Settings
from kproxy.settings.table import BY_PATH, FORGOTTEN, GROUPS, SETTINGS, TUNING, WITHOUT_EFFECT, Setting
from kproxy.settings.v1alpha1 import render, to_yaml, value_of

_PLAIN_WIDTH = 200  # for files and pipes, where nothing may be cut off


def as_json(settings: Settings) -> str:
    rows = [
        {
            "path": setting.path,
            "flag": f"--{setting.flag}" if setting.flag else None,
            "value": shown,
            "origin": origin.kind,
            "source": origin.name or None,
            "hasEffect": bool(setting.field),
        }
        for setting, shown, origin in _rows(settings, SETTINGS)
    ]
    remarks = [{"message": remark.message, **remark.fields} for remark in settings.remarks]
    return json.dumps({"node": settings.config.hostname, "settings": rows, "remarks": remarks}, indent=2)


def as_yaml(settings: Settings) -> str:
    """A configuration file that means the same, each value's origin beside it."""

    def comment(path: str) -> str:
        setting = BY_PATH.get(path)
        return str(settings.origin(setting)) if setting else ""

    return to_yaml(render(settings.config, whole=True), comment)


def print_table(settings: Settings) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    sections: Mapping[str, Sequence[Setting]] = {
        **GROUPS,
        "tuning, in a file only": TUNING,
        "without effect here": [each for each in WITHOUT_EFFECT if _was_meant(settings, each)],
    }
    for title, group in sections.items():
        rows = list(_rows(settings, group))
        if rows:
            table.add_row()
            table.add_row(f"[bold cyan]{title}[/]")
        for setting, shown, origin in rows:
            name, value, source = (
                escape(text) for text in (setting.path or f"--{setting.flag}", _one_line(shown), str(origin))
            )
            style = "dim" if origin.kind == "default" else "bold"
            table.add_row(f"  {name}", f"[{style}]{value}[/]", f"[{style}]{source}[/]")
    console.print(f"The configuration of node [bold]{escape(settings.config.hostname)}[/]", highlight=False)
    console.print(table, highlight=False)
    if settings.remarks:
        console.print()
    for remark in settings.remarks:
        console.print(f"[yellow]{escape(str(remark))}[/]", highlight=False)


def _rows(settings: Settings, group: Sequence[Setting]) -> Iterator[tuple[Setting, Any, Origin]]:
    """Settings with their values as a file would hold them; a field that stands twice is told once."""
    told = set()
    for setting in group:
        if setting.key in told:
            continue
        told.add(setting.key)
        if setting.field == "hostname_override":
            yield setting, settings.config.hostname, settings.origins["hostname"]
            continue
        yield setting, setting.kind.show(value_of(setting, settings.config)), settings.origin(setting)


def _was_meant(settings: Settings, setting: Setting) -> bool:
    """Whether somebody asked for more than the default, which kubeadm writes out."""
    differs = setting.path in FORGOTTEN or value_of(setting, settings.config) != setting.default or not setting.path
    return differs and settings.origin(setting).kind != "default"


def _one_line(value: Any) -> str:
    if value in ("", None, [], {}):
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_one_line, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={_one_line(each)}" for name, each in value.items())
    return json.dumps(value)
