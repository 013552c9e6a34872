"""Rules to text. The only place that writes iptables' syntax; ``parse.py`` reads it back.

We write every rule in exactly the form in which iptables-save prints it. iptables-restore takes that form, too, so
three questions become one comparison of lines: is the kernel what we want, did another program touch our chains, and
does a restart have anything to do? Rejected: kube-proxy's own spelling of its input, which reads the same after a save
but can never be compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Chain, Entry, Rule, Table, Verdict

# xt_statistic keeps a probability as a multiple of this (include/uapi/linux/netfilter/xt_statistic.h).
STATISTIC_UNIT = 1 / (1 << 31)
# xt_comment holds 256 bytes, the last of them NUL.
MAX_COMMENT = 255

_BARE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def quote(text: str) -> str:
    """One argument as iptables-save prints it; whatever it holds, it stays one argument on one line."""
    if text and _BARE.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    return f'"{escaped.translate(_NO_CONTROL)}"'


# A control character would end the line or the string; API validation keeps them out, this keeps them harmless.
_NO_CONTROL = dict.fromkeys((*range(32), 127), "?")


def render_rule(chain: str, rule: Rule) -> str:
    """``-A CHAIN ...``, without the line's end."""
    words = [f"-A {chain}"]
    words += [_MATCHES[type(match)](match) for match in rule.matches]
    if rule.target is not None:
        words.append(_TARGETS[type(rule.target)](rule.target))
    return " ".join(words)


def render_entry(entry: Entry) -> str:
    """``-I HOOK ...``: entry rules are prepended, as kube-proxy does (spec: iptables.md 2)."""
    return "-I" + render_rule(entry.hook, entry.rule)[2:]


def restore_text(
    table: Table,
    *,
    declare: Iterable[str] = (),
    write: Iterable[Chain] = (),
    groups: Iterable[Collection[Chain]] = (),
    delete: Iterable[str] = (),
    insert: Iterable[Entry] = (),
) -> Iterator[str]:
    """One table's part of a restore input, in pieces that end with a newline.

    ``declare`` creates or empties chains without giving them rules. A deleted chain is emptied first, with all others,
    so that no order of deletions can fail on a chain that is still referenced. ``groups`` are chains that jump only to
    others of their group, to ``write`` and to what exists; each is declared with its rules, so none need be kept.
    """
    chains, gone = tuple(write), tuple(delete)
    yield f"*{table}\n"
    names = {*declare, *gone, *(chain.name for chain in chains)}
    yield "".join(f":{name} - [0:0]\n" for name in sorted(names))
    yield from (f"{render_entry(entry)}\n" for entry in insert)
    for group in groups:
        yield "".join(f":{chain.name} - [0:0]\n" for chain in group)
        yield from map(_render_chain, group)
    yield from map(_render_chain, chains)
    yield "".join(f"-X {name}\n" for name in gone)
    yield "COMMIT\n"


def _render_chain(chain: Chain) -> str:
    return "".join(f"{render_rule(chain.name, rule)}\n" for rule in chain.rules)


# --- digests: compare without keeping text --------------------------------------------------------------------


def digest_chain(chain: Chain) -> int:
    """Equal for chains that iptables-save would print alike; valid within this process only."""
    digest = 0
    for rule in chain.rules:
        digest = hash((digest, render_rule(chain.name, rule)))
    return digest


def digest_save(lines: Iterable[str]) -> dict[tuple[str, str], int]:
    """(table, chain) → digest for every chain of a dump, user chains and built-in ones."""
    digests: dict[tuple[str, str], int] = {}
    table = ""
    for line in lines:
        if line.startswith("-A "):
            key = (table, line[3 : line.index(" ", 3)])
            digests[key] = hash((digests[key], canonical(line)))
        elif line.startswith(":"):
            digests[table, line[1 : line.index(" ")]] = 0
        elif line.startswith("*"):
            table = line[1:].strip()
    return digests


def canonical(line: str) -> str:
    """A saved rule as we would have written it.

    libxt_nfacct prints one space too many, as does iptables before 1.8.8 behind a rule without a target; libxt_recent
    prints the mask of whole addresses, which differs by family and goes without saying.
    """
    if "--nfacct-name  " in line:
        line = line.replace("--nfacct-name  ", "--nfacct-name ")
    if " --mask " in line:
        line = line.replace(" --mask 255.255.255.255 ", " ").replace(_WHOLE_IPV6, " ")
    return line.rstrip(" \n")


_WHOLE_IPV6 = " --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "


# --- one line for each noun -----------------------------------------------------------------------------------


def _not(negated: bool) -> str:
    return "! " if negated else ""


def _ports(match: r.Ports) -> str:
    text = f"-m {match.protocol.lower}"
    if match.source_low or match.source_high:
        text += f" {_not(match.source_negated)}--sport {_range(match.source_low, match.source_high)}"
    if match.low or match.high:
        text += f" {_not(match.negated)}--dport {_range(match.low, match.high)}"
    if match.flags is not None:
        mask, those = (",".join(flags) or "NONE" for flags in (match.flags.mask, match.flags.set))
        text += f" {_not(match.flags.negated)}--tcp-flags {mask} {those}"
    return text


def _range(low: int, high: int, between: str = ":") -> str:
    return str(low) if low == high else f"{low}{between}{high}"


def _multiport(match: r.Multiport) -> str:
    ranges = ",".join(_range(low, high) for low, high in match.ranges)
    return f"-m multiport {_not(match.negated)}--{match.side} {ranges}"


def _ip_range(match: r.IpRange) -> str:
    words = ["-m iprange"]
    if match.source is not None:
        words.append(f"{_not(match.source_negated)}--src-range {'-'.join(match.source)}")
    if match.destination is not None:
        words.append(f"{_not(match.destination_negated)}--dst-range {'-'.join(match.destination)}")
    return " ".join(words)


def _conntrack(match: r.Conntrack) -> str:
    text = f"-m conntrack {_not(match.negated)}--ctstate {','.join(match.states)}" if match.states else "-m conntrack"
    return text + "".join(f" {_not(more.negated)}{more.option} {more.value}" for more in match.criteria)


def _address_type(match: r.AddressType) -> str:
    source = f" {_not(match.source_negated)}--src-type {match.source}" if match.source else ""
    destination = f" {_not(match.destination_negated)}--dst-type {match.destination}" if match.destination else ""
    limit = f" --limit-iface-{match.limit}" if match.limit else ""
    return f"-m addrtype{source}{destination}{limit}"


