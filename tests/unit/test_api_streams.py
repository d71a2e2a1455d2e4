"""Streams and hijacked connections on a real socket: framing, early headers, clients that vanish."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import os
import socket
import struct
from collections.abc import Callable

import pytest

from api import websocket
from api.streams import frame
from tests.unit.api_fake import ID, Served, read_head, serving, unchunk

pytestmark = pytest.mark.timeout(30)
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


@pytest.fixture
async def served():
    async with serving() as running:
        yield running


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    given = {"Host": "d", "Content-Length": str(len(body))} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    stream, size = struct.unpack(">BxxxL", await asyncio.wait_for(reader.readexactly(8), 5))
    return stream, await reader.readexactly(size)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition did not come true in 5 seconds")


async def test_wait_sends_its_headers_before_its_answer(served: Served) -> None:
    reader, writer = await served.raw(request("POST", "/containers/box/wait?condition=next-exit"))
    status, headers = await read_head(reader)
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert headers["content-type"] == "application/json"
    assert served.engine.containers.seen["wait"] == "next-exit"
    await served.ask("POST", "/containers/box/stop")
    payload = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)
    assert unchunk(payload) == b'{"StatusCode":7}\n'
    writer.close()


async def test_wait_refuses_before_its_headers(served: Served) -> None:
    status, _, payload = await served.ask("POST", "/containers/box/wait?condition=x")
    assert (status, json.loads(payload)["message"]) == (400, 'invalid condition: "x"')
    assert (await served.ask("POST", "/containers/nope/wait"))[0] == 404


async def test_logs_are_framed_unless_there_is_a_tty(served: Served) -> None:
    path = "/containers/box/logs?stdout=1&stderr=1&tail=5"
    _, headers, payload = await served.ask("GET", path)
    assert headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert payload == frame(1, b"out\n") + frame(2, b"err\n")
    _, headers, _ = await served.ask("GET", "/v1.41" + path)
    assert headers["content-type"] == "application/vnd.docker.raw-stream"
    served.engine.containers.tty = True
    _, headers, payload = await served.ask("GET", path)
    assert headers["content-type"] == "application/vnd.docker.raw-stream"
    assert payload == b"out\nerr\n"
    assert served.engine.containers.seen["logs"]["tail"] == "5"
    assert (await served.ask("GET", "/containers/box/logs"))[0] == 400


async def test_one_stats_answer_or_a_stream_of_them(served: Served) -> None:
    _, headers, payload = await served.ask("GET", "/containers/box/stats?stream=0&one-shot=1")
    assert "content-length" in headers
    assert json.loads(payload) == {"id": ID, "one_shot": True}
    reader, writer = await served.raw(request("GET", "/containers/box/stats"))
    assert (await read_head(reader))[1]["transfer-encoding"] == "chunked"
    await asyncio.wait_for(reader.readuntil(b"\n\r\n"), 5)
    writer.close()
    assert (await served.ask("GET", "/containers/nope/stats"))[0] == 404


async def test_events_before_1_46_leave_out_images_created(served: Served) -> None:
    for version, first in (("1.46", "image"), ("1.45", "container")):
        reader, writer = await served.raw(request("GET", f"/v{version}/events?since=5.5&until=99999999999"))
        await read_head(reader)
        await reader.readline()
        assert json.loads(await asyncio.wait_for(reader.readline(), 5))["Type"] == first
        writer.close()
    assert served.engine.events.seen == {
        "since": 5_500_000_000,
        "until": 99999999999 * 10**9,
        "filters": {},
    }


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1.51/containers/box/attach", "multiplexed"),
        ("/containers/box/attach", "multiplexed"),
        ("/v1.41/containers/box/attach", "raw"),
    ],
)
async def test_attach_upgrades(served: Served, path: str, kind: str) -> None:
    query = "?stream=1&stdin=1&stdout=1&stderr=1&detachKeys=ctrl-a"
    reader, writer = await served.raw(request("POST", path + query, **UPGRADE) + b"early")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head == (
        b"HTTP/1.1 101 UPGRADED\r\n"
        b"Content-Type: application/vnd.docker." + kind.encode() + b"-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    assert await read_frame(reader) == (1, b"early")
    writer.write(b"later")
    assert await read_frame(reader) == (1, b"later")
    writer.write_eof()
    assert await reader.read() == b""
    assert served.engine.containers.seen["attach"] == {
        "stream": True,
        "logs": False,
        "stdin": True,
        "stdout": True,
        "stderr": True,
        "detach_keys": "ctrl-a",
        "framed": True,
        "early": b"early",
    }
    writer.close()


async def test_attach_without_upgrade_answers_200_and_keeps_early_bytes(served: Served) -> None:
    reader, writer = await served.raw(request("POST", "/containers/box/attach?stream=1") + b"GET / x")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head == b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
    assert await read_frame(reader) == (1, b"GET / x")
    writer.close()


async def test_attach_to_a_tty_is_raw(served: Served) -> None:
    served.engine.containers.tty = True
    reader, writer = await served.raw(request("POST", "/containers/box/attach?stream=1", **UPGRADE) + b"x")
    assert b"vnd.docker.raw-stream" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(1) == b"x"
    writer.close()


@pytest.mark.parametrize("headers", [UPGRADE, {}])
async def test_attach_refuses_in_its_own_form(served: Served, headers: dict[str, str]) -> None:
    reader, writer = await served.raw(request("POST", "/containers/nope/attach", **headers))
    status, answered = await read_head(reader)
    assert (status, answered["content-type"]) == (404, "application/vnd.docker.raw-stream")
    assert await reader.read() == b"No such container: nope\r\n"
    writer.close()
    status, _, _ = await served.ask("POST", f"/containers/{ID[:12]}/attach")
    assert status == 409


async def test_an_error_after_101_is_told_in_the_stream(served: Served) -> None:
    reader, writer = await served.raw(request("POST", "/containers/box/attach?detachKeys=bad", **UPGRADE))
    await read_head(reader)
    assert await read_frame(reader) == (1, b"Error attaching: no such keys\n")
    assert await reader.read() == b""
    writer.close()


async def test_exec_starts_with_a_body_and_an_upgrade(served: Served) -> None:
    """httptools leaves the body of such a request unparsed; it may also arrive late and in pieces."""
    body = b'{"Detach":false,"Tty":false}'
    whole = request("POST", "/exec/e1/start", body, **UPGRADE, **{"Content-Type": "application/json"})
    for cut in (len(whole), len(whole) - len(body), len(whole) - 5, 20):
        reader, writer = await served.raw(whole[:cut])
        await asyncio.sleep(0.02)
        writer.write(whole[cut:] + b"in")
        assert (await read_head(reader))[0] == 101
        assert await read_frame(reader) == (1, b"in")
        writer.close()


async def test_exec_detached_is_an_ordinary_answer(served: Served) -> None:
    body = b'{"Detach":true}'
    status, headers, payload = await served.ask(
        "POST", "/exec/e1/start", body, Content_Type="application/json"
    )
    assert (status, headers["content-length"], payload) == (200, "0", b"")
    assert served.engine.execs.seen["start"]["detach"] is True


async def test_after_an_ordinary_answer_a_hijackable_connection_goes_on(served: Served) -> None:
    body = b'{"Detach":true}'
    start = request("POST", "/exec/e1/start", body, **{"Content-Type": "application/json"})
    reader, writer = await served.raw(start + request("GET", "/_ping"))
    assert (await read_head(reader))[0] == 200
    status, headers = await read_head(reader)
    assert (status, headers["swarm"]) == (200, "inactive")
    writer.close()


async def test_exec_errors(served: Served) -> None:
    headers = {"Content-Type": "application/json"} | UPGRADE
    reader, writer = await served.raw(request("POST", "/exec/nope/start", b"{}", **headers))
    status, answered = await read_head(reader)
    assert (status, answered["content-type"]) == (404, "application/json")
    assert json.loads(await reader.read())["message"] == "No such exec instance: nope"
    writer.close()
    reader, writer = await served.raw(request("POST", "/exec/broken/start", b"{}", **headers))
    assert (await read_head(reader))[0] == 101
    assert await read_frame(reader) == (1, b"OCI runtime exec failed\r\n")
    writer.close()
    status, _, payload = await served.ask(
        "POST", "/containers/box/exec", b"{}", Content_Type="application/json"
    )
    assert (status, json.loads(payload)["message"]) == (400, "No exec command specified")


async def test_a_hijacked_connection_belongs_to_its_holder(served: Served) -> None:
    """The server shuts down; the stream goes on."""
    reader, writer = await served.raw(request("POST", "/containers/box/attach?stream=1", **UPGRADE) + b"1")
    await read_head(reader)
    await read_frame(reader)
    assert not served.server._state.connections
    writer.write(b"2")
    assert await read_frame(reader) == (1, b"2")
    writer.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "path",
    [
        "/events",
        "/containers/box/logs?stdout=1&follow=1",
        "/containers/box/stats",
        "/images/create?fromImage=slow",
        "/containers/box/wait",
        "/containers/box/attach?stream=1",
    ],
)
async def test_clients_that_vanish_leave_nothing(served: Served, path: str) -> None:
    method = (
        "GET" if path.startswith(("/events", "/containers/box/logs", "/containers/box/stats")) else "POST"
    )
    await served.ask("GET", "/_ping")
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for _ in range(50):
        _, writer = await served.raw(request(method, path))
        await asyncio.sleep(0)
        writer.transport.abort()
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    await until(lambda: not served.server._state.connections)
    engine = served.engine
    assert (engine.events.open, engine.containers.open_streams) == (0, 0)
    gc.collect()
    await until(lambda: descriptors() <= before)


async def test_a_pull_ends_with_its_client(served: Served) -> None:
    _, writer = await served.raw(request("POST", "/images/create?fromImage=slow"))
    await until(lambda: "pull" in served.engine.images.seen)
    writer.close()
    await until(lambda: served.engine.images.closed)


async def test_a_half_closed_client_ends_a_stream(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await served.raw(request("GET", "/events"))
    await read_head(reader)
    writer.write_eof()
    await until(lambda: served.engine.events.open == 0)
    await reader.read()
    writer.close()
    assert caplog.records == []


def masked(opcode: int, payload: bytes) -> bytes:
    mask = b"\x01\x02\x03\x04"
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else struct.pack(">BH", 0x80 | 126, size)
    return bytes((0x80 | opcode,)) + length + mask + websocket.unmask(payload, mask)


async def read_message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await asyncio.wait_for(reader.readexactly(2), 5)
    if size == 126:
        size = struct.unpack(">H", await reader.readexactly(2))[0]
    return first & 0x0F, await reader.readexactly(size)


@pytest.mark.parametrize(("version", "opcode"), [("1.51", websocket.BINARY), ("1.27", websocket.TEXT)])
async def test_attach_by_websocket(served: Served, version: str, opcode: int) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    path = f"/v{version}/containers/box/attach/ws?stream=1&stdin=1&stdout=1"
    reader, writer = await served.raw(request("GET", path, **headers) + masked(1, b"early"))
    status, answered = await read_head(reader)
    digest = hashlib.sha1(key.encode() + websocket.GUID).digest()
    assert (status, answered["sec-websocket-accept"]) == (101, base64.b64encode(digest).decode())
    assert await read_message(reader) == (opcode, b"early")
    writer.write(masked(websocket.PING, b"p") + masked(2, b"x" * 1000))
    assert sorted([await read_message(reader), await read_message(reader)]) == sorted(
        [(websocket.PONG, b"p"), (opcode, b"x" * 1000)]
    )
    assert served.engine.containers.seen["attach"]["framed"] is False
    writer.write(masked(websocket.CLOSE, b""))
    await asyncio.wait_for(reader.read(), 5)
    writer.close()


async def test_what_is_no_websocket_handshake_is_refused(served: Served) -> None:
    status, _, payload = await served.ask("GET", "/containers/box/attach/ws")
    assert (status, json.loads(payload)["message"]) == (400, "bad request: not a websocket handshake")
    assert (await served.ask("GET", "/containers/nope/attach/ws"))[0] == 404


async def test_a_slow_reader_stops_only_its_own_stream(served: Served) -> None:
    """A client that reads nothing: the server keeps answering others, and memory is bounded."""
    slow = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(str(served.path))
    slow.sendall(request("GET", "/containers/box/stats"))
    await asyncio.sleep(0.2)
    assert (await served.ask("GET", "/_ping"))[0] == 200
    slow.close()


def test_frames() -> None:
    assert frame(2, b"abc") == b"\x02\0\0\0\0\0\0\x03abc"
