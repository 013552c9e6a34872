"""kube-proxy's way with a node's tables, for tests of a takeover: its flat layout, its first sync, its later syncs.

Written from the description of kube-proxy 1.36.2 (spec: iptables.md 1-7 and 11), not with kproxy's own compiler, so
that agreement means something. It knows what the tests need: cluster IPs with and without endpoints, node ports,
affinity. `Flat.from_record` takes its text from a recorded dump instead.

A first sync ensures the jumps one by one, lists the nat table, and restores everything in one input, which also
deletes every chain with one of its prefixes that it does not want. That is all it ever deletes.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.conformance.proxy import Proxy

_PERISHABLE = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-FW-", "KUBE-EXT-", "KUBE-SEP-")
_NEW = "-m conntrack --ctstate NEW "
_JUMPS = (
    ("filter", "INPUT", "KUBE-EXTERNAL-SERVICES", _NEW, "kubernetes externally-visible service portals"),
    ("filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", _NEW, "kubernetes externally-visible service portals"),
    ("filter", "INPUT", "KUBE-NODEPORTS", "", "kubernetes health check service ports"),
    ("filter", "FORWARD", "KUBE-SERVICES", _NEW, "kubernetes service portals"),
    ("filter", "OUTPUT", "KUBE-SERVICES", _NEW, "kubernetes service portals"),
    ("filter", "FORWARD", "KUBE-FORWARD", "", "kubernetes forwarding rules"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("filter", "OUTPUT", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", _NEW, "kubernetes load balancer firewall"),
    ("nat", "OUTPUT", "KUBE-SERVICES", "", "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", "", "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", "", "kubernetes postrouting rules"),
    ("filter", "INPUT", "KUBE-FIREWALL", "", ""),
    ("filter", "OUTPUT", "KUBE-FIREWALL", "", ""),
)
_MARK = "-j KUBE-MARK-MASQ"


@dataclass(frozen=True)
class Served:
    """A service port as kube-proxy sees it; ``name`` is namespace/name, endpoints are address:port."""

    name: str
    ip: str
    port: int
    endpoints: Sequence[str]
    node_port: int = 0
    affinity: bool = False

    @property
    def chain_hash(self) -> str:
        return _hash(f"{self.name}tcp")

    def endpoint_chain(self, endpoint: str) -> str:
        return f"KUBE-SEP-{_hash(f'{self.name}tcp{endpoint}')}"


@dataclass
class Flat:
    """Rules by table and chain, the chains in the order in which they are declared."""

    tables: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {"filter": {}, "nat": {}})

    @classmethod
    def from_record(cls, texts: Iterable[str]) -> Flat:
        """What iptables-save printed after kube-proxy's sync; nfacct, which few kernels have, is left out."""
        flat, table = cls(), ""
        for line in (line for text in texts for line in text.splitlines() if "nfacct" not in line):
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":KUBE-"):
                flat.tables[table][line[1:].split()[0]] = []
            elif line.startswith("-A KUBE-"):
                flat.tables[table][line.split()[1]].append(line)
        return flat

    @classmethod
    def of(cls, services: Iterable[Served], cluster_cidr: str) -> Flat:
        """An IPv4 layout."""
        flat = cls()
        for chain in ("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS"):
            flat.tables["filter"][chain] = []
        for chain in ("KUBE-PROXY-FIREWALL", "KUBE-FIREWALL"):
            flat.tables["filter"][chain] = []
        for chain in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"):
            flat.tables["nat"][chain] = []
        for rule in _fixed():
            flat._add("nat" if rule.split()[1] in {"KUBE-POSTROUTING", "KUBE-MARK-MASQ"} else "filter", rule)
        for service in services:
            for table, rule in _rules(service, cluster_cidr):
                flat._add(table, rule)
        tail = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
        flat._add(
            "nat", f'-A KUBE-SERVICES -m comment --comment "{tail}" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
        )
        return flat

    def _add(self, table: str, rule: str) -> None:
        self.tables[table].setdefault(rule.split()[1], []).append(rule)


def _fixed() -> Iterator[str]:
    yield "-A KUBE-POSTROUTING -m mark ! --mark 0x00004000/0x00004000 -j RETURN"
    yield "-A KUBE-POSTROUTING -j MARK --xor-mark 0x00004000"
    comment = "kubernetes service traffic requiring SNAT"
    yield f'-A KUBE-POSTROUTING -m comment --comment "{comment}" -j MASQUERADE --random-fully'
    yield "-A KUBE-MARK-MASQ -j MARK --or-mark 0x00004000"
    yield "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    mark = "-m mark --mark 0x00004000/0x00004000"
    yield f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" {mark} -j ACCEPT'
    tracked = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    yield f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" {tracked}'
    localnet = "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
    yield f'-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" {localnet}'


