"""The daemon's end of the build worker."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from daemon.images.transfer.parent import Worker

ROOT = str(Path(__file__).parents[2])
_BOOT = f"import sys; sys.path.insert(0, {ROOT!r})\nfrom daemon.build.worker import main\nmain()"
_CREDENTIALS = struct.Struct("3i")


class Workshop(Worker):
    """A worker that is there while builds are; see daemon.build.worker for what it can be asked."""

    BOOT = _BOOT
    IDLE = 30.0
    """Longer than an image worker: people build again and again."""

    async def context(self, stream: AsyncIterator[bytes], directory: Path) -> dict[str, Any]:
        """Unpacks a request's body into a directory. What the stream raises (a client gone) is raised."""
        address = f"pyd-build-{secrets.token_hex(16)}"
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                _check_peer(writer.get_extra_info("socket"))
                await _feed(stream, writer)
                _settle(accepted, None)
            except Exception as error:
                _settle(accepted, error)
                writer.transport.abort()
            finally:
                writer.close()

        server = await asyncio.start_unix_server(serve, "\0" + address)
        unpacking = asyncio.ensure_future(self.call("context", address=address, directory=str(directory)))
        try:
            await asyncio.wait((unpacking, accepted), return_when=asyncio.FIRST_COMPLETED)
            if accepted.done() and (error := accepted.exception()) is not None:
                raise error
            done: dict[str, Any] = await unpacking
            return done
        finally:
            server.close()
            unpacking.cancel()
            await asyncio.gather(unpacking, return_exceptions=True)
            if not accepted.done():
                accepted.cancel()


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _check_peer(connection: socket.socket) -> None:
    """An abstract socket has no permissions of its own."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(raw)[1] != os.geteuid():
        raise PermissionError("a stranger on the build's socket")


async def _feed(stream: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    """A reader that has had enough tells why itself; the rest of the body is read and dropped."""
    broken = False
    async for data in stream:
        if broken:
            continue
        try:
            writer.write(data)
            await writer.drain()
        except (BrokenPipeError, ConnectionResetError):
            broken = True
