"""The worker process: requests from the daemon come in as JSON lines, progress and results go back.

    request   {"seq": 1, "op": "layer", ...arguments}       {"cancel": 1} stops it
    answer    {"seq": 1, "progress": {...}}*  then  {"seq": 1, "result": ...} or {"seq": 1, "error": {...}}

argv: descriptor of the socket, of the one that descriptors come by, the daemon's process ID, the content store's
directory, and perhaps a descriptor through which an archive comes in or goes out (`docker load`, `save`, `import`).
The end of the socket ends the process. Operations are the methods of `Operations` and `Archives`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.images.model import AuthConfig
from daemon.images.registry.endpoints import Endpoint, endpoints
from daemon.images.registry.errors import RegistryError
from daemon.images.transfer.confine import die_with_parent, no_new_privileges
from daemon.images.transfer.descriptors import Received
from daemon.images.transfer.ingest import WorkerStore, unpack_again
from storage.errors import PydError
from storage.heap import one_heap

if TYPE_CHECKING:
    from daemon.images.registry.client import Repository

Report = Callable[[dict[str, Any]], None]
LONGEST_LINE = 64 << 20


class Operations:
    """What the daemon may ask for. Each takes the request's arguments and a way to report progress."""

    def __init__(self, store: WorkerStore):
        self._store = store
        self._sessions: dict[int, Repository] = {}
        self._tokens: Any = None

    async def endpoints(
        self, report: Report, domain: str, insecure: list[str], mirrors: list[str], push: bool
    ) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(endpoints, domain, insecure, mirrors, push)
        return [{"url": each.url, "mirror": each.mirror, "verify": each.verify} for each in found]

    async def open(
        self,
        report: Report,
        session: int,
        endpoint: dict[str, Any],
        path: str,
        auth: dict[str, str],
        actions: str,
        timeouts: dict[str, float],
    ) -> None:
        """A session with one repository, under the daemon's number; only now is httpx loaded."""
        from daemon.images.registry.auth import Tokens
        from daemon.images.registry.client import Repository, Timeouts

        self._tokens = self._tokens or Tokens()
        repository = Repository(
            Endpoint(**endpoint),
            path,
            AuthConfig.of(auth),
            actions=actions,
            tokens=self._tokens,
            timeouts=Timeouts(**timeouts),
        )
        try:
            await (repository.ping() if actions != "login" else repository.login())
        except BaseException:
            await repository.close()
            raise
        self._sessions[session] = repository

    async def close(self, report: Report, session: int) -> None:
        if repository := self._sessions.pop(session, None):
            await repository.close()

    async def tags(self, report: Report, session: int) -> list[str]:
        return await self._sessions[session].tags()

    async def manifest(self, report: Report, session: int, reference: str) -> dict[str, str]:
        fetched = await self._sessions[session].manifest(reference)
        body = base64.b64encode(fetched.body).decode()
        return {"digest": fetched.digest, "media_type": fetched.media_type, "body": body}

    async def config(self, report: Report, session: int, digest: str) -> str:
        return base64.b64encode(await self._sessions[session].config(digest)).decode()

    async def layer(
        self, report: Report, session: int, digest: str, size: int, directory: str, pause: float
    ) -> dict[str, Any]:
        from daemon.images.transfer.download import Download

        repository = self._sessions[session]
        download = Download(repository, digest, size, Path(directory), self._store, report, pause=pause)
        return (await download.run()).fields()

    async def unpack(self, report: Report, digest: str, media_type: str, directory: str) -> dict[str, Any]:
        layer = await asyncio.to_thread(unpack_again, digest, media_type, Path(directory), self._store)
        return layer.fields()

    async def convert(
        self, report: Report, blob: str, compression: str, level: int | None, epoch: int | None
    ) -> dict[str, Any]:
        from daemon.images.transfer.convert import convert

        return await asyncio.to_thread(convert, self._store, blob, compression, level, epoch)

    async def file_digests(self, report: Report, tree: dict[str, Any]) -> list[list[str]]:
        from daemon.images.transfer.treefiles import digests

        return await asyncio.to_thread(digests, tree)

    async def has_blob(self, report: Report, session: int, digest: str) -> int | None:
        return await self._sessions[session].size_of(digest)

    async def mount(self, report: Report, session: int, digest: str, source: str) -> str | None:
        return await self._sessions[session].mount(digest, source)

    async def upload(self, report: Report, session: int, digest: str, location: str | None) -> None:
        from daemon.images.transfer.download import INTERVAL

        last = 0.0

        def progress(sent: int) -> None:
            nonlocal last
            now = asyncio.get_running_loop().time()
            if now - last >= INTERVAL:
                last = now
                report({"current": sent})

        await self._sessions[session].upload(digest, self._store.path(digest), location, progress)

    async def put_blob(self, report: Report, session: int, digest: str, body: str) -> None:
        await self._sessions[session].put_blob(base64.b64decode(body), digest)

    async def put_manifest(
        self, report: Report, session: int, reference: str, body: str, media_type: str
    ) -> None:
        await self._sessions[session].put_manifest(reference, base64.b64decode(body), media_type)


