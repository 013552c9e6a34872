"""Kubernetes' feature gates, as far as they concern a service proxy: their stages, their defaults, what is in force.

A cluster's gates are often set once for all its components, so most names that reach a service proxy belong to others.
A name that nobody here knows is therefore told and passed over, with the nearest name that is known, because it may be
a spelling mistake; kube-proxy ends instead. A locked gate cannot be moved from its default: the code for the other
choice is gone, and whoever asks for it must learn so at the start.

``AllAlpha`` and ``AllBeta`` move every gate of their stage that is not locked and not named itself, in any order.

Of these gates AllowServiceExternalIPs alone changes rules; the rest is known so that kube-proxy's flags are understood
and ``kubernetes_feature_enabled`` has its series.

Source: spec: model.md 11; KEP-2086, KEP-4427, KEP-4828.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

EXTERNAL_IPS = "AllowServiceExternalIPs"
ALPHA_LOGGING = "LoggingAlphaOptions"


class Stage(StrEnum):
    """As the label ``stage`` of kubernetes_feature_enabled has it; general availability is the empty text."""

    ALPHA = "ALPHA"
    BETA = "BETA"
    GA = ""


class Gate(NamedTuple):
    name: str
    stage: Stage
    default: bool
    locked: bool = False


GATES: tuple[Gate, ...] = (
    Gate("AllAlpha", Stage.ALPHA, default=False),
    Gate("AllBeta", Stage.BETA, default=False),
    Gate(EXTERNAL_IPS, Stage.GA, default=True),
    Gate("AtomicFIFO", Stage.BETA, default=True),
    Gate("ClientsAllowCARotation", Stage.BETA, default=True),
    Gate("ClientsAllowCBOR", Stage.ALPHA, default=False),
    Gate("ClientsAllowTLSCacheGC", Stage.BETA, default=True),
    Gate("ClientsPreferCBOR", Stage.ALPHA, default=False),
    Gate("ComponentFlagz", Stage.BETA, default=True),
    Gate("ComponentStatusz", Stage.BETA, default=True),
    Gate("ContextualLogging", Stage.BETA, default=True),
    Gate("InOrderInformers", Stage.GA, default=True, locked=True),
    Gate("InOrderInformersBatchProcess", Stage.BETA, default=True),
    Gate("InformerResourceVersion", Stage.GA, default=True),
    Gate(ALPHA_LOGGING, Stage.ALPHA, default=False),
    Gate("LoggingBetaOptions", Stage.BETA, default=True),
    Gate("MultiCIDRServiceAllocator", Stage.GA, default=True, locked=True),
    Gate("NFTablesProxyMode", Stage.GA, default=True, locked=True),
    Gate("NativeHistograms", Stage.ALPHA, default=False),
    Gate("PreferSameTrafficDistribution", Stage.GA, default=True, locked=True),
    Gate("RelaxedServiceNameValidation", Stage.BETA, default=True),
    Gate("StrictIPCIDRValidation", Stage.BETA, default=True),
    Gate("UnlockWhileProcessingFIFO", Stage.BETA, default=True),
    Gate("WatchListClient", Stage.BETA, default=True),
    Gate("WinDSR", Stage.GA, default=True, locked=True),
    Gate("WinOverlay", Stage.GA, default=True, locked=True),
)
REMOVED = frozenset(
    {
        "KubeProxyDrainingTerminatingNodes",
        "LoadBalancerIPMode",
        "MinimizeIPTablesRestore",
        "ProxyTerminatingEndpoints",
        "ServiceTrafficDistribution",
        "TopologyAwareHints",
    }
)
_BY_NAME = {gate.name: gate for gate in GATES}
_BULK = {"AllAlpha": Stage.ALPHA, "AllBeta": Stage.BETA}


def effective(given: Iterable[tuple[str, bool]] = ()) -> tuple[tuple[Gate, bool], ...]:
    """Every known gate and whether it is on. ``given``: what was asked for; of one name the last counts."""
    wanted = dict(given)
    bulk = {stage: wanted[name] for name, stage in _BULK.items() if name in wanted}

    def enabled(gate: Gate) -> bool:
        if gate.locked:
            return gate.default
        return wanted.get(gate.name, bulk.get(gate.stage, gate.default))

    return tuple((gate, enabled(gate)) for gate in GATES)


def is_enabled(name: str, given: Iterable[tuple[str, bool]]) -> bool:
    """Whether a known gate is on. Raises KeyError for any other."""
    return {gate.name: on for gate, on in effective(given)}[name]


def refusals(given: Iterable[tuple[str, bool]]) -> Iterator[tuple[str, bool, str]]:
    """Gate, wanted value and what is accepted, for each locked gate that is asked to move."""
    for name, on in dict(given).items():
        gate = _BY_NAME.get(name)
        if gate and gate.locked and on is not gate.default:
            yield name, on, f"{str(gate.default).lower()}, or leave it out: the gate is locked"


def strangers(given: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """A phrase for each name that is unknown, with the nearest known one, or was removed."""
    for name in dict(given):
        if name in REMOVED:
            yield f"{name} (removed: what it switched on is always on)"
        elif name not in _BY_NAME:
            near = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.75)
            yield f"{name} (did you mean {near[0]}?)" if near else name
