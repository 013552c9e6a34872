"""What our chains are called: readable in a dump, at most 28 characters, and safe in the hands of other tools.

The chains of a service port and of an endpoint carry kube-proxy's names: anybody who has read one of its dumps reads
ours, and ``printf ... | sha256sum | base32`` finds a chain (spec: iptables.md 3).

Chains that kube-proxy does not have, the branches of a tree, say in their name what they are for. In the nat table
they begin with ``KUBE-SVC-`` on purpose: kube-proxy deletes every chain with that prefix that it does not know in its
very first sync, so going back to it leaves nothing of ours behind, and a prefix of our own would make its deletion of
the chains below fail because they are still referenced. The filter table has other prefixes: kube-proxy deletes
nothing there, but empties the chains that jump to ours.

A name holds only letters, digits and ``. / - _``. Rejected: a colon for port ranges or IPv6 addresses; iptables takes
it, ``nft list ruleset | nft -f -`` does not.
"""

from __future__ import annotations

from base64 import b32encode
from hashlib import sha256
from ipaddress import IPv4Address

from kproxy.backend.iptables.rules import Table
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Pool, Target

LONGEST = 28  # XT_EXTENSION_MAXNAMELEN less the NUL

SERVICES = "KUBE-SERVICES"
NODE_PORTS = "KUBE-NODEPORTS"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
FORWARD = "KUBE-FORWARD"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
FIREWALL = "KUBE-FIREWALL"  # shared with the kubelet
CANARY = "KUBE-PROXY-CANARY"

# Prefixes of trees
NAT_BRANCH = "KUBE-SVC-"
REJECT_BRANCH = "KUBE-REJ-"  # of filter KUBE-SERVICES
EXTERNAL_BRANCH = "KUBE-XRJ-"  # of filter KUBE-EXTERNAL-SERVICES
FIREWALL_BRANCH = "KUBE-LBF-"  # of filter KUBE-PROXY-FIREWALL
HEALTH_BRANCH = "KUBE-HCN-"  # of filter KUBE-NODEPORTS
TRIAL = "KUBE-SVC-TRIAL"  # where dispatch rules are tried before anything jumps to them
FILTER_TRIAL = "KUBE-REJ-TRIAL"

SCRATCH = ((Table.FILTER, FILTER_TRIAL), (Table.NAT, TRIAL))

# Fixed names by table; KUBE-FIREWALL is not among them because it is not ours alone.
FIXED = {
    Table.NAT: frozenset({SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, CANARY}),
    Table.FILTER: frozenset({SERVICES, EXTERNAL_SERVICES, FORWARD, NODE_PORTS, PROXY_FIREWALL, CANARY}),
    Table.MANGLE: frozenset({CANARY}),
}
_BEFORE_1_24 = "KUBE-XLB-"  # nobody writes these any more, but where kube-proxy left one it holds on to other chains
PREFIXES = {
    Table.NAT: ("KUBE-SVC-", "KUBE-SVL-", "KUBE-FW-", "KUBE-EXT-", "KUBE-SEP-", _BEFORE_1_24),
    Table.FILTER: (REJECT_BRANCH, EXTERNAL_BRANCH, FIREWALL_BRANCH, HEALTH_BRANCH),
    Table.MANGLE: (),
}


def is_perishable(table: Table, chain: str) -> bool:
    """Whether a chain is ours and comes and goes with Services; one that nobody wants may be deleted."""
    return chain.startswith(PREFIXES[table])


def is_ours(table: Table, chain: str) -> bool:
    return chain in FIXED[table] or is_perishable(table, chain)


# --- chains that kube-proxy has, too --------------------------------------------------------------------------


def digest(text: str, length: int = 16) -> str:
    return b32encode(sha256(text.encode()).digest()).decode()[:length]


def service_hash(key: ServicePortKey) -> str:
    return digest(f"{key}{key.protocol.lower}")


def pool_chain(pool: Pool, service: str) -> str:
    """``service``: its hash."""
    return f"KUBE-SVC-{service}" if pool is Pool.CLUSTER else f"KUBE-SVL-{service}"


def external_chain(service: str) -> str:
    return f"KUBE-EXT-{service}"


def firewall_chain(service: str) -> str:
    return f"KUBE-FW-{service}"


def endpoint_chain(key: ServicePortKey, target: Target) -> str:
    return f"KUBE-SEP-{digest(f'{key}{key.protocol.lower}{target}')}"


# --- chains of our own ----------------------------------------------------------------------------------------

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_PARTS = len(_DIGITS) ** 2


def part_chain(pool_chain: str, number: int) -> str:
    """A part of a service port's endpoints; ``number`` from 0 to MOST_PARTS - 1."""
    return f"{pool_chain}-{_DIGITS[number // 36]}{_DIGITS[number % 36]}"


def address_chain(prefix: str, family: IPFamily, network: int, length: int) -> str:
    """All frontends in one network.

    An IPv6 network does not fit: the two groups of digits where it ends are shown, and a hash tells those apart that
    agree in them. The rule that jumps here says the network in full.
    """
    if family is IPFamily.IPV4:
        return f"{prefix}{IPv4Address(network)}/{length}"
    end = 112 - max((length - 1) // 16, 1) * 16
    groups = network >> end & 0xFFFF_FFFF
    return f"{prefix}{groups >> 16:04X}.{groups & 0xFFFF:04X}/{length}-{digest(f'{network:032x}/{length}', 5)}"


def node_port_chain(prefix: str, protocol: Protocol, low: int, high: int) -> str:
    """A range of node ports on every address."""
    return f"{prefix}{protocol}-{low}-{high}"


def port_chain(prefix: str, address: int, protocol: Protocol, low: int, high: int) -> str:
    """A range of ports of one address; the hash stands for the address and the range's end."""
    return f"{prefix}{protocol}-{low}-{digest(f'{address:x} {protocol} {low} {high}', 8)}"
