"""Carries bytes between a client that has no descriptor of its own (TLS, websocket) and a socket pair.

The other end of the pair goes where a plain client's socket would go, so the engine knows one kind of
client only. Each direction reads only as fast as the other side takes it. Neither TLS (as asyncio has
it) nor websockets can be closed half way, so the end of one direction ends both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

CHUNK = 64 << 10
Work = Coroutine[Any, Any, None]
_running: set[asyncio.Task[None]] = set()
"""Strong references: the loop itself holds tasks weakly."""


def run(work: Work) -> None:
    """Lets a pump run on its own until it ends."""
    running = asyncio.get_running_loop().create_task(work)
    _running.add(running)
    running.add_done_callback(_running.discard)


async def both(inwards: Work, outwards: Work, finish: Callable[[], None]) -> None:
    """Runs both directions until one ends; a broken connection is an end like any other."""
    tasks = [asyncio.ensure_future(inwards), asyncio.ensure_future(outwards)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await task
        finish()


async def connect_stream(
    connection: socket.socket, early: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """asyncio streams over a connected socket, with what was read of it already put first."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
    reader.feed_data(early)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, sock=connection)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def pump_transport(transport: asyncio.Transport, pair: socket.socket) -> None:
    """Joins an asyncio transport (TLS) and our end of a socket pair until either side closes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    transport.resume_reading()

    async def inwards() -> None:
        while data := await reader.read(CHUNK):
            await loop.sock_sendall(pair, data)

    async def outwards() -> None:
        while data := await loop.sock_recv(pair, CHUNK):
            writer.write(data)
            await writer.drain()

    def finish() -> None:
        pair.close()
        writer.close()

    run(both(inwards(), outwards(), finish))
