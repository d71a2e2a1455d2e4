"""Calls that we answer: with grpclib's client as the peer, and with one that says anything."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import hpack
import pytest
from grpclib.const import Status as PeerStatus
from grpclib.exceptions import GRPCError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.build.proto import control_pb2
from daemon.rpc import http2, serving
from daemon.rpc.serving import Call, Service
from daemon.rpc.status import Refusal, Status
from tests.system.build.grpc_peer import Hijacked, stub
from tests.unit.test_rpc_http2 import SETTINGS, frame, headers, message


class Control(Service):
    """Methods of BuildKit's Control that do what each test needs."""

    descriptor = control_pb2.DESCRIPTOR.services_by_name["Control"]

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.begun = asyncio.Event()
        self.release = asyncio.Event()

    async def Info(self, call: Call) -> None:
        await call.recv_message()
        await call.send_message(control_pb2.InfoResponse())

    async def Solve(self, call: Call) -> None:
        """Waits for its release."""
        await call.recv_message()
        self.begun.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await call.send_message(control_pb2.SolveResponse())

    async def Status(self, call: Call) -> None:
        """As many messages as the reference says, of 100 kB."""
        request = await call.recv_message()
        for number in range(int(request.ref)):
            log = control_pb2.VertexLog(vertex=str(number), msg=bytes(100_000))
            await call.send_message(control_pb2.StatusResponse(logs=[log]))

    async def Session(self, call: Call) -> None:
        """Says again what it hears."""
        await call.send_initial_metadata()
        while (heard := await call.recv_message()) is not None:
            await call.send_message(heard)

    async def ListWorkers(self, call: Call) -> None:
        raise Refusal(Status.NOT_FOUND, "no ✓ 100%\n", ())

    async def DiskUsage(self, call: Call) -> None:
        raise RuntimeError("a fault of ours")


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[Control, socket.socket, asyncio.Task[None]]]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    control = Control()
    task = asyncio.create_task(serving.serve(ours, b"", [control]))
    with theirs:
        yield control, theirs, task
    await asyncio.wait_for(task, 5)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Control, Any]]:
    async with served() as (control, theirs, _):
        channel = Hijacked(theirs)
        try:
            yield control, stub(channel, control_pb2, "Control")
        finally:
            channel.close()


async def test_one_message_for_one() -> None:
    async with connected() as (_, peer):
        assert await peer.Info(control_pb2.InfoRequest()) == control_pb2.InfoResponse()


async def test_more_than_the_peers_windows_take() -> None:
    async with connected() as (_, peer), peer.Status.open() as stream:
        await stream.send_message(control_pb2.StatusRequest(ref="100"), end=True)
        assert [message.logs[0].vertex async for message in stream] == [str(n) for n in range(100)]


async def test_both_sides_talk_as_they_like() -> None:
    async with connected() as (_, peer), peer.Session.open() as stream:
        for size in (0, 1, 200_000):
            await stream.send_message(control_pb2.BytesMessage(data=bytes(size)))
            assert len((await stream.recv_message()).data) == size
        await stream.end()
        assert await stream.recv_message() is None


async def test_refusals_are_what_the_peer_reads() -> None:
    async with connected() as (_, peer):
        with pytest.raises(GRPCError) as caught:
            await peer.ListWorkers(control_pb2.ListWorkersRequest())
        assert (caught.value.status, caught.value.message) == (PeerStatus.NOT_FOUND, "no ✓ 100%\n")
        with pytest.raises(GRPCError) as caught:
            await peer.DiskUsage(control_pb2.DiskUsageRequest())
        assert (caught.value.status, caught.value.message) == (PeerStatus.UNKNOWN, "internal error")
        with pytest.raises(GRPCError) as caught:
            await peer.Prune(control_pb2.PruneRequest())
        assert caught.value.status is PeerStatus.UNIMPLEMENTED
        await peer.Info(control_pb2.InfoRequest())


async def test_a_call_that_is_reset_or_late_is_cancelled() -> None:
    async with connected() as (control, peer):
        solving = asyncio.create_task(peer.Solve(control_pb2.SolveRequest()))
        await control.begun.wait()
        solving.cancel()
        await asyncio.wait_for(control.cancelled.wait(), 5)
        control.cancelled.clear()
        with pytest.raises((GRPCError, TimeoutError)):
            await peer.Solve(control_pb2.SolveRequest(), timeout=0.05)
        await asyncio.wait_for(control.cancelled.wait(), 5)


