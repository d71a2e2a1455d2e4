"""`attach`: replay what was logged if asked, then hand the client's socket to the keeper."""

from __future__ import annotations

import asyncio
import socket
import struct

from daemon.containers.context import Context
from daemon.containers.detach import detach_keys
from daemon.containers.logs import reader
from daemon.containers.logs.reader import LogQuery
from daemon.runtime.client import RuntimeCallError
from storage.errors import Conflict, Internal


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
    if logs:
        await _replay(ctx, ref, client, stdout=stdout, stderr=stderr, framed=framed)
    if not stream:
        return
    try:
        await ctx.runtime.attach(
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
        )
    except RuntimeCallError as error:
        raise Internal(f"cannot attach to container {ref}: {error}") from error
    ctx.publish(container, "attach")


def check(ctx: Context, ref: str, keys: str | None) -> None:
    """What must be known before the connection is taken over. Raises NotFound, Conflict, InvalidArgument."""
    container = ctx.registry.find(ref)
    detach_keys(keys)
    if container.state.paused:
        raise Conflict(f"container {ref} is paused, unpause the container before attach")
    if container.state.restarting:
        raise Conflict(f"container {ref} is restarting, wait until the container is running")


async def _replay(
    ctx: Context, ref: str, client: socket.socket, *, stdout: bool, stderr: bool, framed: bool
) -> None:
    container = ctx.registry.find(ref)
    query = LogQuery(stdout=stdout, stderr=stderr)
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    async for number, text in reader.read(ctx, container, query):
        await loop.sock_sendall(client, (struct.pack(">BxxxI", number, len(text)) + text) if framed else text)
