"""Where pyd's errors become Docker's answers: one table, one body form.

dockerd answers every error with `{"message": TEXT}` and a newline (moby
daemon/server/httputils.WriteJSON). Three deviations of its own are kept because clients know them:
a client older than 1.24 gets plain text, attach answers in the raw stream's content type, and an
unknown path or method is `404 page not found`.
"""

from __future__ import annotations

import logging

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from storage import errors

log = logging.getLogger("pyd.api")

STATUSES: dict[type[errors.PydError], int] = {
    errors.NotModified: 304,
    errors.InvalidArgument: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.Internal: 500,
    errors.NotImplementedYet: 501,
    errors.Unavailable: 503,
}

CLIENT_GONE = 499
"""nginx's "client closed request": nobody reads it, dockerd and we log it."""


class ClientGone(Exception):
    """The client closed its connection before its request was whole; nobody is left to answer."""


def status_of(error: BaseException) -> int:
    """The HTTP status for an error; a subclass inherits its parent's, a stranger is 500."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return 500


def message_of(error: BaseException) -> str:
    return str(error) or type(error).__name__


def error_body(message: str) -> bytes:
    return to_json({"message": message}) + b"\n"


def error_response(error: BaseException) -> Response:
    """Docker's answer to `error`; 304 has no body (RFC 9110, 15.4.5)."""
    status = status_of(error)
    if status == 304:
        return Response(status_code=304)
    return Response(error_body(message_of(error)), status, media_type="application/json")


def page_not_found() -> Response:
    return Response(error_body("page not found"), 404, media_type="application/json")


def answer_error(request: Request, error: Exception) -> Response:
    """What a handler raised, as the client sees it; a stranger is a bug, and its traceback is logged."""
    if isinstance(error, ClientGone):
        log.info("%s %s: the client went away", request.method, request.url.path)
        return Response(status_code=CLIENT_GONE)
    if not isinstance(error, errors.PydError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    elif status_of(error) >= 500:
        log.error("%s %s: %s", request.method, request.url.path, message_of(error))
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405; dockerd makes no difference between them."""
    if isinstance(error, HTTPException) and error.status_code not in (404, 405):
        return Response(error_body(str(error.detail)), error.status_code, media_type="application/json")
    return page_not_found()
