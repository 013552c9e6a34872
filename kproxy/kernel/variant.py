"""Which of the two iptables a node uses: the one that everybody else on the node uses.

Rules in both variants at once are evaluated one after the other, and each variant's tools show only their own: the
classic way to a node that nobody understands. kubelet leaves a chain in mangle as a hint; failing that, the variant
with more rules is the one in use; failing that, whatever ``iptables`` is a link to.
Legacy tables are only listed if they exist already, because listing creates them.
Source: spec iptables.md 14 (the wrapper of kube-proxy's images); users' reports on mixed variants.
"""

from __future__ import annotations

from msgspec import Struct

from kproxy.config import IptablesVariant
from kproxy.errors import ProgramFailed, ProgramMissing
from kproxy.kernel.doors import Verdict
from kproxy.kernel.legacy import legacy_tables
from kproxy.kernel.run import find_program, package_of, run
from kproxy.model.enums import IPFamily

HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
_BOTH = (IptablesVariant.NFT, IptablesVariant.LEGACY)  # the order in which hints are looked for
_PREFIX = {IPFamily.IPV4: "iptables", IPFamily.IPV6: "ip6tables"}


class _Seen(Struct):
    """What one variant's tables hold, both families together."""

    hint: str = ""
    rules: int = 0


async def detect_variant(asked: IptablesVariant, *, deadline: float, save_deadline: float) -> Verdict:
    """Raises ProgramMissing when the variant that was asked for, or any at all, is not installed; KernelError."""
    installed = [variant for variant in _BOTH if find_program(f"iptables-{variant.value}-restore")]
    plain = await _plain_variant(deadline)
    if asked is not IptablesVariant.AUTO:
        if asked in installed or asked is plain:
            return Verdict(asked, f"--iptables-backend={asked.value}")
        raise ProgramMissing(
            f"iptables-{asked.value}-restore is not installed and plain iptables is not of that variant; "
            f"install the Debian package {package_of('iptables')} or use --iptables-backend=auto"
        )
    if len(installed) == 1:
        return Verdict(installed[0], f"only iptables-{installed[0].value} is installed")
    if not installed:
        if plain is None:
            raise ProgramMissing(f"iptables is not installed; install the Debian package {package_of('iptables')}")
        return Verdict(plain, "what `iptables --version` says")
    seen = {variant: await _look(variant, save_deadline) for variant in _BOTH}
    return _judge(seen, plain)


def _judge(seen: dict[IptablesVariant, _Seen], plain: IptablesVariant | None) -> Verdict:
    for variant in _BOTH:
        if seen[variant].hint:
            return Verdict(variant, f"chain {seen[variant].hint} in its table mangle")
    nft, legacy = seen[IptablesVariant.NFT].rules, seen[IptablesVariant.LEGACY].rules
    if nft != legacy:
        variant = IptablesVariant.NFT if nft > legacy else IptablesVariant.LEGACY
        return Verdict(variant, f"it holds more rules (nft {nft}, legacy {legacy})")
    if plain is not None:
        return Verdict(plain, "what the command `iptables` is, for no rules were there to judge by")
    return Verdict(IptablesVariant.NFT, "no rules were there to judge by")


async def _look(variant: IptablesVariant, deadline: float) -> _Seen:
    seen = _Seen()
    for family, prefix in _PREFIX.items():
        program = f"{prefix}-{variant.value}-save"
        tables = legacy_tables(family) if variant is IptablesVariant.LEGACY else frozenset({"mangle"})
        if find_program(program) is None or not tables:
            continue
        await _count((program,), seen, deadline)
    return seen


async def _count(command: tuple[str, ...], seen: _Seen, deadline: float) -> None:
    """Add one program's rules and hints to ``seen``; a program that cannot list has seen none.

    Raises KernelError where it did not answer: a guess could put rules into both variants at once.
    """
    heads = tuple(f":{name} " for name in HINTS)
    rest = ""
    table = ""

    def collect(piece: bytes) -> None:
        nonlocal rest, table
        *lines, rest = (rest + piece.decode(errors="replace")).split("\n")
        for line in lines:
            if line.startswith("-"):
                seen.rules += 1
            elif line.startswith("*"):
                table = line[1:]
            elif table == "mangle" and line.startswith(heads):
                seen.hint = line[1:].partition(" ")[0]

    try:
        await run(command, deadline=deadline, sink=collect)
    except (ProgramFailed, ProgramMissing):
        return


async def _plain_variant(deadline: float) -> IptablesVariant | None:
    if find_program("iptables") is None:
        return None
    try:
        said = (await run(("iptables", "--version"), deadline=deadline)).stdout
    except (ProgramFailed, ProgramMissing):
        return None
    return IptablesVariant.NFT if b"nf_tables" in said else IptablesVariant.LEGACY
