"""Streams of containers by raw request: attach (hijacked and websocket), exec, wait, logs, stats, events.

Each test but one, which says so, holds for dockerd 28.5 as well: PYD_PARITY_SOCKET=/path/of/docker.sock runs them
against it (it needs the tests' busybox image).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.host import Host
from tests.system.parity.client import Answer, ask, frames

TIMEOUT = 20.0


@pytest.fixture(scope="module")
def address(request: pytest.FixtureRequest) -> str:
    given = os.environ.get("PYD_PARITY_SOCKET")
    if given:
        return given
    host: Host = request.getfixturevalue("host")
    return str(host.socket)


class Daemon:
    """Requests to one daemon, and the containers that a test made there."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.made: list[str] = []

    def ask(self, method: str, target: str, body: Any = None) -> Answer:
        return ask(self.address, method, target, body)

    def create(self, command: str, **members: Any) -> str:
        body = {"Image": "busybox", "Cmd": ["sh", "-c", command], "StopSignal": "SIGKILL", **members}
        answer = self.ask("POST", "/containers/create", body)
        assert answer.status == 201, answer
        identifier: str = json.loads(answer.body)["Id"]
        self.made.append(identifier)
        return identifier

    def run(self, command: str, **members: Any) -> str:
        identifier = self.create(command, **members)
        assert self.ask("POST", f"/containers/{identifier}/start").status == 204
        return identifier

    def running(self, identifier: str) -> bool:
        return bool(json.loads(self.ask("GET", f"/containers/{identifier}/json").body)["State"]["Running"])

    def wait(self, identifier: str) -> int:
        return int(json.loads(self.ask("POST", f"/containers/{identifier}/wait").body)["StatusCode"])

    def await_output(self, identifier: str) -> None:
        """Until something is logged: dockerd's attach shows nowhere what comes between its replay and attachment."""
        deadline = time.monotonic() + TIMEOUT
        while not self.ask("GET", f"/containers/{identifier}/logs?stdout=1").body:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def exec(self, identifier: str, **members: Any) -> str:
        answer = self.ask("POST", f"/containers/{identifier}/exec", members)
        assert answer.status == 201, answer
        return str(json.loads(answer.body)["Id"])

    def exit_code(self, exec_id: str) -> Any:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            found = json.loads(self.ask("GET", f"/exec/{exec_id}/json").body)
            if not found["Running"] and found["ExitCode"] is not None:
                return found["ExitCode"]
            time.sleep(0.02)
        raise AssertionError(f"exec {exec_id} does not end")

    def open(
        self, method: str, target: str, body: Any = None, *, upgrade: str = "tcp", **headers: str
    ) -> Raw:
        return Raw(self.address, method, target, body, upgrade, headers)


