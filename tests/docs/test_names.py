"""What the documents name in backticks exists: flags, metrics, settings, annotations, files, pages, words of the log.

A name is looked for where names of its kind are made. Those of other programs are listed here, with whose they are.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from kproxy import __version__
from kproxy.settings.document import read_document
from kproxy.settings.resolve import PORTS, resolve
from kproxy.settings.table import BY_PATH
from kproxy.source.convert_relay import ANNOTATIONS
from tests.docs.commands import CHECKOUT, documents, spans
from tests.docs.test_cluster import overlay

_THEIRS = {
    "--skip-phases": "kubeadm",
    "--disable-kube-proxy": "k3s",
    "--random-fully": "iptables",
    "--hypothesis-profile": "pytest",
    "--as": "kubectl",
}
# Fields of its objects, one of kustomize's, one of Calico's, and one of CNI plugins'
_KUBERNETES = """
allocateLoadBalancerNodePorts clusterIP externalIPs externalTrafficPolicy internalTrafficPolicy ipMode nodeName
loadBalancerSourceRanges nodeSelector seLinuxOptions securityContext serviceProxyHealthy spec targetPort
terminationGracePeriodSeconds defaultEndpointToHostAction hairpinMode healthCheckNodePort podCIDR podCIDRs clusterIPs
nodePort hostNetwork maxUnavailable priorityClassName sessionAffinity timeoutSeconds trafficDistribution newTag
"""
# Files that a reader makes
_READERS = {
    "deploy/mine",
    "deploy/mine/kustomization.yaml",
    "after.dump",
    "kube-proxy.yaml",
}
_SUFFIXES = (".py", ".md", ".yaml", ".yml", ".json", ".sh", ".toml", ".png", ".dump", "/")
_MADE = ("/", "dist/", "~", "https:")  # on a node, or by a task
Named = tuple[str, str]


@cache
def words() -> list[Named]:
    return [
        (f"{path.relative_to(CHECKOUT)}:{line}", span)
        for path in documents()
        for line, span in spans(path.read_text(encoding="utf-8"))
    ]


@cache
def sources(*folders: str) -> str:
    files = sorted(path for folder in folders for path in (CHECKOUT / folder).rglob("*.py"))
    return "".join(path.read_text(encoding="utf-8") for path in files)


def test_flags() -> None:
    ours = set(re.findall(r"['\"`, (](--[a-z][a-z-]+)", sources("kproxy", "bench", "deploy", "tests/conformance")))
    ours |= {f"--{each}" for each in (*PORTS, *(setting.flag for setting in BY_PATH.values()))}
    named = [(place, flag) for place, span in words() for flag in re.findall(r"(?:^|[ (\[])(--[a-z][a-z-]+)", span)]
    assert len(named) > 50
    assert [each for each in named if each[1] not in ours | _THEIRS.keys()] == []


def test_metrics() -> None:
    made = sources("kproxy")
    named = [(place, found[0]) for place, span in words()
             if (found := re.match(r"(?:kproxy|kubeproxy)_[a-z_*]+|_[a-z_]+", span))]  # fmt: skip
    assert len(named) > 20
    for place, name in named:
        stem = name.removesuffix("*").removesuffix("_total").removesuffix("_")
        # The relay's are made of a prefix, and a row of the table goes on without it.
        assert re.search(rf'["}}]{re.sub("^(kproxy_userspace|kubeproxy|)_", "", stem)}', made), f"{place}: {name}"


def test_settings() -> None:
    last = {path.rpartition(".")[2] for path in BY_PATH} | {path.partition(".")[0] for path in BY_PATH}
    for place, span in words():
        if re.match(r"kproxy\.[a-z]\w+\b(?!/)", span) and not span.startswith(("kproxy.io", "kproxy.service")):
            found = re.match(r"[\w.]+", span)
            assert found is not None
            assert any(path.startswith(found[0]) for path in BY_PATH), f"{place}: {span}"
            assert found[0] in BY_PATH or span.endswith("…"), f"{place}: {span}"
        elif found := re.match(r"([a-z]+[A-Z]\w*)(?::|$)", span):
            assert found[1] in last | set(_KUBERNETES.split()), f"{place}: {span}"
        elif found := re.match(r"((?:conntrack|iptables|nftables|clientConnection)\.\w+)(?::|$)", span):
            assert found[1] in BY_PATH, f"{place}: {span}"


def test_annotations() -> None:
    named = [(place, found[0]) for place, span in words() if (found := re.match(r"kproxy\.io/[a-z-]+", span))]
    assert len(named) > len(ANNOTATIONS)
    assert [each for each in named if each[1] not in ANNOTATIONS] == []


def test_files() -> None:
    files = [f"/{path.relative_to(CHECKOUT)}" for path in _files()]
    for place, span in words():
        if re.fullmatch(r"[\w./…-]+", span) and (span.endswith(_SUFFIXES) or span.startswith(("tests/", "deploy/"))):
            name = span.removeprefix("…").strip("/")
            if span.startswith(_MADE) or span in _READERS or "NAME" in span:
                continue
            assert any(path.endswith(f"/{name}") for path in files), f"{place}: {span}"


@cache
def _files() -> list[Path]:
    top = [path for path in CHECKOUT.iterdir() if path.name in {"kproxy", "bench", "deploy", "tests"}]
    return [each for path in top for each in (path, *path.rglob("*"))] + [*CHECKOUT.glob("*.*"), *CHECKOUT.glob(".*")]


def test_pages() -> None:
    made = sources("kproxy/daemon")
    machine = ("/etc", "/proc", "/run", "/dev", "/lib", "/var", "/opt", "/sys", "/usr")
    named = [(place, span) for place, span in words() if re.fullmatch(r"/[a-zA-Z/]+", span)]
    for place, span in named:
        assert span.startswith(machine) or f'"{span}"' in made, f"{place}: {span}"


def test_an_overlay_is_a_configuration() -> None:
    settings = yaml.safe_load(yaml.safe_load(overlay())["patches"][1]["patch"])["data"]["config.conf"]
    config = resolve(document=read_document(settings.encode()), host="n1").config
    assert (config.master, config.cluster_cidr) == ("https://api.example.com:6443", ("10.244.0.0/16",))


def test_the_version_is_this_one() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in documents())
    assert set(re.findall(r"kproxy[:-]([0-9]+\.[0-9.]*[0-9])", text)) == {__version__}


@pytest.mark.parametrize(
    "said",
    [
        "cannot be reached",
        "give --master",
        "is the address in --master",
        "do not trust each other",
        "we may not",
        "does not accept our credentials",
        "Cannot listen, trying again",
        "Another proxy writes the same chains",
        "was held by another program",
        "cannot be opened",
        "Chose the iptables variant",
        "Some kernel settings stay as they are",
        "The OOM score stays as it is",
    ],
)
def test_the_log_says_what_is_quoted(said: str) -> None:
    assert said in (CHECKOUT / "deploy" / "README.md").read_text(encoding="utf-8")
    assert said in sources("kproxy")


def test_everybody_asks_for_the_same_number_of_clients_to_remember() -> None:
    """Of session affinity: the log, ``explain``, the alert and the documents."""
    alerts = CHECKOUT / "deploy" / "monitoring" / "alerts.yaml"
    text = sources("kproxy") + "".join(path.read_text(encoding="utf-8") for path in (*documents(), alerts))
    assert set(re.findall(r"ip_list_tot=(\d+)", text)) == {"2000"}
