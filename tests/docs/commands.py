"""Every command that a document shows: what is collected, by which rule.

A command is what stands behind a prompt in a ``console`` block (``$`` for any user, ``#`` for root; here-documents and
continued lines belong to it, and what follows up to the next prompt is what it prints), or what stands in backticks in
the text and begins with ``./run``, or with one of the programs below and an argument. A program's name alone is a
noun. Blocks in the shell's own language are not allowed, for they do not say who types.

All documents count but the changelog, which tells of commands that are gone. Where a command stands does not matter to
who executes it (claims.py): text moves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
_PROGRAMS = """
kproxy kube-proxy kubectl kubeadm kubelet kind k3s helm kustomize docker podman buildah skopeo crane ctr crictl
nerdctl curl wget openssl dig nc ping ssh scp iptables iptables-save iptables-restore iptables-legacy
iptables-legacy-save iptables-nft iptables-nft-save ip6tables ip6tables-save ip6tables-restore
ip6tables-legacy-save xtables-monitor nft ipset ipvsadm conntrack ip ss bridge ethtool tcpdump sysctl modprobe
lsmod dmesg lsof fuser nsenter unshare ps kill pkill systemctl journalctl mount chmod ln rm cp mkdir cat tee echo
grep sed tail head tar sha256sum sudo apt apt-get pip pip3 pipx uv python python3 pytest ruff mypy git gh
promtool man cosign gpg getent
"""
PROGRAMS = frozenset(_PROGRAMS.split())
_NOT_READ = {"CHANGELOG.md"}
_FENCE = re.compile(r"(?ms)^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
_HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")


@dataclass(frozen=True)
class Command:
    document: str  # its path in the checkout
    line: int
    text: str
    printed: str = ""  # as the document shows it; empty also where it shows nothing
    is_root: bool = False
    is_inline: bool = False

    @property
    def first(self) -> str:
        """By what it is claimed: the first line, spaced simply, and a here-document's body left out."""
        return " ".join(self.text.partition("\n")[0].split())

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.first}"


@dataclass(frozen=True)
class Block:
    """A fenced block, with the line of its first line."""

    language: str
    text: str
    line: int


def documents() -> list[Path]:
    """All Markdown of the checkout, except in hidden directories, and what is not read."""
    found = []
    for folder, below, files in os.walk(CHECKOUT):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in {"dist", "__pycache__"})
        found += [Path(folder, name) for name in sorted(files) if name.endswith(".md") and name not in _NOT_READ]
    return found


@cache
def shown() -> tuple[Command, ...]:
    """Every command of every document, in their order."""
    return tuple(
        each for path in documents() for each in read(str(path.relative_to(CHECKOUT)), path.read_text(encoding="utf-8"))
    )


def read(document: str, text: str) -> Iterator[Command]:
    """The commands of a text, those in blocks first."""
    for block in blocks(text):
        if block.language == "console":
            yield from _typed(document, block)
    for line, span in spans(text):
        if is_command(span):
            yield Command(document, line, span, is_inline=True)


def blocks(text: str) -> list[Block]:
    return [
        Block(each[3].strip(), re.sub(f"(?m)^{each[1]}", "", each[4]), text.count("\n", 0, each.start()) + 2)
        for each in _FENCE.finditer(text)
    ]


def spans(text: str) -> list[tuple[int, str]]:
    """(line, words) of everything in backticks outside of blocks; a table's bars are bars again."""
    prose = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    return [
        (prose.count("\n", 0, each.start()) + 1, " ".join(each[2].replace(r"\|", "|").split()))
        for each in _SPAN.finditer(prose)
    ]


def is_command(span: str) -> bool:
    words = span.lstrip("( ").split()
    while words and re.match(r"[A-Z_]+=", words[0]):  # settings before a command
        del words[0]
    return bool(words) and (words[0] == "./run" or (words[0] in PROGRAMS and len(words) > 1))


def _typed(document: str, block: Block) -> Iterator[Command]:
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        start = number
        prompt, number = lines[number][:2], number + 1
        if prompt not in {"$ ", "# "}:
            continue  # output that belongs to nobody
        words = [lines[start][2:]]
        while words[-1].endswith("\\") and number < len(lines):
            words.append(lines[number].removeprefix("> "))
            number += 1
        if here := _HERE.search(words[-1]):
            while number < len(lines) and words[-1].strip() != here[2]:
                words.append(lines[number])
                number += 1
        output = number
        while number < len(lines) and lines[number][:2] not in {"$ ", "# "}:
            number += 1
        text = "\n".join(words) if len(words) > 1 else _without_comment(words[0])
        printed = "\n".join(lines[output:number]).strip("\n")
        yield Command(document, block.line + start, text, printed, is_root=prompt == "# ")


def _without_comment(line: str) -> str:
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and line[place - 1 : place] == " ":
            return line[:place].rstrip()
    return line
