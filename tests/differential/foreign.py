"""Random rules of other programs around ours, for those are where an evaluator errs.

Every table and hook, chains that jump to chains and go to chains, policies that drop. One thing is left alone: what
the node says about a packet that it refuses must get out again, or refusing could not be told from dropping. So the
filter table lets errors and resets pass first, and elsewhere only packets to certain ports are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from kproxy.model.enums import IPFamily
from tests.differential.clusters import CLIENTS, POD, PORTS, RANGES
from tests.differential.field import NODE_IPS

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_REJECTS = {
    IPFamily.IPV4: ("icmp-port-unreachable", "icmp-host-unreachable", "icmp-admin-prohibited", "icmp-net-unreachable"),
    IPFamily.IPV6: ("icmp6-port-unreachable", "icmp6-addr-unreachable", "icmp6-adm-prohibited", "icmp6-no-route"),
}
_ICMP = {IPFamily.IPV4: "icmp", IPFamily.IPV6: "ipv6-icmp"}


class Foreign(NamedTuple):
    """What one table gets besides ours."""

    chains: dict[str, list[str]]
    before: list[str]  # lines without -A, such as "FORWARD -j F-FORWARD-0", that stand before ours
    after: list[str]
    policies: dict[str, str]


NOTHING = Foreign({}, [], [], {})


def make_foreign(random: Random, family: IPFamily, *, chances: bool = True) -> dict[str, Foreign]:
    """By table. ``chances``: with matches of chance, and such as no tracer can judge."""
    return {table: _Table(random, family, table, chances).make() for table in HOOKS if random.random() < 0.6}


class _Table:
    def __init__(self, random: Random, family: IPFamily, table: str, chances: bool) -> None:
        self.random, self.family, self.table, self.chances = random, family, table, chances
        self.hook = ""

    def make(self) -> Foreign:
        chains: dict[str, list[str]] = {}
        before: list[str] = []
        after: list[str] = []
        policies: dict[str, str] = {}
        for hook in HOOKS[self.table]:
            if self.random.random() < 0.35:
                continue
            self.hook = hook
            names = [f"F-{hook}-{number}" for number in range(self.random.randint(0, 3))]
            for place, name in enumerate(names):
                chains[name] = [self._rule(names[place + 1 :]) for _ in range(self.random.randint(0, 4))]
            for _ in range(self.random.randint(0, 2)):
                self.random.choice([before, after]).append(f"{hook} {self._rule(names)}")
            if self.table == "filter":
                policies[hook] = self.random.choice(["ACCEPT", "ACCEPT", "DROP"])
        if self.table == "filter":
            for hook in ("INPUT", "OUTPUT"):
                before += [
                    f"{hook} -p tcp -m tcp --tcp-flags RST RST -j ACCEPT",
                    f"{hook} -p {_ICMP[self.family]} -j ACCEPT",
                ]
        return Foreign(chains, before, after, policies)

    def _rule(self, below: list[str]) -> str:
        target = self._target(below)
        matches = self._matches(narrow=target.startswith("-j DROP") and self.table != "filter")
        if "tcp-reset" in target:
            matches = f"-p tcp {self._but_protocol()}"
        elif "--to-destination" in target or "--to-source" in target or "REDIRECT" in target or "--to-ports" in target:
            matches = f"{self._protocol()} {self._but_protocol()}"
        return " ".join(filter(None, (matches, target)))

    # --- targets ----------------------------------------------------------------------------------------------

    def _target(self, below: list[str]) -> str:
        usual = ["-j ACCEPT", "-j RETURN", "-j DROP", self._mark(), "", *(f"-j {name}" for name in below)]
        usual += [f"-g {name}" for name in below]
        match self.table:
            case "raw":
                usual += ["-j CT --notrack", "-j NOTRACK"]
            case "mangle":
                usual += [self._mark(), *self._flow_marks()]
            case "nat":
                usual = [each for each in usual if each != "-j DROP"] + self._translations()
            case "filter":
                usual += [f"-j REJECT --reject-with {self.random.choice(_REJECTS[self.family])}"] * 2
                usual += ["-j REJECT --reject-with tcp-reset", "-j NFLOG --nflog-group 5", *self._flow_marks()[:1]]
        return self.random.choice(usual)

    def _mark(self) -> str:
        value = self.random.choice(["0x1", "0x2", "0x4000", "0x8000"])
        how = self.random.choice([f"--set-mark {value}", f"--or-mark {value}", f"--xor-mark {value}",
                                  f"--and-mark {value}", f"--set-xmark {value}/0x00ff"])  # fmt: skip
        return f"-j MARK {how}"

    def _flow_marks(self) -> list[str]:
        return [
            "-j CONNMARK --set-xmark 0x8/0xff",
            "-j CONNMARK --save-mark --nfmask 0xffff --ctmask 0xff",
            "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xffff",
        ]

    def _translations(self) -> list[str]:
        pod, other = (POD[self.family].format(1, number) for number in (3, 4))
        client = CLIENTS[self.family][0]

        def at(ip: str, port: str = "") -> str:
            return f"[{ip}]{port}" if port and ":" in ip else f"{ip}{port}"

        if self.hook in {"PREROUTING", "OUTPUT"}:
            return [
                f"-j DNAT --to-destination {at(pod, ':8080')}",
                f"-j DNAT --to-destination {at(pod)}",
                f"-j DNAT --to-destination {at(pod + '-' + other)}",
                f"-j DNAT --to-destination {at(client, ':443')}",
                "-j REDIRECT --to-ports 9090",
                "-j REDIRECT",
            ]
        if self.hook == "POSTROUTING":
            return [
                "-j MASQUERADE",
                f"-j SNAT --to-source {at(NODE_IPS[self.family][0])}",
                f"-j SNAT --to-source {client}",
            ]
        return [f"-j SNAT --to-source {at(client)}"]

    # --- matches ----------------------------------------------------------------------------------------------

    def _matches(self, *, narrow: bool) -> str:
        if narrow:
            return f"{self._ports()} {self._but_protocol()}"
        first = self.random.choice(["", "", self._ports(), self._protocol(), "-p " + _ICMP[self.family]])
        return " ".join(filter(None, (first, self._but_protocol())))

    def _protocol(self) -> str:
        return self.random.choice(["-p tcp", "-p udp"])

    def _ports(self) -> str:
        name = self.random.choice(["tcp", "udp"])
        some = sorted(self.random.sample(PORTS, 3))
        no = self._no()
        return self.random.choice(
            [
                f"-p {name} -m {name} --dport {some[0]}",
                f"-p {name} -m {name} --dport {some[0]}:{some[1]}",
                f"-p {name} -m multiport --dports {some[0]},{some[1]}:{some[2]}",
            ]
            if self.table != "filter"
            else [
                f"-p {name} -m {name} {no}--dport {some[0]}",
                f"-p {name} -m {name} {no}--sport 20000:40000 --dport {some[0]}:{some[2]}",
                f"-p {name} -m multiport {no}--dports {some[0]},{some[1]}:{some[2]}",
                f"-p {name} -m multiport {no}--sports 1:1024,20000:50000",
                f"-p {name} -m multiport {no}--ports {some[0]},20000:30000",
                "-p tcp -m tcp --syn",
                f"-p tcp -m tcp {no}--tcp-flags SYN,ACK SYN,ACK",
            ]
        )

    def _no(self) -> str:
        return self.random.choice(["", "", "! "])

    def _but_protocol(self) -> str:
        makers: list[Callable[[], Iterator[str]]] = [
            *(self._addresses, self._interfaces, self._flows, self._marks, self._types),
            *((self._chances, self._unknown) if self.chances else ()),
        ]
        chosen = self.random.sample(makers, self.random.choice([0, 1, 1, 2]))
        # Addresses and interfaces come first, as they have to be one of each.
        return " ".join(self.random.choice([*make()]) for make in sorted(chosen, key=makers.index))

    def _addresses(self) -> Iterator[str]:
        ranges = RANGES[self.family]
        yield f"{self._no()}-s {self.random.choice(ranges)}"
        yield f"{self._no()}-d {self.random.choice(ranges)}"
        pod = POD[self.family]
        yield f"-m iprange {self._no()}--src-range {pod.format(1, 2)}-{pod.format(1, 200)}"
        yield f"-m iprange {self._no()}--dst-range {pod.format(1, 2)}-{pod.format(2, 6)}"

    def _interfaces(self) -> Iterator[str]:
        names = ["eth0", "cni0", "cni+", "lo"]
        if self.hook in {"PREROUTING", "INPUT", "FORWARD"}:
            yield f"{self._no()}-i {self.random.choice(names)}"
        if self.hook in {"FORWARD", "OUTPUT", "POSTROUTING"}:
            yield f"{self._no()}-o {self.random.choice(names)}"

    def _flows(self) -> Iterator[str]:
        states = self.random.choice(["NEW", "DNAT", "RELATED,ESTABLISHED", "INVALID", "UNTRACKED", "NEW,DNAT", "SNAT"])
        yield f"-m conntrack {self._no()}--ctstate {states}"
        yield f"-m state {self._no()}--state {self.random.choice(['NEW', 'INVALID', 'ESTABLISHED,NEW'])}"
        yield f"-m conntrack {self._no()}--ctorigdst {self.random.choice(RANGES[self.family])}"
        yield f"-m conntrack {self._no()}--ctreplsrc {self.random.choice(RANGES[self.family])}"
        yield f"-m conntrack --ctorigdstport {self.random.choice(PORTS)}"
        yield f"-m conntrack --ctdir {self.random.choice(['ORIGINAL', 'REPLY'])}"
        yield f"-m conntrack {self._no()}--ctstatus {self.random.choice(['CONFIRMED', 'SEEN_REPLY', 'ASSURED'])}"

    def _marks(self) -> Iterator[str]:
        value = self.random.choice(["0x0", "0x1", "0x4000", "0x8/0xff", "0x4000/0x4000", "0x0/0x8000"])
        yield f"-m mark {self._no()}--mark {value}"
        yield f"-m connmark {self._no()}--mark {value}"

    def _chances(self) -> Iterator[str]:
        yield "-m statistic --mode random --probability 0.5"
        yield f"-m statistic --mode nth {self._no()}--every 3 --packet 1"

    def _types(self) -> Iterator[str]:
        kind = self.random.choice(["LOCAL", "UNICAST", "MULTICAST", "LOCAL,MULTICAST"])
        yield f"-m addrtype {self._no()}--dst-type {kind}"
        yield f"-m addrtype {self._no()}--src-type {kind}"

    def _unknown(self) -> Iterator[str]:
        yield "-m length --length 1:30"
        yield "-m pkttype --pkt-type unicast"
        yield "-m limit --limit 1/minute --limit-burst 2"
