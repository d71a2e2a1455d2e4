"""The application: every operation on one FastAPI app, behind the version middleware.

FastAPI's own pages and validation are off: `openapi.yaml` is Docker's shape (api/openapi.py), and
requests are read by Docker's rules. What is served is `create_app(engine)`, a plain ASGI callable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from api import errors
from api.dispatch import Dispatch
from api.operation import Call, Handler, Operation
from api.routes import OPERATIONS
from api.versions import VersionMiddleware

if TYPE_CHECKING:
    from daemon.engine import Engine


def create_api(engine: Engine | None) -> FastAPI:
    """The routes alone, without versions; api.openapi documents this and needs no engine."""
    api = FastAPI(title="pyd", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.state.engine = engine
    for operation in OPERATIONS:
        add(api, operation)
    api.add_api_route("/networks/", _endpoint(_find("NetworkList").handler), methods=["GET"])
    api.add_api_route("/{anything:path}", _options, methods=["OPTIONS"])
    api.add_exception_handler(HTTPException, errors.on_http_exception)
    return api


def create_app(engine: Engine) -> ASGIApp:
    """The server's application for an engine."""
    return VersionMiddleware(Dispatch(create_api(engine)))


def add(api: FastAPI, operation: Operation) -> None:
    """The route carries the operation's ID as its name; api.openapi finds the rest by it."""
    api.add_api_route(
        operation.path.replace("/containers/{id}", "/containers/{id:path}"),  # `parent/alias` of a link
        _endpoint(operation.handler),
        methods=[operation.method],
        name=operation.id,
        include_in_schema=False,
        response_model=None,
    )


def _find(operation_id: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.id == operation_id)


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Errors become answers here, at the one edge; a Stream's later ones go into its body."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(Call(request))
        except Exception as error:
            return errors.answer_error(request, error)

    return endpoint


async def _options(request: Request) -> Response:
    """dockerd answers OPTIONS on any path with an empty 200."""
    return Response(b"", 200)
