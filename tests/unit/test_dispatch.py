"""Each request finds the operation that FastAPI's own routing would find, or goes its way."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from api.app import create_api
from api.dispatch import Dispatch, Found
from api.operation import Operation
from api.routes import OPERATIONS

API = create_api(None)
DISPATCH = Dispatch(API)


def routed(method: str, path: str) -> Found | None:
    """The first route that matches whole, as starlette goes through them."""
    scope = {"type": "http", "method": method, "path": path, "root_path": ""}
    for route in API.routes:
        match, child = route.matches(scope)
        if match is Match.FULL and isinstance(route, APIRoute) and not route.path.startswith("/{"):
            return Found(route.endpoint, child["path_params"])
    return None


@pytest.mark.parametrize("operation", OPERATIONS, ids=[each.id for each in OPERATIONS])
@pytest.mark.parametrize("value", ["json", "a/b:1", "x%2e é\n"], ids=["word", "path", "odd"])
def test_the_operation_of_a_request(operation: Operation, value: str) -> None:
    path = operation.path
    for name in ("id", "name", "image", "digest"):
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"):
        for asked in (path, f"{path}/", f"/{path}", path.upper()):
            assert DISPATCH.find(method, asked) == routed(method, asked)
    if value == "json":
        found = DISPATCH.find(operation.method, path)
        assert found is not None and found == routed(operation.method, path)
