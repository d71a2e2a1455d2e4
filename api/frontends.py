"""The door for front ends that run as images: nothing of BuildKit's is imported before one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from socket import socket

    from daemon.build.doors.fronts import Front
    from daemon.engine import Engine


class FrontEnds:
    """daemon.build.doors.fronts.ImageDoor."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def serve(self, front: Front, connection: socket) -> None:
        from api.buildkit.server import serve_front

        await serve_front(self._engine, front, connection)

    def workers(self) -> str:
        from api.buildkit.workers import described

        return described(self._engine)
