"""`attach`: replay what was logged if asked, then hand the client's socket to the keeper."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from daemon.containers.context import Context
from daemon.containers.detach import detach_keys
from daemon.containers.logs import reader
from daemon.containers.logs.entry import Place
from daemon.containers.logs.options import readable_path
from daemon.containers.logs.reader import LogQuery
from daemon.containers.model import Container
from daemon.runtime.client import Held, RuntimeCallError
from storage.errors import Conflict, Internal

AT_ONCE = 64 << 10
"""Bytes of a replay that are sent together."""


async def attach(
    ctx: Context,
    ref: str,
    client: socket.socket,
    *,
    stream: bool,
    logs: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    keys: str | None,
    early: bytes,
    framed: bool,
) -> None:
    """May come before the start. The keeper owns a duplicate of `client` afterwards; the caller closes its own."""
    container = ctx.registry.find(ref)
    escape = detach_keys(keys)
    query = LogQuery(stdout=stdout, stderr=stderr)

    async def join(replay: str | None = None) -> Held | None:
        return await ctx.runtime.attach(
            container.id,
            client,
            exec_id=None,
            stdin=stdin and container.open_stdin,
            stdout=stdout,
            stderr=stderr,
            tty=container.tty,
            framed=framed,
            detach_keys=escape,
            early=early,
            replay=replay,
        )

    try:
        if not stream:
            if logs:
                await _send(client, reader.read(ctx, container, query), framed=framed)
            return
        if logs:
            await _replay_and_join(ctx, container, client, query, join, framed=framed)
        else:
            await join()
    except RuntimeCallError as error:
        raise Internal(f"cannot attach to container {ref}: {error}") from error
    ctx.publish(container, "attach")


async def _replay_and_join(
    ctx: Context,
    container: Container,
    client: socket.socket,
    query: LogQuery,
    join: Callable[[str], Awaitable[Held | None]],
    *,
    framed: bool,
) -> None:
    """What was logged, then what comes: no gap and no repetition, since the keeper, which writes both, says where
    the log stood when it took the client. (moby replays first and attaches then; what comes between is lost.)"""
    held: Held | None = None

    async def hold() -> Place:
        nonlocal held
        held = await join(readable_path(container, ctx.config))
        assert held is not None
        return Place(held.inode, held.size)

    sent = False
    try:
        await _send(client, reader.read_until(ctx, container, query, hold), framed=framed)
        sent = True
    finally:
        if held is not None:
            await ctx.runtime.let_loose(held, drop=not sent)


async def _send(client: socket.socket, entries: AsyncIterator[tuple[int, bytes]], *, framed: bool) -> None:
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    ready = bytearray()
    async for number, text in entries:
        if framed:
            ready += struct.pack(">BxxxI", number, len(text))
        ready += text
        if len(ready) >= AT_ONCE:
            await loop.sock_sendall(client, ready)
            ready.clear()
    await loop.sock_sendall(client, ready)


def check(ctx: Context, ref: str, keys: str | None) -> None:
    """What must be known before the connection is taken over. Raises NotFound, Conflict, InvalidArgument."""
    container = ctx.registry.find(ref)
    detach_keys(keys)
    if container.state.paused:
        raise Conflict(f"container {ref} is paused, unpause the container before attach")
    if container.state.restarting:
        raise Conflict(f"container {ref} is restarting, wait until the container is running")
