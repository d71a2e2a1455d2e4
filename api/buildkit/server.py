"""gRPC on a hijacked connection: HTTP/2 without an upgrade request, as the client goes on after the 101."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import h2.config
from google.protobuf.any_pb2 import Any as Packed
from grpclib.config import Configuration
from grpclib.const import Handler as Method
from grpclib.const import Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchServerEvents
from grpclib.protocol import H2Protocol
from grpclib.server import Handler

from api.buildkit.bridge import Bridges
from api.buildkit.content import Content
from api.buildkit.control import Control
from api.buildkit.health import Health
from api.hijack import Raw
from daemon.build.proto import rpc_pb2

if TYPE_CHECKING:
    from daemon.engine import Engine

logging.getLogger("hpack").setLevel(logging.INFO)  # every header's every byte else, with --debug
WINDOW = 1 << 20
"""Bytes a client may send ahead."""


class Details(StatusDetailsCodecBase):
    """Error details as they are: a sequence of google.protobuf.Any."""

    def encode(self, status: Status, message: str | None, details: Sequence[Packed]) -> bytes:
        return rpc_pb2.Status(code=status.value, message=message or "", details=details).SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> Sequence[Packed]:
        return rpc_pb2.Status.FromString(data).details


class Server(H2Protocol):
    """One connection. `gone` is set when it is over."""

    def __init__(self, handler: Handler, config: Configuration) -> None:
        self.gone = asyncio.Event()
        h2_config = h2.config.H2Configuration(
            client_side=False, header_encoding="utf-8", validate_inbound_headers=False
        )
        super().__init__(handler, config, h2_config)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.gone.set()

    def eof_received(self) -> bool:
        """A client that ends its side hears nothing more: it is gone."""
        return False


def methods(engine: Engine) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for service in (Control(engine), Bridges(engine), Content(engine), Health()):
        found |= service.__mapping__()
    return found


async def serve(engine: Engine, raw: Raw) -> None:
    """Until the client goes; what it had under way is cancelled and over when this returns."""
    loop = asyncio.get_running_loop()
    config = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW)
    dispatch: Any = _DispatchServerEvents()
    handler = Handler(methods(engine), ProtoCodec(), Details(), dispatch)
    protocol = Server(handler, config.__for_server__())
    try:
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, raw.socket)
    except BaseException:
        raw.socket.close()
        raise
    try:
        if raw.early:
            protocol.data_received(raw.early)
        await protocol.gone.wait()
    finally:
        transport.close()
        handler.close()
        await asyncio.shield(handler.wait_closed())
        raw.socket.close()
