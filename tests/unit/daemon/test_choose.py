"""Which families are served: a family that does not exist is left out, one that does not answer is not."""

from __future__ import annotations

import pytest

from kproxy.config import Config, IptablesVariant
from kproxy.daemon.choose import find_families
from kproxy.errors import KernelError, NotPermitted, ProgramTimeout, RestoreRefused
from kproxy.kernel.doors import Capabilities
from kproxy.kernel.iptables import Iptables
from kproxy.model.enums import IPFamily


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> dict[IPFamily, KernelError]:
    """What becomes of each family that is tried."""
    errors: dict[IPFamily, KernelError] = {}

    async def is_present(door: Iptables) -> bool:
        del door
        return True

    async def probe(door: Iptables) -> Capabilities:
        if door.family in errors:
            raise errors[door.family]
        return Capabilities()

    monkeypatch.setattr(Iptables, "is_present", is_present)
    monkeypatch.setattr(Iptables, "probe", probe)
    return errors


async def test_a_family_that_does_not_work_is_left_out(refused: dict[IPFamily, KernelError]) -> None:
    refused[IPFamily.IPV6] = RestoreRefused(("ip6tables-restore",), 1, "no such table")
    assert list(await find_families(Config(), IptablesVariant.NFT)) == [IPFamily.IPV4]


async def test_no_family_at_all_is_an_error_that_names_both(refused: dict[IPFamily, KernelError]) -> None:
    refused |= {family: RestoreRefused(("restore",), 1, f"no {family.value}") for family in IPFamily}
    with pytest.raises(KernelError, match=r"neither IP family .*no IPv4.*no IPv6"):
        await find_families(Config(), IptablesVariant.NFT)


@pytest.mark.parametrize("error", [ProgramTimeout("slow"), NotPermitted("no"), KernelError("cannot be started")])
async def test_what_may_pass_is_no_reason_to_serve_without_a_family_for_good(
    refused: dict[IPFamily, KernelError], error: KernelError
) -> None:
    refused[IPFamily.IPV6] = error
    with pytest.raises(type(error)):
        await find_families(Config(), IptablesVariant.NFT)
