"""What kube-proxy's other modes left on this node: taken away, so that one proxy mode decides about each packet.

nftables mode: its tables go whole; connections that they began live on in conntrack. ipvs mode: the interface that
owns every service address, the virtual servers, and the sets, by their exact names, for kube-router's begin alike.
Its chains are backend/iptables/cleanup.py's and must go first, because they refer to the sets.

Every part is tried on its own; what cannot be looked at is not there, as far as this kernel tells.
Source: spec iptables.md 16 and nftables.md 10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from msgspec import Struct, field

from kproxy.config import Config
from kproxy.daemon.log import Log
from kproxy.errors import KernelError, ProgramFailed
from kproxy.kernel import remnants
from kproxy.kernel.run import find_program, run
from kproxy.model.enums import IPFamily

_log = Log(__name__)
_TABLE = "kube-proxy"
_INTERFACE = "kube-ipvs0"
_LONGEST_SET = 31
_SETS = (
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
)
_OF_IPVS = frozenset(f"{prefix}{name}"[:_LONGEST_SET] for name in _SETS for prefix in ("KUBE-", "KUBE-6-"))


class Done(Struct):
    """What was removed, and what could not be; sentences without their first capital and their full stop."""

    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, other: Done) -> None:
        self.said += other.said
        self.problems += other.problems


async def clean_modes(config: Config, families: Iterable[IPFamily]) -> Done:
    """Remove all of it; never fails as a whole."""
    done = await asyncio.to_thread(_by_netlink, tuple(families))
    if any(_INTERFACE in sentence for sentence in done.said):
        done.add(await _clear_virtual_servers(config))
    return done


def _by_netlink(families: tuple[IPFamily, ...]) -> Done:
    done = Done()
    for family in families:
        where = f"nftables table {'ip' if family is IPFamily.IPV4 else 'ip6'} {_TABLE}"
        if _attempt(done, where, partial(remnants.delete_nft_table, family, _TABLE)):
            done.said.append(f"{where}: deleted, with the rules of kube-proxy's nftables mode")
    if _attempt(done, f"interface {_INTERFACE}", partial(remnants.delete_interface, _INTERFACE)):
        done.said.append(f"interface {_INTERFACE}: deleted, with the service addresses of kube-proxy's ipvs mode")
    destroyed = list(_destroy_sets(done))
    if destroyed:
        done.said.append(f"ipsets of kube-proxy's ipvs mode: destroyed {', '.join(destroyed)}")
    return done


def _destroy_sets(done: Done) -> Iterator[str]:
    try:
        present = remnants.list_ipsets()
    except KernelError as error:
        done.problems.append(f"ipsets were not looked at: {error}")
        return
    for name in sorted(_OF_IPVS.intersection(present)):
        if _attempt(done, f"ipset {name}", partial(remnants.destroy_ipset, name)):
            yield name


def _attempt(done: Done, what: str, remove: Callable[[], bool]) -> bool:
    try:
        return remove()
    except remnants.Absent as absent:
        _log.verbose(1, "Not looked for", what=what, why=absent)
    except KernelError as error:
        done.problems.append(f"{what} was not removed: {error}")
    return False


async def _clear_virtual_servers(config: Config) -> Done:
    """kube-proxy's ipvs mode owns the whole table, and removes from it what it does not know."""
    if find_program("ipvsadm") is None:
        return Done(said=["virtual servers of IPVS: left, without use; `ipvsadm --clear` removes them"])
    try:
        await run(("ipvsadm", "--clear"), deadline=config.program_deadline)
    except ProgramFailed as error:
        return Done(problems=[f"virtual servers of IPVS were not removed: {error}"])
    return Done(said=["virtual servers of IPVS: removed"])
