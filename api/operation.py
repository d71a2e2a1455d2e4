"""An operation of the API: declared once, served by FastAPI, written into openapi.yaml.

A handler takes a `Call` (the request in Docker's terms) and returns a Response:

    @operation(GET, "/containers/{id}/top", "ContainerTop", query=(string("ps_args"),), errors=(404,))
    async def top(call: Call) -> Response:
        return answer(await call.engine.containers.top(call.path("id"), call.query.string("ps_args")))

Handlers hold no logic: they read the call, ask the engine and shape the answer. FastAPI routes and
documents; its own parameter and response validation is left out, because Docker's rules differ from it
(see api/query.py, api/body.py) and answers are serialised once, straight to bytes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from api.body import decode
from api.errors import ClientGone
from api.hijack import EXTENSION, Connection
from api.query import Parameter, Query
from storage.errors import InvalidArgument, NotFound

if TYPE_CHECKING:  # the engine loads half the daemon; documenting the API must not
    from daemon.engine import Engine

T = TypeVar("T")
GET, HEAD, POST, PUT, DELETE = "GET", "HEAD", "POST", "PUT", "DELETE"
BODY_LIMIT = 16 << 20
"""No JSON body of Docker's comes near it; more is refused before it fills the memory."""

Handler = Callable[["Call"], Awaitable[Response]]


class Call:
    """One request: the engine it is for, and its parts as Docker reads them."""

    __slots__ = ("__dict__", "engine", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.engine: Engine = request.app.state.engine

    @property
    def version(self) -> tuple[int, ...]:
        return self.request.scope["pyd.version"]  # type: ignore[no-any-return]

    @cached_property
    def query(self) -> Query:
        return Query(self.request.scope["query_string"])

    def path(self, name: str) -> str:
        value: str = self.request.path_params[name]
        return value

    def header(self, name: str) -> str:
        return self.request.headers.get(name, "")

    @property
    def connection(self) -> Connection:
        """The connection itself, for hijacking; a server without the extension cannot do it."""
        found = self.request.scope.get("extensions", {}).get(EXTENSION)
        if found is None:
            raise InvalidArgument("hijack connection missing")
        return found  # type: ignore[no-any-return]

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        pieces = bytearray()
        async for piece in self.stream():
            pieces += piece
            if len(pieces) > limit:
                raise InvalidArgument("http: request body too large")
        return bytes(pieces)

    async def json(self, shape: Any, name: str, *, required: bool = False) -> Any:
        """The JSON body as `shape`; no body at all is {} unless it is required (moby httputils.ReadJSON)."""
        self._check_content_type()
        raw = await self.body()
        if not raw and not required:
            return {}
        return decode(raw, shape, name)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it arrives; a client that goes away in the middle is an error, never an end."""
        receive = self.request.receive
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body", False):
                return

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """Awaits `work`, cancelling it when the client hangs up."""
        connection = self.request.scope.get("extensions", {}).get(EXTENSION)
        if connection is None:
            return await work
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(connection.gone.wait())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise ClientGone
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    def registry_auth(self) -> dict[str, Any] | None:
        """X-Registry-Auth, or None: what cannot be decoded is no credential (as dockerd has it)."""
        return decode_auth(self.header("x-registry-auth"))

    def _check_content_type(self) -> None:
        given = self.header("content-type")
        if not given and not self._announces_body():
            return
        mime = Message()
        mime["content-type"] = given
        if not given:
            raise InvalidArgument("malformed Content-Type header (): mime: no media type")
        if mime.get_content_type() != "application/json":
            raise InvalidArgument(f"unsupported Content-Type header ({given}): must be 'application/json'")

    def _announces_body(self) -> bool:
        return self.header("content-length") not in ("", "0") or bool(self.header("transfer-encoding"))


def decode_auth(encoded: str) -> dict[str, Any] | None:
    """base64url with or without padding, plain base64 too; empty object and rubbish are None."""
    if not encoded:
        return None
    text = encoded.strip().replace("+", "-").replace("/", "_").rstrip("=")
    try:
        decoded = from_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        return None
    return decoded if isinstance(decoded, dict) and decoded else None


def answer(value: Any, status: int = 200) -> Response:
    """A JSON answer, serialised once; with the newline that Go's encoder leaves."""
    return Response(to_json(value) + b"\n", status, media_type="application/json")


def no_content() -> Response:
    return Response(status_code=204)


def empty(status: int = 200) -> Response:
    """No body but a length of 0, as a Go handler that writes nothing answers."""
    return Response(b"", status)


def missing(what: str, name: str) -> NotFound:
    return NotFound(f"No such {what}: {name}")


@dataclass(frozen=True, slots=True)
class Operation:
    """What the router and the OpenAPI document know of one operation."""

    method: str
    path: str
    id: str
    handler: Handler
    tag: str
    query: tuple[Parameter, ...] = ()
    body: Any = None
    """TypedDict of a JSON body, or a media type (str) of a raw one."""
    returns: Any = None
    status: int = 200
    produces: str = "application/json"
    errors: tuple[int, ...] = ()
    required: bool = field(default=False)
    """Whether the body may not be left out."""

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or self.id).strip().splitlines()[0]


class Resource(list[Operation]):
    """The operations of one resource, in the order they are matched."""

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.tag = tag

    def operation(self, method: str, path: str, id: str, **details: Any) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            self.append(Operation(method, path, id, handler, self.tag, **details))
            return handler

        return register
