"""Questions about one packet, asked of recorded nodes and of a small one."""

from __future__ import annotations

from pathlib import Path

from kproxy.explain.answer import PacketAnswer
from kproxy.explain.packets.packet import answer, read_question
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.services.survey import Survey, survey
from tests.unit.explain.dumps import NAT, survey_of, table

RECORDED = Path(__file__).parents[1] / "backend" / "iptables" / "recorded"
NODE = "192.168.100.11"


def recorded(name: str) -> list[Survey]:
    parts = (RECORDED / f"{name}.iptables-{part}.txt" for part in ("nat", "filter"))
    return [survey(dump) for dump in dumps_of(b"".join(part.read_bytes() for part in parts))]


def ask(
    surveys: list[Survey], source: str, to: str, *, interface: str = "", mark: str = "", facts: HostFacts | None = None
) -> PacketAnswer:
    facts = facts or HostFacts(addresses=frozenset({NODE}))
    return answer(surveys, read_question(source, to, interface, mark, facts.addresses), facts)


SERVICES = (
    *NAT,
    '-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "a/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-W',
    "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
    '-A KUBE-NODEPORTS -p tcp -m comment --comment "a/web" -m tcp --dport 30080 -j KUBE-SVC-W',
    '-A KUBE-SVC-W -m comment --comment "a/web -> 10.244.1.1:8080" -j KUBE-SEP-1',
    "-A KUBE-SEP-1 -s 10.244.1.1/32 -j KUBE-MARK-MASQ",
    "-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.244.1.1:8080",
)
OPEN = table("filter", "-A FORWARD -j ACCEPT")
TO_WEB = "10.96.0.1:80"


def web(*more: str, filtering: str = OPEN) -> list[Survey]:
    return [survey_of(table("nat", *more, *SERVICES) + filtering)]
