"""Every relative link of a document, and every #anchor, leads somewhere. Links to the web are not followed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.commands import CHECKOUT, documents

_FENCE = re.compile(r"(?ms)^ *(`{3,}).*?^ *\1 *$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"(?m)^ {0,3}\[[^\]]+\]:\s*(\S+)")


def links() -> list[tuple[str, str]]:
    found = []
    for path in documents():
        text = re.sub(r"`[^`\n]*`", "code", _FENCE.sub("", path.read_text(encoding="utf-8")))
        found += [(str(path.relative_to(CHECKOUT)), each) for each in (*_LINK.findall(text), *_REFERENCE.findall(text))]
    return [(document, target) for document, target in found if not re.match(r"[a-z]+:", target)]


@cache
def anchors(path: Path) -> set[str]:
    """As GitHub makes them from headings; the second of one name has -1, and so on."""
    found: set[str] = set()
    for heading in re.findall(r"(?m)^#{1,6} +(.+?) *#*$", _FENCE.sub("", path.read_text(encoding="utf-8"))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = base = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


@pytest.mark.parametrize(("document", "target"), links())
def test_it_leads_somewhere(document: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    goal = (CHECKOUT / document).parent / path if path else CHECKOUT / document
    assert goal.exists(), f"{document}: {target}"
    assert goal.resolve().is_relative_to(CHECKOUT), "it leaves the repository"
    if anchor:
        assert anchor in anchors(goal), f"{document}: {target}"


def test_there_are_links() -> None:
    assert ("README.md", "bench/README.md") in links()
    assert {"different-from-kube-proxy", "install"} <= anchors(CHECKOUT / "README.md")
