"""A summary as one page for a browser: ``--html``. Decides what the page may do and what may stand in it.

The page is a file that people mail to each other, so it loads nothing and asks nobody: style, script and data are in
it, and its content security policy allows these by their hashes and nothing else. What a dump says is untrusted. It
reaches the page in two ways only: as JSON, in which every character that HTML could take for its own is escaped, and
which the script turns into text nodes; and, for browsers without script, through ``html.escape``. Characters that
cannot be seen (controls, or those that turn the direction of writing) are shown as their code, lest one name look like
another. All of it is ASCII, so that no encoding can go wrong on its way.

Rejected: a framework, whose code nobody would read in a page that must be trusted with a cluster's names; compressed
data, which saves three quarters of the file and makes it opaque to grep.

Source: Content Security Policy level 3, section 8 (hashes); HTML standard, "restrictions for contents of script
elements".
"""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from kproxy.explain.answer import DumpFacts, Endpoint, Frontend, ServicePort, Summary
from kproxy.explain.show.wording import written

_PLAIN = 500  # services in the table for browsers without script
_LISTED = 8  # endpoints of each there
_SCRIPTS = ("page_words.js", "page_flow.js", "page.js")  # one after the other, in one scope


def render(summary: Summary, *, title: str = "Services of this dump") -> str:
    """The whole page, in ASCII. ``title``: what it is of, such as the dump's name."""
    style = _part("page.css")
    script = f'"use strict";\n{{{"".join(map(_part, _SCRIPTS))}}}'
    return Template(_part("page.html")).substitute(
        policy=_policy(style, script),
        title=_text(title),
        style=style,
        script=script,
        data=_data(summary, title),
        plain="".join(_plain_page(summary)),
    )


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="ascii")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(content: str) -> str:
    return f"sha256-{b64encode(sha256(content.encode('ascii')).digest()).decode('ascii')}"


def _headlines(summary: Summary) -> list[str]:
    """What each dump is, as the command line says it."""
    return [_headline(each, summary.services) for each in summary.dumps]


def _headline(facts: DumpFacts, services: Iterable[ServicePort]) -> str:
    found = sum(each.family is facts.family and each.variant in {"", facts.variant} for each in services)
    whose = written(facts.writer) if facts.writer else "nobody's that is known here"
    version = " ".join(word for word in ("iptables", facts.version, f"({facts.variant})" * bool(facts.variant)) if word)
    return (
        f"{facts.family}: {_count(found, 'service port')} in {_count(facts.rules, 'rule')} and "
        f"{_count(facts.chains, 'chain')}, {whose}; {version}, {_count(facts.lines, 'line')}, "
        f"{'with' if facts.counters else 'without'} counters"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- for the script -------------------------------------------------------------------------------------------


def _data(summary: Summary, title: str) -> str:
    """JSON with the nouns of ``--json``, without what holds its default."""
    page = {"title": _visible(title), "headlines": [_visible(each) for each in _headlines(summary)], **_bare(summary)}
    text = json.dumps(page, separators=(",", ":"), ensure_ascii=True, default=_element)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _element(value: object) -> object:
    if isinstance(value, Struct):
        return _bare(value)
    raise TypeError(type(value).__name__)


def _bare(value: Struct) -> dict[str, Any]:
    bare = {name: _shown(held) for name, default in _defaults(type(value)) if (held := getattr(value, name)) != default}
    return {**bare, "name": _visible(value.name)} if isinstance(value, ServicePort) else bare


def _shown(value: object) -> object:
    match value:
        case str():
            return _visible(value)
        case float():
            return round(value, 6)
        case tuple():
            return tuple(map(_shown, value))
        case _:
            return value


@cache
def _defaults(kind: type[Struct]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.default) for field in fields(kind))


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else f"\\u{{{ord(each):x}}}" for each in text)


# --- for browsers without script ------------------------------------------------------------------------------


def _text(text: str) -> str:
    return html.escape(_visible(text)).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _plain_page(summary: Summary) -> Iterator[str]:
    yield from (f"<p>{_text(each)}</p>\n" for each in _headlines(summary))
    if summary.warnings:
        yield "<h2>Warnings</h2>\n<ul>\n"
        yield from (
            f"<li>{_text(each.severity)}: {_text('; '.join(filter(None, (each.message, each.remedy))))}</li>\n"
            for each in summary.warnings[:_PLAIN]
        )
        yield "</ul>\n"
    yield "<table>\n<tr><th>Service<th>Protocol<th>Addresses<th>Endpoints</tr>\n"
    yield from (_row(each) for each in summary.services[:_PLAIN])
    yield "</table>\n"
    if len(summary.services) > _PLAIN:
        yield f"<p>and {len(summary.services) - _PLAIN:,} more service ports, which need JavaScript</p>\n"


def _row(service: ServicePort) -> str:
    cells = (
        (service.name,),
        (service.protocol,),
        map(_frontend, service.frontends),
        _endpoints(service),
    )
    return f"<tr>{''.join(f'<td>{_lines(cell)}' for cell in cells)}</tr>\n"


def _lines(texts: Iterable[str]) -> str:
    return "<br>".join(map(_text, texts))


def _endpoints(service: ServicePort) -> Iterator[str]:
    """The first of them; never is it one that is left out, whose line would say "1 more"."""
    if service.relayed:
        yield "kproxy's relay"
        return
    every = service.endpoints
    shown = every[:_LISTED] if len(every) > _LISTED + 1 else every
    yield from map(_endpoint, shown)
    if len(shown) < len(every):
        yield f"and {len(every) - len(shown):,} more"


def _frontend(frontend: Frontend) -> str:
    fate = "" if frontend.fate == "delivered" else f", {frontend.fate} {frontend.why}".rstrip()
    return f"{_address(frontend.address or '*', frontend.port)} ({frontend.kind}{fate})"


def _endpoint(endpoint: Endpoint) -> str:
    return f"{_address(endpoint.ip, endpoint.port)} {endpoint.probability * 100:.4g}%"


def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
