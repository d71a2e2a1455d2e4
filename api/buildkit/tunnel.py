"""A session inside a gRPC stream: bake and Compose share one session among builds and bring it this way.

The stream's bytes are those of the connection that POST /session would have been; they are carried to one end of
a socket pair, whose other end goes where a client's socket would go. (BuildKit session/grpchijack)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from api.hijack import Raw
from daemon.build.proto import control_pb2
from daemon.rpc.serving import Call
from storage.errors import Unavailable

if TYPE_CHECKING:
    from daemon.build.session.sessions import Sessions

PIECE = 32 << 10
_EXPOSE = "x-docker-expose-session-"


async def carry(stream: Call, sessions: Sessions) -> None:
    """Until either side ends the session."""
    named = stream.metadata
    id, name, key = (named.get(f"{_EXPOSE}{part}") for part in ("uuid", "name", "sharedkey"))
    methods = frozenset(named.getall(f"{_EXPOSE}grpc-method"))
    await stream.send_initial_metadata()
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    tasks = [
        asyncio.ensure_future(work)
        for work in (
            sessions.attach(id, name, key, methods, Raw(theirs, b"")),
            _inwards(stream, ours),
            _outwards(stream, ours),
        )
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        ours.close()
        theirs.close()
    if isinstance(done[0], Exception):
        raise done[0]


async def _inwards(stream: Call, ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, Unavailable):
        while (message := await stream.recv_message()) is not None:
            await loop.sock_sendall(ours, message.data)


async def _outwards(stream: Call, ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, Unavailable):
        while data := await loop.sock_recv(ours, PIECE):
            await stream.send_message(control_pb2.BytesMessage(data=data))
