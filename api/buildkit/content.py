"""containerd's content service, for what the history names: logs, failures, proofs, and the images that were made."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from api.buildkit.answering import answering
from daemon.build.proto import content_pb2 as pb
from daemon.rpc.serving import Call, Service
from daemon.rpc.status import Refusal, Status
from storage.errors import PydError

if TYPE_CHECKING:
    from daemon.engine import Engine

PIECE = 1 << 20


class Content(Service):
    descriptor = pb.DESCRIPTOR.services_by_name["Content"]

    def __init__(self, engine: Engine) -> None:
        self._builds, self._store = engine.builds, engine.images.store.content

    async def Info(self, stream: Call) -> None:
        async with answering(stream) as request:
            data = await self._record(request.digest)
            size = len(data) if data is not None else await self._size(request.digest)
            await stream.send_message(pb.InfoResponse(info=pb.Info(digest=request.digest, size=size)))

    async def Read(self, stream: Call) -> None:
        async with answering(stream) as request:
            data = await self._record(request.digest)
            size = len(data) if data is not None else await self._size(request.digest)
            end = min(request.offset + request.size, size) if request.size else size
            for at in range(max(request.offset, 0), end, PIECE):
                until = min(at + PIECE, end)
                piece = data[at:until] if data is not None else await self._piece(request.digest, at, until)
                await stream.send_message(pb.ReadContentResponse(offset=at, data=piece))

    async def _record(self, digest: str) -> bytes | None:
        return await self._builds.gateway().history.blob(digest)

    async def _size(self, digest: str) -> int:
        try:
            return await asyncio.to_thread(self._store.size, digest)
        except PydError:
            raise Refusal(Status.NOT_FOUND, f"content {digest}: not found") from None

    async def _piece(self, digest: str, at: int, until: int) -> bytes:
        def read() -> bytes:
            with self._store.open(digest) as file:
                return os.pread(file.fileno(), until - at, at)

        return await asyncio.to_thread(read)
