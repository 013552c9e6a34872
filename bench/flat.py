"""The peer: kube-proxy's flat layout, written the way kube-proxy writes it.

This is a generator made from the description of kube-proxy 1.36 (spec: iptables.md 1-11), not kube-proxy: its Go
process, which decodes objects and formats text, is absent, and so are its cost and its memory. What is measured here is
what it makes the machine do, and that in its favour: text is made before the clock starts.

First sync, on empty tables: every entry rule by ``-N``, ``-C``, ``-I``; one ``iptables-save -t nat``; one
``iptables-restore --noflush`` with everything. A change of one slice, with partial syncs: all filter chains and nat's
KUBE-SERVICES, KUBE-NODEPORTS, KUBE-POSTROUTING and KUBE-MARK-MASQ again, the chains of the changed service, and the
deletion of the chain of the endpoint that went. Above 1,000 endpoints ("large cluster") the comments of per-endpoint
rules are left out and iptables-save runs at most once per syncPeriod instead of at each sync.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Iterable, Iterator
from hashlib import sha256

from cluster import CLUSTER_CIDR, Cluster, Endpoint, Service
from programs import Cost, run

from kproxy.errors import KernelError
from kproxy.kernel.nfacct import Nfacct

LARGE = 1000  # endpoints; more than this is a large cluster
STAGE = 200  # services a restore where the flat layout is loaded in stages, which kube-proxy never does
_INVALID, _LOCALHOST = "ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"
_MARK = "0x00004000"
_FILTER_CHAINS = (
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FORWARD",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-FIREWALL",
    "KUBE-FIREWALL",
)
_NAT_CHAINS = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")
_NEW = ("-m", "conntrack", "--ctstate", "NEW")

# table, hook, chain, further match, comment; in the order in which they are ensured
_ENTRIES: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    ("filter", "INPUT", "KUBE-EXTERNAL-SERVICES", _NEW, "kubernetes externally-visible service portals"),
    ("filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", _NEW, "kubernetes externally-visible service portals"),
    ("filter", "INPUT", "KUBE-NODEPORTS", (), "kubernetes health check service ports"),
    ("filter", "FORWARD", "KUBE-SERVICES", _NEW, "kubernetes service portals"),
    ("filter", "OUTPUT", "KUBE-SERVICES", _NEW, "kubernetes service portals"),
    ("filter", "FORWARD", "KUBE-FORWARD", (), "kubernetes forwarding rules"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("filter", "OUTPUT", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("nat", "OUTPUT", "KUBE-SERVICES", (), "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", (), "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", (), "kubernetes postrouting rules"),
    ("filter", "INPUT", "KUBE-FIREWALL", (), ""),
    ("filter", "OUTPUT", "KUBE-FIREWALL", (), ""),
)


class Flat:
    """The flat layout of one cluster, in the namespace of the calling thread.

    ``variant``: legacy or nft. ``limit``: seconds that the first sync may take.
    """

    def __init__(self, cluster: Cluster, variant: str, *, limit: float = 600.0) -> None:
        self._services = cluster.services
        self._large = cluster.endpoints > LARGE
        self._program = f"iptables-{variant}"
        self._limit = limit
        self._counts = _make_counters()

    @property
    def saves_at_every_sync(self) -> bool:
        return not self._large

    def first_sync(self) -> Cost:
        """Everything, on empty tables; ``finished`` is False if it had to be killed, and then nothing is written."""
        text = list(self._everything())
        cost = self._ensure_entries() + self.save()
        return cost + self._restore(text, deadline=max(1.0, self._limit - cost.wall))

    def load_in_stages(self) -> Cost:
        """The same end result in pieces that iptables-nft can digest; kube-proxy does not do this."""
        cost = self._ensure_entries()
        for start in range(0, len(self._services), STAGE):
            stage = self._services[start : start + STAGE]
            chains = [self._chains(service) for service in stage]
            fixed = ["KUBE-MARK-MASQ"] if start == 0 else []
            text = [*self._nat_head(fixed), *_declare(chains), *_rules(chains), "COMMIT\n"]
            cost += self._restore(text)
        return cost + self._restore([*self._filter(), *self._nat([])])

    def change(self, old: Service, new: Service) -> Cost:
        """One slice changed: a partial sync."""
        stale = sorted({_sep(old, e) for e in old.endpoints} - {_sep(new, e) for e in new.endpoints})
        text = [*self._filter(), *self._nat([new], stale)]
        return self._restore(text) + (self.save() if self.saves_at_every_sync else Cost())

    def save(self) -> Cost:
        """What finds stale chains."""
        return run((f"{self._program}-save", "-t", "nat"), deadline=self._limit)

    # --- text -------------------------------------------------------------------------------------------------

    def _everything(self) -> Iterator[str]:
        yield from self._filter()
        yield from self._nat(self._services)

    def _filter(self) -> Iterator[str]:
        yield "*filter\n"
        yield from (f":{chain} - [0:0]\n" for chain in _FILTER_CHAINS)
        yield '-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 '
        yield "! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n"
        counter = f"-m nfacct --nfacct-name {_INVALID} " if self._counts else ""
        yield f"-A KUBE-FORWARD -m conntrack --ctstate INVALID {counter}-j DROP\n"
        yield '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" '
        yield f"-m mark --mark {_MARK}/{_MARK} -j ACCEPT\n"
        yield '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" '
        yield "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"

    def _nat_head(self, chains: Iterable[str]) -> Iterator[str]:
        yield "*nat\n"
        yield from (f":{chain} - [0:0]\n" for chain in chains)

    def _nat(self, written: Iterable[Service], stale: Iterable[str] = ()) -> Iterator[str]:
        """The whole of the nat table's part; ``written``: the services whose own chains are in it."""
        chains = [self._chains(service) for service in written]
        yield from self._nat_head((*_NAT_CHAINS, *stale))
        yield from _declare(chains)
        yield f"-A KUBE-POSTROUTING -m mark ! --mark {_MARK}/{_MARK} -j RETURN\n"
        yield f"-A KUBE-POSTROUTING -j MARK --xor-mark {_MARK}\n"
        yield '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" '
        yield "-j MASQUERADE --random-fully\n"
        yield f"-A KUBE-MARK-MASQ -j MARK --or-mark {_MARK}\n"
        for service in self._services:
            yield from self._dispatch(service)
        yield from _rules(chains)
        yield from (f"-X {chain}\n" for chain in stale)
        yield '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule '
        yield 'in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n'

    def _chains(self, service: Service) -> dict[str, list[str]]:
        """The chains that only this service uses: name → rules."""
        digest, key = _digest(f"{service.key}tcp"), service.key
        svc = f"KUBE-SVC-{digest}"
        chains: dict[str, list[str]] = {}
        if service.node_port:
            chains[f"KUBE-EXT-{digest}"] = [
                f'-m comment --comment "masquerade traffic for {key} external destinations" -j KUBE-MARK-MASQ',
                f"-j {svc}",
            ]
        to = f"-d {service.cluster_ip} --dport {service.port}"
        masquerade = f'-m comment --comment "{key} cluster IP" -m tcp -p tcp {to} ! -s {CLUSTER_CIDR} -j KUBE-MARK-MASQ'
        chains[svc] = [masquerade]
        left = len(service.endpoints)
        for endpoint in service.endpoints:
            sep, at = _sep(service, endpoint), f"{endpoint.ip}:{service.target_port}"
            said = "" if self._large else f'-m comment --comment "{key} -> {at}" '
            chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            chains[svc].append(f"{said}{chance}-j {sep}")
            left -= 1
            said = "" if self._large else f"-m comment --comment {key} "
            chains[sep] = [
                f"{said}-s {endpoint.ip} -j KUBE-MARK-MASQ",
                f"{said}-m tcp -p tcp -j DNAT --to-destination {at}",
            ]
        return chains

    def _dispatch(self, service: Service) -> Iterator[str]:
        digest = _digest(f"{service.key}tcp")
        yield f'-A KUBE-SERVICES -m comment --comment "{service.key} cluster IP" -m tcp -p tcp '
        yield f"-d {service.cluster_ip} --dport {service.port} -j KUBE-SVC-{digest}\n"
        if service.node_port:
            head = f"-A KUBE-NODEPORTS -m comment --comment {service.key} -m tcp -p tcp"
            to = f"-j KUBE-EXT-{digest}\n"
            if self._counts:
                yield f"{head} -d 127.0.0.0/8 --dport {service.node_port} -m nfacct --nfacct-name {_LOCALHOST} {to}"
            yield f"{head} --dport {service.node_port} {to}"

    # --- programs ---------------------------------------------------------------------------------------------

    def _ensure_entries(self) -> Cost:
        cost = Cost()
        for table, hook, chain, match, comment in _ENTRIES:
            rule = (*match, *(("-m", "comment", "--comment", comment) if comment else ()), "-j", chain)
            cost += self._iptables("-N", chain, "-t", table)
            cost += self._iptables("-C", hook, "-t", table, *rule)
            cost += self._iptables("-I", hook, "-t", table, *rule)
        return cost

    def _iptables(self, *arguments: str) -> Cost:
        # -N fails for a chain that is there and -C for a rule that is not: both are answers.
        return run((self._program, "-w", "5", *arguments), may_fail=arguments[0] in {"-N", "-C"})

    def _restore(self, text: Iterable[str], deadline: float = 600.0) -> Cost:
        return run((f"{self._program}-restore", "-w", "5", "--noflush", "--counters"), text, deadline=deadline)


def _declare(services: Iterable[dict[str, list[str]]]) -> Iterator[str]:
    return (f":{chain} - [0:0]\n" for chains in services for chain in chains)


def _rules(services: Iterable[dict[str, list[str]]]) -> Iterator[str]:
    return (f"-A {chain} {rule}\n" for chains in services for chain, rules in chains.items() for rule in rules)


def _make_counters() -> bool:
    """kube-proxy counts two kinds of packets where the kernel has nfacct, at the price of a rule a node port."""
    try:
        for name in (_INVALID, _LOCALHOST):
            Nfacct().ensure(name)
    except KernelError:
        return False
    return True


def _sep(service: Service, endpoint: Endpoint) -> str:
    return "KUBE-SEP-" + _digest(f"{service.key}tcp{endpoint.ip}:{service.target_port}")


def _digest(text: str) -> str:
    return b32encode(sha256(text.encode()).digest()).decode()[:16]
