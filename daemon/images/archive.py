"""A worker process of its own for one archive, and the pipe through which the archive goes."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from daemon.images.transfer.parent import Worker

PIECE = 1 << 20


@asynccontextmanager
async def receiving(content_root: Path, stream: AsyncIterator[bytes]) -> AsyncIterator[Worker]:
    """A worker that reads `stream`. An error of the stream (a client that went away) ends in its favour."""
    reading, writing = os.pipe()
    worker = Worker(content_root, reading)
    try:
        await worker.start()
        pump = asyncio.create_task(_pump(stream, writing))
        try:
            yield worker
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
    except BaseException:
        await worker.close(kill=True)
        raise
    await worker.close()


@asynccontextmanager
async def alone(content_root: Path) -> AsyncIterator[Worker]:
    """A worker with nothing to read or write (commit)."""
    async with receiving(content_root, _nothing()) as worker:
        yield worker


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _pump(stream: AsyncIterator[bytes], descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # the worker has had enough: it says why
            async for data in stream:
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


@asynccontextmanager
async def sending(content_root: Path) -> AsyncIterator[tuple[Worker, asyncio.StreamReader]]:
    """A worker that writes an archive, and where to read it."""
    reading, writing = os.pipe()
    worker = Worker(content_root, writing)
    try:
        await worker.start()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=PIECE)
        pipe = os.fdopen(reading, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            yield worker, reader
        finally:
            transport.close()
    except BaseException:
        await worker.close(kill=True)
        raise
    await worker.close()


@asynccontextmanager
async def spool_directory(parent: Path) -> AsyncIterator[Path]:
    """A directory for an archive's members, gone at the end."""
    directory = parent / f"load-{secrets.token_hex(8)}"
    await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True)
    try:
        yield directory
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def clear_spools(parent: Path) -> None:
    """At the start: what an interrupted load left."""
    for left in parent.glob("load-*"):
        shutil.rmtree(left, ignore_errors=True)
