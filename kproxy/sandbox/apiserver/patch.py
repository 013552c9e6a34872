"""What an object becomes under a patch: the four kinds that kubectl and controllers send.

JSON merge patch (RFC 7386), JSON patch (RFC 6902), strategic merge patch and server-side apply. Strategic merge
needs to know which lists are keyed, and by what; `MERGE_KEYS` says so for the kinds served here. Service ports are
matched by port and, where the patch names one, by protocol: matching by port alone, as upstream's strategic merge
does, cannot tell the two lines of a DNS Service apart.

Server-side apply keeps no managedFields: the last configuration of each field manager is remembered by the
registry, and what disappeared from it since is removed. Conflicts between managers are not detected; the last
one wins, as with `--force-conflicts`.

Pure: documents in, document out; the inputs are never changed.
Source: Kubernetes "Update API objects in place using kubectl patch" and its strategic-merge-patch notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from kproxy.sandbox.apiserver.json_patch import json_patch
from kproxy.sandbox.apiserver.status import Json, bad_request

__all__ = ["JSON_PATCH", "MERGE_PATCH", "STRATEGIC_MERGE_PATCH", "apply", "json_patch", "merge", "strategic"]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

_POD_SPEC = {
    "containers": ("name",),
    "containers.env": ("name",),
    "containers.ports": ("containerPort", "protocol"),
    "containers.volumeMounts": ("mountPath",),
    "initContainers": ("name",),
    "initContainers.env": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "volumes": ("name",),
}

MERGE_KEYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "*": {"metadata.ownerReferences": ("uid",), "status.conditions": ("type",)},
    "Service": {"spec.ports": ("port", "protocol")},
    "Node": {"spec.taints": ("key", "effect"), "status.addresses": ("type",)},
    "Pod": {f"spec.{path}": keys for path, keys in _POD_SPEC.items()} | {"status.podIPs": ("ip",)},
    "DaemonSet": {f"spec.template.spec.{path}": keys for path, keys in _POD_SPEC.items()},
    "Deployment": {f"spec.template.spec.{path}": keys for path, keys in _POD_SPEC.items()},
    "ServiceAccount": {"secrets": ("name",), "imagePullSecrets": ("name",)},
}
_MERGED_PRIMITIVES = frozenset({"metadata.finalizers", "spec.podCIDRs"})


def merge(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch: null deletes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def keys_of(kind: str, path: str) -> tuple[str, ...]:
    """Return the fields that identify an item of the list at a path; none if the list is replaced whole."""
    return MERGE_KEYS.get(kind, {}).get(path) or MERGE_KEYS["*"].get(path) or ()


def strategic(kind: str, target: Json, patch: Json) -> Json:
    """Apply a strategic merge patch to an object of a kind."""
    merged = _strategic_map(kind, target, patch, "")
    return merged or {}


def _strategic_map(kind: str, target: Any, patch: Json, path: str) -> Json | None:
    directive = patch.get("$patch")
    if directive == "delete":
        return None
    if directive == "replace":
        return {name: deepcopy(value) for name, value in patch.items() if name != "$patch"}
    result: Json = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {name: value for name, value in result.items() if name in patch["$retainKeys"]}
    orders: dict[str, list[Any]] = {}
    for name, value in patch.items():
        if name in {"$patch", "$retainKeys"}:
            continue
        if name.startswith("$setElementOrder/"):
            orders[name.partition("/")[2]] = value
        elif name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            result[field] = [item for item in result.get(field) or () if item not in value]
        else:
            _strategic_field(kind, result, name, value, f"{path}.{name}" if path else name)
    for name, order in orders.items():
        if name in result:
            keys = keys_of(kind, f"{path}.{name}" if path else name)
            result[name] = _ordered(result[name], order, keys)
    return result


def _strategic_field(kind: str, result: Json, name: str, value: Any, path: str) -> None:
    if value is None:
        result.pop(name, None)
    elif isinstance(value, dict):
        merged = _strategic_map(kind, result.get(name), value, path)
        if merged is None:
            result.pop(name, None)
        else:
            result[name] = merged
    elif isinstance(value, list) and path in _MERGED_PRIMITIVES:
        present = list(result.get(name) or ())
        result[name] = present + [item for item in value if item not in present]
    elif isinstance(value, list) and (keys := keys_of(kind, path)):
        result[name] = _strategic_list(kind, result.get(name) or [], value, path, keys)
    else:
        result[name] = deepcopy(value)


def _strategic_list(
    kind: str, target: Sequence[Json], patch: Sequence[Json], path: str, keys: tuple[str, ...]
) -> list[Json]:
    if any(item.get("$patch") == "replace" for item in patch):
        return [deepcopy(item) for item in patch if "$patch" not in item]
    result = [dict(item) for item in target]
    for item in patch:
        if keys[0] not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {keys[0]}")
        at = next((index for index, present in enumerate(result) if _same_item(present, item, keys)), None)
        if item.get("$patch") == "delete":
            result = [present for present in result if not _same_item(present, item, keys)]
        elif at is None:
            result.append(_strategic_map(kind, {}, item, path) or {})
        else:
            result[at] = _strategic_map(kind, result[at], item, path) or {}
    return result


def _same_item(present: Json, item: Json, keys: tuple[str, ...]) -> bool:
    """Tell whether two list items are one: by the first key, and by the others where both name them."""
    return present.get(keys[0]) == item[keys[0]] and all(
        present.get(key) == item[key] for key in keys[1:] if key in item and key in present
    )


def _ordered(items: list[Any], order: list[Any], keys: tuple[str, ...]) -> list[Any]:
    """Sort a merged list as the patch's author sees it; items he does not know stay at the end."""

    def place(item: Any) -> int:
        for index, wanted in enumerate(order):
            if (keys and isinstance(item, dict) and _same_item(item, wanted, keys)) or item == wanted:
                return index
        return len(order)

    return sorted(items, key=place)


def apply(kind: str, live: Json, config: Json, last: Json | None) -> Json:
    """Apply a configuration: set what it says, remove what the same manager's last one said and it does not."""
    pruned = _without(kind, live, last, config, "") if last else live
    return strategic(kind, pruned, config)


def _without(kind: str, live: Json, last: Json, config: Json, path: str) -> Json:
    result = dict(live)
    for name, before in last.items():
        where = f"{path}.{name}" if path else name
        now = config.get(name)
        if name in {"apiVersion", "kind"} or name not in result:
            continue
        if name not in config:
            del result[name]
        elif isinstance(before, dict) and isinstance(now, dict) and isinstance(result[name], dict):
            result[name] = _without(kind, result[name], before, now, where)
        elif isinstance(before, list) and isinstance(now, list) and (keys := keys_of(kind, where)):
            gone = [item for item in before if not any(_same_item(item, other, keys) for other in now)]
            result[name] = [item for item in result[name] if not any(_same_item(item, other, keys) for other in gone)]
    return result