class Raw:
    """A connection that became a stream: its head, then bytes both ways."""

    def __init__(
        self, address: str, method: str, target: str, body: Any, upgrade: str, headers: dict[str, str]
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(address)
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}"]
        if body is not None:
            lines.append("Content-Type: application/json")
        if upgrade:
            lines += ["Connection: Upgrade", f"Upgrade: {upgrade}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        self._buffer = b""
        head = self._until(b"\r\n\r\n").decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            data = self.sock.recv(65536)
            assert data, f"the stream ended before {mark!r}: {self._buffer!r}"
            self._buffer += data
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def until(self, mark: bytes) -> bytes:
        """What comes up to and with `mark`."""
        return self._until(mark) + mark

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        while data := self.sock.recv(65536):
            self._buffer += data
        found, self._buffer = self._buffer, b""
        return found

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self.sock.recv(65536)
            assert data
            self._buffer += data
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def some(self) -> bytes:
        """What comes next, whatever it is."""
        found = self._buffer or self.sock.recv(1 << 20)
        self._buffer = b""
        assert found, "the stream ended"
        return found

    # -- websocket

    def message(self) -> tuple[int, bytes]:
        first, length = self.exactly(2)
        more = {126: 2, 127: 8}.get(length)
        size = int.from_bytes(self.exactly(more), "big") if more else length
        return first & 0x0F, self.exactly(size)

    def say(self, text: bytes) -> None:
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
        self.sock.sendall(bytes([0x82, 0x80 | len(text)]) + mask + masked)


@pytest.fixture
def daemon(address: str) -> Iterator[Daemon]:
    made = Daemon(address)
    yield made
    for identifier in made.made:
        made.ask("DELETE", f"/containers/{identifier}?force=1&v=1")


BOTH = "stdout=1&stderr=1"
WEBSOCKET = {
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": base64.b64encode(b"0123456789abcdef").decode(),
}

# -- attach


def test_attach_replays_the_log_and_ends(daemon: Daemon) -> None:
    container = daemon.run("echo out; sleep 0.1; echo err >&2")
    daemon.wait(container)
    with daemon.open("POST", f"/containers/{container}/attach?logs=1&{BOTH}") as raw:
        assert raw.status == 101
        assert raw.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
        assert frames(raw.rest()) == [[1, "out\n"], [2, "err\n"]]


def test_attach_without_upgrade_is_a_200_on_a_raw_stream(daemon: Daemon) -> None:
    container = daemon.run("echo out")
    daemon.wait(container)
    with daemon.open("POST", f"/containers/{container}/attach?logs=1&{BOTH}", upgrade="") as raw:
        assert raw.status == 200
        assert raw.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert frames(raw.rest()) == [[1, "out\n"]]


def test_attach_before_start_sees_everything_and_feeds_stdin(daemon: Daemon) -> None:
    container = daemon.create("cat; echo end >&2", OpenStdin=True, StdinOnce=True)
    with daemon.open("POST", f"/containers/{container}/attach?stream=1&stdin=1&{BOTH}") as raw:
        assert daemon.ask("POST", f"/containers/{container}/start").status == 204
        raw.sock.sendall(b"said\n")
        raw.sock.shutdown(socket.SHUT_WR)
        assert sorted(frames(raw.rest())) == [[1, "said\n"], [2, "end\n"]]
    assert daemon.wait(container) == 0


@pytest.mark.parametrize(("keys", "typed"), [("", b"\x10\x11"), ("ctrl-x,y", b"\x18y"), ("d", b"d")])
def test_detach_keys_end_the_stream_and_not_the_container(daemon: Daemon, keys: str, typed: bytes) -> None:
    container = daemon.run("echo ready; exec cat", Tty=True, OpenStdin=True)
    daemon.await_output(container)
    query = f"stream=1&stdin=1&stdout=1&logs=1&detachKeys={keys}"
    with daemon.open("POST", f"/containers/{container}/attach?{query}") as raw:
        raw.until(b"ready\r\n")
        raw.sock.sendall(b"a\n")
        raw.until(b"a\r\n")
        raw.sock.sendall(typed)
        raw.rest()
    assert daemon.running(container)


def test_attach_by_websocket_replays_and_talks(daemon: Daemon) -> None:
    container = daemon.run("echo ready; exec cat", OpenStdin=True)
    daemon.await_output(container)
    target = f"/containers/{container}/attach/ws?logs=1&stream=1&stdin=1&{BOTH}"
    with daemon.open("GET", target, upgrade="websocket", Origin="http://x", **WEBSOCKET) as raw:
        assert raw.status == 101
        assert raw.message() == (2, b"ready\n")
        raw.say(b"said\n")
        assert raw.message() == (2, b"said\n")


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (None, 404, "No such container: nothing"),
        ("pause", 409, "is paused, unpause the container before attach"),
    ],
)
def test_attach_is_refused_in_text(daemon: Daemon, change: str | None, status: int, text: str) -> None:
    container = "nothing"
    if change:
        container = daemon.run("exec sleep 100")
        assert daemon.ask("POST", f"/containers/{container}/{change}").status == 204
    with daemon.open("POST", f"/containers/{container}/attach?stream=1&{BOTH}") as raw:
        assert raw.status == status
        assert raw.until(text.encode())


# -- exec


