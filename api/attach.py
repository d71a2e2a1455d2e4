"""What attach and exec start share: heads of hijacked answers, and errors after them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import message_of, status_of
from api.hijack import Raw
from api.operation import Call
from api.streams import MULTIPLEXED, RAW, STDOUT, frame
from storage.errors import PydError

log = logging.getLogger("pyd.api")


class Hijacked(Response):
    """The answer was given on the raw connection: nothing is left to send."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


def attach_head(call: Call, *, framed: bool) -> bytes:
    """`101 UPGRADED` for a client that asked for it, else `200 OK` (moby postContainersAttach).

    The multiplexed content type came with API 1.42 and only for upgraded connections.
    """
    if not call.header("upgrade"):
        return f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n\r\n".encode()
    kind = MULTIPLEXED if framed and call.version >= (1, 42) else RAW
    return (
        f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    ).encode()


def refuse_raw(error: PydError) -> Response:
    """attach's own error form: the message as text, under the raw stream's content type."""
    return Response(f"{message_of(error)}\r\n", status_of(error), {"Connection": "close"}, RAW)


async def serve_hijacked(raw: Raw, work: Awaitable[None], *, framed: bool, complaint: str) -> None:
    """Runs `work` on a hijacked connection; its error goes into the stream, `{}` in `complaint`.

    Our descriptor is closed at the end in any case: the keeper has a duplicate by then.
    """
    try:
        await work
    except Exception as error:
        unforeseen = None if isinstance(error, (PydError, OSError)) else error
        log.error("hijacked request failed: %s", message_of(error), exc_info=unforeseen)
        text = complaint.format(message_of(error)).encode()
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(raw.socket, frame(STDOUT, text) if framed else text)
            raw.socket.shutdown(socket.SHUT_WR)  # the keeper may hold a duplicate already
    finally:
        raw.socket.close()
