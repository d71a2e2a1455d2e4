"""The stock clients against the API: docker's command, docker-py, plain and over TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from api.app import create_app
from api.listeners import open_listeners
from api.server import Server, tls_context
from tests.unit.api_fake import ID, FakeEngine, Served, read_head, serving

pytestmark = pytest.mark.timeout(60)
needs_docker = pytest.mark.skipif(
    shutil.which("docker") is None, reason="the docker command is not installed"
)


@pytest.fixture
async def served():
    async with serving() as running:
        yield running


async def run(served: Served, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        "docker",
        "-H",
        served.url,
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 30)
    return process.returncode or 0, out, err


@needs_docker
async def test_docker_version_and_info(served: Served) -> None:
    code, out, _ = await run(
        served, "version", "--format", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}}"
    )
    assert (code, out) == (0, b"1.51 1.24\n")
    code, out, _ = await run(served, "info", "--format", "{{.ID}}")
    assert (code, out) == (0, b"fake\n")


@needs_docker
async def test_docker_ps(served: Served) -> None:
    code, out, _ = await run(
        served, "ps", "--format", "{{.ID}} {{.Names}} {{.Status}}", "-f", "status=running"
    )
    assert (code, out) == (0, f"{ID[:12]} box Up 2 minutes\n".encode())
    assert served.engine.containers.seen["list"]["filters"] == {"status": ["running"]}


@needs_docker
async def test_docker_logs_splits_the_streams(served: Served) -> None:
    assert await run(served, "logs", "box") == (0, b"out\n", b"err\n")


@needs_docker
async def test_docker_exec_carries_stdin_and_the_exit_code(served: Served) -> None:
    payload = bytes(range(256)) * 2000
    code, out, _ = await run(served, "exec", "-i", "box", "cat", stdin=payload)
    assert (code, out == payload) == (3, True)


@needs_docker
async def test_docker_attach(served: Served) -> None:
    _, out, _ = await run(served, "attach", "box", stdin=b"hello")
    assert out == b"hello"


@needs_docker
async def test_docker_shows_errors_on_one_line(served: Served) -> None:
    code, _, err = await run(served, "kill", "nope")
    assert (code, err) == (
        1,
        b"Error response from daemon: cannot kill container: nope: No such container: nope\n",
    )
    code, _, err = await run(served, "pull", "missing")
    assert (code, err) == (1, b"Error response from daemon: pull access denied for missing\n")
    code, out, err = await run(served, "pull", "broken")
    assert (code, b"Pulling from broken" in out, err.strip()) == (1, True, b"manifest unknown")


@needs_docker
async def test_docker_cp_out_and_in(served: Served, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("abc")
    code, _, _ = await run(served, "cp", str(tmp_path / "f"), "box:/f")
    assert code == 0
    assert b"abc" in served.engine.containers.uploaded
    code, out, _ = await run(served, "cp", "box:/f", "-")
    assert (code, len(out)) == (0, 1024)


@needs_docker
async def test_docker_login_and_load(served: Served) -> None:
    code, out, _ = await run(served, "--config", "/nonexistent", "load", stdin=bytes(5000))
    assert (code, out) == (0, b"Loaded 5000 bytes\n")


async def in_thread(served: Served, work: Callable[[docker.DockerClient], Any]) -> Any:
    def connected() -> Any:
        client = docker.DockerClient(base_url=served.url, version="auto")
        try:
            return work(client)
        finally:
            client.close()

    return await asyncio.to_thread(connected)


async def test_docker_py(served: Served) -> None:
    def work(client: docker.DockerClient) -> None:
        assert client.ping() is True
        assert client.version()["ApiVersion"] == "1.51"
        box = client.containers.list(all=True)[0]
        assert box.id == ID
        assert box.logs() == b"out\nerr\n"
        box.start()
        code, output = box.exec_run(["echo"], demux=True)
        assert (code, output) == (3, (None, None))
        with pytest.raises(docker.errors.NotFound, match="No such container: nope"):
            client.containers.get("nope")
        with pytest.raises(docker.errors.APIError, match="not running"):
            box.kill()
        assert client.api.commit("box")["Id"].startswith("sha256:")
        assert next(client.events(decode=True))["Action"] == "create"

    served.engine.containers.echo = closed_at_once  # type: ignore[method-assign]
    await in_thread(served, work)


async def closed_at_once(client: socket.socket, early: bytes, framed: bool) -> None:
    client.close()


async def test_docker_py_attach_socket(served: Served) -> None:
    def work(client: docker.DockerClient) -> bytes:
        attached = client.api.attach_socket("box", {"stdin": 1, "stdout": 1, "stream": 1})
        raw: socket.socket = attached._sock
        raw.sendall(b"ping")
        answer = raw.recv(100)
        raw.shutdown(socket.SHUT_WR)
        attached.close()
        return answer

    assert await in_thread(served, work) == b"\x01\0\0\0\0\0\0\x04ping"


def make_certificates(directory: Path) -> None:
    """An authority, and one certificate that serves as the server's and the client's."""
    authority = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority"]
    authority += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # Python 3.13 verifies strictly
    openssl(directory, "req", *authority, "-keyout", "ca-key.pem", "-out", "ca.pem")
    request = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    openssl(directory, "req", *request, "-keyout", "key.pem", "-out", "csr.pem")
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    signing = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-days", "2", "-extfile", "names", "-set_serial", "1"]
    openssl(directory, "x509", "-req", "-in", "csr.pem", *signing, "-out", "cert.pem")


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_tls_asks_for_the_clients_certificate_and_carries_hijacked_streams(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    context = tls_context(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem", verify=True)
    listeners = open_listeners(("tcp://127.0.0.1:0",), tls=True)
    server = Server(create_app(FakeEngine()), listeners, context)  # type: ignore[arg-type]
    await server.start()
    port = listeners[0].socket.getsockname()[1]
    ours = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ours)
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    ours.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ours)
    head = "POST /containers/box/attach?stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    writer.write(head.encode() + b"early")
    assert (await read_head(reader))[0] == 101
    assert await reader.readexactly(13) == b"\x01\0\0\0\0\0\0\x05early"
    data = bytes(200_000)
    writer.write(data)
    received = 0
    while received < len(data):
        size = int.from_bytes((await asyncio.wait_for(reader.readexactly(8), 5))[4:], "big")
        assert await reader.readexactly(size) == bytes(size)
        received += size
    writer.close()
    await server.stop(0.5)