def test_exec_start_streams_frames_and_keeps_the_code(daemon: Daemon) -> None:
    container = daemon.run("exec sleep 100")
    run = daemon.exec(
        container, Cmd=["sh", "-c", "echo o; echo e >&2; exit 7"], AttachStdout=True, AttachStderr=True
    )
    with daemon.open("POST", f"/exec/{run}/start", {}) as raw:
        assert raw.status == 101
        assert sorted(frames(raw.rest())) == [[1, "o\n"], [2, "e\n"]]
    assert daemon.exit_code(run) == 7
    again = daemon.ask("POST", f"/exec/{run}/start", {"Detach": True})
    assert again.status == 409
    assert b"has already run" in again.body
    with daemon.open("POST", f"/exec/{run}/start", {}) as raw:
        assert raw.status == 101
        assert "has already run" in frames(raw.rest())[0][1]


def test_exec_with_a_tty_is_not_framed(daemon: Daemon) -> None:
    container = daemon.run("exec sleep 100")
    command = ["sh", "-c", "stty size; tty"]
    run = daemon.exec(
        container, Cmd=command, Tty=True, AttachStdin=True, AttachStdout=True, AttachStderr=True
    )
    with daemon.open("POST", f"/exec/{run}/start", {"Tty": True, "ConsoleSize": [11, 33]}) as raw:
        assert raw.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert raw.rest() == b"11 33\r\n/dev/pts/0\r\n"


