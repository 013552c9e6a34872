"""Which variant wins; the real tables are looked at in tests/netns/test_kernel_iptables.py."""

from __future__ import annotations

import pytest

from kproxy.config import IptablesVariant
from kproxy.errors import ProgramMissing, ProgramTimeout
from kproxy.kernel import variant
from kproxy.kernel.doors import Completed, Verdict
from kproxy.kernel.variant import _judge, _Seen, detect_variant

AUTO, NFT, LEGACY = IptablesVariant.AUTO, IptablesVariant.NFT, IptablesVariant.LEGACY


@pytest.mark.parametrize(
    ("nft", "legacy", "plain", "expected"),
    [
        (_Seen("KUBE-IPTABLES-HINT", 1), _Seen("KUBE-KUBELET-CANARY", 9), LEGACY, NFT),
        (_Seen("", 9), _Seen("KUBE-KUBELET-CANARY", 1), NFT, LEGACY),
        (_Seen("", 3), _Seen("", 4), NFT, LEGACY),
        (_Seen("", 4), _Seen("", 3), LEGACY, NFT),
        (_Seen("", 3), _Seen("", 3), LEGACY, LEGACY),
        (_Seen(), _Seen(), None, NFT),
    ],
)
def test_hint_then_rules_then_the_plain_program(
    nft: _Seen, legacy: _Seen, plain: IptablesVariant | None, expected: IptablesVariant
) -> None:
    verdict = _judge({NFT: nft, LEGACY: legacy}, plain)
    assert verdict.variant is expected
    assert verdict.why


@pytest.mark.parametrize(
    ("installed", "plain", "asked", "expected"),
    [
        ({"nft"}, None, AUTO, NFT),
        ({"legacy"}, NFT, AUTO, LEGACY),
        (set(), LEGACY, AUTO, LEGACY),
        (set(), None, AUTO, None),
        (set(), LEGACY, LEGACY, LEGACY),
        ({"nft"}, NFT, LEGACY, None),
        ({"nft", "legacy"}, NFT, LEGACY, LEGACY),
    ],
)
async def test_what_is_installed_limits_the_choice(
    monkeypatch: pytest.MonkeyPatch,
    installed: set[str],
    plain: IptablesVariant | None,
    asked: IptablesVariant,
    expected: IptablesVariant | None,
) -> None:
    async def plain_variant(_: float) -> IptablesVariant | None:
        return plain

    monkeypatch.setattr(variant, "_plain_variant", plain_variant)
    monkeypatch.setattr(variant, "find_program", lambda name: name if name.split("-")[1] in installed else None)
    if expected is None:
        with pytest.raises(ProgramMissing, match="install the Debian package iptables"):
            await detect_variant(asked, deadline=1, save_deadline=1)
    else:
        verdict = await detect_variant(asked, deadline=1, save_deadline=1)
        assert isinstance(verdict, Verdict)
        assert verdict.variant is expected


async def test_a_program_that_does_not_answer_is_no_reason_to_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing wrong would put rules into both variants at once."""

    async def run(command: tuple[str, ...], **_: object) -> Completed:
        if command[0] == "iptables-nft-save":
            raise ProgramTimeout("slow")
        return Completed(0, b"iptables v1.8.9 (nf_tables)", "", 1, 0.1, 0.1, 1)

    monkeypatch.setattr(variant, "run", run)
    monkeypatch.setattr(variant, "find_program", lambda name: name)
    with pytest.raises(ProgramTimeout):
        await detect_variant(AUTO, deadline=1, save_deadline=1)
