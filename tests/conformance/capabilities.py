"""What rows need of this machine and it may not have: tried out in the node's namespace when a run begins.

Kernels are built without modules, and some settings belong to the first network namespace alone; a row that needs
such a thing is skipped with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from kproxy.sandbox.host import Host

# By name: lines of sh that succeed where it is there, and what to say where it is not.
_TRIALS: Mapping[str, tuple[str, str]] = {
    "sctp": (
        "iptables -t nat -A OUTPUT -p sctp --dport 9 -j DNAT --to 192.0.2.2 && ls $N/nf_conntrack_sctp_timeout_closed",
        "this kernel does not follow SCTP flows (CONFIG_NF_CT_PROTO_SCTP)",
    ),
    "nfacct": (
        "iptables -t filter -A OUTPUT -m nfacct --nfacct-name x 2>&1 | grep -q 'does not exist\\|No such file'",
        "this kernel has no nfacct counters (CONFIG_NETFILTER_NETLINK_ACCT, CONFIG_NETFILTER_XT_MATCH_NFACCT)",
    ),
    "be-liberal": (
        "iptables -A OUTPUT -m conntrack --ctstate INVALID && cd $N && echo 0 > nf_conntrack_tcp_be_liberal",
        "nf_conntrack_tcp_be_liberal cannot be set in a network namespace here",
    ),
    "bind-mounts": (
        "f=$N/nf_conntrack_max; touch $SCRATCH/over && mount --bind $SCRATCH/over $f && umount $f",
        "nf_conntrack_max belongs to the first network namespace, and a file cannot be laid over it here",
    ),
}


async def lacking(host: Host, environment: Mapping[str, str]) -> dict[str, str]:
    """By the name of what is not there: why. The host's tables are left with what the trials wrote."""
    missing = {}
    for name, (trial, why) in _TRIALS.items():
        if (
            await host.run(("sh", "-c", f"N=/proc/sys/net/netfilter; {trial}"), env=environment, deadline=20)
        ).status != 0:
            missing[name] = why
    return missing


async def describe(host: Host, environment: Mapping[str, str]) -> dict[str, str]:
    """The kernel and the programs of this machine, for the heads of reports."""
    version = await host.run(("iptables", "--version"), env=environment)
    return {"kernel": f"Linux {os.uname().release}", "iptables": version.stdout.strip()}
