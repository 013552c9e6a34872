"""What a source tells the cluster store.

A list arrives as one change, so "have we synced?" is a question about what was applied, not a flag to keep in step.
Objects that cannot be used arrive as rejections: the store keeps what it knew of them before (nothing that is
already programmed is lost because somebody wrote a bad field), and the daemon tells the user.
"""

from __future__ import annotations

from msgspec import Struct

from kproxy.errors import InvalidObject
from kproxy.model.endpoint import Endpoints, EndpointSlice
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node, ServiceCIDR
from kproxy.model.service import Service

Resource = Service | EndpointSlice | Endpoints | Node | ServiceCIDR


class Rejection(Struct, frozen=True):
    """An object that the store must leave as it was, and why."""

    key: ObjectKey
    uid: str
    problem: InvalidObject


class Listed(Struct, frozen=True):
    """Everything of one kind, as of one resourceVersion; what is in neither field is gone."""

    kind: Kind
    objects: tuple[Resource, ...]
    rejected: tuple[Rejection, ...] = ()
    warnings: tuple[InvalidObject, ...] = ()  # fields that were dropped while the rest of the object is served


class Put(Struct, frozen=True):
    """Added or modified."""

    kind: Kind
    object: Resource
    warnings: tuple[InvalidObject, ...] = ()


class Removed(Struct, frozen=True):
    """Deleted, or edited in such a way that it is no longer ours; the warnings say why when that may surprise."""

    kind: Kind
    key: ObjectKey
    warnings: tuple[InvalidObject, ...] = ()


class Rejected(Struct, frozen=True):
    kind: Kind
    rejection: Rejection


Change = Listed | Put | Removed | Rejected
