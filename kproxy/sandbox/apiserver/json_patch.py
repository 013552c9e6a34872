"""What an object becomes under a JSON patch (RFC 6902): an ordered list of operations on JSON pointers.

Written out because the six operations are shorter than a dependency. A patch that does not fit the object is
refused whole.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from kproxy.sandbox.apiserver.status import Json, StatusError, bad_request


def json_patch(document: Json, operations: object) -> Json:
    """Apply the operations in order to a copy of the document; all or none."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch must be a list of operations")
    result: Any = deepcopy(document)
    for operation in operations:
        try:
            result = _perform(result, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            message = f"the server rejected our request due to an error in our request: {operation}: {error}"
            raise StatusError(422, "Invalid", message) from error
    if not isinstance(result, dict):
        raise bad_request("a JSON patch may not replace the object by something else")
    return result


def _perform(document: Any, operation: Json) -> Any:
    path = _steps(operation["path"])
    match operation["op"]:
        case "test":
            if _get(document, path) != operation.get("value"):
                raise ValueError("test failed")
        case "add":
            return _add(document, path, deepcopy(operation["value"]))
        case "replace":
            _get(document, path)
            if not path:
                return deepcopy(operation["value"])
            parent = _get(document, path[:-1])
            parent[_index(parent, path[-1])] = deepcopy(operation["value"])
        case "remove":
            _remove(document, path)
        case "copy":
            return _add(document, path, deepcopy(_get(document, _steps(operation["from"]))))
        case "move":
            return _add(document, path, _remove(document, _steps(operation["from"])))
        case unknown:
            raise ValueError(f"unknown operation {unknown!r}")
    return document


def _steps(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is not a JSON pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _index(parent: Any, step: str) -> Any:
    if not isinstance(parent, list):
        return step
    index = int(step)
    if index < 0:
        raise ValueError("negative index")
    return index


def _get(document: Any, path: list[str]) -> Any:
    for step in path:
        document = document[_index(document, step)]
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, list):
        at = len(parent) if path[-1] == "-" else _index(parent, path[-1])
        if at > len(parent):
            raise IndexError("index beyond the end of the list")
        parent.insert(at, value)
    else:
        parent[path[-1]] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        raise ValueError("cannot remove the whole object")
    parent = _get(document, path[:-1])
    return parent.pop(_index(parent, path[-1]))
