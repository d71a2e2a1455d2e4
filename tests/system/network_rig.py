"""What the network's tests need of the kernel: a daemon's network service, talkers in namespaces, a host.

A "container" is a sandbox of the service and sockets opened inside it; an *outside* is a namespace behind
a veth of the host that knows nothing of containers' subnets, so whatever answers it has been translated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.config import DaemonConfig
from daemon.network import namespaces
from daemon.network.model import AttachRequest
from daemon.network.service import NetworkService
from storage.records import Records

PATIENCE = 3.0
"""Seconds to wait for what must come."""
SILENCE = 0.6
"""Seconds to wait for what must not come."""


def container_id() -> str:
    return secrets.token_hex(32)


def sh(*command: str, netns: str | Path | None = None) -> str:
    enter = ["nsenter", f"--net={netns}"] if netns else []
    done = subprocess.run([*enter, *command], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


async def until(true: Callable[[], bool], *, patience: float = 5.0) -> None:
    """Wait for what no event tells."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


@contextlib.contextmanager
def inside(netns: str | Path | None) -> Iterator[None]:
    if netns is None:
        yield
        return
    fd = os.open(netns, os.O_RDONLY)
    try:
        with namespaces.entered(fd):
            yield
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def listening(netns: str | Path | None, host: str, port: int) -> AsyncIterator[int]:
    """A TCP server in a namespace that tells each client the address it sees; yields its port."""
    with inside(netns):
        server = socket.create_server((host, port))
    server.setblocking(False)
    task = asyncio.create_task(_tell_peers(server))
    try:
        yield server.getsockname()[1]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()


async def _tell_peers(server: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        client, peer = await loop.sock_accept(server)
        with client:
            await loop.sock_sendall(client, peer[0].encode())


@contextlib.asynccontextmanager
async def echoing(netns: str | Path, port: int) -> AsyncIterator[None]:
    """A UDP server in a namespace that answers each datagram with the address it sees."""
    with inside(netns):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", port))
    server.setblocking(False)
    loop = asyncio.get_running_loop()

    def answer() -> None:
        _data, peer = server.recvfrom(2048)
        server.sendto(peer[0].encode(), peer)

    loop.add_reader(server.fileno(), answer)
    try:
        yield
    finally:
        loop.remove_reader(server.fileno())
        server.close()


async def ask(netns: str | Path | None, host: str, port: int, *, patience: float = PATIENCE) -> str:
    """The address that a TCP server at host:port sees this namespace's client under."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with inside(netns):
        client = socket.socket(family, socket.SOCK_STREAM)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    with client:
        async with asyncio.timeout(patience):
            await loop.sock_connect(client, (host, port))
            return (await loop.sock_recv(client, 200)).decode()


async def ask_udp(
    netns: str | Path | None, host: str, port: int, data: bytes = b"?", *, patience: float = PATIENCE
) -> bytes:
    with inside(netns):
        client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((host, port))
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    with client:
        async with asyncio.timeout(patience):
            await loop.sock_sendall(client, data)
            return await loop.sock_recv(client, 2048)


async def unreachable(netns: str | Path | None, host: str, port: int) -> bool:
    try:
        await ask(netns, host, port, patience=SILENCE)
    except OSError:  # TimeoutError is one
        return True
    return False


@dataclass
class Daemon:
    """One daemon's network service on roots of its own, which survive `crash`."""

    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, str, str, dict[str, str]]] = field(default_factory=list)
    service: NetworkService = field(init=False)
    records: Records = field(init=False)

    @property
    def config(self) -> DaemonConfig:
        return DaemonConfig(data_root=self.root / "data", exec_root=self.root / "exec", **self.options)

    @property
    def netns(self) -> Path:
        return self.root / "exec" / "netns"

    async def start(self, *live: str) -> NetworkService:
        (self.root / "data").mkdir(parents=True, exist_ok=True)
        self.records = Records(self.config.database)
        self.service = NetworkService(self.config, self.records, lambda *event: self.events.append(event))
        await self.service.start(live)
        return self.service

    async def filled(self) -> None:
        """Until the pool's spares are ready."""
        await until(lambda: self.service._pool.full)

    async def stop(self) -> None:
        for cid in list(self.service._sandboxes):
            await self.service.disconnect(cid)
        for network in self.service.list({"type": ["custom"]}):
            await self.service.remove(network["Id"])
        await self.service.stop()
        self.records.close()

    async def container(self, network: str = "bridge", name: str = "web", **request: Any) -> Container:
        cid = container_id()
        await self.service.connect(cid, AttachRequest(network, name, **request))
        return Container(self, cid)

    def leftovers(self) -> list[str]:
        """What the kernel still has of this daemon's."""
        identity = self.config.identity
        found = [line for line in sh("ip", "-o", "link").splitlines() if identity in line]
        found += [line for line in sh("nft", "list", "ruleset").splitlines() if identity in line]
        found += [str(file) for file in self.netns.glob("*")] if self.netns.exists() else []
        found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.root) in line]
        return found


@dataclass(frozen=True)
class Container:
    daemon: Daemon
    id: str

    @property
    def netns(self) -> str:
        attachment = self.daemon.service.attachment(self.id)
        assert attachment is not None
        return attachment.sandbox_key

    def address(self, network: str = "bridge") -> str:
        attachment = self.daemon.service.attachment(self.id)
        assert attachment is not None
        return attachment.networks[network]["IPAddress"]

    @property
    def ports(self) -> dict[str, Any]:
        attachment = self.daemon.service.attachment(self.id)
        assert attachment is not None
        return attachment.ports

    def port(self, spec: str = "80/tcp") -> int:
        return int(self.ports[spec][0]["HostPort"])

    async def stop(self) -> None:
        await self.daemon.service.disconnect(self.id)


@contextlib.asynccontextmanager
async def daemon(**options: Any) -> AsyncIterator[Daemon]:
    """A started daemon that must leave nothing behind."""
    root = Path(tempfile.mkdtemp(prefix="pyd-net-"))
    made = Daemon(root, options)
    try:
        await made.start()
        try:
            yield made
        finally:
            await made.stop()
        assert made.leftovers() == []
    finally:
        shutil.rmtree(root, ignore_errors=True)


@dataclass(frozen=True)
class Outside:
    """A namespace beyond the host, at `address`; the host is at `host` towards it."""

    netns: Path
    host: str
    address: str


@contextlib.contextmanager
def outside() -> Iterator[Outside]:
    root = Path(tempfile.mkdtemp(prefix="pyd-net-out-"))
    link = f"pyt{secrets.token_hex(4)}"
    third = random.randrange(256)
    place = Outside(root / "netns", f"198.18.{third}.1", f"198.18.{third}.2")
    namespace = namespaces.create(place.netns)
    try:
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(place.netns))
        sh("ip", "address", "add", f"{place.host}/24", "dev", link)
        sh("ip", "link", "set", link, "up")
        sh("ip", "address", "add", f"{place.address}/24", "dev", "eth0", netns=place.netns)
        sh("ip", "link", "set", "eth0", "up", netns=place.netns)
        yield place
    finally:
        subprocess.run(["ip", "link", "delete", link], check=False)
        namespace.close()
        namespaces.drop(place.netns)
        shutil.rmtree(root)
