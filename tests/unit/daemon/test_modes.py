"""What is said of other modes' remains; that they are really gone is in tests/netns/test_leftovers.py."""

from __future__ import annotations

import pytest

from kproxy.config import Config
from kproxy.daemon import modes
from kproxy.daemon.modes import clean_modes
from kproxy.errors import KernelError, ProgramFailed
from kproxy.kernel.remnants import Absent
from kproxy.model.enums import IPFamily


class Remnants:
    """A kernel after kube-proxy; ``broken`` refuses everything."""

    Absent = Absent

    def __init__(self, *, sets: tuple[str, ...] = (), interface: bool = False, broken: Exception | None = None) -> None:
        self.sets = sets
        self.interface = interface
        self.broken = broken

    def delete_nft_table(self, family: IPFamily, _name: str) -> bool:
        if self.broken:
            raise self.broken
        return family is IPFamily.IPV6

    def delete_interface(self, _name: str) -> bool:
        return self.interface

    def list_ipsets(self) -> list[str]:
        if self.broken:
            raise KernelError("no answer")
        return list(self.sets)

    def destroy_ipset(self, name: str) -> bool:
        if name == "KUBE-LOOP-BACK":
            raise KernelError("busy")
        return True


@pytest.fixture(autouse=True)
def without_ipvsadm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "find_program", lambda _name: None)


async def test_each_removal_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("KUBE-CLUSTER-IP", "KUBE-6-LOAD-BALANCER-SOURCE-CID", "KUBE-SRC-X", "KUBE-LOOP-BACK")
    monkeypatch.setattr(modes, "remnants", Remnants(sets=sets, interface=True))
    done = await clean_modes(Config(), IPFamily)
    assert done.said == [
        "nftables table ip6 kube-proxy: deleted, with the rules of kube-proxy's nftables mode",
        "interface kube-ipvs0: deleted, with the service addresses of kube-proxy's ipvs mode",
        "ipsets of kube-proxy's ipvs mode: destroyed KUBE-6-LOAD-BALANCER-SOURCE-CID, KUBE-CLUSTER-IP",
        "virtual servers of IPVS: left, without use; `ipvsadm --clear` removes them",
    ]
    assert done.problems == ["ipset KUBE-LOOP-BACK was not removed: busy"]


async def test_what_fails_is_a_problem_and_what_cannot_be_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "remnants", Remnants(broken=KernelError("a test")))
    done = await clean_modes(Config(), (IPFamily.IPV4,))
    assert done.said == []
    assert done.problems == [
        "nftables table ip kube-proxy was not removed: a test",
        "ipsets were not looked at: no answer",
    ]
    monkeypatch.setattr(modes, "remnants", Remnants(broken=Absent("no nf_tables")))
    assert (await clean_modes(Config(), (IPFamily.IPV4,))).problems == ["ipsets were not looked at: no answer"]


@pytest.mark.parametrize("failure", [None, ProgramFailed(("ipvsadm",), 1, "no module")])
async def test_virtual_servers_go_where_ipvsadm_is(monkeypatch: pytest.MonkeyPatch, failure: Exception | None) -> None:
    ran = []

    async def run(command: tuple[str, ...], *, deadline: float) -> None:
        assert deadline > 0
        ran.append(command)
        if failure:
            raise failure

    monkeypatch.setattr(modes, "remnants", Remnants(interface=True))
    monkeypatch.setattr(modes, "find_program", str)
    monkeypatch.setattr(modes, "run", run)
    done = await clean_modes(Config(), ())
    assert ran == [("ipvsadm", "--clear")]
    assert done.said[1:] == ([] if failure else ["virtual servers of IPVS: removed"])
    assert len(done.problems) == (1 if failure else 0)
