"""Just enough of RFC 6455 for attach by websocket: the handshake, and bytes both ways.

The client's messages become bytes for the container and the container's bytes become messages, binary
ones since API 1.28 and text before. Messages carry no meaning of their own; fragments are joined by
simply passing them on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import socket
import struct
from collections.abc import Mapping

from api.hijack import Raw
from api.pump import CHUNK, both, connect_stream, run
from storage.errors import InvalidArgument

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FINAL, MASKED = 0x80, 0x80
LIMIT = 16 << 20


def handshake_key(headers: Mapping[str, str]) -> bytes:
    """The client's key; raises InvalidArgument for what is no websocket handshake (RFC 6455, 4.2.1)."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or headers.get("sec-websocket-version") != "13":
        raise InvalidArgument("bad request: not a websocket handshake")
    try:
        decoded = base64.b64decode(key, validate=True)
    except binascii.Error:
        decoded = b""
    if len(decoded) != 16:
        raise InvalidArgument("bad request: Sec-WebSocket-Key is not 16 bytes in base64")
    return key.encode()


def accept_head(key: bytes) -> bytes:
    accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def encode(opcode: int, payload: bytes) -> bytes:
    """One unfragmented, unmasked frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes((FINAL | opcode, size)) + payload
    if size < 1 << 16:
        return struct.pack(">BBH", FINAL | opcode, 126, size) + payload
    return struct.pack(">BBQ", FINAL | opcode, 127, size) + payload


def unmask(payload: bytes, mask: bytes) -> bytes:
    """XOR with the repeated mask, done as one big integer."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and payload; a client's frame must be masked (RFC 6455, 5.1)."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        size = struct.unpack(">H", await reader.readexactly(2))[0]
    elif size == 127:
        size = struct.unpack(">Q", await reader.readexactly(8))[0]
    if not second & MASKED or size > LIMIT:
        return CLOSE, b"\x03\xea" if not second & MASKED else b"\x03\xf1"
    mask = await reader.readexactly(4)
    return first & 0x0F, unmask(await reader.readexactly(size), mask)


def bridge(raw: Raw, *, text: bool) -> Raw:
    """Speaks websocket on `raw`; returns a plain connection for the engine. Owns `raw.socket` from here."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    run(_serve(raw, ours, TEXT if text else BINARY))
    return Raw(theirs, b"")


async def _serve(raw: Raw, pair: socket.socket, opcode: int) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await connect_stream(raw.socket, raw.early)

    async def inwards() -> None:
        while True:
            kind, payload = await read_frame(reader)
            if kind == CLOSE:
                return
            if kind == PING:
                writer.write(encode(PONG, payload))
            elif kind in (TEXT, BINARY, CONTINUATION):
                await loop.sock_sendall(pair, payload)

    async def outwards() -> None:
        while data := await loop.sock_recv(pair, CHUNK):
            writer.write(encode(opcode, data))
            await writer.drain()
        writer.write(encode(CLOSE, b"\x03\xe8"))

    def finish() -> None:
        pair.close()
        writer.close()

    await both(inwards(), outwards(), finish)
