"""gRPC calls that we answer, on one connection (grpc/grpc, doc/PROTOCOL-HTTP2.md).

    Service   an object with a coroutine for each method, and the descriptor that says what these take and give
    Call      one call, as the method has it: messages in, messages out
    serve     a connection's calls, until the peer goes

A method that raises Refusal ends its call so; one that returns ends it well. A call that the peer resets, or whose
time is over, is cancelled.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import logging
import struct
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from daemon.rpc.http2 import Accepted, Fields, Stream
from daemon.rpc.status import Refusal, Status
from storage.errors import Unavailable

log = logging.getLogger("pyd.api")
logging.getLogger("hpack").setLevel(logging.INFO)  # every header's every byte else, with --debug
MAX_MESSAGE = 16 << 20
"""containerd's defaults.DefaultMaxRecvMsgSize."""
_PREFIX = struct.Struct(">BI")
_HEAD = [(":status", "200"), ("content-type", "application/grpc")]
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True)
class Method:
    """One method of a service: what answers it, and the class of its requests."""

    answer: Callable[[Call], Awaitable[None]]
    request: type[Message]


class Service:
    """A coroutine for each of the descriptor's methods, by its name; what is missing is unimplemented."""

    descriptor: ServiceDescriptor

    def methods(self) -> dict[str, Method]:
        """By path."""
        return {
            path: Method(getattr(self, name), request)
            for path, name, request in _described(self.descriptor)
            if hasattr(self, name)
        }


@functools.cache
def _described(service: ServiceDescriptor) -> list[tuple[str, str, type[Message]]]:
    """Of each method its path, its name and the class of its requests: asked for by each connection."""
    return [
        (
            f"/{service.full_name}/{method.name}",
            str(method.name),
            message_factory.GetMessageClass(method.input_type),
        )
        for method in service.methods
    ]


class Metadata:
    """A request's headers; a name may be there more than once."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self._fields if key == name), default)

    def getall(self, name: str) -> list[str]:
        return [value for key, value in self._fields if key == name]


class Call:
    """One call."""

    def __init__(self, stream: Stream, request: type[Message]) -> None:
        self.metadata = Metadata(stream.fields)
        self._stream, self._request = stream, request
        self._rest = b""
        self._messages: list[bytes] = []
        self._begun = False

    async def recv_message(self) -> Any:
        """The next message, None after the last. Unavailable when the peer has gone."""
        while not self._messages:
            parts = await self._stream.take()
            if not parts:
                if self._rest:
                    raise Refusal(Status.INTERNAL, "the request ends within a message")
                return None
            self._split(b"".join([self._rest, *parts]))
        try:
            return self._request.FromString(self._messages.pop(0))
        except DecodeError as error:
            raise Refusal(Status.INTERNAL, f"a message that is not one: {error}") from None

    def _split(self, data: bytes) -> None:
        at, end = 0, len(data)
        while end - at >= 5:
            compressed, size = _PREFIX.unpack_from(data, at)
            if compressed:
                raise Refusal(Status.UNIMPLEMENTED, "compressed messages are not understood")
            if size > MAX_MESSAGE:
                text = f"grpc: received message larger than max ({size} vs. {MAX_MESSAGE})"
                raise Refusal(Status.RESOURCE_EXHAUSTED, text)
            if at + 5 + size > end:
                break
            self._messages.append(data[at + 5 : at + 5 + size])
            at += 5 + size
        self._rest = data[at:]

    async def send_initial_metadata(self, more: Sequence[tuple[str, str]] = ()) -> None:
        """Says that the call goes on, before the first message; once. `more`: headers besides."""
        if not self._begun:
            self._begun = True
            self._stream.head([*_HEAD, *more])

    async def send_message(self, message: Message) -> None:
        await self.send_initial_metadata()
        data = message.SerializeToString()
        await self._stream.send(_PREFIX.pack(0, len(data)) + data)

    def end(self, status: int, message: str = "", details: Iterable[Any] = ()) -> None:
        fields = [("grpc-status", str(int(status)))]
        if message:
            fields.append(("grpc-message", urllib.parse.quote(message, safe=_PLAIN)))
        if packed := list(details):
            fields.append(("grpc-status-details-bin", _packed(status, message, packed)))
        self._stream.head(fields if self._begun else [*_HEAD, *fields], end=True)
        self._stream.finish()


_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def _packed(status: int, message: str, details: list[Any]) -> str:
    """google.rpc.Status, as headers carry bytes."""
    from daemon.build.proto import rpc_pb2

    data = rpc_pb2.Status(code=status, message=message, details=details).SerializeToString()
    return base64.b64encode(data).decode().rstrip("=")


class Calls:
    """A connection's calls: each a task."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, stream: Stream) -> None:
        headers = stream.headers or {}
        if not headers.get("content-type", "").startswith("application/grpc"):
            stream.head([(":status", "415")], end=True)
            stream.finish()
            return
        method = self._methods.get(headers.get(":path", ""))
        if method is None:
            call = Call(stream, Message)
            call.end(Status.UNIMPLEMENTED, f"unknown method {headers.get(':path', '')}")
            return
        task = asyncio.ensure_future(_answered(Call(stream, method.request), method, _seconds(headers)))
        stream.on_cut = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def over(self) -> None:
        """Cancels those that are left, and waits for them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _answered(call: Call, method: Method, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await method.answer(call)
    except Refusal as refusal:
        call.end(refusal.status, refusal.message, refusal.details)
    except TimeoutError:
        call.end(Status.DEADLINE_EXCEEDED, "context deadline exceeded")
    except Unavailable:
        call.end(Status.UNAVAILABLE, "the client has gone")
    except asyncio.CancelledError:
        call.end(Status.CANCELLED, "context canceled")
        raise
    except Exception:
        log.exception("a gRPC call failed")
        call.end(Status.UNKNOWN, "internal error")
    else:
        call.end(Status.OK)


def _seconds(headers: Mapping[str, str]) -> float | None:
    """grpc-timeout: at most eight digits and a unit."""
    given = headers.get("grpc-timeout", "")
    if given[:-1].isdigit() and given[-1] in _UNITS:
        return int(given[:-1]) * _UNITS[given[-1]]
    return None


async def serve(sock: socket, early: bytes, services: Iterable[Service]) -> None:
    """Until the peer goes; what it had under way is cancelled and over when this returns.

    `sock` is a connected stream socket, taken over and closed; `early` was read from it already.
    """
    methods = {path: method for service in services for path, method in service.methods().items()}
    calls = Calls(methods)
    connection = Accepted(calls.begin)
    try:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
    except BaseException:
        sock.close()
        raise
    try:
        if early:
            connection.data_received(early)
        await connection.closed.wait()
    finally:
        transport.close()
        await asyncio.shield(calls.over())
        with contextlib.suppress(OSError):
            sock.close()
