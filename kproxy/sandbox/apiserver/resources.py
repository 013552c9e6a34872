"""Which resources the sandbox's API server serves, and the few facts that differ between them.

Everything generic (routes, discovery, lists, watches, tables of contents) is driven by this one table; a further
resource is a further row. Only Services, endpoints, slices, ServiceCIDRs, events and metadata are validated, since
nothing else reaches a proxy (spec: model.md 1); the rest is stored as given so that a usual manifest applies.

Events are one collection with two faces (`v1` and `events.k8s.io/v1`), whose fields merely bear other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kproxy.sandbox.apiserver.status import Json

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

_EVENT_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
"""v1 name to events.k8s.io/v1 name."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One row: how a resource is named, where it is stored and what is special about it."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    """Field paths that field selectors may name, besides metadata.name and metadata.namespace."""
    collection: str = ""
    """Where it is stored, if not under its plural."""
    renamed: Mapping[str, str] | None = None
    """Stored name to served name, of top-level fields."""
    counts_generations: bool = False
    keeps_status: bool = False
    """Whether a create request may set the status."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored_in(self) -> str:
        return self.collection or self.plural

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def prefix(self) -> bytes:
        """The start of an encoded object; the rest is a stored body without its opening brace."""
        return b'{"kind":"%s","apiVersion":"%s",' % (self.kind.encode(), self.api_version.encode())

    @property
    def selectable(self) -> tuple[str, ...]:
        return ("metadata.name", "metadata.namespace", *self.fields)

    def served(self, content: Json) -> Json:
        """Return stored content under this version's names, with kind and apiVersion first."""
        names = self.renamed or {}
        return {"kind": self.kind, "apiVersion": self.api_version} | {
            names.get(name, name): value for name, value in content.items()
        }

    def stored(self, document: Json) -> Json:
        """Return a served document under the names of storage."""
        if not self.renamed:
            return document
        names = {served: stored for stored, served in self.renamed.items()}
        return {names.get(name, name): value for name, value in document.items()}


_EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)

RESOURCES: tuple[Resource, ...] = (
    Resource("", "v1", "ConfigMap", "configmaps", short_names=("cm",)),
    Resource("", "v1", "Endpoints", "endpoints", short_names=("ep",)),
    Resource("", "v1", "Event", "events", short_names=("ev",), fields=_EVENT_FIELDS),
    Resource(
        "",
        "v1",
        "Namespace",
        "namespaces",
        namespaced=False,
        short_names=("ns",),
        subresources=("status",),
        fields=("status.phase",),
    ),
    Resource(
        "",
        "v1",
        "Node",
        "nodes",
        namespaced=False,
        short_names=("no",),
        subresources=("status",),
        fields=("spec.unschedulable",),
        keeps_status=True,
    ),
    Resource(
        "",
        "v1",
        "Pod",
        "pods",
        short_names=("po",),
        subresources=("status",),
        categories=("all",),
        fields=("spec.nodeName", "status.phase", "status.podIP", "spec.restartPolicy"),
        keeps_status=True,  # nothing here runs pods: whoever does may say at once that one is ready
    ),
    Resource("", "v1", "Secret", "secrets", fields=("type",)),
    Resource(
        "",
        "v1",
        "Service",
        "services",
        short_names=("svc",),
        subresources=("status",),
        categories=("all",),
        fields=("spec.clusterIP", "spec.type"),
    ),
    Resource("", "v1", "ServiceAccount", "serviceaccounts", short_names=("sa",)),
    Resource(
        "apps",
        "v1",
        "DaemonSet",
        "daemonsets",
        short_names=("ds",),
        subresources=("status",),
        categories=("all",),
        counts_generations=True,
    ),
    Resource(
        "apps",
        "v1",
        "Deployment",
        "deployments",
        short_names=("deploy",),
        subresources=("status", "scale"),
        categories=("all",),
        counts_generations=True,
    ),
    Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", counts_generations=True),
    Resource(
        "events.k8s.io",
        "v1",
        "Event",
        "events",
        short_names=("ev",),
        fields=_EVENT_FIELDS,
        renamed=_EVENT_NAMES,
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "Ingress",
        "ingresses",
        short_names=("ing",),
        subresources=("status",),
        counts_generations=True,
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "IngressClass",
        "ingressclasses",
        namespaced=False,
        counts_generations=True,
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "ServiceCIDR",
        "servicecidrs",
        namespaced=False,
        subresources=("status",),
    ),
    # Stored only: whoever asks here may do everything.
    Resource("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False),
    Resource("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
)

BY_PATH = {(row.group, row.version, row.plural): row for row in RESOURCES}
BY_KIND = {(row.api_version, row.kind): row for row in RESOURCES}

_BY_NAME = {
    name.lower(): row
    for row in reversed(RESOURCES)  # the first row of a name wins: v1 events before events.k8s.io
    for name in (row.plural, row.kind, *row.short_names)
}


def named(name: str) -> Resource:
    """Return a resource by kind, plural or short name, whatever its case; KeyError names an unknown one."""
    return _BY_NAME[name.lower()]
