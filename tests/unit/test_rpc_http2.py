"""The framing of sessions against a peer that says anything: what is whole goes through, what is not ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.rpc import http2
from daemon.rpc.calls import Call, call, unary
from daemon.rpc.http2 import Connection
from storage.errors import DataCorrupted, Internal, NotFound, PydError, Unavailable


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def headers(*fields: tuple[str, str], end: bool = False, stream: int = 1) -> bytes:
    block = hpack.Encoder().encode(list(fields))
    return frame(http2.HEADERS, http2.END_HEADERS | (http2.END_STREAM if end else 0), stream, block)


def message(data: bytes) -> bytes:
    return struct.pack(">BI", 0, len(data)) + data


OK = headers((":status", "200"), ("content-type", "application/grpc"))
DONE = headers(("grpc-status", "0"), end=True)
SETTINGS = frame(http2.SETTINGS, 0, 0)


class Peer:
    """The other end, by hand."""

    def __init__(self, connection: Connection, sock: socket.socket) -> None:
        self.connection, self.sock = connection, sock

    async def say(self, *data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(data))

    async def heard(self) -> list[tuple[int, int, int, bytes]]:
        """All frames that have come."""
        await asyncio.sleep(0.02)
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := self.sock.recv(1 << 20):
                data += more
        data = data.removeprefix(http2.PREFACE)
        found = []
        while data:
            size = int.from_bytes(data[:3], "big")
            found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
            data = data[9 + size :]
        return found


@contextlib.asynccontextmanager
async def connected(early: bytes = b"") -> AsyncIterator[Peer]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    connection = await Connection.opened(ours, early)
    with theirs:
        try:
            yield Peer(connection, theirs)
        finally:
            connection.close()
            await asyncio.wait_for(connection.closed.wait(), 5)


async def begun(peer: Peer) -> Call:
    return await call(peer.connection, "/x/y")


async def test_early_bytes_count_and_settings_and_pings_are_answered() -> None:
    async with connected(SETTINGS + frame(http2.PING, 0, 0, b"12345678")) as peer:
        kinds = {(kind, flags): body for kind, flags, _, body in await peer.heard()}
        assert (http2.SETTINGS, http2.ACK) in kinds and kinds[http2.PING, http2.ACK] == b"12345678"


@pytest.mark.parametrize("cut", [1, 3, 8, 10_000])
async def test_messages_in_pieces_of_any_size(cut: int) -> None:
    async with connected(SETTINGS) as peer:
        async with await begun(peer) as under_way:
            stream = message(b"one") + message(b"") + message(b"three" * 50)
            padded = frame(http2.DATA, http2.PADDED, 1, b"\3" + stream[4:] + bytes(3))
            said = OK + frame(http2.DATA, 0, 1, stream[:4]) + padded + frame(99, 0, 1, b"unknown") + DONE
            for start in range(0, len(said), cut):
                await peer.say(said[start : start + cut])
                await asyncio.sleep(0)
            found: list[bytes] = []
            while batch := await under_way.batch():
                found += batch
        assert found == [b"one", b"", b"three" * 50]


async def test_headers_may_be_continued() -> None:
    async with connected(SETTINGS) as peer, await begun(peer) as under_way:
        block = hpack.Encoder().encode(
            [(":status", "200"), ("grpc-status", "5"), ("grpc-message", "no%20such")]
        )
        await peer.say(
            frame(http2.HEADERS, http2.END_STREAM, 1, block[:3]),
            frame(http2.CONTINUATION, 0, 1, block[3:5]),
            frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[5:]),
        )
        with pytest.raises(NotFound, match="no such"):
            await under_way.batch()


async def test_what_is_sent_waits_for_the_peers_windows() -> None:
    small = struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, 10)
    async with connected(frame(http2.SETTINGS, 0, 0, small)) as peer, await begun(peer) as under_way:
        await peer.heard()
        sending = asyncio.create_task(under_way.send([b"x" * 30], end=True))
        first = [body for kind, _, _, body in await peer.heard() if kind == http2.DATA]
        assert b"".join(first) == message(b"x" * 30)[:10] and not sending.done()
        await peer.say(frame(http2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)))
        rest = [(flags, body) for kind, flags, _, body in await peer.heard() if kind == http2.DATA]
        assert rest[-1][0] & http2.END_STREAM and len(b"".join(body for _, body in rest)) == 25
        await sending


async def test_only_what_is_taken_gives_the_peer_room_again() -> None:
    async with connected(SETTINGS) as peer, await begun(peer) as under_way:
        await peer.heard()
        await peer.say(OK, *(frame(http2.DATA, 0, 1, message(bytes(1000))) for _ in range(50)))
        updates = [stream for kind, _, stream, _ in await peer.heard() if kind == http2.WINDOW_UPDATE]
        assert updates == []
        assert len(await under_way.batch()) == 50
        updates = [stream for kind, _, stream, _ in await peer.heard() if kind == http2.WINDOW_UPDATE]
        assert updates == [1]


FLOOD = frame(http2.DATA, 0, 1, bytes(60_000)) * (http2.STREAM_WINDOW // 60_000 + 1)
VIOLATIONS = {
    "no frames": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4,
    "too large": frame(http2.DATA, 0, 1, bytes(http2.FRAME + 1)),
    "never opened": frame(http2.DATA, 0, 7, b"x"),
    "beyond the window": OK + FLOOD,
    "padding": OK + frame(http2.DATA, http2.PADDED, 1, b"\xff"),
    "interrupted headers": frame(http2.HEADERS, 0, 1, b"\x88") + SETTINGS,
    "continuation of nothing": frame(http2.CONTINUATION, http2.END_HEADERS, 1, b"\x88"),
    "endless headers": frame(http2.HEADERS, 0, 1, b"\x88")
    + frame(http2.CONTINUATION, 0, 1, bytes(60_000)) * 20,
    "broken compression": frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
    "push": frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, bytes(8)),
    "settings": frame(http2.SETTINGS, 0, 0, b"12345"),
    "window": frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "ping": frame(http2.PING, 0, 0, b"1"),
}


@pytest.mark.parametrize("how", VIOLATIONS)
async def test_violations_end_the_connection_and_all_that_waits(how: str) -> None:
    async with connected(SETTINGS) as peer:
        under_way = await begun(peer)
        taking = asyncio.create_task(under_way._stream.started())
        with contextlib.suppress(OSError):
            await peer.say(VIOLATIONS[how])
        await asyncio.wait_for(peer.connection.closed.wait(), 5)
        if how not in ("beyond the window", "padding"):
            with pytest.raises(Unavailable):
                await taking
        with pytest.raises(Unavailable):
            while True:
                await under_way._stream.take()
        with pytest.raises(Unavailable):
            await begun(peer)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (OK + frame(http2.DATA, 0, 1, b"\1\0\0\0\1x") + DONE, DataCorrupted),
        (OK + frame(http2.DATA, 0, 1, b"\0\x7f\xff\xff\xff") + DONE, DataCorrupted),
        (OK + frame(http2.DATA, 0, 1, message(b"xy")[:-1]) + DONE, DataCorrupted),
        (OK + DONE, DataCorrupted),
        (headers((":status", "404"), end=True), Internal),
        (OK + headers(("grpc-status", "nonsense"), end=True), Internal),
        (frame(http2.RST_STREAM, 0, 1, bytes(3) + b"\2"), Unavailable),
    ],
)
async def test_answers_that_are_none(said: bytes, error: type[PydError]) -> None:
    async with connected(SETTINGS) as peer:
        asking = asyncio.create_task(unary(peer.connection, "/x/y", b"?"))
        await asyncio.sleep(0)
        await peer.say(said)
        with pytest.raises(error):
            await asyncio.wait_for(asking, 5)
        assert not peer.connection.closed.is_set(), "only the call is over"


async def test_silence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "PING_EVERY", 0.02)
    monkeypatch.setattr(http2, "LOST_AFTER", 0.1)
    async with connected(SETTINGS) as peer:
        await asyncio.wait_for(peer.connection.closed.wait(), 5)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=40)))
)
def test_anything_may_come(frames: list[tuple[int, int, int, bytes]]) -> None:
    async def run() -> None:
        async with connected() as peer:
            under_way = await begun(peer)
            with contextlib.suppress(OSError):
                await peer.say(*(frame(*each) for each in frames))
            peer.sock.shutdown(socket.SHUT_RDWR)
            await asyncio.wait_for(peer.connection.closed.wait(), 5)
            with contextlib.suppress(PydError):
                while await under_way.batch():
                    pass

    asyncio.run(run())
