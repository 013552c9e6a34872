r"""The manual page kproxy(1), made from the vocabulary (vocabulary.py): data in, roff out.

What help says is here once and not once for each command: the settings are the flags of five commands, so a heading
that an earlier command has had in full is only named. Macros are man(7)'s oldest, which groff and mandoc both know.
Every hyphen is written ``\-``, so that what is copied from the page can be typed, and the text is neither hyphenated
nor stretched, because it is full of flags.

Rejected: argparse-manpage, which repeats every flag for every command, makes a section of each heading (thirty of
them), prints usage as running text and has no place for files, examples and exit statuses.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from kproxy.cli.vocabulary import Command, Flag, Heading, Vocabulary

_OPTIONS = "options"  # argparse's heading of flags that have none
_SUMMARY = "a Kubernetes service proxy for one node"
_FILES = (
    (
        "/var/lib/kube-proxy/config.conf",
        (
            "Where the DaemonSets of kubeadm and kind mount the configuration file; `--config` names it. It is a "
            "KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), as kube-proxy reads it. What kube-proxy does "
            "not have stands in it under the key `kproxy`; `kproxy config --yaml` prints a complete one."
        ),
    ),
    (
        "/var/run/secrets/kubernetes.io/serviceaccount/",
        "The pod's own account: how to reach the API server where neither `--kubeconfig` nor `--manifests` is given.",
    ),
    (
        "/run/xtables.lock",
        "The lock of iptables, or the file that XTABLES_LOCKFILE names. Share the host's with a pod.",
    ),
)
_ENVIRONMENT = (
    ("KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT", "The API server's address, in a pod."),
    ("XTABLES_LOCKFILE", "Another file than `/run/xtables.lock`, as for iptables."),
    ("NO_COLOR", "No colours, unless `--colour=always` asks for them."),
)
_EXAMPLES = (
    (
        "kproxy run --kubeconfig /etc/kproxy/kubeconfig --cluster-cidr 10.244.0.0/16",
        "serve this node, in place of kube-proxy",
    ),
    ("kproxy run --config /var/lib/kube-proxy/config.conf", "the same by kube-proxy's file"),
    ("kproxy config --config /var/lib/kube-proxy/config.conf", "what would be in force"),
    ("kproxy plan -f manifests/", "which rules would be written"),
    ("kproxy status", "how the daemon is"),
)
_SEE_ALSO = (("iptables", 8), ("iptables-save", 8), ("nft", 8), ("conntrack", 8), ("kubectl", 1))
_PLAIN = {"\\": "\\e", "-": "\\-"}
_LITERAL = {**_PLAIN, "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def render(vocabulary: Vocabulary, version: str) -> str:
    """The page; ``version`` stands in its foot."""
    sections = {
        "NAME": [f"{vocabulary.program} \\- {_SUMMARY}"],
        "SYNOPSIS": _synopsis(vocabulary),
        "DESCRIPTION": _paragraphs(vocabulary.description),
        "COMMANDS": _commands(vocabulary.commands),
        "FILES": _definitions(_FILES),
        "ENVIRONMENT": _definitions(_ENVIRONMENT),
        "EXIT STATUS": _exit_statuses(vocabulary),
        "EXAMPLES": _examples(vocabulary.commands),
        "SEE ALSO": _see_also(),
    }
    lines = [
        f'.TH {vocabulary.program.upper()} 1 "" "kproxy {_literal(version)}" "Kubernetes"',
        ".nh",
        ".ad l",
        *(line for title, body in sections.items() for line in (f'.SH "{title}"', *body)),
    ]
    return "".join(f"{line}\n" for line in lines)


def _synopsis(vocabulary: Vocabulary) -> Iterator[str]:
    for form in vocabulary.more.forms:
        yield from (f"{_bold(vocabulary.program)} {_literal(form)}", ".br")
    yield ".PP"
    for command in vocabulary.commands:
        for form in command.more.forms:
            yield from (f"{_bold(f'{vocabulary.program} {command.name}')} {_literal(form)}".rstrip(), ".br")


def _commands(commands: Iterable[Command]) -> Iterator[str]:
    shown: dict[Flag, tuple[str, Heading]] = {}
    remarks: dict[str, str] = {}
    for command in commands:
        yield f'.SS "kproxy {command.name}"'
        yield from _paragraphs(command.description)
        again: dict[str, list[str]] = {}
        for heading in command.headings:
            if heading.title != _OPTIONS and all(flag in shown for flag in heading.flags):
                name, full = shown[heading.flags[0]]
                named = (
                    [f"\u201c{heading.title}\u201d"]
                    if heading == full
                    else [f"`{each.names[0]}`" for each in heading.flags]
                )
                again.setdefault(name, []).extend(named)
                continue
            shown |= {flag: (command.name, heading) for flag in heading.flags if flag not in shown}
            yield from _heading(heading)
        for name, titles in again.items():
            yield from (".PP", *_prose(f"Also {_listed(titles)}, as for `kproxy {name}`."))
        if command.more.remarks in remarks:
            yield from (
                ".PP",
                *_prose(f"What `kproxy {remarks[command.more.remarks]}` says of flags beside a file holds here, too."),
            )
        elif command.more.remarks:
            remarks[command.more.remarks] = command.name
            yield from _paragraphs(command.more.remarks, ".PP")


def _heading(heading: Heading) -> Iterator[str]:
    if heading.title != _OPTIONS:
        yield from (".PP", _bold(heading.title[0].upper() + heading.title[1:]))
        if heading.note:
            yield from _prose(f"({heading.note})")
    for flag in heading.flags:
        yield from (".TP", _names(flag), *_paragraphs(flag.help))


def _names(flag: Flag) -> str:
    value = f"\\fI{_literal(flag.metavar)}\\fP"
    if flag.optional:
        return ", ".join(f"{_bold(name)}[={value}]" for name in flag.names)
    if flag.metavar:
        return ", ".join(f"{_bold(name)} {value}" for name in flag.names)
    return ", ".join(map(_bold, flag.names))


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _exit_statuses(vocabulary: Vocabulary) -> Iterator[str]:
    """What holds for all, then what differs, once for all commands of which it holds."""
    common = vocabulary.more.statuses
    yield from _statuses(common)
    named: dict[tuple[tuple[int, str], ...], list[str]] = {}
    for command in vocabulary.commands:
        own = tuple((number, text) for number, text in command.more.statuses.items() if common.get(number) != text)
        named.setdefault(own, []).append(f"`kproxy {command.name}`")
    for own, commands in named.items():
        if own:
            yield from (".PP", *_prose(f"For {_listed(commands)}:"), *_statuses(dict(own)))


def _statuses(statuses: Mapping[int, str]) -> Iterator[str]:
    for number, text in statuses.items():
        yield from (".TP 4", _bold(str(number)), *_paragraphs(text))


def _examples(commands: Iterable[Command]) -> Iterator[str]:
    for line, purpose in (*_EXAMPLES, *(each for command in commands for each in command.more.examples)):
        yield from (".TP 4", _bold(line), *_paragraphs(purpose))


def _definitions(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", _bold(term), *_paragraphs(text))


def _see_also() -> Iterator[str]:
    *rest, last = [f"{_bold(name)}({section})" for name, section in _SEE_ALSO]
    yield f"{', '.join(rest)}, {last}"


def _paragraphs(text: str, before: str = "") -> Iterator[str]:
    """``before``: a macro above the first, too."""
    for number, paragraph in enumerate(filter(str.strip, text.split("\n\n"))):
        if number or before:
            yield ".PP"
        yield from _prose(paragraph)


def _prose(text: str) -> list[str]:
    """What stands between backquotes is bold. No line begins with what would make it a macro."""
    parts = re.split(r"`([^`]*)`", text)
    roff = "".join(_bold(part) if number % 2 else _escape(part, _PLAIN) for number, part in enumerate(parts))
    return [_guarded(line) for line in textwrap.wrap(roff, 79, break_long_words=False, break_on_hyphens=False)]


def _bold(text: str) -> str:
    return f"\\fB{_escape(text, _LITERAL)}\\fP"


def _literal(text: str) -> str:
    return _guarded(_escape(text, _LITERAL))


def _escape(text: str, signs: Mapping[str, str]) -> str:
    return "".join(signs.get(each, each if each.isascii() else f"\\[u{ord(each):04X}]") for each in text)


def _guarded(line: str) -> str:
    return f"\\&{line}" if line[:1] in {".", "'"} else line
