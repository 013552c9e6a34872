"""The configuration in force, as kube-proxy's ``/configz`` shows it: a KubeProxyConfiguration v1alpha1.

Only fields that we have are shown (spec: runtime.md 1); what is ours stands in a section of its own, ``kproxy``. Where
kube-proxy keeps one period per mode, the mode in force is shown.
"""

from __future__ import annotations

import json
from typing import Any

from kproxy.config import Config


def describe(config: Config) -> bytes:
    """JSON, one line."""
    return json.dumps({"kubeproxy.config.k8s.io": _v1alpha1(config), "kproxy": _ours(config)}).encode()


def go_duration(seconds: float) -> str:
    """As Go prints it: ``1h0m0s``, ``30s``, ``1.5s``, ``200ms``, ``0s``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _v1alpha1(config: Config) -> dict[str, Any]:
    return {
        "kind": "KubeProxyConfiguration",
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "featureGates": {"AllowServiceExternalIPs": config.allow_external_ips},
        "clientConnection": {"kubeconfig": config.kubeconfig},
        "logging": {"format": "text", "verbosity": config.verbosity},
        "hostnameOverride": config.hostname,
        "bindAddress": config.bind_address,
        "healthzBindAddress": config.healthz_bind_address,
        "metricsBindAddress": config.metrics_bind_address,
        "bindAddressHardFail": config.bind_address_hard_fail,
        "mode": config.proxy_mode.value,
        "iptables": {
            "masqueradeBit": config.iptables_masquerade_bit,
            "masqueradeAll": config.masquerade_all,
            "localhostNodePorts": config.iptables_localhost_nodeports,
            "syncPeriod": go_duration(config.iptables_sync_period),
            "minSyncPeriod": go_duration(config.iptables_min_sync_period),
        },
        "detectLocalMode": config.detect_local_mode.value,
        "detectLocal": {
            "bridgeInterface": config.pod_bridge_interface,
            "interfaceNamePrefix": config.pod_interface_name_prefix,
        },
        "clusterCIDR": ",".join(config.cluster_cidr),
        "nodePortAddresses": list(config.nodeport_addresses) or None,
        "oomScoreAdj": config.oom_score_adj,
        "conntrack": {
            "maxPerCore": config.conntrack_max_per_core,
            "min": config.conntrack_min,
            "tcpEstablishedTimeout": go_duration(config.conntrack_tcp_timeout_established),
            "tcpCloseWaitTimeout": go_duration(config.conntrack_tcp_timeout_close_wait),
            "tcpBeLiberal": config.conntrack_tcp_be_liberal,
            "udpTimeout": go_duration(config.conntrack_udp_timeout),
            "udpStreamTimeout": go_duration(config.conntrack_udp_timeout_stream),
        },
    }


def _ours(config: Config) -> dict[str, Any]:
    return {
        "master": config.master,
        "manifests": config.manifests,
        "endpointsSource": config.endpoints_source.value,
        "serviceProxyName": config.service_proxy_name,
        "iptablesBackend": config.iptables_backend.value,
    }
