"""What the daemon may ask of sessions: operations of the build worker, each for one connection by its number."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from storage.errors import InvalidArgument, NotFound, Unavailable

if TYPE_CHECKING:
    from daemon.build.session.blobs import Blobs
    from daemon.rpc.http2 import Connection

Report = Callable[[dict[str, Any]], None]
INTERVAL = 0.1
"""Seconds between reports of progress."""
MAX_SECRET = 500 << 10
"""Bytes: BuildKit's limit (session/secrets/secretsprovider)."""


class SessionOperations:
    """`opened`: mounts a tree of layers for a while (daemon.build.worker has it)."""

    def __init__(self, opened: Callable[[dict[str, Any]], contextlib.AbstractContextManager[Any]]) -> None:
        self._opened = opened
        self._connections: dict[int, asyncio.Future[Connection]] = {}

    async def session(self, report: Report, number: int, fd: int, early: str) -> None:
        """Takes the client's socket over and keeps the connection; returns when it is over."""
        opening = self._connections[number] = asyncio.get_running_loop().create_future()
        try:
            from daemon.rpc.http2 import Connection

            received = socket.socket(fileno=fd)
            received.setblocking(False)
            connection = await Connection.opened(received, base64.b64decode(early))
            opening.set_result(connection)
            try:
                await connection.closed.wait()
            finally:
                connection.close()
        finally:
            del self._connections[number]
            opening.cancel()

    async def _connection(self, number: int) -> Connection:
        """Waited for while it is being opened."""
        opening = self._connections.get(number)
        if opening is not None:
            await asyncio.wait([opening])
        if opening is None or opening.cancelled():
            raise Unavailable("the client has gone")
        return opening.result()

    async def session_sync(
        self,
        report: Report,
        number: int,
        name: str,
        patterns: Mapping[str, Sequence[str]],
        directory: str,
        generation: int,
        base: str | None,
        in_place: bool,
        own: bool,
    ) -> dict[str, Any]:
        """A client's directory, as contexts.Fill has it."""
        from daemon.build.session import sync
        from daemon.build.session.receive import Receiver

        connection = await self._connection(number)
        where = Path(base) if base else None
        headers = sync.metadata(name, patterns)

        def made() -> Receiver:
            return Receiver(Path(directory), generation, where, in_place=in_place, own=own)

        result, received = await sync.receive(connection, made, headers, _every(report))
        report({"current": received})
        return result

    async def session_secret(self, report: Report, number: int, id: str) -> str | None:
        from daemon.build.proto.secrets_pb2 import GetSecretRequest, GetSecretResponse
        from daemon.rpc.calls import unary

        request = GetSecretRequest(id=id).SerializeToString()
        try:
            answer = await unary(
                await self._connection(number), "/moby.buildkit.secrets.v1.Secrets/GetSecret", request
            )
        except NotFound:
            return None
        data = GetSecretResponse.FromString(answer).data
        if len(data) > MAX_SECRET:
            raise InvalidArgument(f"invalid secret size {len(data)}, max {MAX_SECRET}")
        return base64.b64encode(data).decode()

    async def session_credentials(self, report: Report, number: int, host: str) -> dict[str, str]:
        from daemon.build.proto.filesync_pb2 import CredentialsRequest, CredentialsResponse
        from daemon.rpc.calls import unary

        request = CredentialsRequest(host=host).SerializeToString()
        answer = await unary(await self._connection(number), "/moby.filesync.v1.Auth/Credentials", request)
        found = CredentialsResponse.FromString(answer)
        return {"username": found.username, "secret": found.secret}

    async def session_agent(
        self, report: Report, number: int, id: str, path: str, uid: int, gid: int, mode: int
    ) -> None:
        """Serves an agent's socket until it is cancelled or the client goes."""
        from daemon.build.session import agent

        connection = await self._connection(number)
        await agent.check(connection, id)
        async with agent.listening(connection, id, Path(path), (uid, gid), mode):
            report({"open": True})
            await connection.closed.wait()

    async def session_upload(self, report: Report, number: int, url: str, path: str) -> None:
        from daemon.build.session import upload

        await upload.fetch(await self._connection(number), url, Path(path))

    async def session_send_tree(
        self,
        report: Report,
        number: int,
        exporter: int | str,
        tree: dict[str, Any] | None,
        prefix: str,
        time: int | None,
    ) -> None:
        from daemon.build.session import send

        with self._opened(tree) if tree and tree["lower"] else contextlib.nullcontext() as root:
            sender = send.Sender(root, prefix, time)
            sent = await send.tree(await self._connection(number), exporter, sender, _every(report))
        report({"current": sent})

    async def session_send_file(
        self,
        report: Report,
        number: int,
        exporter: int | str,
        metadata: dict[str, str],
        path: str = "",
        fd: int = -1,
    ) -> int:
        """A file by its path, or what comes from a pipe."""
        from daemon.build.session import send

        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else fd
        with _closing(source):
            return await send.stream(await self._connection(number), exporter, source, metadata)

    # -- content stores

    async def _blobs(self, number: int, store: str) -> Blobs:
        from daemon.build.session.blobs import Blobs

        return Blobs(await self._connection(number), store)

    async def session_blob_info(self, report: Report, number: int, store: str, digest: str) -> int | None:
        return await (await self._blobs(number, store)).info(digest)

    async def session_blob_read(
        self, report: Report, number: int, store: str, digest: str, path: str | None, limit: int
    ) -> str:
        return await (await self._blobs(number, store)).read(digest, Path(path) if path else None, limit)

    async def session_blob_write(
        self,
        report: Report,
        number: int,
        store: str,
        descriptor: dict[str, Any],
        path: str | None,
        data: str,
    ) -> None:
        found = Path(path) if path else None
        await (await self._blobs(number, store)).write(descriptor, found, base64.b64decode(data))

    async def session_blob_labels(
        self, report: Report, number: int, store: str, digest: str, labels: dict[str, str]
    ) -> None:
        await (await self._blobs(number, store)).labels(digest, labels)


def _every(report: Report) -> Callable[[int], None]:
    """Reports of bytes, not too many."""
    last = 0.0

    def progress(current: int) -> None:
        nonlocal last
        now = monotonic()
        if now - last >= INTERVAL:
            last = now
            report({"current": current})

    return progress


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)
