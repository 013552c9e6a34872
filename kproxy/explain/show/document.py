"""Answers for programs: JSON and its schema.

The answer is written as it is, field by field, in one object whose ``kproxy`` says which shape it has and whose
``type`` which answer it is. A field may be added within a version, so readers should ignore what they do not know; a
field that goes or changes its meaning makes the next version.

Rejected: an envelope with the answer inside, which every jq expression would have to unpack.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kproxy.explain.answer import Answer

VERSION = "explain/v1"
# What a terminal may act upon or a reader cannot see: JSON itself escapes only what is below U+0020
_HIDDEN = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
_REDACTED = {"type": "boolean", "description": "true: names, addresses and hashes are invented", "default": False}
_TEXTS = {
    "packets": "as counted by the rule; -1: the dump has no counters",
    "bytes": "as counted by the rule; -1: the dump has no counters",
    "line": "from 1, in the input as it was given; 0: unknown",
    "number": "from 1, in the input as it was given; 0: made up",
    "probability": "0 to 1",
    "observed": "0 to 1: the share of the packets that its list's rules counted; -1: no counters",
    "hash": "of its chains, 16 letters; empty: it has none",
    "affinity_seconds": "0: none",
    "service": "namespace/name:port; of a service port: namespace/name; empty: none is known",
    "code": "stable and in kebab case, such as dangling-jump",
    "writer": "kproxy or kube-proxy where the rules prove it, else kube-proxy or kproxy; empty: nobody's that is known",
    "fate": "of a packet question: the worst one that can happen",
}


def encode(answer: Answer, *, redacted: bool = False) -> str:
    """JSON with a newline at its end. ``redacted``: whether to say that its names and addresses are invented."""
    fields = msgspec.json.encode(answer)
    head = b'{"kproxy":"%s",' % VERSION.encode() + (b'"redacted":true,' if redacted else b"")
    text = msgspec.json.format(head + fields[1:], indent=2).decode()
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def schema() -> str:
    """JSON Schema 2020-12 of what ``encode`` writes."""
    found: dict[str, Any] = msgspec.json.schema(Answer)
    shapes = found["$defs"]
    for name in found["discriminator"]["mapping"].values():
        shape = shapes[name.rpartition("/")[2]]
        shape["properties"] = {"kproxy": {"const": VERSION}, "redacted": _REDACTED, **shape["properties"]}
        shape["required"] = ["kproxy", *shape["required"]]
    for shape in shapes.values():
        for field, what in shape.get("properties", {}).items():
            if field in _TEXTS and "$ref" not in what:
                what["description"] = _TEXTS[field]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"kproxy {VERSION}"}
    return msgspec.json.format(msgspec.json.encode({**head, **found}), indent=2).decode() + "\n"
