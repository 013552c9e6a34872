"""Which iptables this node has: the variant, the families that work, and what they can do. Found out by doing.

A family is used when its nat table can be listed and a scratch chain can be written; a node without IPv6 is served
without IPv6, whatever its Node object says, and only a node on which nothing works is an error (kube-
proxy 1.34 refused to start there: kubernetes/kubernetes#133694).
"""

from __future__ import annotations

from kproxy.backend.iptables.apply import IptablesBackend
from kproxy.backend.iptables.dialect import INVALID_COUNTER, LOCALHOST_COUNTER
from kproxy.config import Config, IptablesVariant
from kproxy.daemon.log import Log
from kproxy.errors import KernelError, ProgramFailed, ProgramMissing, XtablesLocked
from kproxy.kernel.doors import Capabilities, IptablesDoor, NfacctDoor, SysctlDoor, Verdict
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.sysctl import TCP_BE_LIBERAL
from kproxy.kernel.variant import detect_variant
from kproxy.model.enums import IPFamily
from kproxy.plan.node_ports import node_ports

_log = Log(__name__)


def make_door(config: Config, family: IPFamily, variant: IptablesVariant) -> Iptables:
    return Iptables(
        family,
        variant,
        wait=config.xtables_wait,
        deadline=config.program_deadline,
        restore=config.restore_deadline,
    )


async def choose_variant(config: Config) -> Verdict:
    """Raises ProgramMissing."""
    verdict = await detect_variant(
        config.iptables_backend, deadline=config.program_deadline, save_deadline=config.restore_deadline
    )
    _log.info("Chose the iptables variant", variant=verdict.variant, why=verdict.why)
    return verdict


async def find_families(config: Config, variant: IptablesVariant) -> dict[IPFamily, tuple[Iptables, Capabilities]]:
    """The families that can be programmed. Raises KernelError where there is none.

    Also where a program does not answer: that passes, and a family that is left out is left out for good.
    """
    found = {}
    problems = []
    for family in IPFamily:
        door = make_door(config, family, variant)
        try:
            capabilities = await _try_family(door)
        except (ProgramFailed, ProgramMissing) as error:
            problems.append(f"{family.value}: {error}")
            _log.info("This family cannot be programmed here and is left out", family=family, why=error)
            continue
        for name, said in capabilities.missing:
            _log.info("This kernel lacks an optional match, going on without it", family=family, match=name, said=said)
        found[family] = door, capabilities
    if not found:
        raise KernelError(f"neither IP family can be programmed: {'; '.join(problems)}")
    return found


async def _try_family(door: Iptables) -> Capabilities:
    """Raises KernelError that says why the family does not work; a held lock is waited for."""
    said = False
    while True:
        try:
            if not await door.is_present():
                program = door.restore_name.removesuffix("-restore")
                raise ProgramMissing(f"`{program} -t nat -S POSTROUTING` does not work; no such family or no nat table")
            return await door.probe()
        except XtablesLocked as locked:  # iptables has waited already, so this loop does not spin
            if not said:
                _log.warning("Waiting for another program", family=door.family, err=locked)
            said = True


def make_counters(config: Config, capabilities: Capabilities, nfacct: NfacctDoor) -> tuple[str, ...]:
    """kube-proxy's packet counters, made before a rule names them; those that work."""
    if not capabilities.nfacct:
        return ()
    wanted = [INVALID_COUNTER]
    if node_ports(config, None, IPFamily.IPV4, ()).localhost:
        wanted.append(LOCALHOST_COUNTER)
    made = []
    for name in wanted:
        try:
            nfacct.ensure(name)
        except KernelError as error:
            _log.info("Packets are not counted", counter=name, why=error)
        else:
            made.append(name)
    return tuple(made)


def make_backend(
    config: Config, door: IptablesDoor, capabilities: Capabilities, counters: tuple[str, ...], sysctl: SysctlDoor
) -> IptablesBackend:
    return IptablesBackend(
        config,
        door,
        capabilities,
        counters=counters,
        drop_invalid=sysctl.read(TCP_BE_LIBERAL) != 1,
    )
