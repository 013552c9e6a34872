"""Everything about one Service, chain or endpoint, by the names that people use."""

from __future__ import annotations

import pytest

from kproxy.errors import InvalidConfig
from kproxy.explain.answer import Line
from kproxy.explain.services.survey import Survey
from kproxy.explain.views import things
from kproxy.model.enums import IPFamily
from kproxy.plan.plan import Target
from tests.unit.backend.iptables.examples import plan_of, simple, targets
from tests.unit.explain.test_survey import DATA, LARGE, RECORDED, TREES, recorded, surveyed, written

ETL = [surveyed(recorded("etp-local-with-endpoints"))]
RANGED = [surveyed(recorded("lb-source-ranges"))]
OLD = [surveyed((DATA / "kube-proxy-1.18.txt").read_text(encoding="utf-8"))]
DUAL = [surveyed((RECORDED / "dual-stack-service.ip6tables-nat.txt").read_text(encoding="utf-8"))]


def tree(count: int = 40) -> list[Survey]:
    plans = (simple(n, targets(2, remote=True), node_port=30000 + n) for n in range(count))
    return [surveyed(written(plan_of(*plans, simple(99, targets(40, remote=True)), simple(100, ())), LARGE))]


def chains_of(lines: tuple[Line, ...]) -> set[str]:
    return {f"{line.table} {line.chain}" for line in lines}


# --- services -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default/etl", "etl", "etl:80", "LAHWZBDITIGHFEYH"])
def test_a_service_with_all_that_concerns_it(name: str) -> None:
    found = things.service(ETL, name)
    assert [each.name for each in found.services] == ["default/etl"]
    assert chains_of(found.lines) == {
        "nat KUBE-SERVICES",
        "nat KUBE-NODEPORTS",
        "nat KUBE-EXT-LAHWZBDITIGHFEYH",
        "nat KUBE-SVC-LAHWZBDITIGHFEYH",
        "nat KUBE-SVL-LAHWZBDITIGHFEYH",
        "nat KUBE-SEP-JMINAOAMINB4SGIX",
        "nat KUBE-SEP-MLKVNIG37ZL4O4JQ",
        "filter KUBE-NODEPORTS",
    }
    assert [line.number for line in found.lines] == sorted(line.number for line in found.lines)
    assert all("default/etl" in line.text or "LAHWZBDITIGHFEYH" in line.text for line in found.lines)


def test_the_drop_behind_source_ranges_is_the_services() -> None:
    assert "filter KUBE-PROXY-FIREWALL" in chains_of(things.service(RANGED, "lbr").lines)


@pytest.mark.parametrize("name", ["kubernetes:https", "default/kubernetes:443", "default/kubernetes:https"])
def test_a_port_by_name_or_number(name: str) -> None:
    assert [each.port for each in things.service(ETL, name).services] == ["https"]


def test_a_name_in_two_namespaces_and_families_is_all_of_them() -> None:
    twice = surveyed(recorded("etp-local-with-endpoints").replace("default/etl", "other/etl"))
    assert [each.service for each in things.service([*ETL, twice], "etl").services] == ["default/etl", "other/etl"]


def test_a_service_that_is_refused_has_its_refusals() -> None:
    found = things.service([surveyed(recorded("no-endpoints"))], "empty")
    assert {each.protocol for each in found.services} == {"TCP", "UDP"}
    assert len(found.lines) == 8


def test_a_service_that_is_not_there_has_neighbours() -> None:
    with pytest.raises(InvalidConfig, match=r"Service default/etk is not in this dump; .*default/etl"):
        things.service(ETL, "default/etk")
    with pytest.raises(InvalidConfig, match="there is no Service at all"):
        things.service([surveyed("*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n")], "x")
    with pytest.raises(InvalidConfig) as caught:
        things.service(ETL, "\x1b[31m")
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidConfig):
        things.service(ETL, "")


