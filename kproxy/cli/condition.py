"""How the daemon of this node is, made of what its pages say: ``/metrics``, ``/statusz``, ``/configz`` and its health.

Numbers come from metrics, names and sentences from the lines that ``/statusz`` has beside kube-proxy's. A page that is
missing costs what it would have said and nothing else: a gate may switch ``/statusz`` off, a release before this one
has fewer lines, and where kube-proxy answers instead, its metrics have the same names and say as much as they do.

Healthy is what the kubelet would be told: ``/livez`` and ``/readyz``. Where the health server is off, the figures that
those are made of decide. What else is wrong, such as one Service that the kernel refuses or an API server that does not
answer, is a warning: all others are served, and a restart would not mend it.

What is read here was said by a program and by objects of a cluster: it is cut to a length and holds no control
characters. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.settings.kinds import read_duration

# No part of it crosses a line, so that hostile text costs no more than its length
_SAMPLE = re.compile(r'^(\w+)(?:\{((?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*)\})? (\S+)', re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_COUNT = re.compile(r"(IPv[46]) (\d{1,12})\b")
_WORKERS = re.compile(r"(\d{1,6}) of (\d{1,6}) workers serve")
_FLOWS = re.compile(r"(\d{1,12}) of (\d{1,12}) flows")
_ADDRESS = re.compile(r"[\w.:\[\]%-]*:\d{1,5}|", re.ASCII)
_SETTING = re.compile(r"; (?=\w+ (?:stays |\d))")  # a reason may have semicolons of its own
_LONGEST = 300  # characters of a sentence
_MODES = {"iptables", "userspace", "nftables", "ipvs", "kernelspace"}
_FULL = 0.9  # of the conntrack table
_OLD = 60.0  # seconds; a change that waits so long was not simply unlucky
_BUILT = "+kproxy-"
OK, UNAVAILABLE = 200, 503
OF_METRICS = ("/metrics", "/statusz", "/configz", "/proxyMode")
OF_HEALTH = ("/livez", "/readyz", "/healthz")


class Reply(Struct, frozen=True):
    """What was heard when a page was asked for. ``problem``: why there was no answer."""

    status: int = 0  # of HTTP; 0: no answer
    body: str = ""
    problem: str = ""


Pages = Mapping[str, Reply]
_SILENCE = Reply()


class FamilyCondition(Struct, frozen=True, rename="camel"):
    """One IP family. None: it was not said."""

    family: str
    last_sync: datetime | None = None
    pending_seconds: float | None = None  # age of the oldest change that is not in the kernel; 0: there is none
    services: int | None = None
    service_ports: int | None = None
    endpoints: int | None = None
    relayed: int | None = None  # of the service ports
    rules: int | None = None
    refused: int | None = None  # service ports that the kernel refuses
    failed_restores: int | None = None  # since the start
    trouble: str = ""  # why the last sync failed


class Condition(Struct, frozen=True, rename="camel"):
    """``reasons``: why it is not healthy; ``warnings``: what else somebody should look at."""

    healthy: bool
    program: str  # kproxy or kube-proxy; empty: nobody answers who is either
    version: str = ""
    node: str = ""
    process: int | None = None
    started: datetime | None = None
    mode: str = ""
    variant: str = ""  # of iptables, and why
    node_addresses: str = ""
    api_server: str = ""
    relay: str = ""
    kernel_settings: str = ""
    flows: int | None = None  # in the conntrack table
    flows_limit: int | None = None
    health: Mapping[str, int] = {}  # status by page; 0: no answer; empty: switched off
    families: tuple[FamilyCondition, ...] = ()
    quarantined: str = ""
    problems: tuple[str, ...] = ()
    problems_total: int = 0
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Samples:
    """Values of metrics by name and labels."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in _SAMPLE.findall(text):
            try:
                number = float(value)
            except ValueError:
                continue
            if not isfinite(number):
                continue
            self._values.setdefault(name, []).append((dict(_LABEL.findall(labels)), number))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def labels(self, name: str, label: str) -> set[str]:
        return {clean(labels.get(label, "")) for labels, _ in self._values.get(name, ())} - {""}

    def sum(self, name: str, **wanted: str) -> float | None:
        found = [
            value for labels, value in self._values.get(name, ()) if all(labels.get(k) == v for k, v in wanted.items())
        ]
        return sum(found) if found else None

    def whole(self, name: str, **wanted: str) -> int | None:
        value = self.sum(name, **wanted)
        return None if value is None else round(value)


def health_address(pages: Pages, otherwise: str) -> str:
    """Where this daemon answers for its health, as it says itself; empty: nowhere."""
    said = _configuration(pages).get("healthzBindAddress")
    return said if isinstance(said, str) and _ADDRESS.fullmatch(said) else otherwise


