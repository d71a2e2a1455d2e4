"""BuildKit's doors: POST /session and POST /grpc, whose connections become HTTP/2.

Source: moby api/server/router/session, api/server/router/grpc.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from starlette.responses import Response

from api.attach import Hijacked
from api.errors import message_of
from api.operation import POST, Call, Resource
from storage.errors import InvalidArgument, PydError

log = logging.getLogger("pyd.api")
RESOURCE = Resource("Session")
operation = RESOURCE.operation
_EXPOSE = "x-docker-expose-session-"


def _head(call: Call) -> bytes:
    """101 in the protocol asked for."""
    protocol = call.header("upgrade")
    if not protocol:
        raise InvalidArgument("no upgrade proto in request")
    if protocol != "h2c":
        raise InvalidArgument(f"protocol {protocol[:40]} not supported")
    return b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


@operation(POST, "/session", "Session", errors=(101, 400))
async def session(call: Call) -> Response:
    """A client's services for the builds that name it; the connection is one of HTTP/2 after the answer."""
    head = _head(call)
    id = call.header(f"{_EXPOSE}uuid")
    if not id:
        raise InvalidArgument("a session needs an ID (X-Docker-Expose-Session-Uuid)")
    methods = call.request.headers.getlist(f"{_EXPOSE}grpc-method")
    sessions = call.engine.builds.sessions
    raw = await call.connection.take(head)
    name, key = call.header(f"{_EXPOSE}name"), call.header(f"{_EXPOSE}sharedkey")
    return await _served(sessions.attach(id, name, key, frozenset(methods), raw))


@operation(POST, "/grpc", "Grpc", errors=(101, 400))
async def grpc(call: Call) -> Response:
    """BuildKit's Control and LLBBridge; the connection is one of HTTP/2 after the answer."""
    head = _head(call)
    from api.buildkit.server import serve  # some megabytes that only builders need

    return await _served(serve(call.engine, await call.connection.take(head)))


async def _served(work: Awaitable[None]) -> Response:
    """The answer was given: what goes wrong now is the log's."""
    try:
        await work
    except (PydError, OSError) as error:
        log.warning("a BuildKit connection ended: %s", message_of(error))
    return Hijacked()