# --- chains ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surveys", "name", "meaning"),
    [
        (ETL, "KUBE-SVC-LAHWZBDITIGHFEYH", "chooses among all endpoints of default/etl"),
        (ETL, "KUBE-SVL-LAHWZBDITIGHFEYH", "chooses among this node's endpoints of default/etl"),
        (
            ETL,
            "KUBE-EXT-LAHWZBDITIGHFEYH",
            "takes traffic from outside the cluster to default/etl (external traffic policy Local)",
        ),
        (
            ETL,
            "KUBE-SEP-JMINAOAMINB4SGIX",
            "rewrites the destination to 10.244.1.10:8080, an endpoint of default/etl",
        ),
        (
            RANGED,
            "KUBE-FW-SIAPUJNNFX3NAFLC",
            "lets only 192.168.100.0/24, 10.244.0.0/16, 203.0.113.12/32 use a load balancer's address of default/lbr",
        ),
        (ETL, "KUBE-MARK-MASQ", "marks packets whose source is to be replaced by the node's (SNAT)"),
        (OLD, "KUBE-MARK-DROP", "marks packets that are to be dropped (kube-proxy up to 1.25, the kubelet)"),
        (
            ETL,
            "POSTROUTING",
            "is met by every packet that is about to leave; what comes to its end meets policy ACCEPT",
        ),
        (ETL, "filter/KUBE-NODEPORTS", "lets in what asks for health check node ports"),
        (
            DUAL,
            "KUBE-SEP-JSFSLUQHM6SKSJLT",
            "rewrites the destination to [fd00:10:244:2::10]:8080, an endpoint of default/dual:t",
        ),
    ],
)
def test_what_a_chain_is_for(surveys: list[Survey], name: str, meaning: str) -> None:
    found = things.chain(surveys, name)
    assert found.meaning == meaning
    assert {line.chain for line in found.lines} == {name.rpartition("/")[2]}
    assert found.referrers or name == "POSTROUTING"
    assert all(found.chain in line.text.rpartition("-j ")[2] for line in found.referrers)


def test_a_chain_of_the_same_name_in_two_tables_is_both() -> None:
    found = things.chain(ETL, "KUBE-SERVICES")
    assert found.table == "filter, nat"
    assert found.meaning.startswith(
        "in filter: refuses or drops packets for cluster IPs that nobody here serves; in nat: "
    )
    assert {line.table for line in found.referrers} == {"filter", "nat"}


def test_chains_of_old() -> None:
    found = [things.chain(OLD, name).meaning for name in OLD[0].dump.tables["nat"] if name.startswith("KUBE-XLB-")]
    assert sorted(found) == [
        "takes traffic from outside the cluster to this node's endpoints of shop/old (kube-proxy up to 1.23)",
        "takes traffic from outside the cluster to this node's endpoints of shop/web:http (kube-proxy up to 1.23)",
    ]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("KUBE-SVC-10.96.0.8/29", "is a branch of KUBE-SERVICES for addresses in 10.96.0.8/29: 8 service ports"),
        ("KUBE-SVC-TCP-30016-30079", "is a branch of KUBE-NODEPORTS for ports TCP 30016-30079: 24 service ports"),
    ],
)
def test_a_branch_of_a_tree_is_that_of_all_below_it(name: str, meaning: str) -> None:
    found = things.chain(tree(), name)
    assert found.meaning == meaning
    assert f"{len(found.services)} service ports" in meaning
    assert things.chain(tree(), f"nat/{name}") == found


def test_branches_of_refusals() -> None:
    plans = [simple(n, (), health_check_port=20000 + n, node_port=30000 + n) for n in range(40)]
    surveys = [surveyed(written(plan_of(*plans), TREES))]
    said = {
        name: things.chain(surveys, name).meaning
        for name in surveys[0].dump.tables["filter"]
        if name.startswith(("KUBE-REJ-", "KUBE-XRJ-", "KUBE-HCN-"))
    }
    assert said["KUBE-REJ-10.96.0.0/26"] == (
        "is a branch of KUBE-SERVICES for addresses in 10.96.0.0/26: 40 service ports"
    )
    assert any(text.startswith("is a branch of KUBE-EXTERNAL-SERVICES for ports TCP") for text in said.values())
    assert any(text.startswith("is a branch of KUBE-NODEPORTS for ports TCP") for text in said.values())


def test_a_part_of_a_list() -> None:
    (name,) = (name for name in tree()[0].dump.tables["nat"] if name.endswith("-01"))
    assert things.chain(tree(), name).meaning == "chooses among a part of all endpoints of default/s00099"


