"""What the server says about itself: version, groups, resources, and enough OpenAPI for kubectl.

kubectl asks three things before it does anything: which resources exist (aggregated discovery, or the older three
documents), and, for a write, whether the server validates fields itself, which it reads from the `fieldValidation`
parameter of the kind's PATCH in the OpenAPI v3 document. The answer yes spares it, and us, the whole v2 schema;
kubectl then also computes its patches from its built-in types. Schemas are derived from `shapes` and exist for
`kubectl explain`.

Source: Kubernetes "The Kubernetes API" (discovery, OpenAPI V3); KEP-3352 (aggregated), KEP-2885 (field validation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kproxy.sandbox.apiserver.resources import RESOURCES, VERBS, Resource
from kproxy.sandbox.apiserver.shapes import SHAPES, Each, Scalar, Shape, Texts
from kproxy.sandbox.apiserver.status import Json

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
VERSION: Json = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+kproxy-sandbox",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
_STATUS_VERBS = ("get", "patch", "update")
_SCALE = {"group": "autoscaling", "version": "v1", "kind": "Scale"}


def groups() -> list[tuple[str, str]]:
    """Return every (group, version) in the order of the table, the core group first."""
    return list(dict.fromkeys((row.group, row.version) for row in RESOURCES))


def rows(group: str, version: str) -> list[Resource]:
    return [row for row in RESOURCES if (row.group, row.version) == (group, version)]


def documents() -> dict[str, Json]:
    """Return every discovery document by path, in its unaggregated form."""
    named = [(group, version) for group, version in groups() if group]
    found: dict[str, Json] = {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*each) for each in named]},
        "/openapi/v3": {"paths": {}},
    }
    for group, version in groups():
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        found[path] = _resource_list(group, version)
        if group:
            found[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1"} | _group(group, version)
        found["/openapi/v3"]["paths"][path[1:]] = {"serverRelativeURL": f"/openapi/v3{path}?hash=1"}
        found[f"/openapi/v3{path}"] = _openapi(path, rows(group, version))
    return found


def aggregated(path: str) -> Json:
    """Return `/api` or `/apis` as one document that holds every resource."""
    chosen = [each for each in groups() if bool(each[0]) == (path == "/apis")]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {
                        "version": version,
                        "freshness": "Current",
                        "resources": [_discovered(row) for row in rows(group, version)],
                    }
                ],
            }
            for group, version in chosen
        ],
    }


def _group(group: str, version: str) -> Json:
    known = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [known], "preferredVersion": known}


def _resource_list(group: str, version: str) -> Json:
    resources = []
    for row in rows(group, version):
        entry: Json = {
            "name": row.plural,
            "singularName": row.singular,
            "namespaced": row.namespaced,
            "kind": row.kind,
            "verbs": list(VERBS),
        }
        if row.short_names:
            entry["shortNames"] = list(row.short_names)
        if row.categories:
            entry["categories"] = list(row.categories)
        resources.append(entry)
        for name in row.subresources:
            sub: Json = {
                "name": f"{row.plural}/{name}",
                "singularName": "",
                "namespaced": row.namespaced,
                "kind": row.kind,
                "verbs": list(_STATUS_VERBS),
            }
            resources.append(sub | (_SCALE if name == "scale" else {}))
    group_version = f"{group}/{version}" if group else version
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }


def _discovered(row: Resource) -> Json:
    kind = {"group": row.group, "version": row.version, "kind": row.kind}
    entry: Json = {
        "resource": row.plural,
        "responseKind": kind,
        "scope": "Namespaced" if row.namespaced else "Cluster",
        "singularResource": row.singular,
        "verbs": list(VERBS),
        "subresources": [
            {
                "subresource": name,
                "responseKind": _SCALE if name == "scale" else kind,
                "verbs": list(_STATUS_VERBS),
            }
            for name in row.subresources
        ],
    }
    if row.short_names:
        entry["shortNames"] = list(row.short_names)
    if row.categories:
        entry["categories"] = list(row.categories)
    return entry


def _openapi(path: str, resources: Iterable[Resource]) -> Json:
    resources = list(resources)
    return {
        "openapi": "3.0.0",
        "info": {"title": "kproxy sandbox", "version": VERSION["gitVersion"]},
        "paths": dict(_openapi_path(path, row) for row in resources),
        "components": {"schemas": {_schema_name(row): _schema(row) for row in resources}},
    }


def _schema_name(row: Resource) -> str:
    return ".".join(("io.k8s.api", row.group.partition(".")[0] or "core", row.version, row.kind))


def _kind_mark(row: Resource) -> Json:
    return {"group": row.group, "version": row.version, "kind": row.kind}


def _openapi_path(path: str, row: Resource) -> tuple[str, Json]:
    where = f"{path}/namespaces/{{namespace}}" if row.namespaced else path
    schema = {"$ref": f"#/components/schemas/{_schema_name(row)}"}
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}}
        for name in ("dryRun", "fieldManager", "fieldValidation")
    ]
    answer = {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}}
    operation = {
        "operationId": f"patch{row.kind}",
        "parameters": parameters,
        # Not the strategic kind: for that kubectl would need every merge key here, and has them built in.
        "requestBody": {"content": {"application/merge-patch+json": {"schema": {"type": "object"}}}},
        "responses": answer,
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": _kind_mark(row),
    }
    return f"{where}/{row.plural}/{{name}}", {"patch": operation}


def _schema(row: Resource) -> Json:
    properties: Json = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    if row.kind in SHAPES:
        properties |= _shape_schema(SHAPES[row.kind])["properties"]
    return {
        "type": "object",
        "properties": properties,
        "x-kubernetes-group-version-kind": [_kind_mark(row)],
    }


_SCALARS: Mapping[Scalar, Json] = {
    Scalar.STRING: {"type": "string"},
    Scalar.INTEGER: {"type": "integer", "format": "int32"},
    Scalar.BOOLEAN: {"type": "boolean"},
    Scalar.INTEGER_OR_STRING: {"type": "string", "format": "int-or-string"},
    Scalar.ANY: {"type": "object"},
}


def _shape_schema(shape: Shape) -> Json:
    match shape:
        case Scalar():
            return dict(_SCALARS[shape])
        case Each(item):
            return {"type": "array", "items": _shape_schema(item)}
        case Texts():
            return {"type": "object", "additionalProperties": {"type": "string"}}
        case fields:
            return {"type": "object", "properties": {name: _shape_schema(each) for name, each in fields.items()}}
