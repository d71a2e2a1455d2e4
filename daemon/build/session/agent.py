"""A client's ssh agent behind a socket for RUN steps (moby.sshforward.v1): a call for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from daemon.build.proto.filesync_pb2 import BytesMessage
from daemon.build.proto.sshforward_pb2 import CheckAgentRequest
from daemon.rpc.calls import Call, call, unary
from daemon.rpc.http2 import Connection
from storage.errors import NotFound, NotImplementedYet, PydError

CHECK, FORWARD = "/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"
_PIECE = 32 << 10
MAX_CONNECTIONS = 64


async def check(connection: Connection, id: str) -> None:
    """NotFound when the client forwards no agent of that ID."""
    try:
        await unary(connection, CHECK, CheckAgentRequest(id=id).SerializeToString())
    except NotImplementedYet:
        raise NotFound(f'no SSH key "{id}" forwarded from the client') from None
    except PydError as error:
        if "unset ssh forward key" in str(error):
            raise NotFound(str(error)) from None
        raise


@contextlib.asynccontextmanager
async def listening(
    connection: Connection, id: str, path: Path, owner: tuple[int, int], mode: int
) -> AsyncIterator[None]:
    """The socket at `path`, for as long as the block lasts."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        tasks.add(task)
        try:
            await _forward(connection, id, reader, writer)
        except (PydError, OSError):
            writer.transport.abort()
        finally:
            tasks.discard(task)
            writer.close()

    with _bound(path, owner, mode) as listener:
        server = await asyncio.start_unix_server(serve, sock=listener)
        try:
            yield
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _bound(path: Path, owner: tuple[int, int], mode: int) -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # a socket's address holds 107 bytes, whatever the daemon's directories are called
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.chown(path.name, *owner, dir_fd=directory, follow_symlinks=False)
        os.chmod(path.name, mode, dir_fd=directory)
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=directory)
        os.close(directory)


async def _forward(
    connection: Connection, id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async with await call(connection, FORWARD, [("buildkit.ssh.id", id)]) as under_way:
        up = asyncio.create_task(_up(under_way, reader))
        try:
            while batch := await under_way.batch():
                for message in batch:
                    writer.write(BytesMessage.FromString(message).data)
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.write_eof()
            await up
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)


async def _up(under_way: Call, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_PIECE):
        await under_way.send([BytesMessage(data=data).SerializeToString()])
    await under_way.end()
