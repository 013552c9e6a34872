"""What the API server fills into a Service that its author left out, and what it clears when the type changes.

Three steps in this order, on the request's copy: `carry_over` completes an update from what was allocated before
and drops what the old type had and the new one cannot have; `fill_in` sets the documented defaults;
`settle_families` decides the IP families. Defaults are decided here rather than in the proxy because a real proxy
always sees defaulted objects (spec: model.md 2.3).

Sources: Kubernetes API reference, ServiceSpec; KEP-563 for dual-stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kproxy.sandbox.apiserver.formats import family
from kproxy.sandbox.apiserver.status import Cause, Json, invalid_value, unsupported

NEEDS_CLUSTER_IP = frozenset({"ClusterIP", "NodePort", "LoadBalancer"})
DUAL = frozenset({"PreferDualStack", "RequireDualStack"})


def is_headless(spec: Json) -> bool:
    return spec.get("clusterIP") == "None"


def needs_cluster_ip(spec: Json) -> bool:
    return spec.get("type") in NEEDS_CLUSTER_IP


def needs_node_ports(spec: Json) -> bool:
    if spec.get("type") == "LoadBalancer":
        return bool(spec.get("allocateLoadBalancerNodePorts", True))
    return spec.get("type") == "NodePort"


def may_have_node_ports(spec: Json) -> bool:
    return spec.get("type") in {"NodePort", "LoadBalancer"}


def needs_health_check_port(spec: Json) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def is_externally_accessible(spec: Json) -> bool:
    return may_have_node_ports(spec) or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


def carry_over(spec: Json, old: Json) -> None:
    """Complete an update from the stored spec, and drop what only the old type could have."""
    spec.setdefault("type", "ClusterIP")
    _align_cluster_ips(spec, old)
    _drop_for_type(spec, old)
    if needs_cluster_ip(spec) and needs_cluster_ip(old):
        if not spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIP"] = old.get("clusterIP", "")
        if spec.get("clusterIP") == old.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = list(old.get("clusterIPs") or ())
        for name in ("ipFamilyPolicy", "ipFamilies"):
            if name in old:
                spec.setdefault(name, old[name])
    if needs_node_ports(spec) and needs_node_ports(old):
        _carry_node_ports(spec, old)
    if needs_health_check_port(spec) and needs_health_check_port(old) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = old.get("healthCheckNodePort", 0)


def _align_cluster_ips(spec: Json, old: Json) -> None:
    """Let old clients, who know clusterIP only, change it: the list follows when it alone was left as it was."""
    if spec.get("clusterIPs") and spec.get("clusterIPs") == old.get("clusterIPs"):
        if not spec.get("clusterIP") and "clusterIP" in old and needs_cluster_ip(spec):
            # Cleared together with nothing else: the author means "as before".
            spec["clusterIP"] = old["clusterIP"]
        elif spec.get("clusterIP") != old.get("clusterIP") and spec.get("clusterIP"):
            spec["clusterIPs"] = [spec["clusterIP"], *spec["clusterIPs"][1:]]


def _carry_node_ports(spec: Json, old: Json) -> None:
    before = {(port.get("protocol", "TCP"), port["port"]): port.get("nodePort", 0) for port in old.get("ports") or ()}
    wanted = {port.get("nodePort") for port in spec.get("ports") or ()}
    for port in spec.get("ports") or ():
        known = before.get((port.get("protocol", "TCP"), port.get("port")), 0)
        if not port.get("nodePort") and known and known not in wanted:
            port["nodePort"] = known


def _drop_for_type(spec: Json, old: Json) -> None:
    dropped: list[str] = []
    if needs_cluster_ip(old) and not needs_cluster_ip(spec):
        dropped += ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
    if needs_health_check_port(old) and not needs_health_check_port(spec):
        dropped.append("healthCheckNodePort")
    if is_externally_accessible(old) and not is_externally_accessible(spec):
        dropped.append("externalTrafficPolicy")
    if old.get("type") == "LoadBalancer" != spec.get("type"):
        dropped += ["allocateLoadBalancerNodePorts", "loadBalancerClass"]
    for name in dropped:
        if spec.get(name) == old.get(name):  # otherwise the author set it: validation says why not
            spec.pop(name, None)
    if may_have_node_ports(old) and not may_have_node_ports(spec):
        _drop_node_ports(spec, old)
    if spec.get("sessionAffinity") == "None" and old.get("sessionAffinity") == "ClientIP":
        spec.pop("sessionAffinityConfig", None)


def _drop_node_ports(spec: Json, old: Json) -> None:
    allocated = {port.get("nodePort") for port in old.get("ports") or ()}
    for port in spec.get("ports") or ():
        if port.get("nodePort") in allocated:
            port.pop("nodePort", None)


def fill_in(spec: Json) -> None:
    """Set the defaults of every field that a proxy or its user looks at."""
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port", 0)
    if spec["sessionAffinity"] == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", 10800)
    if needs_cluster_ip(spec):
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if is_externally_accessible(spec):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def fill_in_status(service: Json) -> None:
    """Set the defaults of a status that a load balancer's controller wrote."""
    status = service.setdefault("status", {})
    balancer = status.setdefault("loadBalancer", {})
    for ingress in balancer.get("ingress") or ():
        if ingress.get("ip"):
            ingress.setdefault("ipMode", "VIP")


def settle_families(spec: Json, old: Json | None, configured: Sequence[str]) -> list[Cause]:
    """Decide ipFamilyPolicy and ipFamilies, the primary family first; returns what contradicts them.

    `configured` lists the families of the cluster's ServiceCIDRs, primary first.
    """
    if not needs_cluster_ip(spec):
        return []
    if spec.get("ipFamilyPolicy", "SingleStack") not in {"SingleStack", *DUAL}:
        return [unsupported("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], ("SingleStack", *DUAL))]
    if old is not None:
        _drop_secondary(spec, old)
    families = list(spec.get("ipFamilies") or ())
    causes = _infer_families(spec, families, configured)
    if causes:
        return causes
    selectorless = is_headless(spec) and not spec.get("selector")
    if selectorless and "ipFamilyPolicy" not in spec:
        # Whoever writes the endpoints of such a Service may use either family, whatever the cluster has.
        spec["ipFamilyPolicy"] = "SingleStack" if len(families) == 1 else "RequireDualStack"
        families = families or [*configured, *({"IPv4", "IPv6"} - set(configured))]
    policy = spec.setdefault("ipFamilyPolicy", "SingleStack")
    if len(families) > 1 and policy == "SingleStack":
        detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
        return [invalid_value("spec.ipFamilyPolicy", policy, detail)]
    if policy == "RequireDualStack" and len(configured) < 2 and not selectorless:
        detail = "this cluster is not configured for dual-stack services"
        return [invalid_value("spec.ipFamilyPolicy", policy, detail)]
    families = families or [configured[0]]
    if policy in DUAL:
        families += [each for each in configured if each not in families]
    spec["ipFamilies"] = families
    return []


def _drop_secondary(spec: Json, old: Json) -> None:
    """Turn a dual-stack Service single-stack when only its policy was changed."""
    if spec.get("ipFamilyPolicy") != "SingleStack" or old.get("ipFamilyPolicy") not in DUAL:
        return
    for name in ("ipFamilies", "clusterIPs"):
        if spec.get(name) == old.get(name) and spec.get(name):
            spec[name] = spec[name][:1]


def _infer_families(spec: Json, families: list[Any], configured: Sequence[str]) -> list[Cause]:
    """Append the families of the requested cluster IPs; returns contradictions."""
    causes: list[Cause] = []
    for index, each in enumerate(families):
        if each not in {"IPv4", "IPv6"}:
            causes.append(unsupported(f"spec.ipFamilies[{index}]", each, ("IPv4", "IPv6")))
        elif each in families[:index]:
            causes.append(Cause(f"spec.ipFamilies[{index}]", "FieldValueDuplicate", f'Duplicate value: "{each}"'))
        elif each not in configured and not is_headless(spec):
            causes.append(invalid_value(f"spec.ipFamilies[{index}]", each, "not configured on this cluster"))
    for index, address in enumerate(spec.get("clusterIPs") or ()):
        found = family(address)
        if not found:
            continue  # "None", or malformed, which validation reports
        if index >= len(families):
            families.append(found)
        elif families[index] != found:
            detail = f"expected an {families[index]} value as indicated by `ipFamilies[{index}]`"
            causes.append(invalid_value(f"spec.clusterIPs[{index}]", address, detail))
    return causes
