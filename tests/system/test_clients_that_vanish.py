"""Clients that go away in the middle, or never read: they cost nobody anything, and leave nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.system.host import Host

BATCH, BATCHES = 100, 10

REQUESTS = {
    "attach": "POST /containers/c1/attach?stream=1&stdin=1&stdout=1&stderr=1",
    "attach and logs": "POST /containers/c1/attach?stream=1&logs=1&stdout=1&stderr=1",
    "logs": "GET /containers/c1/logs?follow=1&stdout=1&stderr=1",
    "stats": "GET /containers/c1/stats?stream=1",
    "events": "GET /events?since=1",
    "wait": "POST /containers/c1/wait",
}


def opened(host: Host, request: str, *, upgrade: bool) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(host.socket))
    client.settimeout(15)
    head = f"{request} HTTP/1.1\r\nHost: pyd\r\nContent-Length: 0\r\n"
    head += "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" if upgrade else "\r\n"
    client.sendall(head.encode())
    return client


def answered(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(4096)
        assert more, f"closed after {data!r}"
        data += more
    return data


def keeper(host: Host) -> int:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            command = (entry / "cmdline").read_bytes()
            if b"keeper.py" in command and str(host.exec_root).encode() in command:
                return int(entry.name)
    raise AssertionError("no keeper")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def holdings(host: Host) -> tuple[int, int, int]:
    """Tasks and descriptors of the daemon, descriptors of the keeper."""
    assert host.process
    info = host.curl("GET", "/info")[1]
    return info["NGoroutines"], descriptors(host.process.pid), descriptors(keeper(host))


def settled(host: Host, before: tuple[int, int, int]) -> tuple[int, int, int]:
    """What is held once it has come down to what it was, or after five seconds."""
    deadline = time.monotonic() + 5
    while True:
        now = holdings(host)
        if all(a <= b for a, b in zip(now, before, strict=True)) or time.monotonic() > deadline:
            return now
        time.sleep(0.1)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_thousand_that_vanish_leave_nothing(host: Host, kind: str) -> None:
    script = "while true; do echo line; sleep 0.05; done"
    host.docker("run", "-d", "-i", "--name", "c1", "busybox", "sh", "-c", script)
    assert host.process
    request, upgrade = REQUESTS[kind], kind.startswith("attach")
    for _ in range(BATCH):  # what is loaded and cached once, is
        opened(host, request, upgrade=upgrade).close()
    settled(host, (0, 0, 0))
    before, memory = holdings(host), resident(host.process.pid)
    for batch in range(BATCHES):
        clients = [opened(host, request, upgrade=upgrade) for _ in range(BATCH)]
        if batch % 3:  # every third batch goes before it is answered
            for client in clients:
                answered(client)
        for client in clients:
            client.close()
    after = settled(host, before)
    assert all(a <= b for a, b in zip(after, before, strict=True)), (before, after)
    assert resident(host.process.pid) - memory < 12 << 20
    assert host.docker("exec", "c1", "echo", "alive") == "alive\n"
    assert host.docker("logs", "--tail", "1", "c1") == "line\n"


def test_execs_whose_clients_vanish(host: Host) -> None:
    host.docker("run", "-d", "--name", "c1", "busybox", "sleep", "1000")
    body = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}
    before = None
    for _ in range(3):
        clients = []
        for _ in range(20):
            exec_id = host.curl("POST", "/containers/c1/exec", body)[1]["Id"]
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.connect(str(host.socket))
            head = (
                f"POST /exec/{exec_id}/start HTTP/1.1\r\nHost: pyd\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            )
            client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            clients.append(client)
        for client in clients:
            answered(client)
            client.close()
        before = before or settled(host, (0, 0, 0))
    after = settled(host, before or (0, 0, 0))
    assert all(a <= b for a, b in zip(after, before or (), strict=True)), (before, after)
    assert host.docker("top", "c1").count("cat") == 0  # end of input ended them


def test_a_client_that_resets_in_the_middle_of_an_upload(host: Host) -> None:
    host.docker("create", "--name", "c1", "busybox", "true")
    before = holdings(host)
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(host.socket))
        head = "PUT /containers/c1/archive?path=/ HTTP/1.1\r\nHost: pyd\r\nContent-Length: 10000000\r\n\r\n"
        client.sendall(head.encode() + b"\0" * 2000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    after = settled(host, before)
    assert all(a <= b for a, b in zip(after, before, strict=True)), (before, after)
    status, _ = host.curl("GET", "/containers/c1/json")
    assert status == 200


def test_a_slow_reader_holds_up_only_its_own_container(host: Host) -> None:
    loud = "yes 'some words that fill the pipe' | head -c 40000000 >&2; echo done; sleep 1000"
    host.docker("run", "-d", "--name", "c1", "--log-driver", "none", "busybox", "sh", "-c", f"read x; {loud}")
    host.docker("rm", "-f", "c1")
    host.docker(
        "run", "-d", "-i", "--name", "c1", "--log-driver", "none", "busybox", "sh", "-c", f"read x; {loud}"
    )
    stuck = opened(host, "POST /containers/c1/attach?stream=1&stdin=1&stdout=1&stderr=1", upgrade=True)
    answered(stuck)
    stuck.sendall(b"go\n")
    began = time.monotonic()
    assert (
        host.docker("run", "--rm", "busybox", "sh", "-c", "head -c 3000000 /dev/zero | wc -c") == "3000000\n"
    )
    assert host.docker("ps", "-q")
    assert time.monotonic() - began < 10
    assert host.docker("top", "c1").count("yes") >= 1  # blocked on its own pipe, not lost
    total = 0
    stuck.settimeout(10)
    while total < 40_000_000:
        total += len(stuck.recv(1 << 20))
    stuck.close()


@pytest.mark.parametrize("kind", ["logs", "events", "stats"])
def test_a_reader_that_never_reads_holds_up_no_other(host: Host, kind: str) -> None:
    host.docker("run", "-d", "--name", "c1", "busybox", "sh", "-c", "seq 300000; sleep 1000")
    stuck = [opened(host, REQUESTS[kind], upgrade=False) for _ in range(20)]
    began = time.monotonic()
    deadline = began + 15
    while host.try_docker("logs", "--tail", "1", "c1").stdout != b"300000\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert host.docker("run", "--rm", "busybox", "echo", "hi") == "hi\n"
    assert len(host.docker("logs", "c1").splitlines()) == 300_000
    assert host.process
    assert resident(host.process.pid) < 300 << 20
    for client in stuck:
        client.close()
