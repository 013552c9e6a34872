"""Wire to model: the only place that forgives odd API data, and the one that says what cannot be used.

Forgiven, because clusters are full of it (spec: model.md 2 and 3): leading zeros in addresses, spaces around ranges, a
missing protocol, null lists. Dropped with a note, while the rest of the object is served: an external IP, a VIP, an
endpoint or a node address that is no address. Refused as a whole: whatever we would have to guess, for a wrong guess
opens or closes a port. A refused object leaves the store as it was.

Selectors are applied here too, although the API server has applied them already: manifests have no server, and two
places would disagree one day.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from typing import cast

from msgspec import Raw, Struct

from kproxy.errors import InvalidObject
from kproxy.model.change import Change, Listed, Put, Rejected, Rejection, Removed, Resource
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from kproxy.source import wire
from kproxy.source.convert_cluster import convert_node, convert_service_cidr
from kproxy.source.convert_endpoints import EndpointsConverter
from kproxy.source.convert_service import convert_service
from kproxy.source.pieces import Unscannable
from kproxy.source.review import Review, Unusable, is_label, is_subdomain, show

CLUSTER_WIDE = frozenset({Kind.NODE, Kind.SERVICE_CIDR})
_LABELS = frozenset({Kind.SERVICE})  # the kinds whose names are labels; all others are subdomains
_PATH = re.compile(r"(?P<why>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)


class Usable(Struct, frozen=True):
    object: Resource
    warnings: tuple[InvalidObject, ...] = ()


class NotOurs(Struct, frozen=True):
    """Valid, but no business of a service proxy, or of this one."""

    key: ObjectKey
    warnings: tuple[InvalidObject, ...] = ()


Outcome = Usable | NotOurs | Rejection


class Converter:
    """Converts one stream of objects; keeps nothing but what repeats among them, shared.

    ``manifests``: the objects come from files, so what kubectl and the API server would fill in may be missing: the
    namespace, and the names of ports. Everything else that the API defaults is forgiven everywhere.
    """

    def __init__(self, *, service_proxy_name: str = "", manifests: bool = False) -> None:
        self._service_proxy_name = service_proxy_name
        self._default_namespace = "default" if manifests else ""
        self._endpoints = EndpointsConverter(api_defaults=manifests)

    def convert(self, kind: Kind, data: Raw | bytes) -> Outcome:
        """Decode and convert one object. Never raises."""
        try:
            decoded = wire.decode_object(kind, data)
        except wire.UNREADABLE as error:
            problem = _explain(error)
            healed = _heal(kind, data)
            if healed is None:
                return self.rejection(kind, wire.identify(data), problem)
            return self._review(kind, healed, problem)
        return self._review(kind, decoded)

    def _review(self, kind: Kind, decoded: wire.WireObject, healed: Unusable | None = None) -> Outcome:
        """``healed``: what was wrong with its annotations, and is ignored."""
        metadata: wire.BaseMetadata = decoded.metadata or wire.BaseMetadata()
        key = self.key(kind, metadata)
        review = Review(kind.value, _shown_name(key))
        if healed:
            review.note("metadata.annotations", f"{healed.why}, and those in question are ignored", healed.remedy)
        try:
            _check_names(kind, key)
            converted = self._dispatch(key, decoded, review)
        except Unusable as unusable:
            return Rejection(key, metadata.uid or "", review.problem(unusable))
        return NotOurs(key, review.notes()) if converted is None else Usable(converted, review.notes())

    def listed(self, kind: Kind, items: Iterable[Raw | bytes]) -> Listed:
        """A whole list as one change."""
        return gather(kind, (self.convert(kind, item) for item in items))

    def changed(self, kind: Kind, data: Raw | bytes) -> Change:
        """One added or modified object."""
        match self.convert(kind, data):
            case Usable() as usable:
                return Put(kind, usable.object, usable.warnings)
            case NotOurs() as foreign:
                # A label may have taken it from us: whatever we knew of it is over.
                return Removed(kind, foreign.key, foreign.warnings)
            case Rejection() as rejection:
                return Rejected(kind, rejection)

    def removed(self, kind: Kind, data: Raw | bytes) -> Removed:
        """One deleted object, by its name alone: that its last version was unusable must not keep it alive."""
        return Removed(kind, self.key(kind, wire.identify(data)))

    def key(self, kind: Kind, metadata: wire.BaseMetadata) -> ObjectKey:
        namespace = "" if kind in CLUSTER_WIDE else metadata.namespace or self._default_namespace
        return ObjectKey(namespace, metadata.name or "")

    def rejection(self, kind: Kind, metadata: wire.BaseMetadata, unusable: Unusable) -> Rejection:
        """For an object that is refused before anything of it but its metadata was looked at."""
        key = self.key(kind, metadata)
        return Rejection(key, metadata.uid or "", Review(kind.value, _shown_name(key)).problem(unusable))

    def _dispatch(self, key: ObjectKey, decoded: wire.WireObject, review: Review) -> Resource | None:
        match decoded:
            case wire.Service():
                metadata = decoded.metadata or wire.ServiceMetadata()
                if not self._is_ours(metadata):
                    return None
                return convert_service(key, metadata, decoded, review)
            case wire.EndpointSlice():
                return self._endpoints.convert_slice(key, decoded.metadata or wire.Metadata(), decoded, review)
            case wire.Endpoints():
                return self._endpoints.convert_endpoints(key, decoded.metadata or wire.Metadata(), decoded, review)
            case wire.Node():
                return convert_node(key, decoded.metadata or wire.Metadata(), decoded, review)
            case wire.ServiceCIDR():
                return convert_service_cidr(key, decoded, review)

    def _is_ours(self, metadata: wire.BaseMetadata) -> bool:
        label = metadata.labels.service_proxy_name if metadata.labels else None
        return label == self._service_proxy_name if self._service_proxy_name else label is None


def read_list(kind: Kind, body: bytes) -> Listed:
    """A whole list from one body, as an API server prints it. Raises one of ``wire.UNREADABLE`` if it is no list.

    10,000 Services take 0.2 s of CPU, as many slices of 10 endpoints 0.6 s, and both together 30 MB.
    """
    return Converter().listed(kind, wire.decode_page(body).items or [])


def gather(kind: Kind, outcomes: Iterable[Outcome]) -> Listed:
    """What became of every object of a list, as one change."""
    objects: list[Resource] = []
    rejected: list[Rejection] = []
    warnings: list[InvalidObject] = []
    for outcome in outcomes:
        match outcome:
            case Usable():
                objects.append(outcome.object)
                warnings.extend(outcome.warnings)
            case NotOurs():
                warnings.extend(outcome.warnings)
            case Rejection():
                rejected.append(outcome)
    return Listed(kind, tuple(objects), tuple(rejected), tuple(warnings))


def _heal(kind: Kind, data: Raw | bytes) -> wire.WireObject | None:
    """A Service that can be read but for its annotations, which must not cost it its traffic; else None."""
    if kind is not Kind.SERVICE:
        return None
    with contextlib.suppress(*wire.UNREADABLE, Unscannable, KeyError):
        return wire.decode_without_annotations(kind, data)
    return None


def _check_names(kind: Kind, key: ObjectKey) -> None:
    if not key.name:
        raise Unusable("metadata.name", "is missing", "name the object")
    valid: Callable[[str], bool] = is_label if kind in _LABELS else is_subdomain
    if not valid(key.name):
        what = "label" if kind in _LABELS else "subdomain"
        raise Unusable("metadata.name", f"is no DNS {what}", "use lower-case letters, digits and '-'")
    if kind not in CLUSTER_WIDE and not is_label(key.namespace):
        raise Unusable("metadata.namespace", f"is {show(key.namespace)}, no DNS label", "name an existing namespace")


def _shown_name(key: ObjectKey) -> str:
    """The object's name for a message: as it is when it is harmless, else quoted, and each part shortened."""
    if not key.name:
        return f"(without a name, in namespace {show(key.namespace)})"
    return "/".join(part if is_subdomain(part) else show(part) for part in key if part)


def _explain(error: Exception) -> Unusable:
    """The decoder says what it expected and where; say it with the field first."""
    if isinstance(error, RecursionError):
        return Unusable("(the object)", "is nested too deeply", "remove the nested field")
    match = cast("re.Match[str]", _PATH.fullmatch(str(error)))
    said = match["why"].replace(" | null", "")
    why = said if said.startswith("JSON") else said[:1].lower() + said[1:]
    return Unusable(match["path"] or "(the object)", f"cannot be read: {why}", "give the type that the API asks for")
