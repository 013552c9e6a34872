"""What /configz holds. How documents are made is in tests/unit/settings/test_v1alpha1.py."""

from __future__ import annotations

import json

from kproxy.config import Config
from kproxy.daemon.configz import describe


def test_all_of_kube_proxys_sections_are_there_and_ours_under_one_key() -> None:
    ((group, shown),) = json.loads(describe(Config(hostname="n", cluster_cidr=("10.0.0.0/8",)))).items()
    assert group == "kubeproxy.config.k8s.io"
    assert (shown["apiVersion"], shown["kind"]) == (f"{group}/v1alpha1", "KubeProxyConfiguration")
    assert {"iptables", "ipvs", "nftables", "winkernel", "conntrack", "logging", "clientConnection"} <= shown.keys()
    assert shown["clusterCIDR"] == "10.0.0.0/8"
    assert shown["nftables"]["syncPeriod"] == "0s"
    assert shown["kproxy"]["endpointsSource"] == "endpointslices"


def test_it_is_one_line() -> None:
    assert b"\n" not in describe(Config())
