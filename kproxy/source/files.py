"""The changes of a cluster from files: for nodes without an API server, scenarios, the bench and ``kproxy plan -f``.

A directory is looked at every half second (``Config.manifests_poll``) instead of being watched by inotify: inotify does
not see changes on network file systems, has to be set up again when a ConfigMap mount swaps its directory, and can
overflow, and looking at a hundred files costs a tenth of a millisecond. A change counts when it has stood still for one
look, so that a file that is being written, or an editor that moves the old file aside, is not taken at its word.

What cannot be read keeps what it said before. The same object in two files is the first file's. Files are flat, as for
``kubectl apply -f DIR``, and hidden ones are left alone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from kproxy.config import Config, EndpointsSource
from kproxy.errors import InvalidConfig, InvalidObject
from kproxy.model.change import Change, Listed, Rejection
from kproxy.model.endpoint import Endpoints, EndpointSlice
from kproxy.model.enums import Kind, ServiceType
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service
from kproxy.source import wire
from kproxy.source.convert import Converter, NotOurs, Outcome, Usable, gather
from kproxy.source.manifest import LARGEST, SUFFIXES, VERSIONS, Manifest, parse
from kproxy.source.review import Unusable, show

_Signature = tuple[int, int, int]


class _File(Struct):
    """What one file said when it could last be read, and what is wrong with it now."""

    outcomes: tuple[tuple[Kind, Outcome, str], ...] = ()  # with the place, for messages
    ignored: int = 0
    problem: InvalidObject | None = None


def read_manifests(
    paths: Iterable[Path | str],
    *,
    service_proxy_name: str = "",
    endpoints_source: EndpointsSource = EndpointsSource.SLICES,
) -> tuple[list[Listed], list[InvalidObject]]:
    """Files and directories, once: one ``Listed`` for each kind, and every problem found. Raises ``InvalidConfig``."""
    converter = Converter(service_proxy_name=service_proxy_name, manifests=True)
    files: dict[Path, _File] = {}
    for given in map(Path, paths):
        try:
            found = sorted(_scan(given)) if given.is_dir() else [given]
            for path in found:
                files[path] = _load(path, converter, _File())
        except OSError as error:
            raise InvalidConfig(f"{given} cannot be read: {error.strerror}; give a file or a directory") from error
    changes = _combine(files, endpoints_source)
    problems = [problem for change in changes for problem in _problems_of(change)]
    return changes, problems


async def watch_manifests(
    config: Config, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncGenerator[Change, None]:
    """The changes of ``config.manifests``, for ever. Raises ``InvalidConfig`` if it cannot be read at the start."""
    directory = Directory(config)
    while True:
        for change in await asyncio.to_thread(directory.look):
            yield change
        await sleep(config.manifests_poll)


class Directory:
    """A directory of manifests: what it said when we last looked."""

    def __init__(self, config: Config) -> None:
        self._path = Path(config.manifests)
        self._endpoints_source = config.endpoints_source
        self._converter = Converter(service_proxy_name=config.service_proxy_name, manifests=True)
        self._files: dict[Path, _File] = {}
        self._taken: dict[Path, _Signature] = {}  # what we have acted on
        self._seen: dict[Path, _Signature] | None = None  # what was there at the last look
        self._missing = False

    @property
    def ignored(self) -> int:
        """Objects of kinds that a service proxy does not read."""
        return sum(file.ignored for file in self._files.values())

    def look(self) -> list[Change]:
        """Look once; every kind's list if anything has changed and stood still. ``InvalidConfig`` at the first look."""
        try:
            now = _scan(self._path)
        except OSError as error:
            if self._seen is None:
                why = f"--manifests {self._path} cannot be read: {error.strerror}; give an existing directory"
                raise InvalidConfig(why) from error
            return self._report_missing(error)
        first, before = self._seen is None, self._seen or {}
        self._seen = now
        changed = self._missing or first
        self._missing = False
        for path in sorted(now.keys() | self._taken.keys()):
            signature = now.get(path)
            if signature == self._taken.get(path) or not (first or before.get(path) == signature):
                continue
            self._take(path, signature)
            changed = True
        return [*_combine(self._files, self._endpoints_source)] if changed else []

    def _take(self, path: Path, signature: _Signature | None) -> None:
        if signature is None:
            self._taken.pop(path, None)
            self._files.pop(path, None)
            return
        self._taken[path] = signature
        old = self._files.get(path, _File())
        try:
            self._files[path] = _load(path, self._converter, old)
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
            problem = InvalidObject("manifest", str(path), field="(the file)", why=why, remedy="repair its permissions")
            self._files[path] = replace(old, problem=problem)

    def _report_missing(self, error: OSError) -> list[Change]:
        if self._missing:
            return []
        self._missing = True
        why = f"cannot be read: {error.strerror}"
        remedy = "bring the directory back"
        problem = InvalidObject("directory", str(self._path), field="(the directory)", why=why, remedy=remedy)
        services, *others = _combine(self._files, self._endpoints_source)
        return [replace(services, warnings=(*services.warnings, problem)), *others]


