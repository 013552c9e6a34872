"""Whether a written document may be stored, and as what: decode, place, complete, validate, allocate.

The steps between a request's document and the store, in the order of the API server. Every write takes all of
them; what a step does is decided by the resource's row and kind. Allocation comes last and is undone when anything
refuses, so that a refused or dry-run request costs no address.

Source: Kubernetes API concepts, "Field validation" and "Dry-run"; ObjectMeta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from kproxy.sandbox.apiserver import kind_defaults, service_defaults, shapes, status
from kproxy.sandbox.apiserver.allocate import Allocator, Network
from kproxy.sandbox.apiserver.assign import assign, give_back
from kproxy.sandbox.apiserver.resources import Resource
from kproxy.sandbox.apiserver.service_rules import status_causes
from kproxy.sandbox.apiserver.status import Json
from kproxy.sandbox.apiserver.store import Key, Store, Stored
from kproxy.sandbox.apiserver.validate import causes_of

_SERVER_SET = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
_NEVER_STORED = ("managedFields", "selfLink")


@dataclass(frozen=True, slots=True)
class Options:
    """What a writing request asks for besides its document."""

    dry_run: bool = False
    field_validation: str = "Ignore"
    """Strict refuses unknown fields, Warn reports them, Ignore drops them silently."""
    manager: str = ""
    subresource: str = ""


@dataclass(slots=True)
class Admission:
    """The gate of one cluster.

    `cidrs` are the ranges of cluster IPs, at most one per family, primary family first; `ports` is the range of
    node ports.
    """

    store: Store
    cidrs: Sequence[str]
    ports: range
    allocator: Allocator = field(init=False)
    families: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.allocator = Allocator(self.ports)
        self.families = tuple(f"IPv{ip_network(cidr).version}" for cidr in self.cidrs)

    def decode(self, resource: Resource, document: Json, options: Options) -> tuple[Json, list[str]]:
        """Return the document as storage spells it, and warnings; raises BadRequest for what cannot be read."""
        kind, version = document.get("kind", resource.kind), document.get("apiVersion", resource.api_version)
        if kind != resource.kind or version != resource.api_version:
            raise status.bad_request(
                f"the object provided is unrecognized (must be of type {resource.kind}): {version}, Kind={kind}"
            )
        known, unknown = shapes.decode(resource.kind, resource.stored(document))
        warnings = [f'unknown field "{path}"' for path in unknown]
        if warnings and options.field_validation == "Strict":
            raise status.bad_request(f"strict decoding error: {', '.join(warnings)}")
        content = {name: value for name, value in known.items() if name not in {"kind", "apiVersion"}}
        for name in _NEVER_STORED:
            content["metadata"].pop(name, None)
        return content, warnings if options.field_validation == "Warn" else []

    def place(self, resource: Resource, namespace: str, metadata: Json) -> None:
        """Put an object into the namespace of its request; raises BadRequest if it names another."""
        if not resource.namespaced:
            metadata.pop("namespace", None)
        elif metadata.setdefault("namespace", namespace) != namespace:
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )

    def require_namespace(self, resource: Resource, key: Key) -> None:
        """Refuse creation in a namespace that is absent or going away."""
        if not resource.namespaced:
            return
        home = self.store.get("namespaces", ("", key[0]))
        if home is None:
            raise status.not_found("namespaces", "", key[0])
        if home.fields.get("status.phase") == "Terminating":
            why = f"unable to create new content in namespace {key[0]} because it is being terminated"
            raise status.denied(resource.plural, resource.group, key[1], why)

    def frame(self, resource: Resource, content: Json, old: Json, subresource: str) -> Json:
        """Return the stored object with only those parts replaced that this request may change."""
        if subresource == "status":
            return old | {"status": content.get("status") or {}}
        metadata = content["metadata"]
        metadata.update({name: old["metadata"][name] for name in _SERVER_SET if name in old["metadata"]})
        for name in set(_SERVER_SET) - set(old["metadata"]):
            metadata.pop(name, None)
        if "status" in resource.subresources:
            content.pop("status", None)
            if "status" in old:
                content["status"] = old["status"]
        if resource.kind == "Service":
            service_defaults.carry_over(content.setdefault("spec", {}), old.get("spec") or {})
        return content

    def admit(self, resource: Resource, key: Key, content: Json, stored: Stored | None, options: Options) -> Json:
        """Default, validate, allocate and store; raises Invalid with every cause."""
        old = stored.document() if stored else None
        kind_defaults.fill_in(resource.kind, content)
        causes = causes_of(resource, content, old)
        if resource.kind == "Service":
            causes += status_causes(content)
            spec = content["spec"]
            causes += service_defaults.settle_families(spec, old["spec"] if old else None, self.families)
        if causes:
            raise status.invalid(resource.kind, resource.group, key[1], causes)
        with self.allocator.claim(keep=not options.dry_run):
            if resource.kind == "Service":
                self._allocate(resource, key, content, old)
            if not options.dry_run:
                self._count_generation(resource, content, old)
                self.store.put(resource.stored_in, content)
        return content

    def networks(self) -> dict[str, list[Network]]:
        """Return the ranges of every ServiceCIDR, by family."""
        found: dict[str, list[Network]] = {}
        for stored in self.store.objects("servicecidrs"):
            for cidr in (stored.document().get("spec") or {}).get("cidrs") or ():
                network = ip_network(cidr)
                found.setdefault(f"IPv{network.version}", []).append(network)
        return found

    def _allocate(self, resource: Resource, key: Key, content: Json, old: Json | None) -> None:
        spec = content["spec"]
        causes = assign(spec, self.allocator, self.networks(), key)
        if causes:
            raise status.invalid(resource.kind, resource.group, key[1], causes)
        if old is not None:
            give_back(old.get("spec") or {}, self.allocator, key, kept=spec)
            if spec["type"] != "LoadBalancer" and old["spec"].get("type") == "LoadBalancer":
                content["status"] = {"loadBalancer": {}}

    def _count_generation(self, resource: Resource, content: Json, old: Json | None) -> None:
        if not resource.counts_generations or old is None:
            return
        generation = old["metadata"].get("generation", 1)
        if any(content.get(name) != old.get(name) for name in {*content, *old} - {"metadata", "status"}):
            generation += 1
        content["metadata"]["generation"] = generation
