"""Identities: which object, which load-balanced port."""

from __future__ import annotations

from typing import NamedTuple

from kproxy.model.enums import Protocol


class ObjectKey(NamedTuple):
    """A namespaced API object; ``namespace`` is empty for cluster-wide ones."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ServicePortKey(NamedTuple):
    """One load-balanced port; ``port`` is the port's name and may be empty (spec: model.md 2.2)."""

    namespace: str
    name: str
    port: str
    protocol: Protocol

    @property
    def service(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)

    def __str__(self) -> str:
        """The printed name that kube-proxy puts into comments and hashes; the protocol is no part of it."""
        name = f"{self.namespace}/{self.name}"
        return f"{name}:{self.port}" if self.port else name