def _scan(directory: Path) -> dict[Path, _Signature]:
    """Every manifest, with what changes when it changes. A link to nowhere is no file, nor what would block: a pipe."""
    found: dict[Path, _Signature] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or path.suffix not in SUFFIXES:
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ELOOP}:
                    raise
                continue
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                continue
            found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def _load(path: Path, converter: Converter, old: _File) -> _File:
    """Read one file; keep what it said before where it cannot be parsed. Raises ``OSError``."""
    try:
        with path.open("rb") as file:
            manifests = parse(path, file.read(LARGEST + 1))
    except InvalidObject as problem:
        return replace(old, problem=problem)
    ours = [(manifest, manifest.kind) for manifest in manifests if manifest.kind is not None]
    outcomes = tuple((kind, *_convert(path, manifest, kind, converter)) for manifest, kind in ours)
    return _File(outcomes, len(manifests) - len(ours))


def _convert(path: Path, manifest: Manifest, kind: Kind, converter: Converter) -> tuple[Outcome, str]:
    place = f"{path}, line {manifest.line}" if manifest.line else str(path)
    if manifest.api_version is not None:
        why = f"is {show(manifest.api_version)}, a version that kproxy does not read"
        unusable = Unusable("apiVersion", why, f"write {VERSIONS[kind]}")
        rejection = converter.rejection(kind, wire.identify(manifest.data), unusable)
        return replace(rejection, problem=_at(place, rejection.problem)), place
    outcome = converter.convert(kind, manifest.data)
    match outcome:
        case Usable():
            if isinstance(outcome.object, Service) and _lacks_cluster_ip(outcome.object, manifest):
                field, why = "spec.clusterIP", "is missing, and manifests have no allocator"
                remedy = "write an address, or None for a headless Service"
                key = outcome.object.key
                problem = InvalidObject(kind.value, str(key), field=field, why=why, remedy=remedy)
                return Rejection(key, outcome.object.uid, _at(place, problem)), place
            return Usable(outcome.object, tuple(_at(place, note) for note in outcome.warnings)), place
        case NotOurs():
            return NotOurs(outcome.key, tuple(_at(place, note) for note in outcome.warnings)), place
        case Rejection():
            return replace(outcome, problem=_at(place, outcome.problem)), place


def _lacks_cluster_ip(service: Service, manifest: Manifest) -> bool:
    if service.cluster_ips or service.type is ServiceType.EXTERNAL_NAME:
        return False
    decoded = wire.decode_object(Kind.SERVICE, manifest.data)
    return isinstance(decoded, wire.Service) and not (decoded.spec and decoded.spec.cluster_ip)


def _at(place: str, problem: InvalidObject) -> InvalidObject:
    name = f"{problem.name} ({place})"
    return InvalidObject(problem.kind, name, field=problem.field, why=problem.why, remedy=problem.remedy)


def _combine(files: dict[Path, _File], source: EndpointsSource) -> list[Listed]:
    """One list of each kind from all files, Services first; problems of whole files come with the Services."""
    first: dict[tuple[Kind, ObjectKey], tuple[Outcome, str]] = {}
    problems: list[InvalidObject] = []
    for path in sorted(files):
        file = files[path]
        problems += [file.problem] if file.problem else []
        for kind, outcome, place in file.outcomes:
            key = outcome.object.key if isinstance(outcome, Usable) else outcome.key
            taken = first.setdefault((kind, key), (outcome, place))
            if taken[0] is not outcome:
                why = f"is also in {taken[1]}, which is used"
                name = f"{key} ({place})"
                remedy = "keep one of the two"
                problems.append(InvalidObject(kind.value, name, field="metadata.name", why=why, remedy=remedy))
    listed = {kind: gather(kind, (each for (of, _), (each, _) in first.items() if of is kind)) for kind in Kind}
    _choose_endpoints(listed, source)
    services = listed[Kind.SERVICE]
    listed[Kind.SERVICE] = replace(services, warnings=(*problems, *services.warnings))
    return list(listed.values())


def _choose_endpoints(listed: dict[Kind, Listed], source: EndpointsSource) -> None:
    """A dump of a cluster holds Endpoints and the slices that mirror them: count one of the two for a Service."""
    slices, legacy = listed[Kind.ENDPOINT_SLICE], listed[Kind.ENDPOINTS]
    if source is EndpointsSource.ENDPOINTS:
        named = {each.key for each in legacy.objects if isinstance(each, Endpoints)}
        kept = tuple(each for each in slices.objects if isinstance(each, EndpointSlice) and each.service not in named)
        listed[Kind.ENDPOINT_SLICE] = replace(slices, objects=kept)
    else:
        named = {each.service for each in slices.objects if isinstance(each, EndpointSlice)}
        listed[Kind.ENDPOINTS] = replace(legacy, objects=tuple(e for e in legacy.objects if e.key not in named))


def _problems_of(change: Listed) -> Iterator[InvalidObject]:
    yield from (rejection.problem for rejection in change.rejected)
    yield from change.warnings
