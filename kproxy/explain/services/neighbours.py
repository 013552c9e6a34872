"""Which names are near one that is not there: what was probably meant.

Of ``namespace/name`` the last part decides, and the namespace which of several come first: all names of a namespace
are alike by their beginning, so whole texts would call ``default/web`` near to ``default/nosuch``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST = 3
_CANDIDATES = 20_000  # names beyond which no nearest ones are looked for: that costs seconds


def instead(what: str, name: str, known: Iterable[str], *, live: bool) -> str:
    """The nearest names, else how many there are and how they are listed. ``what``: Service, endpoint or chain."""
    names = set(known) - {""}
    if nearest := near(name, names):
        return f"the nearest that are there: {', '.join(nearest)}"
    if not names:
        return f"there is no {what} at all"
    command = "iptables-save" if what == "chain" else f"kproxy explain {'live' if live else 'DUMP'} --all"
    return f"there {'is' if len(names) == 1 else 'are'} {len(names)}, as `{command}` shows"


def near(name: str, known: Iterable[str]) -> list[str]:
    """At most three, those that hold it first; only such as can be printed."""
    names = sorted({each for each in known if each and each.isprintable()})
    if len(names) > _CANDIDATES:
        return []
    namespace, slash, wanted = name.rpartition("/")
    called: dict[str, list[str]] = {}
    for each in names:
        called.setdefault(each.rpartition("/")[2], []).append(each)
    inside = [part for part in called if wanted and wanted in part]
    close = get_close_matches(wanted, called, n=_MOST)
    found = [each for part in dict.fromkeys((*inside, *close)) for each in called[part]]
    if slash:
        found.sort(key=lambda each: not each.startswith(f"{namespace}/"))
    return found[:_MOST]
