"""Carries bytes between a client that has no descriptor of its own (TLS, websocket) and a socket pair.

The other end of the pair goes where a plain client's socket would go, so the engine knows one kind of
client only. Each direction reads only as fast as the other side takes it. A websocket cannot be closed
half way, so the end of one direction ends both. A TLS client can: its end of stdin is a close_notify, and
what the container says after it still has to arrive (`docker run -i` piped into relies on it).
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


class _Streams(asyncio.StreamReaderProtocol):
    """Says when the connection is gone altogether, which for the reader looks like its peer's end of file."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


def keep_half_open(transport: asyncio.Transport) -> Callable[[], None]:
    """Lets the peer of a TLS transport end its own side only; returns what closes the transport.

    asyncio answers a close_notify with its own at once, and drops what is written later. OpenSSL itself has
    no quarrel with writing on (SSL_shutdown(3): the directions are closed one by one), so all it takes is
    that SSLProtocol does not begin its shutdown by itself. asyncio has no public word for that.
    """
    tls: Any = transport._ssl_protocol  # type: ignore[attr-defined]
    shut_down = tls._start_shutdown
    tls._start_shutdown = lambda *arguments: None

    def close() -> None:
        tls._start_shutdown = shut_down
        transport.close()

    return close


async def until_answered(
    inwards: Work, outwards: Work, lost: asyncio.Event, finish: Callable[[], None]
) -> None:
    """Runs both directions until the outward one ends or the connection is gone."""
    tasks = [asyncio.ensure_future(work) for work in (inwards, outwards, lost.wait())]
    try:
        await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await task
        finish()


def pump_transport(transport: asyncio.Transport, pair: socket.socket) -> None:
    """Joins an asyncio transport (TLS) and our end of a socket pair; the client may close its side first."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
    protocol = _Streams(reader, loop)
    close = keep_half_open(transport)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    transport.resume_reading()

    async def inwards() -> None:
        while data := await reader.read(CHUNK):
            await loop.sock_sendall(pair, data)
        pair.shutdown(socket.SHUT_WR)

    async def outwards() -> None:
        while data := await loop.sock_recv(pair, CHUNK):
            writer.write(data)
            await writer.drain()

    def finish() -> None:
        pair.close()
        close()

    run(until_answered(inwards(), outwards(), protocol.lost, finish))