def test_exec_detached_answers_at_once_and_runs(daemon: Daemon) -> None:
    container = daemon.run("exec sleep 100")
    run = daemon.exec(container, Cmd=["sh", "-c", "sleep 0.2; exit 4"])
    answer = daemon.ask("POST", f"/exec/{run}/start", {"Detach": True})
    assert (answer.status, answer.body) == (200, b"")
    assert daemon.exit_code(run) == 4


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("no-such-command", 127, 'exec: "no-such-command": executable file not found in $PATH'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_exec_that_cannot_run_says_so_in_the_stream(
    daemon: Daemon, command: str, code: int, text: str
) -> None:
    container = daemon.run("exec sleep 100")
    for _ in range(5):  # the message raced with the end of the connection once
        run = daemon.exec(container, Cmd=[command], AttachStdout=True, AttachStderr=True)
        with daemon.open("POST", f"/exec/{run}/start", {}) as raw:
            assert raw.status == 101
            said = frames(raw.rest())
        assert [stream for stream, _ in said] == [1]
        assert said[0][1].startswith(
            "OCI runtime exec failed: exec failed: unable to start container process: "
        )
        assert text in said[0][1]
        assert daemon.exit_code(run) == code


def test_exec_that_cannot_run_detached_is_an_error(daemon: Daemon) -> None:
    container = daemon.run("exec sleep 100")
    run = daemon.exec(container, Cmd=["no-such-command"])
    answer = daemon.ask("POST", f"/exec/{run}/start", {"Detach": True})
    assert answer.status == 400
    assert b"executable file not found in $PATH" in answer.body
    assert daemon.exit_code(run) == 127


@pytest.mark.skipif("PYD_PARITY_SOCKET" in os.environ, reason="dockerd 28 takes the keys for a failed attach")
def test_exec_detach_keys_leave_it_running(daemon: Daemon) -> None:
    container = daemon.run("exec sleep 100")
    run = daemon.exec(
        container, Cmd=["sh", "-c", "echo ready; exec sleep 100"], Tty=True, AttachStdin=True, AttachStdout=True,
        DetachKeys="ctrl-a,z",
    )  # fmt: skip
    with daemon.open("POST", f"/exec/{run}/start", {"Tty": True}) as raw:
        raw.until(b"ready\r\n")
        raw.sock.sendall(b"\x01z")
        raw.rest()
    assert json.loads(daemon.ask("GET", f"/exec/{run}/json").body)["Running"]


# -- wait


def _chunk(raw: Raw) -> Any:
    size = int(raw.until(b"\r\n").strip(), 16)
    return json.loads(raw.exactly(size))


@pytest.mark.parametrize("condition", ["", "not-running", "next-exit", "removed"])
def test_wait_sends_its_head_at_once_and_the_code_later(daemon: Daemon, condition: str) -> None:
    container = daemon.run(
        "read line; exit 5", OpenStdin=True, HostConfig={"AutoRemove": condition == "removed"}
    )
    with daemon.open("POST", f"/containers/{container}/wait?condition={condition}", upgrade="") as raw:
        assert raw.status == 200  # its head is here, and the container still runs
        assert raw.headers["transfer-encoding"] == "chunked"
        assert daemon.running(container)
        with daemon.open("POST", f"/containers/{container}/attach?stream=1&stdin=1") as stdin:
            stdin.sock.sendall(b"\n")
            assert _chunk(raw) == {"StatusCode": 5}


def test_wait_for_the_next_exit_of_what_has_ended(daemon: Daemon) -> None:
    container = daemon.run("exit 1")
    assert daemon.wait(container) == 1
    with daemon.open("POST", f"/containers/{container}/wait?condition=next-exit", upgrade="") as raw:
        assert daemon.ask("POST", f"/containers/{container}/start").status == 204
        assert _chunk(raw) == {"StatusCode": 1}


# -- logs, stats, events


def test_logs_follow_until_the_end(daemon: Daemon) -> None:
    container = daemon.run("echo one; sleep 0.3; echo two")
    answer = daemon.ask("GET", f"/containers/{container}/logs?follow=1&{BOTH}")
    assert frames(answer.body) == [[1, "one\ntwo\n"]]


def test_logs_of_a_tty_are_raw(daemon: Daemon) -> None:
    container = daemon.run("echo one; echo two >&2", Tty=True)
    daemon.wait(container)
    answer = daemon.ask("GET", f"/containers/{container}/logs?{BOTH}&tail=1")
    assert (answer.kind, answer.body) == ("application/vnd.docker.raw-stream", b"two\r\n")


def test_stats_stream_a_line_a_second(daemon: Daemon) -> None:
    container = daemon.run("exec sleep 100")
    with daemon.open("GET", f"/containers/{container}/stats", upgrade="") as raw:
        first, second = _chunk_line(raw), _chunk_line(raw)
    assert first["read"] < second["read"]
    assert second["preread"] == first["read"]
    assert second["memory_stats"]["usage"] > 0
    assert second["pids_stats"]["current"] == 1
    assert second["cpu_stats"]["system_cpu_usage"] > first["cpu_stats"]["system_cpu_usage"]


def _chunk_line(raw: Raw) -> Any:
    found = _chunk(raw)
    raw.exactly(2)
    return found


def test_events_of_a_life(daemon: Daemon) -> None:
    since = int(time.time())
    container = daemon.run("exit 3", Labels={"test": "life"})
    daemon.wait(container)
    daemon.ask("DELETE", f"/containers/{container}")
    filters = (
        json.dumps({"container": [container], "type": ["container"]}).replace(" ", "").replace('"', "%22")
    )
    answer = daemon.ask("GET", f"/events?since={since}&until={int(time.time()) + 1}&filters={filters}")
    found = [json.loads(line) for line in answer.body.splitlines()]
    assert [event["Action"] for event in found] == ["create", "start", "die", "destroy"]
    died = found[2]["Actor"]
    assert died["ID"] == container
    assert died["Attributes"]["exitCode"] == "3"
    assert died["Attributes"]["test"] == "life"
    assert died["Attributes"]["image"] == "busybox"


def test_live_events_come_while_they_happen(daemon: Daemon) -> None:
    container = daemon.create("true")
    filters = json.dumps({"container": [container]}).replace(" ", "").replace('"', "%22")
    with daemon.open("GET", f"/events?filters={filters}", upgrade="") as raw:
        starter = threading.Thread(target=daemon.ask, args=("POST", f"/containers/{container}/start"))
        starter.start()
        seen = []
        with contextlib.suppress(TimeoutError):
            while "die" not in seen:
                seen.append(_chunk_line(raw)["Action"])
        starter.join()
    assert seen[-2:] == ["start", "die"]
