"""BuildKit's services on a hijacked connection: HTTP/2 as the client goes on after the 101."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.buildkit.bridge import Bridges
from api.buildkit.content import Content
from api.buildkit.control import Control
from api.buildkit.health import Health
from api.hijack import Raw
from daemon.rpc import serving

if TYPE_CHECKING:
    from socket import socket

    from daemon.build.doors.fronts import Front
    from daemon.engine import Engine


async def serve(engine: Engine, raw: Raw) -> None:
    """Until the client goes; what it had under way is cancelled and over when this returns."""
    services = (Control(engine), Bridges(engine), Content(engine), Health())
    await serving.serve(raw.socket, raw.early, services)


async def serve_front(engine: Engine, front: Front, connection: socket) -> None:
    """A front end that runs as an image, on its stdin and stdout."""
    await serving.serve(connection, b"", (Bridges(engine, front), Health()))
