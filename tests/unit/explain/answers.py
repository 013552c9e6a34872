"""One example of every answer, with something in every field."""

from __future__ import annotations

from kproxy.explain.answer import (
    Answer,
    ChainAnswer,
    Change,
    Changes,
    DumpFacts,
    Endpoint,
    EndpointAnswer,
    Fate,
    Frontend,
    FrontendKind,
    Line,
    Masquerade,
    Nearest,
    PacketAnswer,
    Question,
    ServiceAnswer,
    ServicePort,
    Severity,
    Summary,
    Warning,  # noqa: A004 -- the noun that people know
    Way,
)
from kproxy.model.enums import IPFamily, Protocol

HASH = "LOLE4ISW44XBNF3G"
FACTS = DumpFacts(
    family=IPFamily.IPV4,
    variant="nft",
    version="1.8.9",
    writer="kube-proxy",
    lines=100,
    chains=20,
    rules=60,
    counters=True,
)
ONE = Endpoint("10.244.1.7", 8080, 0.75, 0.7, 70, "KUBE-SEP-QZ4MJSUJGUVIUKHD", 31, "shop/web-5f7", "worker-a", "ready")
OTHER = Endpoint(
    "10.244.2.9", 8080, 0.25, 0.3, 30, "KUBE-SEP-AZ4MJSUJGUVIUKHD", 32, "shop/web-9x2", "worker-b", "ready"
)
CLUSTER_IP = Frontend(FrontendKind.CLUSTER_IP, "10.96.7.7", 80, chain=f"KUBE-SVC-{HASH}", line=20, packets=100)
NODE_PORT = Frontend(
    FrontendKind.NODE_PORT, "", 30080, Fate.DROPPED, "has no local endpoints", f"KUBE-EXT-{HASH}", 21, 0, "local"
)
WEB = ServicePort(
    service="shop/web",
    port="http",
    protocol=Protocol.TCP,
    family=IPFamily.IPV4,
    hash=HASH,
    frontends=(CLUSTER_IP, NODE_PORT),
    cluster=(ONE, OTHER),
    local=(ONE,),
    internal_policy="Cluster",
    external_policy="Local",
    affinity_seconds=10800,
    source_ranges=("192.168.0.0/16",),
    variant="nft",
)
DEAD = Warning(
    "no-endpoints",
    Severity.WARNING,
    "shop/web has no endpoints",
    "look whether its pods are ready",
    21,
    "shop/web:http",
)
NOTE = Warning("invalid-drop", Severity.NOTE, "KUBE-FORWARD drops INVALID packets")
RULE = Line(
    31,
    "nat",
    "KUBE-SEP-QZ4MJSUJGUVIUKHD",
    "-A KUBE-SEP-QZ4MJSUJGUVIUKHD -j DNAT --to-destination 10.244.1.7:8080",
    70,
    4200,
)
QUESTION = Question("10.244.3.3", 40000, "10.96.7.7", 80, Protocol.TCP, "eth0", 0x200)
SOURCE = Masquerade(wanted=True, why="the source is outside of the pod range 10.244.0.0/16", line=22)
WAYS = (
    Way(0.75, Fate.DELIVERED, "10.244.1.7:8080", SOURCE, ("ipset x holds 10.244.3.3",), (RULE,)),
    Way(0.25, Fate.DROPPED, why="shop/web has no local endpoints"),
)

SUMMARY = Summary((FACTS,), (WEB,), (DEAD, NOTE))
PACKET = PacketAnswer(
    question=QUESTION,
    fate=Fate.DROPPED,
    service="shop/web:http",
    frontend=CLUSTER_IP,
    endpoints=(ONE, OTHER),
    ways=WAYS,
    flow="the flow 10.244.3.3:40000 is known",
    nearest=Nearest("10.96.7.7 is shop/web", RULE, "--dport 80"),
    warnings=(DEAD,),
)
EVERY: tuple[Answer, ...] = (
    SUMMARY,
    PACKET,
    ServiceAnswer((WEB,), (RULE,), (DEAD,)),
    ChainAnswer("nat", RULE.chain, "rewrites to 10.244.1.7:8080", ("shop/web:http",), (RULE,), (RULE,)),
    EndpointAnswer("10.244.1.7:8080", (WEB,), (RULE,), (DEAD,)),
    Changes((FACTS,), (FACTS,), (Change("shop/web:http/TCP", "endpoint", "", "10.244.1.7:8080"),), 7),
)
