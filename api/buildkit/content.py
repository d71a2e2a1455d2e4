"""containerd's content service, for what the history names: logs (and nothing of the image store)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from api.buildkit.answering import answering
from daemon.build.proto import content_pb2 as pb

if TYPE_CHECKING:
    from daemon.engine import Engine

SERVICE = "/containerd.services.content.v1.Content"
PIECE = 1 << 20


class Content:
    def __init__(self, engine: Engine) -> None:
        self._builds = engine.builds

    def __mapping__(self) -> dict[str, Handler]:
        unary, stream = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        return {
            f"{SERVICE}/Info": Handler(self.info, unary, pb.InfoRequest, pb.InfoResponse),
            f"{SERVICE}/Read": Handler(self.read, stream, pb.ReadContentRequest, pb.ReadContentResponse),
        }

    async def info(self, stream: Any) -> None:
        async with answering(stream) as request:
            data = await self._blob(request.digest)
            await stream.send_message(pb.InfoResponse(info=pb.Info(digest=request.digest, size=len(data))))

    async def read(self, stream: Any) -> None:
        async with answering(stream) as request:
            data = await self._blob(request.digest)
            end = min(request.offset + request.size, len(data)) if request.size else len(data)
            for at in range(max(request.offset, 0), end, PIECE):
                piece = data[at : min(at + PIECE, end)]
                await stream.send_message(pb.ReadContentResponse(offset=at, data=piece))

    async def _blob(self, digest: str) -> bytes:
        found = await self._builds.gateway().history.blob(digest)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f"content {digest}: not found")
        return found
