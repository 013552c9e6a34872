"""One Config → kube-proxy's document: for ``/configz``, ``--write-config-to`` and ``kproxy config``.

All of kube-proxy's sections are there, as it shows them, also those of modes that are not in use: their periods read 0
(spec: runtime.md 2). Ours stand under ``kproxy``. A document that is written out holds of ours only what differs from
the defaults, so that one which uses nothing of ours is kube-proxy's to the letter.

Rejected: a YAML library's emitter. It quotes otherwise than Go's, and a comment beside a value is not in its world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from kproxy.config import UNUSED, Config
from kproxy.settings.document import API_VERSION, KIND, is_text
from kproxy.settings.table import SETTINGS, Setting

# Go leaves these out while they are empty.
_OMITTED = frozenset(
    {
        "featureGates",
        "logging.options.json.splitStream",
        "logging.options.text.splitStream",
        "logging.vmodule",
        "windowsRunAsService",
    }
)
_SAY_ZERO = frozenset({"kproxy.healthzBindAddress", "kproxy.iptablesMinSyncPeriod"})  # which kube-proxy's fields cannot


def render(config: Config, *, whole: bool = False) -> dict[str, Any]:
    """What JSON or YAML would hold. ``whole``: with all of our settings and not only those that were changed."""
    tree: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    for setting in SETTINGS:
        if _is_shown(setting, config, whole=whole):
            *sections, name = setting.path.split(".")
            where = tree
            for section in sections:
                where = where.setdefault(section, {})
            where[name] = setting.kind.show(value_of(setting, config))
    return tree


def value_of(setting: Setting, config: Config) -> Any:
    if setting.field:
        return getattr(config, setting.field)
    return dict(config.unused).get(setting.path, UNUSED.get(setting.path, ""))


def _is_shown(setting: Setting, config: Config, *, whole: bool) -> bool:
    value = value_of(setting, config)
    if not setting.path or (setting.path in _OMITTED and not value):
        return False
    if setting.path in _SAY_ZERO:
        return not value
    return not setting.is_ours or whole or value != setting.default


def to_yaml(tree: Mapping[str, Any], comment: Callable[[str], str] = lambda _path: "") -> str:
    """Sorted as kube-proxy sorts. ``comment``: path → what to say behind its value; empty: nothing."""
    return "".join(f"{line}\n" for line in _lines(tree, "", "", comment))


def _lines(tree: Mapping[str, Any], indent: str, prefix: str, comment: Callable[[str], str]) -> Iterator[str]:
    for name, value in sorted(tree.items()):
        path = f"{prefix}{name}"
        beside = f"  # {text}" if (text := comment(path)) else ""
        if isinstance(value, dict) and value:
            yield f"{indent}{_scalar(name)}:{beside}"
            yield from _lines(value, f"{indent}  ", f"{path}.", comment)
        elif isinstance(value, list) and value:
            yield f"{indent}{_scalar(name)}:{beside}"
            yield from (f"{indent}- {_scalar(each)}" for each in value)
        else:
            yield f"{indent}{_scalar(name)}: {_scalar(value)}{beside}"


def _scalar(value: Any) -> str:
    """In one line; quoted where plain text would be read as something else."""
    if isinstance(value, dict) and value:
        pairs = (f"{name}: {_quote(each) if isinstance(each, str) else _scalar(each)}" for name, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    plain: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    text = plain.removesuffix("\n").removesuffix("\n...")
    return _quote(value) if isinstance(value, str) and (text != value or not is_text(value)) else text


def _quote(text: str) -> str:
    quoted: str = yaml.safe_dump(text, default_style='"', width=float("inf"))
    return quoted.removesuffix("\n")
