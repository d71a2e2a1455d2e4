"""A descriptor goes from the daemon to the build worker: a client's socket, or a pipe's end.

pydd listens on an abstract socket of a random name, tells the worker the name with its request, and hands the
descriptor (SCM_RIGHTS) to the first who connects, if it runs as we do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator

_CREDENTIALS = struct.Struct("3i")
TIMEOUT = 30.0


@contextlib.asynccontextmanager
async def offered(handed: int) -> AsyncIterator[str]:
    """The address at which the worker gets a descriptor, served as long as the block lasts; ours stays ours."""
    address = f"pyd-session-{secrets.token_hex(16)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.setblocking(False)
        listener.bind("\0" + address)
        listener.listen(1)
        task = asyncio.get_running_loop().create_task(_hand_over(listener, handed))
        try:
            yield address
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _hand_over(listener: socket.socket, handed: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        with connection:
            if peer(connection) == os.geteuid():
                socket.send_fds(connection, [b"s"], [handed])
                return


def receive(address: str) -> int:
    """In the worker, blocking: the descriptor that is offered. PermissionError when a stranger offers it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect("\0" + address)
        if peer(connection) != os.geteuid():
            raise PermissionError("a stranger offers a session")
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not descriptors:
        raise ConnectionError("nothing was handed over")
    return descriptors[0]


def peer(connection: socket.socket) -> int:
    """User ID at the other end; an abstract socket has no permissions of its own."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid
