"""A client's end of a session, for tests: a gRPC server that can say what no real client says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from daemon.build.proto.filesync_pb2 import BytesMessage
from daemon.build.proto.fsutil_pb2 import Listed, Packet
from daemon.build.session.listing import GO_DIRECTORY, GO_SYMLINK
from daemon.build.session.sessions import Session, Sessions
from daemon.build.workshop import Workshop

SYNC = "/moby.filesync.v1.FileSync/DiffCopy"
SEND = "/moby.filesync.v1.FileSend/DiffCopy"
METHODS = frozenset(
    {
        SYNC,
        SEND,
        "/moby.buildkit.secrets.v1.Secrets/GetSecret",
        "/moby.filesync.v1.Auth/Credentials",
        "/moby.upload.v1.Upload/Pull",
        "/moby.sshforward.v1.SSH/ForwardAgent",
        "/moby.sshforward.v1.SSH/CheckAgent",
        "/containerd.services.content.v1.Content/Info",
    }
)
Served = Callable[[Stream[Any, Any]], Awaitable[None]]


class Raw:
    def __init__(self, connection: socket.socket) -> None:
        self.socket, self.early = connection, b""


class Service:
    """Handlers by method, in the form that grpclib wants."""

    def __init__(self, handlers: dict[str, tuple[Served, Cardinality, Any, Any]]) -> None:
        self._handlers = handlers

    def __mapping__(self) -> dict[str, Handler]:
        return {method: Handler(*each) for method, each in self._handlers.items()}


def syncing(served: Served) -> Service:
    return Service({SYNC: (served, Cardinality.STREAM_STREAM, Packet, Packet)})


class Job:
    """What a session needs of a build."""

    def __init__(self) -> None:
        self.stack = contextlib.AsyncExitStack()


@contextlib.asynccontextmanager
async def sessions(directory: Path) -> AsyncIterator[Sessions]:
    (directory / "content").mkdir(parents=True, exist_ok=True)
    workshop = Workshop(directory / "content")
    try:
        yield Sessions(workshop, directory / "contexts", directory / "sockets")
    finally:
        await workshop.close()


@contextlib.asynccontextmanager
async def attached(made: Sessions, path: Path, *services: Service, id: str = "s1") -> AsyncIterator[Session]:
    """A session with a client that offers the services. `path`: of the client's socket."""
    server = Server(list(services))
    await server.start(path=str(path))
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    connection.connect(str(path))
    serving = asyncio.create_task(made.attach(id, "test", "shared:key", METHODS, Raw(connection)))
    try:
        yield await made.get(id)
    finally:
        server.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        os.unlink(path)


# -- a sender of fsutil's protocol


class Directory:
    """What a client lists: entries and contents by path. `sent`: contents that were asked for."""

    def __init__(self) -> None:
        self.entries: dict[str, Listed] = {}
        self.contents: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.headers: dict[str, Any] = {}

    def file(self, path: str, data: bytes = b"", mode: int = 0o644, time: int = 10**18, **more: Any) -> None:
        self.entries[path] = Listed(path=path.encode(), mode=mode, size=len(data), mod_time=time, **more)
        self.contents[path] = data

    def directory(self, path: str, mode: int = 0o755, time: int = 10**18) -> None:
        self.entries[path] = Listed(path=path.encode(), mode=GO_DIRECTORY | mode, mod_time=time)

    def symlink(self, path: str, target: str) -> None:
        self.entries[path] = Listed(
            path=path.encode(), mode=GO_SYMLINK | 0o777, linkname=target.encode(), mod_time=10**18
        )

    def link(self, path: str, target: str) -> None:
        found = self.entries[target]
        self.entries[path] = Listed()
        self.entries[path].CopyFrom(found)
        self.entries[path].path, self.entries[path].linkname = path.encode(), target.encode()

    def remove(self, path: str) -> None:
        del self.entries[path]
        self.contents.pop(path, None)

    async def serve(self, stream: Stream[Any, Any]) -> None:
        """As tonistiigi/fsutil's Send."""
        self.headers = dict(stream.metadata or {})
        ordered = [self.entries[path] for path in sorted(self.entries, key=lambda p: p.replace("/", "\0"))]
        for entry in ordered:
            await stream.send_message(Packet(type=Packet.PACKET_STAT, stat=entry))
        await stream.send_message(Packet(type=Packet.PACKET_STAT))
        async for packet in stream:
            if packet.type == Packet.PACKET_FIN:
                await stream.send_message(Packet(type=Packet.PACKET_FIN))
                return
            assert packet.type == Packet.PACKET_REQ, packet
            path = ordered[packet.id].path.decode()
            self.sent.append(path)
            data = self.contents[path]
            for start in range(0, len(data), 32768):
                piece = data[start : start + 32768]
                await stream.send_message(Packet(type=Packet.PACKET_DATA, id=packet.id, data=piece))
            await stream.send_message(Packet(type=Packet.PACKET_DATA, id=packet.id))

    @property
    def service(self) -> Service:
        return syncing(self.serve)


__all__ = ["BytesMessage", "Directory", "Job", "Service", "attached", "sessions", "syncing"]
