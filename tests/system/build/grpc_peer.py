"""A BuildKit client of the tests' own: gRPC on a hijacked connection, to say what no stock client would."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from google.protobuf.message_factory import GetMessageClass
from grpclib import client
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.encoding.proto import ProtoCodec
from grpclib.protocol import H2Protocol

from daemon.build.proto import rpc_pb2


def upgraded(path: Path, target: str = "/grpc", *headers: str) -> socket.socket:
    """A connection to the daemon after its 101."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(str(path))
    lines = [f"POST {target} HTTP/1.1", "Host: pyd", "Connection: Upgrade", "Upgrade: h2c", *headers, "", ""]
    client.sendall("\r\n".join(lines).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        more = client.recv(1)
        assert more, answer
        answer += more
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return client


class Details(StatusDetailsCodecBase):
    """What errors carry besides their sentence, as it is: a sequence of google.protobuf.Any."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        raise NotImplementedError

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        return rpc_pb2.Status.FromString(data).details


class Hijacked(Channel):
    """grpclib's channel over a connection that is there already."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__("localhost", 0, status_details_codec=Details(), codec=ProtoCodec())
        self._connection = connection

    async def _create_connection(self) -> H2Protocol:
        self._connection.setblocking(False)
        made: Any = await asyncio.get_running_loop().create_connection(
            self._protocol_factory, sock=self._connection
        )
        protocol: H2Protocol = made[1]
        return protocol


@contextlib.asynccontextmanager
async def channel(path: Path) -> AsyncIterator[Channel]:
    made = Hijacked(await asyncio.to_thread(upgraded, path))
    try:
        yield made
    finally:
        made.close()


_KINDS = {
    (False, False): client.UnaryUnaryMethod,
    (False, True): client.UnaryStreamMethod,
    (True, False): client.StreamUnaryMethod,
    (True, True): client.StreamStreamMethod,
}


def stub(connection: Channel, module: ModuleType, service: str) -> Any:
    """A service's methods, as grpclib calls them."""
    described = module.DESCRIPTOR.services_by_name[service]
    return SimpleNamespace(
        **{
            each.name: _KINDS[each.client_streaming, each.server_streaming](
                connection,
                f"/{described.full_name}/{each.name}",
                GetMessageClass(each.input_type),
                GetMessageClass(each.output_type),
            )
            for each in described.methods
        }
    )
