"""``/statusz`` and ``/flagz``: who we are and how we were started, as Kubernetes components say it (KEP-4827, 4828).

Text by default. A structured answer is one of ``config.k8s.io``, and who wants it must name group, version and kind in
the Accept header, as in ``application/json;g=config.k8s.io;v=v1beta1;as=Statusz``; anything less is 406, or text where
text is accepted, too. The text is not for machines, so ``/statusz`` has lines of our own: the iptables variant, the
node's addresses, what became of kernel settings. The structured answer keeps to its schema.

Rejected: the delimiter that kube-proxy draws anew for each answer lest somebody parse it; CBOR, which nobody reads.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from kproxy.config import Config
from kproxy.daemon.exposition import BUILD
from kproxy.daemon.status import TEXT, Answer
from kproxy.settings.table import BY_FLAG

_COMPONENT = "kube-proxy"
_VERSIONS = ("v1beta1", "v1alpha1")
_NOT_ACCEPTABLE = (
    "406 Not Acceptable: text/plain, or application/json or application/yaml with g=config.k8s.io, "
    f"v={_VERSIONS[0]} and as="
)
_HEADER = """
{component} {page}
Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.

"""  # noqa: E501 -- kube-proxy's sentence


def statusz(paths: Iterable[str], facts: Mapping[str, str], accept: str) -> Answer:
    """``facts``: lines of our own, by what they begin with."""
    began = started()
    up = int(time.time() - began)
    top = sorted({f"/{path.split('/')[1]}" for path in paths})
    emulated = f"{BUILD['major']}.{BUILD['minor']}"
    fields = {
        "startTime": f"{datetime.fromtimestamp(began, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "uptimeSeconds": up,
        "goVersion": BUILD["go_version"],
        "binaryVersion": BUILD["git_version"].removeprefix("v"),
        "emulationVersion": emulated,
        "paths": top,
    }
    lines = {
        "Started": f"{datetime.fromtimestamp(began, UTC):%a %b %e %H:%M:%S UTC %Y}",
        "Up": f"{up // 3600} hr {up // 60 % 60:02} min {up % 60:02} sec",
        "Go version": f"none, this is Python {platform.python_version()}",
        "Binary version": fields["binaryVersion"],
        "Emulation version": emulated,
        "Paths": " ".join(top),
        **facts,
    }
    return _answer("Statusz", fields, (f"{name}: {_one_line(str(value))}" for name, value in lines.items()), accept)


def flagz(config: Config, accept: str) -> Answer:
    flags = show_flags(config)
    return _answer("Flagz", {"flags": flags}, (f"{name}={value}" for name, value in flags.items()), accept)


def show_flags(config: Config) -> dict[str, str]:
    """Every flag as it is in force, by its name and in order. None of them is a secret."""
    unused = dict(config.unused)
    shown = {}
    for flag, setting in BY_FLAG.items():
        value = getattr(config, setting.field) if setting.field else unused.get(setting.path, setting.default)
        shown[flag] = _show(dict(value) if flag == "vmodule" else setting.kind.show(value))
    return dict(sorted(shown.items()))


def started() -> float:
    """When this process began: seconds since the epoch, whole hundredths, as ``process_start_time_seconds`` says."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:  # noqa: PTH123 -- a Path costs more
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _answer(kind: str, fields: dict[str, Any], lines: Iterable[str], accept: str) -> Answer:
    wanted = _negotiate(kind, accept)
    if wanted is None:
        return Answer(406, f"{_NOT_ACCEPTABLE}{kind}\n".encode(), TEXT)
    media, version = wanted
    if media == "text/plain":
        head = _HEADER.format(component=_COMPONENT, page=kind.lower())
        return Answer(200, (head + "\n".join(lines) + "\n").encode(), TEXT)
    name = {"metadata": {"name": _COMPONENT}}
    body = {"kind": kind, "apiVersion": f"config.k8s.io/{version}", **name, **fields}
    text = json.dumps(body) + "\n" if media == "application/json" else yaml.safe_dump(body, sort_keys=False)
    return Answer(200, text.encode(), {"Content-Type": media})


def _negotiate(kind: str, accept: str) -> tuple[str, str] | None:
    """The first of the accepted media types that we have, and its version; None: there is none."""
    for each in accept.lower().split(",") if accept.strip() else ["*/*"]:
        media, *rest = (part.strip() for part in each.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        if media in {"text/plain", "text/*", "*/*"}:
            return "text/plain", ""
        named = (parameters.get("g"), parameters.get("as")) == ("config.k8s.io", kind.lower())
        if media in {"application/json", "application/yaml"} and named and parameters.get("v") in _VERSIONS:
            return media, str(parameters["v"])
    return None


def _one_line(text: str) -> str:
    """What an object or a program says must not end a line."""
    return "".join(each if each.isprintable() else " " for each in text).strip()


def _show(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list() | tuple():
            return ",".join(map(_show, value))
        case dict():
            return ",".join(f"{name}={_show(each)}" for name, each in value.items())
        case None:
            return ""
        case _:
            return str(value)
