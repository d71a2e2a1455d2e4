"""A request goes straight to its operation.

FastAPI looks at one route after the other, and then through seven layers for what no operation of Docker's API uses
(dependencies, exit stacks, body limits): a third of a millisecond, five times in a `docker run`. Its routes are looked
up here by method and first segment instead. What is not found goes FastAPI's way, for its 404 and 405.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Found:
    """An operation's endpoint, and what the path says of its parameters."""

    endpoint: Endpoint
    parameters: dict[str, str]


class Dispatch:
    """The application of an API whose endpoints take a Request and answer with a Response."""

    def __init__(self, api: FastAPI) -> None:
        self._api = api
        self._whole: dict[tuple[str, str], Found] = {}
        self._routes: dict[tuple[str, str], list[APIRoute]] = defaultdict(list)
        for route in api.routes:
            if isinstance(route, APIRoute) and not route.path.startswith("/{"):
                for method in route.methods or ():
                    self._add(method, route)

    def _add(self, method: str, route: APIRoute) -> None:
        if route.param_convertors:
            self._routes[method, _first(route.path)].append(route)
        else:
            self._whole.setdefault((method, route.path), Found(route.endpoint, {}))

    def find(self, method: str, path: str) -> Found | None:
        """None: FastAPI may know what to say."""
        if (found := self._whole.get((method, path))) is not None:
            return found
        for route in self._routes.get((method, _first(path)), ()):
            if (match := route.path_regex.match(path)) is not None:
                return Found(route.endpoint, match.groupdict())
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._api(scope, receive, send)
            return
        scope["app"], scope["path_params"] = self._api, found.parameters
        response = await found.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def _first(path: str) -> str:
    """`containers` of /containers/ID/json."""
    return path[1:].partition("/")[0]
