"""What is asked of the API server: selectors, by configuration. How answers are followed is in test_watch."""

from __future__ import annotations

from kproxy.config import Config, EndpointsSource
from kproxy.model.enums import Kind
from kproxy.source.watch import Selection, resources

SERVICES = Selection(Kind.SERVICE, "/services", labels="!l", fields="f!=None")
CIDRS = Selection(Kind.SERVICE_CIDR, "/cidrs", optional=True)


def test_the_selections_of_the_specification() -> None:
    found = {each.kind: each for each in resources(Config(hostname="n1"))}
    assert found == {
        Kind.SERVICE: Selection(
            Kind.SERVICE, "/api/v1/services", "!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"
        ),
        Kind.ENDPOINT_SLICE: Selection(
            Kind.ENDPOINT_SLICE, "/apis/discovery.k8s.io/v1/endpointslices", "!service.kubernetes.io/headless"
        ),
        Kind.NODE: Selection(Kind.NODE, "/api/v1/nodes", fields="metadata.name=n1"),
        Kind.SERVICE_CIDR: Selection(Kind.SERVICE_CIDR, "/apis/networking.k8s.io/v1/servicecidrs", optional=True),
    }
    assert found[Kind.SERVICE].plural == "services"


def test_legacy_endpoints_and_a_named_proxy_on_request() -> None:
    config = Config(endpoints_source=EndpointsSource.ENDPOINTS, service_proxy_name="mine")
    services, endpoints, *_ = resources(config)
    assert endpoints == Selection(Kind.ENDPOINTS, "/api/v1/endpoints", "!service.kubernetes.io/headless")
    assert services.labels == "service.kubernetes.io/service-proxy-name=mine"