async def test_a_peer_that_goes_takes_its_calls_along() -> None:
    async with served() as (control, theirs, task):
        await said(theirs, request("/moby.buildkit.v1.Control/Solve"), frame(0, 1, 1, message(b"")))
        await control.begun.wait()
        theirs.close()
        await asyncio.wait_for(task, 5)
        assert control.cancelled.is_set()


def request(path: str, *fields: tuple[str, str], stream: int = 1, end: bool = False) -> bytes:
    named = ((":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc"))
    return headers(*named, *fields, stream=stream, end=end)


async def said(peer: socket.socket, *data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(peer, http2.PREFACE + SETTINGS + b"".join(data))


async def heard(peer: socket.socket) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and body of all frames until the end or a pause."""
    data = b""
    with contextlib.suppress(TimeoutError):
        while more := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 1 << 20), 0.1):
            data += more
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def statuses(frames: list[tuple[int, int, int, bytes]]) -> dict[int, dict[str, str]]:
    """What each stream ended with."""
    decoder = hpack.Decoder()
    found: dict[int, dict[str, str]] = {}
    for kind, _, stream, body in frames:
        if kind == http2.HEADERS:
            found.setdefault(stream, {}).update({str(k): str(v) for k, v in decoder.decode(body)})
    return found


INFO = "/moby.buildkit.v1.Control/Info"
BAD = {
    "not gRPC": (headers((":method", "GET"), (":path", "/"), end=True), (":status", "415")),
    "unknown method": (request("/x/y", end=True), ("grpc-status", "12")),
    "compressed": (request(INFO) + frame(0, 1, 1, b"\1\0\0\0\1x"), ("grpc-status", "12")),
    "too large": (request(INFO) + frame(0, 1, 1, b"\0\xff\0\0\0x"), ("grpc-status", "8")),
    "cut short": (request(INFO) + frame(0, 1, 1, b"\0\0\0\0\5x"), ("grpc-status", "13")),
    "no protobuf": (request(INFO) + frame(0, 1, 1, message(b"\xff\xff")), ("grpc-status", "13")),
    "late": (request("/moby.buildkit.v1.Control/Solve", ("grpc-timeout", "1m")), ("grpc-status", "4")),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_calls_end_and_others_go_on(case: str) -> None:
    data, expected = BAD[case]
    async with served() as (_, theirs, _):
        await said(theirs, data, request(INFO, stream=3), frame(0, 1, 3, message(b"")))
        found = statuses(await heard(theirs))
        assert found[1][expected[0]] == expected[1]
        assert found[3]["grpc-status"] == "0"


BROKEN = {
    "HTTP/1": b"GET / HTTP/1.1\r\n\r\n",
    "a stream of the server's": http2.PREFACE + SETTINGS + request(INFO, stream=2),
    "data before headers": http2.PREFACE + SETTINGS + frame(0, 0, 1, b"x"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_what_is_no_protocol_ends_the_connection(case: str) -> None:
    async with served() as (_, theirs, task):
        await asyncio.get_running_loop().sock_sendall(theirs, BROKEN[case])
        await asyncio.wait_for(task, 5)


async def test_more_streams_than_allowed_are_refused() -> None:
    async with served() as (control, theirs, _):
        solve = "/moby.buildkit.v1.Control/Solve"
        many = [
            request(solve, stream=n) + frame(0, 1, n, message(b""))
            for n in range(1, 2 * http2.STREAMS + 2, 2)
        ]
        await said(theirs, *many)
        resets = [(stream, body) for kind, _, stream, body in await heard(theirs) if kind == http2.RST_STREAM]
        assert resets == [(2 * http2.STREAMS + 1, b"\0\0\0\7")]
        control.release.set()
        assert len(statuses(await heard(theirs))) == http2.STREAMS


async def test_bytes_one_by_one() -> None:
    async with served() as (_, theirs, _):
        data = http2.PREFACE + SETTINGS + request(INFO) + frame(0, 1, 1, message(b""))
        for at in range(len(data)):
            await asyncio.get_running_loop().sock_sendall(theirs, data[at : at + 1])
            await asyncio.sleep(0)
        assert statuses(await heard(theirs))[1]["grpc-status"] == "0"


@given(data=st.binary(max_size=300), greeted=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_end_well(data: bytes, greeted: bool) -> None:
    async def one() -> None:
        async with served() as (_, theirs, task):
            await asyncio.get_running_loop().sock_sendall(theirs, (http2.PREFACE if greeted else b"") + data)
            theirs.close()
            await asyncio.wait_for(task, 5)

    asyncio.run(one())