class Server:
    """Runs requests side by side until the daemon closes the socket."""

    def __init__(self, operations: list[object], channel: socket.socket):
        """`channel`: where descriptors come that go along with requests."""
        self._operations = operations
        self._descriptors = Received(channel)
        self._running: dict[int, asyncio.Task[None]] = {}

    async def serve(self, connection: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=connection, limit=LONGEST_LINE)
        while line := await reader.readline():
            request = json.loads(line)
            if (cancelled := request.get("cancel")) is not None:
                if task := self._running.get(cancelled):
                    task.cancel()
                continue
            seq, op = request.pop("seq"), request.pop("op")
            if "fd" in request:
                request["fd"] = self._descriptors.take(seq)
            self._running[seq] = asyncio.create_task(self._run(seq, op, request))
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, seq: int, op: str, arguments: dict[str, Any]) -> None:
        method = next(getattr(each, op) for each in self._operations if hasattr(each, op))
        try:
            result = await method(
                lambda progress: self._send({"seq": seq, "progress": progress}), **arguments
            )
            self._send({"seq": seq, "result": result})
        except RegistryError as error:
            self._send({"seq": seq, "error": {"registry": error.fields()}})
        except PydError as error:
            self._send({"seq": seq, "error": {"kind": type(error).__name__, "message": str(error)}})
        except OSError as error:
            self._send({"seq": seq, "error": {"kind": "Internal", "message": str(error)}})
        except asyncio.CancelledError:
            self._send({"seq": seq, "error": {"kind": "Internal", "message": "context canceled"}})
        except Exception as error:  # the daemon must hear of it, whatever it is
            traceback.print_exc()
            self._send({"seq": seq, "error": {"kind": "Internal", "message": f"{op}: {error!r}"}})
        finally:
            self._running.pop(seq, None)

    def _send(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")


def begun() -> tuple[socket.socket, socket.socket, Path]:
    """What every worker does first: the requests' socket, the descriptors', the content store's directory."""
    die_with_parent(int(sys.argv[3]))
    no_new_privileges()
    one_heap(trimmed=False)
    connection, channel = (socket.socket(fileno=int(each)) for each in sys.argv[1:3])
    for each in (connection, channel):
        each.setblocking(False)
        each.set_inheritable(False)
    return connection, channel, Path(sys.argv[4])


def main() -> None:
    connection, channel, root = begun()
    store = WorkerStore(root)
    operations: list[object] = [Operations(store)]
    if len(sys.argv) > 5:
        from daemon.images.transfer.archives import Archives

        operations.append(Archives(store, int(sys.argv[5])))
    asyncio.run(Server(operations, channel).serve(connection))
    os._exit(0)  # threads that still wait for a pipe don't keep the process
