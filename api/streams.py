"""Responses whose body comes over time: JSON lines, 8-byte frames, archives.

A `Stream` sends its headers at once, even while the first piece is awaited (dockerd flushes an empty
chunk there; clients of wait, logs and events rely on it). When the client hangs up the source is
cancelled where it waits and closed, so nothing that it holds outlives the client. An error before the
headers is the caller's to answer; one after them goes into the body, in the form `on_error` gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import ClientGone, message_of
from api.hijack import EXTENSION, Connection
from storage.errors import PydError

log = logging.getLogger("pyd.api")

FRAME = struct.Struct(">BxxxL")
STDOUT, STDERR, SYSTEM_ERROR = 1, 2, 3
RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

OnError = Callable[[BaseException], bytes]


def frame(stream: int, data: bytes) -> bytes:
    """One piece of a multiplexed stream (moby api/pkg/stdcopy): stream number, three zeros, length."""
    return FRAME.pack(stream, len(data)) + data


def json_line(value: Any) -> bytes:
    return to_json(value) + b"\n"


def progress_line(value: Any) -> bytes:
    """Pull, push, load and build end their lines with CRLF (moby pkg/streamformatter)."""
    return to_json(value) + b"\r\n"


def json_error(error: BaseException) -> bytes:
    message = message_of(error)
    return progress_line({"errorDetail": {"message": message}, "error": message})


def frame_error(error: BaseException) -> bytes:
    """How a log stream reports that it broke (stdcopy.Systemerr)."""
    return frame(SYSTEM_ERROR, f"Error grabbing logs: {message_of(error)}\n".encode())


def raw_error(error: BaseException) -> bytes:
    return f"Error grabbing logs: {message_of(error)}\n".encode()


def no_error(error: BaseException) -> bytes:
    """For archives: nothing can be said inside a tar, the connection is cut instead."""
    raise error


class Stream(Response):
    """A response from an async iterator of bytes; see the module's docstring for its promises."""

    def __init__(
        self,
        source: AsyncIterator[bytes],
        *,
        media_type: str,
        on_error: OnError = no_error,
        headers: dict[str, str] | None = None,
        status: int = 200,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        del self.headers["content-length"]
        self.source = source
        self.on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_hung_up(scope, receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            cut = sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            connection = _connection(scope)
            if cut and connection is not None:
                connection.drop()

    async def _send_all(self, send: Send) -> None:
        try:
            async for piece in self.source:
                if piece:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception as error:
            foreseen = isinstance(error, (PydError, OSError, ClientGone))
            log.warning("a stream broke: %s", message_of(error), exc_info=None if foreseen else error)
            await send({"type": "http.response.body", "body": self.on_error(error), "more_body": True})
        finally:
            await _close(self.source)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _close(source: AsyncIterator[bytes]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()


def _connection(scope: Scope) -> Connection | None:
    found: Connection | None = scope.get("extensions", {}).get(EXTENSION)
    return found


async def _hung_up(scope: Scope, receive: Receive) -> None:
    """Returns when the client is gone: by the hijack extension, else (another server) by ASGI's word."""
    connection = _connection(scope)
    if connection is not None:
        await connection.gone.wait()
        return
    while (await receive())["type"] != "http.disconnect":
        pass


async def map_stream(source: AsyncIterator[Any], encode: Callable[[Any], bytes]) -> AsyncIterator[bytes]:
    """`encode` over every item; closing the result closes the source."""
    try:
        async for item in source:
            yield encode(item)
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def primed(source: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Waits for the first item, so that an error before it can still become a status code."""
    iterator = aiter(source)
    try:
        first = await anext(iterator)
    except StopAsyncIteration:
        return _chain((), iterator)
    return _chain((first,), iterator)


async def _chain(first: tuple[Any, ...], rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        for item in first:
            yield item
        async for item in rest:
            yield item
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()
