"""openapi.yaml, from the routes that the app really has: `python -m api.openapi > openapi.yaml`.

Operations come from the app's router (so nothing undeclared is served and nothing unserved is declared),
their details from api.operation, schemas from the TypedDicts' hints. FastAPI's own generator would need
its parameter models, which pyd does not use. Operation IDs are those of Docker's swagger.
"""

from __future__ import annotations

import re
import sys
import types
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import yaml
from fastapi import FastAPI
from starlette.routing import Route

from api.app import create_api
from api.operation import Operation
from api.routes import OPERATIONS
from api.versions import CURRENT, MINIMUM, text

Schemas = dict[str, Any]
CONVERTOR = re.compile(r"\{(\w+)(?::\w+)?\}")
REASONS = {
    101: "The connection is a raw stream from here on",
    200: "OK",
    201: "Created",
    204: "Done",
    304: "Already so",
    400: "Bad parameter",
    401: "Bad credentials",
    403: "Refused",
    404: "No such object",
    409: "Conflict",
    500: "Server error",
    501: "Not implemented",
    503: "Unavailable",
}
PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer", "format": "int64"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
    Any: {},
    object: {},
}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes of `app`."""
    schemas: Schemas = {
        "ErrorResponse": {
            "type": "object",
            "required": ["message"],
            "properties": {"message": {"type": "string"}},
        }
    }
    paths: dict[str, Any] = {}
    for operation in served(app):
        path = CONVERTOR.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = describe(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyd",
            "version": text(CURRENT),
            "description": f"Docker's Engine API, {text(MINIMUM)} to {text(CURRENT)}.",
        },
        "servers": [{"url": f"/v{text(CURRENT)}"}, {"url": "/"}],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def served(app: FastAPI) -> list[Operation]:
    """The operations behind the app's routes, in the router's order."""
    known = {operation.id: operation for operation in OPERATIONS}
    return [known[route.name] for route in app.routes if isinstance(route, Route) and route.name in known]


def describe(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
    }
    parameters = [_path_parameter(name) for name in CONVERTOR.findall(operation.path)]
    parameters += [parameter.describe() for parameter in operation.query]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = _body(operation, schemas)
    described["responses"] = _responses(operation, schemas)
    return described


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _body(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    if isinstance(operation.body, str):
        content: dict[str, Any] = {operation.body: {"schema": {"type": "string", "format": "binary"}}}
    else:
        content = {"application/json": {"schema": schema(operation.body, schemas)}}
    return {"required": operation.required, "content": content}


def _responses(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    refused = operation.errors and operation.tag == "Absent" and operation.returns is None
    responses: dict[str, Any] = {} if refused else {str(operation.status): _success(operation, schemas)}
    for status in (*operation.errors, 500):
        if status < 400:
            responses[str(status)] = {"description": REASONS[status]}
        else:
            content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
            responses[str(status)] = {"description": REASONS[status], "content": content}
    return dict(sorted(responses.items()))


def _success(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {"description": REASONS[operation.status]}
    if operation.returns is not None:
        response["content"] = {operation.produces: {"schema": schema(operation.returns, schemas)}}
    elif operation.produces != "application/json" and operation.method != "HEAD":
        response["content"] = {operation.produces: {"schema": {"type": "string", "format": "binary"}}}
    return response


def schema(shape: Any, schemas: Schemas) -> dict[str, Any]:
    """JSON schema of a type; TypedDicts become components."""
    if shape in PLAIN:
        return dict(PLAIN[shape])
    if is_typeddict(shape):
        name = shape.__name__
        if name not in schemas:
            schemas[name] = {}
            schemas[name] = _object(shape, schemas)
        return {"$ref": f"#/components/schemas/{name}"}
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is list:
        return {"type": "array", "items": schema(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(arguments[1], schemas)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_member(kind, schemas) for kind in arguments]}
    raise TypeError(f"no schema for {shape!r}")


def _member(kind: Any, schemas: Schemas) -> dict[str, Any]:
    return {"type": "null"} if kind is type(None) else schema(kind, schemas)


def _object(shape: Any, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "object"}
    if shape.__doc__ and not shape.__doc__.startswith("dict("):
        described["description"] = " ".join(shape.__doc__.split())
    described["properties"] = {name: schema(hint, schemas) for name, hint in get_type_hints(shape).items()}
    if shape.__required_keys__:
        described["required"] = sorted(shape.__required_keys__)
    return described


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(app: FastAPI) -> str:
    dumped: str = yaml.dump(document(app), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return dumped


if __name__ == "__main__":
    sys.stdout.write(render(create_api(None)))
