"""A stand-in for the engine with the few behaviours that the API's tests look at, and a server for it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from api.app import create_app
from api.listeners import Listener, open_unix
from api.server import Server
from daemon.images.model import Image
from storage.errors import Conflict, NotFound, NotImplementedYet, NotModified

ID = "4f" * 32


class FakeContainers:
    """Knows one container, `box`; `seen` records how it was called."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.tty = False
        self.open_streams = 0
        self.exit: asyncio.Future[dict[str, Any]] | None = None
        self.uploaded = b""
        self.upload_error: BaseException | None = None

    def _find(self, ref: str) -> str:
        if ref not in ("box", ID, ID[:12]):
            raise NotFound(f"No such container: {ref}")
        return ID

    async def list(self, **options: Any) -> list[dict[str, Any]]:
        self.seen["list"] = options
        return [
            {
                "Id": ID,
                "Names": ["/box"],
                "Image": "busybox",
                "ImageID": "sha256:" + "00" * 32,
                "Command": "sh",
                "Created": 1,
                "Ports": [],
                "Labels": {},
                "State": "running",
                "Status": "Up 2 minutes",
                "HostConfig": {"NetworkMode": "default"},
                "NetworkSettings": {"Networks": {}},
                "Mounts": [],
            }
        ]

    async def create(self, name: str | None, request: Any, platform: Any, version: Any) -> dict[str, Any]:
        self.seen["create"] = (name, request, platform, version)
        if name == "taken":
            raise Conflict('Conflict. The container name "/taken" is already in use')
        return {"Id": ID, "Warnings": []}

    async def inspect(self, ref: str, *, size: bool) -> dict[str, Any]:
        state = {"Running": True, "Status": "running", "ExitCode": 0, "Paused": False, "Restarting": False}
        config = {"Tty": self.tty, "Image": "busybox", "OpenStdin": True}
        return {"Id": self._find(ref), "Name": "/box", "State": state, "Config": config, "HostConfig": {}}

    async def start(self, ref: str, *, detach_keys: str | None) -> None:
        self._find(ref)
        raise NotModified

    async def stop(self, ref: str, **options: Any) -> None:
        self.seen["stop"] = (self._find(ref), options)
        if self.exit is not None:
            self.exit.set_result({"StatusCode": 7})

    async def kill(self, ref: str, signal: str | None) -> None:
        self._find(ref)
        raise Conflict(f"container {ID} is not running")

    async def pause(self, ref: str) -> None:
        raise RuntimeError("a bug")

    async def resize(self, ref: str, height: int, width: int) -> None:
        self.seen["resize"] = (self._find(ref), height, width)

    async def top(self, ref: str, ps_args: str) -> dict[str, Any]:
        raise NotImplementedYet("top is not there yet")

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
        self.seen["remove"] = (self._find(ref), force, volumes, link)

    async def update(self, ref: str, body: Any) -> dict[str, Any]:
        self.seen["update"] = body
        return {"Warnings": None}

    def waiter(self, ref: str, condition: str) -> asyncio.Future[dict[str, Any]]:
        self._find(ref)
        self.seen["wait"] = condition
        self.exit = asyncio.get_running_loop().create_future()
        return self.exit

    def logs(self, ref: str, **options: Any) -> tuple[bool, AsyncIterator[tuple[int, bytes]]]:
        self._find(ref)
        self.seen["logs"] = options
        return self.tty, self._log_lines(options["follow"])

    async def _log_lines(self, follow: bool) -> AsyncIterator[tuple[int, bytes]]:
        self.open_streams += 1
        try:
            yield 1, b"out\n"
            yield 2, b"err\n"
            if follow:
                await asyncio.Event().wait()
        finally:
            self.open_streams -= 1

    async def stats(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncIterator[dict[str, Any]]:
        self._find(ref)
        while True:
            yield {"id": ID, "one_shot": one_shot}
            await asyncio.sleep(0.01)

    def check_attach(self, ref: str, detach_keys: str | None) -> None:
        self._find(ref)
        if ref == ID[:12]:
            raise Conflict(f"container {ref} is paused, unpause the container before attach")

    def is_tty(self, ref: str) -> bool:
        self._find(ref)
        return self.tty

    async def commit(self, ref: str, **options: Any) -> dict[str, Any]:
        self.seen["commit"] = (self._find(ref), options)
        return {"Id": "sha256:" + "ab" * 32}

    async def attach(
        self, ref: str, client: socket.socket, *, early: bytes, framed: bool, **options: Any
    ) -> None:
        """Echoes what comes, framed if asked, until the client shuts down its side."""
        self.seen["attach"] = options | {"framed": framed, "early": early}
        if options["detach_keys"] == "bad":
            raise Conflict("no such keys")
        await self.echo(client.dup(), early, framed)
        if self.exit is not None and not self.exit.done():
            self.exit.set_result({"StatusCode": 0})

    async def echo(self, client: socket.socket, early: bytes, framed: bool) -> None:
        loop = asyncio.get_running_loop()
        with client:
            data = early
            while True:
                if data:
                    head = struct.pack(">BxxxL", 1, len(data)) if framed else b""
                    await loop.sock_sendall(client, head + data)
                data = await loop.sock_recv(client, 65536)
                if not data:
                    return

    async def archive_stat(self, ref: str, path: str) -> dict[str, Any]:
        self._find(ref)
        return {"name": path, "size": 3, "mode": 420, "mtime": "2026-01-01T00:00:00Z", "linkTarget": ""}

    async def archive_get(self, ref: str, path: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        async def tar() -> AsyncIterator[bytes]:
            yield b"\0" * 1024

        return await self.archive_stat(ref, path), tar()

    async def archive_put(self, ref: str, path: str, stream: AsyncIterator[bytes], **options: Any) -> None:
        self.seen["archive_put"] = (path, options)
        self.uploaded = b""
        try:
            async for piece in stream:
                self.uploaded += piece
        except BaseException as error:
            self.upload_error = error
            raise

    async def prune(self, filters: Any) -> dict[str, Any]:
        self.seen["prune"] = filters
        return {"ContainersDeleted": None, "SpaceReclaimed": 0}


class FakeExecs:
    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self.seen: dict[str, Any] = {}

    async def create(self, ref: str, config: dict[str, Any]) -> dict[str, Any]:
        self.seen["create"] = (ref, config)
        return {"Id": "e" * 64}

    def check_start(self, exec_id: str) -> None:
        if exec_id == "nope":
            raise NotFound(f"No such exec instance: {exec_id}")

    async def start(self, exec_id: str, *, client: Any, early: bytes, **options: Any) -> None:
        self.seen["start"] = options
        if exec_id == "broken":
            raise Conflict("OCI runtime exec failed")
        if client is not None:
            await self._containers.echo(client.dup(), early, not options["tty"])

    def inspect(self, exec_id: str) -> dict[str, Any]:
        return {"ID": exec_id, "Running": False, "ExitCode": 3, "ContainerID": ID, "Pid": 1}


class FakeImages:
    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.closed = False

    async def list(self, **options: Any) -> list[dict[str, Any]]:
        self.seen["list"] = options
        return []

    def resolve(self, ref: str) -> Image:
        return Image("sha256:" + "0" * 64, {}, 0)

    async def pull(self, ref: str, tag: str, platform: str, auth: Any) -> AsyncIterator[dict[str, Any]]:
        self.seen["pull"] = (ref, tag, platform, auth)
        ref = ref.removeprefix("docker.io/library/")
        if ref == "missing":
            raise NotFound("pull access denied for missing")
        if ref == "slow":
            try:
                await asyncio.Event().wait()
            finally:
                self.closed = True
        yield {"status": f"Pulling from {ref}", "id": tag}
        if ref == "broken":
            raise NotFound("manifest unknown")

    async def load(
        self, stream: AsyncIterator[bytes], quiet: bool, platform: str
    ) -> AsyncIterator[dict[str, Any]]:
        size = sum([len(piece) async for piece in stream])
        yield {"stream": f"Loaded {size} bytes\n"}

    async def inspect(self, name: str, *, manifests: bool = False, platform: str = "") -> dict[str, Any]:
        return {"Id": "sha256:00", "RepoTags": [name], "Size": 5, "Descriptor": {}}

    async def login(self, auth: Any) -> dict[str, Any]:
        self.seen["login"] = auth
        return {"Status": "Login Succeeded", "IdentityToken": ""}


class FakeNetworks:
    def list(self, filters: Any) -> list[dict[str, Any]]:
        return [{"Name": "bridge", "Id": "1" * 64}]

    async def create(self, body: Any) -> dict[str, Any]:
        return {"Id": "2" * 64, "Warning": str(body)}


class FakeSystem:
    cgroups_v2 = False

    def ping_headers(self) -> dict[str, str]:
        return {"Builder-Version": "1"}

    def version(self) -> dict[str, Any]:
        return {
            "Version": "0.1.0",
            "ApiVersion": "1.51",
            "MinAPIVersion": "1.24",
            "Os": "linux",
            "Arch": "amd64",
        }

    async def info(self) -> dict[str, Any]:
        return {"ID": "fake", "Containers": 1, "ServerVersion": "0.1.0", "OSType": "linux"}

    async def disk_usage(self, types: Any) -> dict[str, Any]:
        return {"LayersSize": 0, "asked": list(types)}


class FakeEvents:
    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.open = 0

    async def subscribe(self, **options: Any) -> AsyncIterator[dict[str, Any]]:
        self.seen = options
        self.open += 1
        try:
            for action in ("create", "start"):
                kind = "image" if action == "create" else "container"
                yield {"Type": kind, "Action": action, "time": 1, "timeNano": 1}
            await asyncio.Event().wait()
        finally:
            self.open -= 1


class FakeEngine:
    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.execs = FakeExecs(self.containers)
        self.images = FakeImages()
        self.networks = FakeNetworks()
        self.system = FakeSystem()
        self.events = FakeEvents()


class Served:
    """The fake engine behind a real server on a unix socket."""

    def __init__(self, engine: FakeEngine, path: Path, server: Server) -> None:
        self.engine = engine
        self.path = path
        self.server = server

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    async def raw(self, request: str | bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(request.encode() if isinstance(request, str) else request)
        await writer.drain()
        return reader, writer

    async def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers (lower case), body."""
        given = {"Host": "d", "Connection": "close", "Content-Length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        reader, writer = await self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        status, answer_headers = await read_head(reader)
        payload = await reader.read()
        writer.close()
        if answer_headers.get("transfer-encoding") == "chunked":
            payload = unchunk(payload)
        return status, answer_headers, payload


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
    first, *lines = head.strip().split("\r\n")
    return int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}


def unchunk(payload: bytes) -> bytes:
    pieces = []
    while payload:
        size, _, payload = payload.partition(b"\r\n")
        pieces.append(payload[: int(size, 16)])
        payload = payload[int(size, 16) + 2 :]
    return b"".join(pieces)


@contextlib.asynccontextmanager
async def serving(engine: FakeEngine | None = None) -> AsyncIterator[Served]:
    engine = engine or FakeEngine()
    directory = Path(tempfile.mkdtemp(prefix="api-"))
    listener: Listener = open_unix(directory / "d.sock", None)
    server = Server(create_app(engine), [listener])
    await server.start()
    try:
        yield Served(engine, directory / "d.sock", server)
    finally:
        await server.stop(0.2)
        shutil.rmtree(directory)
