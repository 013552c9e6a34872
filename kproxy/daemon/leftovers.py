"""After the first sync: what a service proxy left behind that ran on this node in another way goes away.

That is our own rules, or kube-proxy's, in the other iptables variant, where none of this variant's tools shows them,
and whatever kube-proxy's nftables and ipvs modes leave. What is ours in this variant needs no removal: it was adopted.

New rules first, then the old ones go. While both are there nothing is translated twice: conntrack lets the first chain
that translates a connection decide and asks no further one, and an established connection asks none at all. The old
rules may send a new connection to an endpoint that has just left, as they did the moment before. The other order,
which is kube-proxy's when it changes modes, leaves the node without any rules in between.

Once for each start: whoever writes there later is a program that runs, and to be told so (see rivalry.py), not to be
fought. Nothing here can fail a daemon.
"""

from __future__ import annotations

from kproxy.backend.iptables.cleanup import ORDER, is_of_ipvs
from kproxy.config import Config, IptablesVariant
from kproxy.daemon.choose import make_door
from kproxy.daemon.cleanup import clean_table, clean_variant, is_explicit
from kproxy.daemon.log import Log
from kproxy.daemon.modes import Done, clean_modes
from kproxy.errors import KernelError
from kproxy.kernel.run import find_program
from kproxy.model.enums import IPFamily

_log = Log(__name__)
_OTHER = {IptablesVariant.NFT: IptablesVariant.LEGACY, IptablesVariant.LEGACY: IptablesVariant.NFT}


async def remove_leftovers(config: Config, family: IPFamily, variant: IptablesVariant) -> None:
    """``variant``: the one that this node uses now. What was found is in the log."""
    done = Done()
    try:
        own = make_door(config, family, variant)
        for table in ORDER:
            await clean_table(own, table, is_of_ipvs)
        other = make_door(config, family, _OTHER[variant])
        if is_explicit(other) and find_program(other.restore_name) is not None:
            done.add(await clean_variant(other, config))
    except KernelError as error:
        done.problems.append(str(error))
    done.add(await clean_modes(config, (family,)))
    _log.verbose(1, "Looked for what another service proxy left on this node", family=family, found=len(done.said))
    for sentence in done.said:
        _log.warning("Removed what another service proxy had left on this node", family=family, what=sentence)
    for sentence in done.problems:
        _log.warning(
            "What another service proxy left on this node stays",
            family=family,
            why=sentence,
            remedy="end kproxy, run `kproxy cleanup`, and start it again",
        )
