"""containerd's content service, for what the history names: logs (and nothing of the image store)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.buildkit.answering import answering
from daemon.build.proto import content_pb2 as pb
from daemon.rpc.serving import Call, Service
from daemon.rpc.status import Refusal, Status

if TYPE_CHECKING:
    from daemon.engine import Engine

PIECE = 1 << 20


class Content(Service):
    descriptor = pb.DESCRIPTOR.services_by_name["Content"]

    def __init__(self, engine: Engine) -> None:
        self._builds = engine.builds

    async def Info(self, stream: Call) -> None:
        async with answering(stream) as request:
            data = await self._blob(request.digest)
            await stream.send_message(pb.InfoResponse(info=pb.Info(digest=request.digest, size=len(data))))

    async def Read(self, stream: Call) -> None:
        async with answering(stream) as request:
            data = await self._blob(request.digest)
            end = min(request.offset + request.size, len(data)) if request.size else len(data)
            for at in range(max(request.offset, 0), end, PIECE):
                piece = data[at : min(at + PIECE, end)]
                await stream.send_message(pb.ReadContentResponse(offset=at, data=piece))

    async def _blob(self, digest: str) -> bytes:
        found = await self._builds.gateway().history.blob(digest)
        if found is None:
            raise Refusal(Status.NOT_FOUND, f"content {digest}: not found")
        return found