def understand(pages: Pages, health: Pages, config: Config) -> Condition:
    """``pages``: of the metrics server; ``health``: of the health server, empty where it is off."""
    samples = _Samples(pages.get("/metrics", _SILENCE).body)
    facts = _facts(pages.get("/statusz", _SILENCE).body)
    configuration = _configuration(pages)
    mode = pages.get("/proxyMode", _SILENCE)
    is_mode = mode.status == OK and mode.body.strip() in _MODES
    program, version = _program(samples, facts, health, answers_mode=is_mode)
    counts = {name: dict(_COUNT.findall(text)) for name, text in facts.items()}
    families = tuple(
        replace(_family(each, samples, counts), trouble=facts.get(f"Sync {each} failed", ""))
        for each in _families(samples, program)
    )
    reasons = tuple(_reasons(program, health, families, configuration))
    process = facts.get("Process", "")
    counted = _FLOWS.fullmatch(facts.get("Conntrack", ""))
    flows, flows_limit = map(int, counted.groups()) if counted else (None, None)
    condition = Condition(
        healthy=bool(program) and not reasons,
        program=program,
        version=version,
        node=facts.get("Node") or clean(str(configuration.get("hostnameOverride") or config.hostname)),
        process=int(process) if process.isdecimal() else None,
        started=_moment(samples.sum("process_start_time_seconds")),
        mode=mode.body.strip() if is_mode else "",
        variant=facts.get("Iptables variant", ""),
        node_addresses=facts.get("Node IPs", ""),
        api_server=facts.get("API server", ""),
        relay=facts.get("Relay", ""),
        kernel_settings=facts.get("Kernel settings", ""),
        flows=flows,
        flows_limit=flows_limit,
        health={page: health[page].status for page in OF_HEALTH if page in health},
        families=families,
        quarantined=facts.get("Quarantined", ""),
        problems=tuple(text for name, text in facts.items() if name.startswith("Problem ")),
        problems_total=int(facts.get("Problems", "0")) if facts.get("Problems", "0").isdecimal() else 0,
        reasons=reasons,
    )
    return _with_warnings(condition, pages, health)


def clean(text: str) -> str:
    """One line of a length that a screen holds."""
    line = "".join(each if each.isprintable() else " " for each in text).strip()
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _program(samples: _Samples, facts: Mapping[str, str], health: Pages, *, answers_mode: bool) -> tuple[str, str]:
    """Who answers, and its version."""
    built = samples.labels("kubernetes_build_info", "git_version") or {facts.get("Binary version", "")}
    version = min(built)
    if _BUILT in version:
        return "kproxy", version.partition(_BUILT)[2]
    if version and answers_mode:
        return "kube-proxy", version
    # The health server alone says no version; its body is JSON with the moment of the last update.
    if any('"lastUpdated"' in reply.body for reply in health.values()):
        return ("kproxy" if health.get("/readyz", _SILENCE).status in {OK, UNAVAILABLE} else "kube-proxy"), ""
    return "", ""


_LAST = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
_ALL = "all"
_PENDING = "kproxy_oldest_pending_change_seconds"


def _families(samples: _Samples, program: str) -> list[str]:
    """kube-proxy shows the family that it does not serve, too, as zeros; an old one knows no families."""
    named = samples.labels(_PENDING, "ip_family") | samples.labels(_LAST, "ip_family")
    if not named and _LAST in samples:
        return [_ALL]
    return sorted(each for each in named if program == "kproxy" or samples.sum(_LAST, ip_family=each))


def _family(family: str, samples: _Samples, counts: Mapping[str, Mapping[str, str]]) -> FamilyCondition:
    of = {} if family == _ALL else {"ip_family": family}

    def count(name: str) -> int | None:
        text = counts.get(name, {}).get(family)
        return None if text is None else int(text)

    return FamilyCondition(
        family,
        last_sync=_moment(samples.sum(_LAST, **of)),
        pending_seconds=samples.sum(_PENDING, **of),
        services=count("Services"),
        service_ports=count("Service ports"),
        endpoints=count("Endpoints"),
        relayed=count("Relayed service ports"),
        rules=samples.whole("kubeproxy_sync_proxy_rules_iptables_total", **of),
        refused=samples.whole("kproxy_quarantined_services", **of),
        failed_restores=samples.whole("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", **of) or 0,
    )


def _reasons(
    program: str, health: Pages, families: tuple[FamilyCondition, ...], configuration: Mapping[str, Any]
) -> Iterator[str]:
    if not program:
        return
    if health:
        yield from _ill(program, health)
        return
    limit = 2 * _sync_period(configuration)
    if not families or any(each.last_sync is None for each in families):
        yield "the first sync is not done"
    for each in families:
        if (each.pending_seconds or 0) >= limit:
            yield f"{each.family}: a change waits for {each.pending_seconds:.0f} s to be in the kernel"