def test_chains_of_others_and_of_nobody() -> None:
    text = recorded("etp-local-with-endpoints").replace(
        "*filter\n",
        "*filter\n:cali-INPUT - [0:0]\n:mine - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n",
    )
    text = text.replace("-A INPUT -j KUBE-FIREWALL", "-A INPUT -j KUBE-FIREWALL\n-A INPUT -j gone")
    surveys = [surveyed(text)]
    assert things.chain(surveys, "cali-INPUT").meaning == "belongs to Calico, not to a service proxy"
    assert things.chain(surveys, "mine").meaning == "is no service proxy's; who wrote it is not known"
    gone = things.chain(surveys, "gone")
    assert (gone.table, gone.meaning, len(gone.referrers)) == (
        "filter",
        "is not in the dump, though rules lead to it",
        1,
    )
    lost = text.replace(":KUBE-SVC-LAHWZBDITIGHFEYH - [0:0]\n", "")
    lost = "\n".join(line for line in lost.split("\n") if not line.startswith("-A KUBE-SVC-LAHWZBDITIGHFEYH"))
    said = things.chain([surveyed(lost)], "KUBE-SVC-LAHWZBDITIGHFEYH").meaning
    assert said == "is not in the dump, though rules lead to it; it chooses among all endpoints of default/etl"


def test_what_a_proxy_keeps_for_itself() -> None:
    text = recorded("etp-local-with-endpoints").replace(
        "*nat\n", "*nat\n:KUBE-SVC-TRIAL - [0:0]\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n"
    )
    surveys = [surveyed(text)]
    assert things.chain(surveys, "nat/KUBE-PROXY-CANARY").meaning.startswith("is empty; the proxy looks")
    assert things.chain(surveys, "KUBE-SVC-TRIAL").meaning.startswith("is where kproxy tries rules")
    lost = things.chain(surveys, "KUBE-SEP-AAAAAAAAAAAAAAAA")
    assert lost.meaning.startswith("was a Service's or an endpoint's")
    assert (lost.services, lost.referrers, lost.lines) == ((), (), ())


def test_a_chain_that_is_not_there_has_neighbours() -> None:
    with pytest.raises(InvalidConfig, match=r"chain KUBE-SVC-LAHW is not in this dump; .*KUBE-SVC-LAHWZBDITIGHFEYH"):
        things.chain(ETL, "KUBE-SVC-LAHW")


# --- endpoints ------------------------------------------------------------------------------------------------


def test_an_endpoint_and_all_that_it_serves() -> None:
    found = things.endpoint(RANGED, "10.244.1.10:8080")
    assert [each.name for each in found.services] == ["default/lbr", "hx-system/hx-sentinel"]
    assert all("10.244.1.10" in line.text for line in found.lines)
    assert len(found.lines) == 6
    assert things.endpoint(ETL, "10.244.1.10").endpoint == "10.244.1.10"
    assert [each.name for each in things.endpoint(ETL, "10.244.1.10:8081").services] == ["hx-system/hx-sentinel"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("[fd00:10:244:1::10]:8080", "[fd00:10:244:1::10]:8080"), ("fd00:10:244:1:0::10", "fd00:10:244:1::10")],
)
def test_an_ipv6_endpoint(text: str, said: str) -> None:
    found = things.endpoint([*ETL, *DUAL], text)
    assert found.endpoint == said
    assert {each.family for each in found.services} == {IPFamily.IPV6}
    assert found.services[0].name == "default/dual:t"


def test_an_endpoint_without_a_chain_of_its_own() -> None:
    (ip, *_) = (each.ip for each in targets(1))
    found = things.endpoint(tree(), f"{ip}:8080")
    assert len(found.services) == 41
    assert all(line.text.endswith(str(Target(ip, 8080, local=False))) for line in found.lines)


@pytest.mark.parametrize("text", ["10.244.1.99", "10.244.1.10:9", "[::1]:80"])
def test_an_endpoint_that_is_not_there(text: str) -> None:
    with pytest.raises(InvalidConfig, match="is not in this dump"):
        things.endpoint(ETL, text)


@pytest.mark.parametrize("text", ["web", "10.244.1:80", "[10.0.0.1", "", "10.0.0.1:http"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(InvalidConfig, match=r"is no endpoint; give IP:PORT or IP, such as"):
        things.endpoint(ETL, text)
