"""The raw connection behind a request: an ASGI extension over uvicorn's httptools protocol.

Docker's attach, exec start and BuildKit's session turn an HTTP connection into a plain byte stream:
after `101 UPGRADED` (or `200 OK` for a client that sent no Upgrade header) both sides write what they
like. ASGI has no word for that, so `HijackProtocol` puts a `Connection` under
`scope["extensions"]["pyd.hijack"]`:

    connection = scope["extensions"]["pyd.hijack"]
    raw = await connection.take(head)      # sends `head`, the server lets go of the connection
    raw.socket                             # a socket of our own, non-blocking, for whoever serves it
    raw.early                              # what the client had sent already after its request
    await connection.gone.wait()           # for streams: the client has hung up

On a plain socket `raw.socket` is a duplicate of the client's descriptor and the transport is dropped
without shutdown(2), so the stream goes on without this process in between. On TLS it is one end of a
socket pair, and `api.pump` carries the bytes.

Two quirks are dealt with here. httptools ends a request that carries Upgrade at its headers and leaves
the body (exec start has one) to us. And bytes that follow a hijackable request without Upgrade are not
the next request, so they must not reach the parser.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import ClientGone
from api.pump import pump_transport

EXTENSION = "pyd.hijack"
EARLY_LIMIT = 1 << 20
"""Bytes kept for a client that talks before it is answered; beyond it the socket waits."""

HIJACKABLE = re.compile(
    rb"(?:POST|GET) (?:/v[0-9.]+)?/(?:containers/[^/? ]+/attach|exec/[^/? ]+/start|session|grpc)[? ]"
)
UPGRADE_HEADER = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Raw:
    """A hijacked connection; whoever holds it closes the socket."""

    socket: socket.socket
    early: bytes


class Connection:
    """What a request may know of and do with the connection it came on."""

    __slots__ = ("_protocol", "gone")

    def __init__(self, protocol: HijackProtocol, gone: asyncio.Event) -> None:
        self._protocol = protocol
        self.gone = gone

    async def take(self, head: bytes) -> Raw:
        """Sends `head` (status line and headers, whole) and takes the connection from the server."""
        protocol = self._protocol
        transport = protocol.transport
        transport.set_write_buffer_limits(1, 0)  # with 0 for both, TLS would wait without having written
        await protocol.flow.drain()  # an earlier, pipelined answer may still be on its way
        if transport.is_closing():
            raise ClientGone
        if transport.get_extra_info("ssl_object") is not None:
            return self._take_by_pump(head)
        transport.pause_reading()
        raw = socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno()))
        raw.setblocking(False)  # the descriptor is already; the Python object must know
        early = protocol.let_go()
        transport.abort()
        try:
            await asyncio.get_running_loop().sock_sendall(raw, head)
        except OSError:
            raw.close()
            raise ClientGone from None
        return Raw(raw, early)

    def drop(self) -> None:
        """Cuts the connection in the middle of an answer that nobody hears any more."""
        self._protocol.let_go()
        with contextlib.suppress(AttributeError):  # asyncio's TLS transport, when it is lost already
            self._protocol.transport.abort()

    def _take_by_pump(self, head: bytes) -> Raw:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        transport = self._protocol.transport
        early = self._protocol.let_go()
        transport.set_write_buffer_limits()
        transport.write(head)
        pump_transport(transport, ours)
        return Raw(theirs, early)


class HijackProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol that can let go of its connection."""

    early: bytearray | None = None
    """Not None: HTTP is over on this connection, at least until the present request is answered."""
    missing = 0
    """Bytes of a body that httptools does not parse, because its request carries Upgrade."""
    upgrading = False
    gone: asyncio.Event

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.gone = asyncio.Event()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = {EXTENSION: Connection(self, self.gone)}

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self.early is not None:
            self._after_request(data)
            return
        self._unset_keepalive_if_required()
        if self.cycle is None or self.cycle.response_complete:
            data = self._cut_hijackable(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stop:
            self._upgraded(data[stop.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("400 Bad Request")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that has shut down its side still gets its answer; streams to it end (as Go's do)."""
        self._hang_up()
        waiting = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if waiting:
            self.cycle.keep_alive = False
        return waiting

    def connection_lost(self, exc: Exception | None) -> None:
        self._hang_up()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Bytes kept back are the next request after all, when this one was not hijacked."""
        early, self.early = self.early, None
        super().on_response_complete()
        if early and not self.upgrading and not self.transport.is_closing():
            self.data_received(bytes(early))

    def let_go(self) -> bytes:
        """Marks the present request answered and forgets the connection; returns what came early."""
        cycle = self.cycle
        cycle.response_started = cycle.response_complete = True
        cycle.on_response = lambda: None
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        early, self.early = bytes(self.early or b""), bytearray()
        return early

    def _hang_up(self) -> None:
        if self.scope is not None:
            self.gone.set()

    def _cut_hijackable(self, data: bytes) -> bytes:
        """The request in `data` alone, when it may be hijacked and has no Upgrade; the rest is kept."""
        if not HIJACKABLE.match(data):
            return data
        end = data.find(b"\r\n\r\n")
        if end < 0 or UPGRADE_HEADER.search(data, 0, end):
            return data
        length = CONTENT_LENGTH.search(data, 0, end + 2)
        whole = end + 4 + (int(length[1]) if length else 0)
        if whole <= len(data):
            self.early = bytearray(data[whole:])
        return data[:whole]

    def _upgraded(self, rest: bytes) -> None:
        self.upgrading = True
        self.early = bytearray()
        self.cycle.keep_alive = False
        headers = dict(self.headers)
        if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
            self.send_400_response("400 Bad Request: chunked body with Upgrade")
            return
        length = headers.get(b"content-length", b"0")
        self.missing = int(length) if length.isdigit() else 0
        self._after_request(rest)

    def _after_request(self, data: bytes) -> None:
        if self.upgrading and self.cycle.more_body:
            body, data = data[: self.missing], data[self.missing :]
            self.missing -= len(body)
            self.cycle.body += body
            self.cycle.more_body = self.missing > 0
            self.cycle.message_event.set()
        assert self.early is not None
        self.early += data
        if len(self.early) > EARLY_LIMIT:
            self.flow.pause_reading()
