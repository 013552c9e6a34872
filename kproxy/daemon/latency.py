"""How long a change of endpoints takes from its cause to the kernel, measured as kube-proxy measures it.

The endpoints controller writes the moment of the cause into each slice. Moments are collected by Service, one sample
each after the round that carried them, and forgotten when a slice of that Service is deleted, because the moment
would then belong to another change (spec: model.md 6). What happened before this process began is not its latency.
"""

from __future__ import annotations

from kproxy.model.change import Change, Put, Removed
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Kind
from kproxy.model.keys import ObjectKey

_MOST = 100  # moments kept for a Service; while rounds fail for days, changes go on coming


class Triggers:
    """For one family. ``since``: seconds since the epoch."""

    def __init__(self, family: IPFamily, *, since: float) -> None:
        self._family = family
        self._since = since
        self._waiting: dict[ObjectKey, list[float]] = {}
        self._taken: dict[ObjectKey, list[float]] = {}
        self._slices: dict[ObjectKey, ObjectKey] = {}  # slice → Service, for slices that have moments waiting

    def note(self, change: Change) -> None:
        match change:
            case Put(object=EndpointSlice() as slice_) if slice_.family is self._family:
                if slice_.triggered > self._since:
                    _append(self._waiting, slice_.service, [slice_.triggered])
                    self._slices[slice_.key] = slice_.service
            case Removed(kind=Kind.ENDPOINT_SLICE, key=key):
                service = self._slices.pop(key, None)
                if service is not None:
                    self._waiting.pop(service, None)
            case _:
                pass

    def take(self) -> None:
        """A round has read the slices."""
        for service, moments in self._waiting.items():
            _append(self._taken, service, moments)
        self._waiting = {}
        self._slices = {}

    def arrived(self, wall: float) -> list[float]:
        """What that round carried is in the kernel: the seconds each change took."""
        seconds = [max(0.0, wall - moment) for moments in self._taken.values() for moment in moments]
        self._taken = {}
        return seconds


def _append(to: dict[ObjectKey, list[float]], service: ObjectKey, moments: list[float]) -> None:
    """The first ones stay: they have waited longest."""
    kept = to.setdefault(service, [])
    kept.extend(moments[: _MOST - len(kept)])
