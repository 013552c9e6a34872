"""What rows need of this machine and it may not have: tried out in the node's namespace when a run begins.

Kernels are built without modules, and some settings belong to the first network namespace alone; a row that needs
such a thing is skipped with the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from kproxy.sandbox.host import Host


class Trial(NamedTuple):
    """Commands of sh that all succeed where a thing is there, and what to say where it is not."""

    why: str
    commands: tuple[str, ...]


_TRIALS: Mapping[str, Trial] = {
    "sctp": Trial(
        "this kernel does not follow SCTP flows (CONFIG_NF_CT_PROTO_SCTP)",
        (
            "iptables -t nat -A OUTPUT -p sctp --dport 9 -j DNAT --to 192.0.2.2",
            "ls $N/nf_conntrack_sctp_timeout_closed",
        ),
    ),
    "nfacct": Trial(
        "this kernel has no nfacct counters (CONFIG_NETFILTER_NETLINK_ACCT, CONFIG_NETFILTER_XT_MATCH_NFACCT)",
        (
            "$PYTHON -c 'from kproxy.kernel.nfacct import Nfacct; Nfacct().ensure(str(7))'",
            "iptables -A OUTPUT -m nfacct --nfacct-name 7",
        ),
    ),
    "be-liberal": Trial(
        "nf_conntrack_tcp_be_liberal cannot be set in a network namespace here",
        ("iptables -A OUTPUT -m conntrack --ctstate INVALID", "echo 0 > $N/nf_conntrack_tcp_be_liberal"),
    ),
    "bind-mounts": Trial(
        "nf_conntrack_max belongs to the first network namespace, and a file cannot be laid over it here",
        ("touch $SCRATCH/over", "mount --bind $SCRATCH/over $N/nf_conntrack_max", "umount $N/nf_conntrack_max"),
    ),
}


async def lacking(host: Host, environment: Mapping[str, str]) -> dict[str, str]:
    """By the name of what is not there: why. The host's tables are left with what the trials wrote."""
    missing = {}
    heads = f"N=/proc/sys/net/netfilter PYTHON={sys.executable}"
    for name, trial in _TRIALS.items():
        done = await host.run(("sh", "-c", f"{heads}; {' && '.join(trial.commands)}"), env=environment)
        if done.status != 0:
            missing[name] = trial.why
    return missing


async def describe(host: Host, environment: Mapping[str, str]) -> dict[str, str]:
    """The kernel and the programs of this machine, for the heads of reports."""
    version = await host.run(("iptables", "--version"), env=environment)
    return {"kernel": f"Linux {os.uname().release}", "iptables": version.stdout.strip()}