def _rules(service: Served, cluster_cidr: str) -> Iterator[tuple[str, str]]:
    name, own = service.name, f"KUBE-SVC-{service.chain_hash}"
    to = f"-m tcp -p tcp -d {service.ip} --dport {service.port}"
    if not service.endpoints:
        yield "filter", f'-A KUBE-SERVICES -m comment --comment "{name} has no endpoints" {to} -j REJECT'
        return
    cluster_ip = f'-m comment --comment "{name} cluster IP" {to}'
    yield "nat", f"-A KUBE-SERVICES {cluster_ip} -j {own}"
    yield "nat", f"-A {own} {cluster_ip} ! -s {cluster_cidr} {_MARK}"
    if service.node_port:
        outside = f"KUBE-EXT-{service.chain_hash}"
        port = f"-m tcp -p tcp --dport {service.node_port}"
        yield "nat", f'-A KUBE-NODEPORTS -m comment --comment "{name}" {port} -j {outside}'
        masq = f"masquerade traffic for {name} external destinations"
        yield "nat", f'-A {outside} -m comment --comment "{masq}" {_MARK}'
        yield "nat", f"-A {outside} -j {own}"
    yield from (("nat", rule) for rule in _choice(service, own))


def _choice(service: Served, own: str) -> Iterator[str]:
    chains = {endpoint: service.endpoint_chain(endpoint) for endpoint in service.endpoints}
    if service.affinity:
        for endpoint, chain in chains.items():
            seen = f"-m recent --name {chain} --rcheck --seconds 10800 --reap -j {chain}"
            yield f'-A {own} -m comment --comment "{service.name} -> {endpoint}" {seen}'
    left = len(chains)
    for endpoint, chain in chains.items():
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield f'-A {own} -m comment --comment "{service.name} -> {endpoint}" {chance}-j {chain}'
        left -= 1
    for endpoint, chain in chains.items():
        comment = f'-A {chain} -m comment --comment "{service.name}"'
        recent = f"-m recent --name {chain} --set " if service.affinity else ""
        yield f"{comment} -s {endpoint.rpartition(':')[0]} {_MARK}"
        yield f"{comment} {recent}-m tcp -p tcp -j DNAT --to-destination {endpoint}"


def _hash(text: str) -> str:
    return b32encode(sha256(text.encode()).digest()).decode()[:16]


class KubeProxy:
    """Writes layouts on the node of ``proxy``, with the programs of the variant under test."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def first_sync(self, flat: Flat, program: str = "iptables") -> None:
        """As after its start: jumps, then everything."""
        await self._shell("".join(_ensure(program, *jump) for jump in _JUMPS))
        for table in ("mangle", "nat", "filter"):
            await self._shell(f"{program} -w 5 -t {table} -N KUBE-PROXY-CANARY 2>/dev/null || true\n")
        await self.sync(flat, program)

    async def sync(self, flat: Flat, program: str = "iptables") -> None:
        """Everything again, in one input, stale chains of the nat table deleted."""
        text = "".join(_restore_text(flat, await self.chains("nat", program)))
        restore = (f"{program}-restore", "-w", "5", "--noflush", "--counters")
        (await self._proxy.host.run(restore, stdin=text, env=self._proxy.environment, deadline=30)).check()

    async def chains(self, table: str, program: str = "iptables") -> set[str]:
        """The names of all chains that are not built-in."""
        saved = (await self._proxy.shell(f"{program}-save -t {table}")).check().stdout
        return {line[1:].split()[0] for line in saved.splitlines() if line.startswith(":") and " - [" in line}

    async def _shell(self, commands: str) -> None:
        (await self._proxy.shell(commands)).check()


def _ensure(program: str, table: str, hook: str, chain: str, match: str, comment: str) -> str:
    said = f'-m comment --comment "{comment}" ' if comment else ""
    run = f"{program} -w 5 -t {table}"
    rule = f"{hook} {match}{said}-j {chain}"
    return f"{run} -N {chain} 2>/dev/null; {run} -C {rule} 2>/dev/null || {run} -I {rule} || exit 1\n"


def _restore_text(flat: Flat, present: set[str]) -> Iterator[str]:
    for table, chains in flat.tables.items():
        stale = sorted(name for name in present - set(chains) if name.startswith(_PERISHABLE)) if table == "nat" else []
        yield f"*{table}\n"
        yield from (f":{name} - [0:0]\n" for name in (*chains, *stale))
        # The rules of KUBE-SERVICES end with the tail, which is written last.
        yield from (f"{rule}\n" for rules in chains.values() for rule in rules)
        yield from (f"-X {name}\n" for name in stale)
        yield "COMMIT\n"


def read_records(directory: Path, scenario: str, program: str) -> list[str]:
    """The recorded dumps of one scenario and one program, of all tables."""
    found = sorted(directory.glob(f"{scenario}.{program}-*.txt"))
    return [path.read_text(encoding="utf-8") for path in found]