def _mark(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == 0xFFFF_FFFF else f"{value:#x}/{mask:#x}"


def quantise(probability: float) -> float:
    """The nearest probability that the kernel can hold, by way of the ten decimals that kube-proxy writes."""
    return round(round(probability, 10) / STATISTIC_UNIT) * STATISTIC_UNIT


_MATCHES: dict[type, Callable[[Any], str]] = {
    r.Source: lambda m: f"{_not(m.negated)}-s {m.cidr}",
    r.Destination: lambda m: f"{_not(m.negated)}-d {m.cidr}",
    r.InInterface: lambda m: f"{_not(m.negated)}-i {m.name}",
    r.OutInterface: lambda m: f"{_not(m.negated)}-o {m.name}",
    r.OfProtocol: lambda m: f"{_not(m.negated)}-p {m.protocol.lower}",
    r.OtherProtocol: lambda m: f"{_not(m.negated)}-p {m.name}",
    r.Fragment: lambda m: f"{_not(m.negated)}-f",
    r.Comment: lambda m: f"-m comment --comment {quote(m.text.encode()[:MAX_COMMENT].decode(errors='ignore'))}",
    r.Ports: _ports,
    r.Multiport: _multiport,
    r.IpRange: _ip_range,
    r.Conntrack: _conntrack,
    r.State: lambda m: f"-m state {_not(m.negated)}--state {','.join(m.states)}",
    r.Mark: lambda m: f"-m mark {_not(m.negated)}--mark {_mark(m.value, m.mask)}",
    r.ConnMark: lambda m: f"-m connmark {_not(m.negated)}--mark {_mark(m.value, m.mask)}",
    r.AddressType: _address_type,
    r.Statistic: lambda m: f"-m statistic --mode random --probability {quantise(m.probability):.11f}",
    r.Nth: lambda m: f"-m statistic --mode nth {_not(m.negated)}--every {m.every} --packet {m.packet}",
    r.RecentCheck: lambda m: (
        f"-m recent --rcheck --seconds {m.seconds}{' --reap' if m.reap else ''} --name {m.name} --rsource"
    ),
    r.RecentSet: lambda m: f"-m recent --set --name {m.name} --rsource",
    r.Nfacct: lambda m: f"-m nfacct --nfacct-name {m.name}",
    r.Unknown: lambda m: m.text,
}


# --- targets --------------------------------------------------------------------------------------------------


def _with(text: str, **flags: bool) -> str:
    return text + "".join(f" --{name.replace('_', '-')}" for name, given in flags.items() if given)


def _places(first: str, last: str, low: int, high: int) -> str:
    """``[first-last]:low-high``, of which each part may be missing."""
    addresses = first if first == last else f"{first}-{last}"
    if not low:
        return addresses
    return f"{f'[{addresses}]' if ':' in addresses else addresses}:{_range(low, high, '-')}"


def _dnat(target: r.Dnat) -> str:
    text = f"-j DNAT --to-destination {f'[{target.ip}]' if ':' in target.ip else target.ip}:{target.port}"
    if not (target.random or target.persistent):
        return text  # every endpoint has one of these
    return _with(text, random=target.random, persistent=target.persistent)


def _dnat_range(target: r.DnatRange) -> str:
    text = f"-j DNAT --to-destination {_places(target.first, target.last, target.low, target.high)}"
    return _with(text, random=target.random, persistent=target.persistent)


def _snat(target: r.Snat) -> str:
    text = f"-j SNAT --to-source {_places(target.first, target.last, target.low, target.high)}"
    return _with(text, random=target.random, random_fully=target.random_fully, persistent=target.persistent)


def _to_ports(target: r.Masquerade | r.Redirect) -> str:
    return f" --to-ports {_range(target.low, target.high, '-')}" if target.low else ""


def _xmark(target: r.SetMark | r.SetConnMark) -> str:
    return f"--set-xmark {target.value:#x}/{target.mask:#x}"


def _masks(target: r.SaveMark | r.RestoreMark) -> str:
    return f"--nfmask {target.packet_mask:#x} --ctmask {target.flow_mask:#x}"


_TARGETS: dict[type, Callable[[Any], str]] = {
    r.Jump: lambda t: f"-j {t.chain}",
    r.Goto: lambda t: f"-g {t.chain}",
    Verdict: lambda t: f"-j {t}",
    r.RejectWith: lambda t: f"-j REJECT --reject-with {t.kind}",
    r.Dnat: _dnat,
    r.DnatRange: _dnat_range,
    r.Snat: _snat,
    r.Masquerade: lambda t: _with(f"-j MASQUERADE{_to_ports(t)}", random=t.random, random_fully=t.random_fully),
    r.Redirect: lambda t: _with(f"-j REDIRECT{_to_ports(t)}", random=t.random),
    r.Tproxy: lambda t: f"-j TPROXY --on-port {t.port} --on-ip {t.ip} --tproxy-mark {t.value:#x}/{t.mask:#x}",
    r.SetMark: lambda t: f"-j MARK {_xmark(t)}",
    r.SetConnMark: lambda t: f"-j CONNMARK {_xmark(t)}",
    r.SaveMark: lambda t: f"-j CONNMARK --save-mark {_masks(t)}",
    r.RestoreMark: lambda t: f"-j CONNMARK --restore-mark {_masks(t)}",
    r.Notrack: lambda t: t.text,
    r.PassOn: lambda t: t.text,
    r.Queue: lambda t: t.text,
    r.UnknownTarget: lambda t: t.text,
}
