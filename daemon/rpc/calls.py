"""gRPC calls over a session's connection (grpc/grpc, doc/PROTOCOL-HTTP2.md).

A message is a byte that says whether it is compressed (we announce no compression, so it never is), its length in
four bytes, and itself. The outcome of a call is in the trailers; it becomes an error of ours.
"""

from __future__ import annotations

import struct
import urllib.parse
from collections.abc import Iterable, Sequence
from types import TracebackType

from daemon.rpc.http2 import Connection, Headers, Stream
from storage import errors
from storage.errors import DataCorrupted, Internal, PydError

MAX_MESSAGE = 16 << 20
"""containerd's defaults.DefaultMaxRecvMsgSize."""
Metadata = Sequence[tuple[str, str]]

_PREFIX = struct.Struct(">BI")
_KINDS: dict[int, type[PydError]] = {
    1: errors.Internal,
    3: errors.InvalidArgument,
    4: errors.Unavailable,
    5: errors.NotFound,
    6: errors.Conflict,
    7: errors.Forbidden,
    12: errors.NotImplementedYet,
    14: errors.Unavailable,
    16: errors.Unauthenticated,
}
"""Status codes (google/rpc/code.proto) that have a name here; all others are Internal."""


class Call:
    """A call under way: `async with`, so that one that is left early is reset."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = b""

    async def send(self, messages: Iterable[bytes], *, end: bool = False) -> None:
        framed = [part for message in messages for part in (_PREFIX.pack(0, len(message)), message)]
        await self._stream.send(b"".join(framed), end=end)

    async def end(self) -> None:
        """No more messages from us."""
        await self._stream.send(b"", end=True)

    async def batch(self) -> list[bytes]:
        """The messages that have come since the last batch, waited for; empty at the end, when that was a good one.

        Raises what the status says otherwise.
        """
        while True:
            parts = await self._stream.take()
            if not parts:
                self._finish()
                return []
            messages = self._split(b"".join([self._rest, *parts]) if self._rest or parts[1:] else parts[0])
            if messages:
                return messages

    async def only(self) -> bytes:
        """The one message of a call that answers with one."""
        found: list[bytes] = []
        while messages := await self.batch():
            found += messages
        if len(found) != 1:
            raise DataCorrupted(f"the client answered with {len(found)} messages")
        return found[0]

    def _split(self, data: bytes) -> list[bytes]:
        messages = []
        at, end = 0, len(data)
        while end - at >= 5:
            compressed, size = _PREFIX.unpack_from(data, at)
            if compressed or size > MAX_MESSAGE:
                raise DataCorrupted("the client sent a message that is compressed or too large")
            following = at + 5 + size
            if following > end:
                break
            messages.append(data[at + 5 : following])
            at = following
        self._rest = data[at:]
        return messages

    def _finish(self) -> None:
        headers = self._stream.headers or {}
        trailers = self._stream.trailers or headers
        check_status(headers, trailers)
        if self._rest:
            raise DataCorrupted("the client's answer ends within a message")

    async def __aenter__(self) -> Call:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def check_status(headers: Headers, trailers: Headers) -> None:
    """Raises the error that the outcome of a call is, if it is one."""
    code = trailers.get("grpc-status")
    if code is None:
        raise Internal(f"the client answered with HTTP status {headers.get(':status')} and no gRPC status")
    if code != "0":
        message = urllib.parse.unquote(trailers.get("grpc-message", "")) or f"gRPC status {code}"
        raise _KINDS.get(int(code) if code.isdigit() else 2, Internal)(message[:4096])


async def call(connection: Connection, method: str, metadata: Metadata = ()) -> Call:
    """Begins a call of "/service/method"."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "pyd"),
        *metadata,
    ]
    return Call(await connection.request(headers))


async def unary(connection: Connection, method: str, message: bytes, metadata: Metadata = ()) -> bytes:
    """One message for one message."""
    async with await call(connection, method, metadata) as under_way:
        await under_way.send([message], end=True)
        return await under_way.only()