def _ill(program: str, health: Pages) -> Iterator[str]:
    live, ready, eligible = (health.get(page, _SILENCE) for page in OF_HEALTH)
    if not (live.status or ready.status or eligible.status):
        yield f"the health server does not answer: {live.problem}"
        return
    verdict = live if program == "kproxy" or live.status in {OK, UNAVAILABLE} else eligible  # /livez since 1.28
    if verdict.status != OK:
        yield f"rules do not follow the cluster, says {'/livez' if verdict is live else '/healthz'} ({verdict.status})"
    if program == "kproxy" and ready.status != OK:
        yield f"the first sync is not done, says /readyz ({ready.status})"


def _with_warnings(condition: Condition, pages: Pages, health: Pages) -> Condition:
    return replace(condition, warnings=tuple(map(clean, _warnings(condition, pages, health))))


def _warnings(condition: Condition, pages: Pages, health: Pages) -> Iterator[str]:
    if not condition.program:
        return
    yield from _missing(condition.program, pages)
    for each in condition.families:
        if each.trouble:
            yield f"{each.family}: the last sync failed, it is tried again: {each.trouble}"
        elif (each.pending_seconds or 0) > _OLD:
            yield f"{each.family}: a change waits for {each.pending_seconds:.0f} s to be in the kernel; see the log"
    refused = sum(each.refused or 0 for each in condition.families)
    if refused:
        who = condition.quarantined or f"{refused} service ports; /statusz names them to who asks from loopback"
        yield f"the kernel refuses {who}"
    if condition.api_server.startswith("no"):
        yield f"API server: {condition.api_server}"
    workers = _WORKERS.match(condition.relay)
    if workers and int(workers[1]) < int(workers[2]):
        yield f"relay: {condition.relay}"
    if health.get("/livez", _SILENCE).status == OK and health.get("/healthz", _SILENCE).status == UNAVAILABLE:
        yield "load balancers are told to leave this node out (/healthz 503): it is being removed, or has no Node"
    yield from _of_the_kernel(condition)
    yield from condition.problems
    more = condition.problems_total - len(condition.problems)
    if more > 0:
        yield f"and {more} more objects with problems; the log and `kubectl get events -A` name them"


def _of_the_kernel(condition: Condition) -> Iterator[str]:
    yield from (f"kernel setting {each}" for each in kernel_settings(condition.kernel_settings)[1])
    if condition.flows_limit and (condition.flows or 0) >= _FULL * condition.flows_limit:
        held = f"conntrack holds {condition.flows:,} of {condition.flows_limit:,} flows"
        yield f"{held}; a full table drops new connections; raise nf_conntrack_max"


def _missing(program: str, pages: Pages) -> Iterator[str]:
    """What could not be asked, of a daemon that answers elsewhere."""
    metrics = pages.get("/metrics", _SILENCE)
    if metrics.status != OK and any(reply.status for reply in pages.values()):
        yield f"/metrics does not answer, so numbers are missing: {metrics.problem or f'status {metrics.status}'}"
    elif metrics.status != OK:
        yield (
            f"the metrics server does not answer: {metrics.problem or f'status {metrics.status}'}; give "
            "--metrics-bind-address as the daemon has it"
        )
    elif program == "kproxy" and pages.get("/statusz", _SILENCE).status != OK:
        yield "/statusz does not answer, so names and counts are missing; the feature gate ComponentStatusz has it"


def kernel_settings(text: str) -> tuple[list[str], list[str]]:
    """``/statusz``'s line in parts: all settings, and those that stay other than was wanted."""
    every = [each for each in _SETTING.split(text) if " " in each and each != "none asked for"]
    return every, [each for each in every if each.split(" ")[1] == "stays"]


def _facts(text: str) -> dict[str, str]:
    """The lines of ``/statusz``; its head has none that look so but for the warning."""
    lines = (line.partition(": ") for line in text.split("\n"))
    return {name: clean(value) for name, colon, value in lines if colon and name != "Warning"}


def _configuration(pages: Pages) -> Mapping[str, Any]:
    try:
        found = json.loads(pages.get("/configz", _SILENCE).body)["kubeproxy.config.k8s.io"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sync_period(configuration: Mapping[str, Any]) -> float:
    try:
        return read_duration(configuration["iptables"]["syncPeriod"])
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return Config().iptables_sync_period


def _moment(seconds: float | None) -> datetime | None:
    """kube-proxy says 0 where there was none."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, OSError, ValueError):
        return None
