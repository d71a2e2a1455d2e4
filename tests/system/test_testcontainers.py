"""Testcontainers for Python runs a real service on pydd and talks to it.

The service is Debian's redis-server in an image made by debootstrap, once, kept in the test cache. Ryuk,
Testcontainers' reaper, is an image of Docker Hub's that is not to be had here, so it is switched off.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.system import images
from tests.system.host import Host

pytestmark = pytest.mark.slow

IMAGE = "pyd-test/redis:latest"
PORT = 6379
READY = LogMessageWaitStrategy("Ready to accept connections")


def redis_root() -> Path:
    """A root file system with redis-server, as a tar."""
    return images.kept(f"redis-{images.SUITE}.tar", _make_redis)


def _make_redis(work: Path) -> Path:
    command = ["debootstrap", "--variant=minbase", "--include=redis-server", "--no-check-gpg", images.SUITE]
    work.mkdir()
    _run(*command, str(work / "root"), *images.mirror())
    shutil.rmtree(work / "root/var/cache/apt")
    shutil.rmtree(work / "root/var/lib/apt/lists")
    _run("tar", "-C", str(work / "root"), "--numeric-owner", "-cf", str(work / "root.tar"), ".")
    return work / "root.tar"


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout[-2000:]} {result.stderr[-2000:]}"


@pytest.fixture(scope="module")
def redis_image(host: Host) -> str:
    changes = (
        "USER redis",
        f"EXPOSE {PORT}",
        "WORKDIR /var/lib/redis",
        'ENTRYPOINT ["redis-server"]',
        'CMD ["--bind", "0.0.0.0", "--protected-mode", "no"]',
    )
    arguments = [word for change in changes for word in ("--change", change)]
    host.docker("import", *arguments, str(redis_root()), IMAGE, timeout=120)
    return IMAGE


@pytest.fixture(autouse=True)
def on_pyd(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DOCKER_HOST", host.url)
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    yield


def redis(image: str) -> DockerContainer:
    return DockerContainer(image).with_exposed_ports(PORT).waiting_for(READY)


class Redis:
    """A few commands of the protocol (RESP): enough to know that the other side is redis."""

    def __init__(self, container: DockerContainer) -> None:
        address = container.get_container_host_ip(), int(container.get_exposed_port(PORT))
        self._socket = socket.create_connection(address, timeout=10)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._socket.close()

    def call(self, *words: str) -> str:
        parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
        self._socket.sendall("".join(parts).encode())
        line = self._file.readline().decode().rstrip()
        if not line.startswith("$") or line == "$-1":
            return line
        value = self._file.read(int(line[1:]) + 2)
        return value[:-2].decode()


def test_redis_keeps_what_it_is_told(redis_image: str) -> None:
    with redis(redis_image) as container, Redis(container) as client:
        assert client.call("PING") == "+PONG"
        assert client.call("SET", "engine", "pyd") == "+OK"
        assert client.call("GET", "engine") == "pyd"
        assert client.call("INCR", "count") == ":1"
        assert client.call("GET", "nothing") == "$-1"


def test_the_service_is_the_user_and_the_program_of_the_image(redis_image: str) -> None:
    with redis(redis_image) as container:
        code, output = container.exec(["id", "-un"])
        assert (code, output) == (0, b"redis\n")
        code, output = container.exec(["redis-cli", "INFO", "server"])
        assert code == 0
        assert b"process_id:1\r\n" in output
        stdout, _ = container.get_logs()
        assert b"Ready to accept connections" in stdout


def test_two_services_reach_each_other_by_their_aliases(redis_image: str) -> None:
    with Network() as network:
        store = redis(redis_image).with_network(network).with_network_aliases("store")
        copy = redis(redis_image).with_network(network).with_network_aliases("copy")
        with store, copy:
            with Redis(store) as client:
                assert client.call("SET", "shared", "yes") == "+OK"
            code, output = copy.exec(["redis-cli", "-h", "store", "GET", "shared"])
            assert (code, output) == (0, b"yes\n")


def test_nothing_is_left_of_a_container_that_was_used(host: Host, redis_image: str) -> None:
    with redis(redis_image) as container:
        name = container.get_wrapped_container().id or ""
        assert name in host.docker("ps", "-q", "--no-trunc")
    assert name not in host.docker("ps", "-aq", "--no-trunc")
