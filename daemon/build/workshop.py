"""The daemon's end of the build worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from daemon.images.transfer.parent import Worker

ROOT = str(Path(__file__).parents[2])
_BOOT = f"import sys; sys.path.insert(0, {ROOT!r})\nfrom daemon.build.worker import main\nmain()"


class Workshop(Worker):
    """A worker that is there while builds are; see daemon.build.worker for what it can be asked."""

    BOOT = _BOOT
    IDLE = 30.0
    """Longer than an image worker: people build again and again."""

    async def context(self, stream: AsyncIterator[bytes], directory: Path) -> dict[str, Any]:
        """Unpacks a request's body into a directory. What the stream raises (a client gone) is raised."""
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        unpacking = asyncio.ensure_future(self.call("context", fd=theirs.detach(), directory=str(directory)))
        feeding = asyncio.ensure_future(_feed(stream, writer))
        try:
            await asyncio.wait((unpacking, feeding), return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
                writer.close()
            done: dict[str, Any] = await unpacking
            await feeding
            return done
        finally:
            for task in (unpacking, feeding):
                task.cancel()
            writer.transport.abort()
            await asyncio.gather(unpacking, feeding, return_exceptions=True)


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
