"""What a health-check node port answers: how many ready endpoints of the Service this node has.

Only a load balancer that must find the nodes with endpoints asks, so the port exists for type LoadBalancer under
external policy Local alone. Terminating endpoints do not count even while they are used as a fallback: the load
balancer should move on while old connections finish. One pod serving two ports is one endpoint.

An ExternalName or headless Service has no frontends in this family, hence no health check either.

Source: spec: model.md 2.3, 9.
"""

from __future__ import annotations

from collections.abc import Iterable

from kproxy.model.enums import ServiceType
from kproxy.model.service import Service
from kproxy.plan.endpoints import Candidate, external_policy_local
from kproxy.plan.plan import HealthCheck


def health_check_port(service: Service) -> int:
    """The port that the Service asks for; 0: none."""
    wanted = service.type is ServiceType.LOAD_BALANCER and external_policy_local(service)
    return service.health_check_node_port if wanted else 0


def health_check(service: Service, ports: Iterable[Iterable[Candidate]], node: str) -> HealthCheck:
    """The answer, from each service port's endpoints; ``node``: our name, empty if unknown."""
    ready = {
        endpoint.ip
        for candidates in ports
        for endpoint, _ in candidates
        if node and endpoint.ready and endpoint.node == node
    }
    return HealthCheck(service.key, service.health_check_node_port, local_ready=len(ready), uid=service.uid)
