"""The end of a saved rule to the target that it is: ``-j KUBE-SERVICES``, ``-j DNAT --to-destination …``, ``-g CHAIN``.

A target of which anything is not understood stays ``UnknownTarget``, as it was printed.

Source of the forms: as of ``matches.py``; which targets let a packet go on: net/netfilter/xt_*.c in Linux, those that
return XT_CONTINUE.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.options import (
    ALL,
    IPV4,
    Options,
    read_address,
    read_mark,
    read_number,
    read_places,
    read_range,
)
from kproxy.backend.iptables.rules import Target, Verdict

_ENDPOINT = re.compile(rf"-j DNAT --to-destination ({IPV4}):([1-9][0-9]{{0,3}})")


def read_target(fragment: str) -> Target:
    """``-j NAME …`` or ``-g CHAIN``. Raises ValueError where no name follows."""
    if (endpoint := _ENDPOINT.fullmatch(fragment)) is not None:  # every endpoint has one of these
        return r.Dnat(endpoint[1], int(endpoint[2]))
    how, _, rest = fragment.partition(" ")
    name, _, words = rest.partition(" ")
    if not name:
        raise ValueError(f"nothing after {how}")
    if how == "-g":
        return r.UnknownTarget(fragment) if words else r.Goto(name)
    if name not in _TARGETS:
        if name in Verdict.__members__ and not words:
            return Verdict(name)
        return r.UnknownTarget(fragment) if words or name in _CHANGING else r.Jump(name)
    return _kernel_target(name, fragment, words) or r.UnknownTarget(fragment)


def _kernel_target(name: str, fragment: str, words: str) -> Target | None:
    options = Options(name, fragment, words)
    try:
        target = _TARGETS[name](options)
    except ValueError:  # a value that is none
        return None
    return target if options.finished else None


# Names of kernel targets that are no chains where nothing follows, and of which we say nothing.
_CHANGING = frozenset({"CONNMARK", "HMARK", "MARK", "MIRROR", "NETMAP", "SNAT", "DNAT", "SYNPROXY", "TPROXY", "SAME"})
_PASSING = frozenset({
    *("AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "CT", "DSCP", "ECN", "HL", "IDLETIMER", "LED", "LOG", "NFLOG"),
    *("NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG"),
})  # fmt: skip


def _dnat(options: Options) -> Target | None:
    first, last, low, high = read_places(options.text("--to-destination"))
    random, persistent = options.flag("--random"), options.flag("--persistent")
    if first and first == last and low and low == high:
        return r.Dnat(first, low, random, persistent)
    return r.DnatRange(first, last, low, high, random, persistent)


def _snat(options: Options) -> Target | None:
    flags = [options.flag(flag) for flag in ("--random", "--random-fully", "--persistent")]
    return r.Snat(*read_places(options.text("--to-source")), *flags)


def _masquerade(options: Options) -> Target | None:
    low, high = read_range(options.text("--to-ports"), "-", least=1)
    return r.Masquerade(options.flag("--random-fully"), low, high, options.flag("--random"))


def _redirect(options: Options) -> Target | None:
    low, high = read_range(options.text("--to-ports"), "-", least=1)
    return r.Redirect(low, high, options.flag("--random"))


_KIND = re.compile(r"[a-z0-9-]+")


def _reject(options: Options) -> Target | None:
    kind = options.text("--reject-with") or "icmp-port-unreachable"
    return r.RejectWith(kind) if _KIND.fullmatch(kind) else None


# What people type, and older kernels have printed: each is a --set-xmark (libxt_MARK.c).
_SPELLINGS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "--set-xmark": lambda value, mask: (value, mask),
    "--set-mark": lambda value, mask: (value, value | mask),
    "--and-mark": lambda value, _: (0, ALL & ~value),
    "--or-mark": lambda value, _: (value, value),
    "--xor-mark": lambda value, _: (value, 0),
}


def _set_mark(options: Options) -> Target | None:
    (option, (text, negated)), *others = options.rest().items()
    if negated or others or option not in _SPELLINGS:
        return None
    value, mask = _SPELLINGS[option](*read_mark(text))
    return r.SetMark(value, mask) if options.name == "MARK" else r.SetConnMark(value, mask)


def _connmark(options: Options) -> Target | None:
    save, restore = options.flag("--save-mark"), options.flag("--restore-mark")
    if not save and not restore:
        return _set_mark(options)
    masks = [read_mark(options.text(option) or f"{ALL}")[0] for option in ("--nfmask", "--ctmask")]
    if save and restore:
        return None
    return r.SaveMark(*masks) if save else r.RestoreMark(*masks)


def _tproxy(options: Options) -> Target | None:
    port, ip = read_number(options.text("--on-port")), read_address(options.text("--on-ip"))
    return r.Tproxy(port, ip, *read_mark(options.text("--tproxy-mark")))


def _passing(options: Options) -> Target | None:
    """What they do is not asked, so neither are their options; those that would change a mark are."""
    given = options.rest()
    if "[unsupported" in options.fragment or any(option.startswith("--map") for option in given):
        return None
    if options.name == "NOTRACK" or "--notrack" in given:
        return r.Notrack(options.fragment)
    return r.PassOn(options.fragment)


def _queue(options: Options) -> Target | None:
    options.rest()
    return r.Queue(options.fragment)


_TARGETS: dict[str, Callable[[Options], Target | None]] = {
    "DNAT": _dnat,
    "SNAT": _snat,
    "MASQUERADE": _masquerade,
    "REDIRECT": _redirect,
    "REJECT": _reject,
    "MARK": _set_mark,
    "CONNMARK": _connmark,
    "TPROXY": _tproxy,
    "NFQUEUE": _queue,
    "QUEUE": _queue,
    **dict.fromkeys(_PASSING, _passing),
}
