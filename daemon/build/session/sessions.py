"""The daemon's view of sessions: who is connected, and what a build may ask of its clients.

The connections themselves are in the build worker (daemon.build.session.operations), which is asked by number.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import itertools
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from daemon.build.session.contexts import Contexts
from daemon.images.model import AuthConfig
from storage.errors import Conflict, DataCorrupted, InvalidArgument, NotFound, NotImplementedYet, Unavailable

if TYPE_CHECKING:
    from daemon.build.bench import Job
    from daemon.build.steps import Status
    from daemon.build.workshop import Workshop

TIMEOUT = 5.0
"""Seconds that a build waits for the session it names: BuildKit waits as long (source/local)."""
HUB = "registry-1.docker.io"
"""What clients know Docker Hub's credentials by."""


class Raw(Protocol):
    """A hijacked connection, as api.hijack gives it. Whoever gets it closes the socket."""

    @property
    def socket(self) -> socket.socket: ...

    @property
    def early(self) -> bytes: ...


class Sessions:
    """All sessions of a daemon."""

    def __init__(self, workshop: Workshop, contexts: Path, sockets: Path) -> None:
        """`contexts`: where local directories are kept between builds. `sockets`: where ssh agents' sockets lie."""
        self.workshop = workshop
        self.contexts, self.sockets = Contexts(contexts), sockets
        self._numbers = itertools.count(1)
        self._known: dict[str, Session] = {}
        self._changed = asyncio.Event()

    async def attach(self, id: str, name: str, shared_key: str, methods: frozenset[str], raw: Raw) -> None:
        """Serves a client's session until it goes. Conflict for an ID that is connected already."""
        with raw.socket:
            if not id:
                raise InvalidArgument("the session has no ID")
            if id in self._known:
                raise Conflict(f"session {id} already exists")
            known = frozenset(method.lower() for method in methods)
            session = Session(self, next(self._numbers), id, shared_key, known)
            try:
                await self._serve(session, raw)
            finally:
                session.closed.set()
                if self._known.get(id) is session:
                    del self._known[id]

    async def _serve(self, session: Session, raw: Raw) -> None:
        self._known[session.id] = session  # what is asked of it waits in the worker for the connection
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        early = base64.b64encode(raw.early).decode()
        await session.call("session", fd=raw.socket.detach(), early=early)

    async def get(self, id: str, timeout: float = TIMEOUT) -> Session:
        """The session with an ID, waited for; NotFound when it does not come."""
        id = id.partition(":")[2] or id  # "prefix:ID" tells apart equal sources of one build
        try:
            async with asyncio.timeout(timeout):
                while (found := self._known.get(id)) is None:
                    await self._changed.wait()
        except TimeoutError:
            raise NotFound(f"no active session for {id}: context deadline exceeded") from None
        return found


class Session:
    """One client. Every call raises Unavailable when the client goes meanwhile."""

    def __init__(
        self, owner: Sessions, number: int, id: str, shared_key: str, methods: frozenset[str]
    ) -> None:
        self._owner, self._number = owner, number
        self.id, self.shared_key, self.methods = id, shared_key, methods
        self.closed = asyncio.Event()

    def offers(self, method: str) -> bool:
        """Whether the client serves a gRPC method, given as "/service/method" in any case."""
        return method.lower() in self.methods

    async def call(
        self, operation: str, *, progress: Callable[[dict[str, Any]], None] | None = None, **arguments: Any
    ) -> Any:
        """An operation of the worker's on this connection; see Worker.call."""
        if self.closed.is_set():
            raise Unavailable(f"session {self.id} has ended")
        return await self._owner.workshop.call(operation, progress=progress, number=self._number, **arguments)

    async def sync(
        self,
        job: Job,
        name: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow: Sequence[str] = (),
        hint: str = "",
        progress: Status | None = None,
    ) -> Path:
        """The client's directory NAME as it is now: a directory that stays unchanged until the job ends.

        `include`, `exclude`, `follow`: BuildKit's patterns, applied by the client. `hint`: the source's
        local.sharedkeyhint. NotFound when the client has no directory of that name.
        """
        if not self.offers("/moby.filesync.v1.FileSync/DiffCopy"):
            raise NotFound("no local sources enabled")
        wanted = {"include-patterns": include, "exclude-patterns": exclude, "followpaths": follow}
        patterns = {key: list(values) for key, values in wanted.items() if values}

        async def fill(
            directory: Path, number: int, base: Path | None, in_place: bool, own: bool
        ) -> dict[str, int]:
            made: dict[str, int] = await self.call(
                "session_sync",
                progress=_showing(progress),
                name=name,
                patterns=patterns,
                directory=str(directory),
                generation=number,
                base=str(base) if base else None,
                in_place=in_place,
                own=own,
            )
            return made

        shared = f"{hint}:{self.shared_key}"
        path, release = await self._owner.contexts.sync(shared, name, (include, exclude, follow), fill)
        job.stack.callback(release)
        return path

    async def secret(self, id: str) -> bytes | None:
        """None when the client has none of that ID."""
        if not self.offers("/moby.buildkit.secrets.v1.Secrets/GetSecret"):
            return None
        found = await self.call("session_secret", id=id)
        return None if found is None else base64.b64decode(found)

    async def credentials(self, host: str) -> AuthConfig | None:
        """The client's credentials for a registry's host (docker.io for Docker Hub); None is anonymous.

        Tokens are fetched by us, with these: never by the client (Auth.FetchToken), whose network may be another.
        """
        if not self.offers("/moby.filesync.v1.Auth/Credentials"):
            return None
        host = HUB if host in ("docker.io", "index.docker.io") else host
        found = await self.call("session_credentials", host=host)
        if not found["secret"]:
            return None
        if not found["username"]:
            return AuthConfig(identity_token=found["secret"], server_address=host)
        return AuthConfig(found["username"], found["secret"], host)

    async def ssh_agent(self, job: Job, id: str, *, uid: int = 0, gid: int = 0, mode: int = 0o600) -> Path:
        """A Unix socket behind which the client's ssh agent ID ("default" for "") answers until the job ends.

        NotFound when the client forwards none of that ID.
        """
        path, close = await self.open_agent(id, uid=uid, gid=gid, mode=mode)
        job.stack.push_async_callback(close)
        return path

    async def open_agent(
        self, id: str, *, uid: int = 0, gid: int = 0, mode: int = 0o600
    ) -> tuple[Path, Callable[[], Awaitable[None]]]:
        """The same, with what closes it."""
        id = id or "default"
        if not self.offers("/moby.sshforward.v1.SSH/ForwardAgent"):
            raise NotFound(f'no SSH key "{id}" forwarded from the client')
        await asyncio.to_thread(self._owner.sockets.mkdir, mode=0o711, parents=True, exist_ok=True)
        path = self._owner.sockets / f"ssh-{secrets.token_hex(8)}"
        opened = asyncio.Event()
        arguments = {"id": id, "path": str(path), "uid": uid, "gid": gid, "mode": mode}
        serving = asyncio.ensure_future(
            self.call("session_agent", progress=lambda _: opened.set(), **arguments)
        )
        waiting = asyncio.ensure_future(opened.wait())
        try:
            await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not opened.is_set():
                await serving
                raise Unavailable("the client has gone")
        except BaseException:
            await _ended(serving)
            raise
        finally:
            waiting.cancel()

        async def close() -> None:
            await _ended(serving)

        return path, close

    async def fetch_upload(self, url: str, path: Path) -> None:
        """What the client offers under http://buildkit-session/ID, into a new file."""
        if not self.offers("/moby.upload.v1.Upload/Pull"):
            raise NotFound(f"the client offers nothing under {url}")
        await self.call("session_upload", url=url, path=str(path))

    async def send_tree(
        self,
        exporter_id: int | str,
        tree: Mapping[str, Any] | Path | None,
        *,
        prefix: str = "",
        time: int | None = None,
        status: Status | None = None,
    ) -> None:
        """A tree into the directory that the client exports to, merged with what is there.

        `tree`: a directory, or the worker's {"lower": [...]}; without any it is empty. `prefix`: a directory below
        ("linux_amd64"). `time`: of all entries, in nanoseconds.
        """
        self._must_export()
        lower = {"lower": [str(tree)]} if isinstance(tree, Path) else dict(tree) if tree else None
        await self.call(
            "session_send_tree",
            progress=_showing(status),
            exporter=exporter_id,
            tree=lower,
            prefix=prefix,
            time=time,
        )

    async def send_file(
        self,
        exporter_id: int | str,
        source: Path | Callable[[int], Awaitable[None]],
        metadata: Mapping[str, str],
    ) -> None:
        """One stream into what the client exports to: a file, or what a producer writes to a descriptor.

        A producer is called as `await producer(fd)` with the write end of a pipe, which it may hand on; the
        end of what it writes is when it and all it gave the descriptor to have closed it (ours is closed when it
        returns). Conflict when the target exists.
        """
        self._must_export()
        arguments: dict[str, Any] = {"exporter": exporter_id, "metadata": dict(metadata)}
        if isinstance(source, Path):
            await self.call("session_send_file", path=str(source), **arguments)
            return
        async with _piped(source) as (reading, producing):
            sending = asyncio.ensure_future(self.call("session_send_file", fd=reading, **arguments))
            try:
                await _both(producing, sending)
            finally:
                await _ended(sending)

    def _must_export(self) -> None:
        if not self.offers("/moby.filesync.v1.FileSend/DiffCopy"):
            raise NotImplementedYet("method /moby.filesync.v1.FileSend/DiffCopy not supported by the client")

    def content(self, store: str) -> Content:
        """A content store of the client's: a local cache ("local:…"), an OCI layout ("oci:…")."""
        return Content(self, store)


class Content:
    """containerd's content service on the client."""

    def __init__(self, session: Session, store: str) -> None:
        self._session, self._store = session, store

    async def info(self, digest: str) -> int | None:
        """A blob's size; None when it is not there."""
        found: int | None = await self._call("session_blob_info", digest=digest)
        return found

    async def read(self, digest: str, path: Path) -> None:
        """A blob into a new file, its digest verified. NotFound; DataCorrupted."""
        await self._call("session_blob_read", digest=digest, path=str(path), limit=0)

    async def read_bytes(self, digest: str, limit: int = 16 << 20) -> bytes:
        """A small blob (index, manifest, config), verified. NotFound; DataCorrupted."""
        found = await self._call("session_blob_read", digest=digest, path=None, limit=limit)
        return base64.b64decode(found)

    async def write(self, descriptor: Mapping[str, Any], path: Path) -> None:
        """A file as the blob that an OCI descriptor names; one that is there stays."""
        fields = {key: descriptor[key] for key in ("digest", "size")}
        await self._call("session_blob_write", descriptor=fields, path=str(path), data="")

    async def write_bytes(self, descriptor: Mapping[str, Any], data: bytes) -> None:
        if int(descriptor["size"]) != len(data):
            raise DataCorrupted(f"{descriptor['digest']} has {len(data)} bytes, not {descriptor['size']}")
        fields = {key: descriptor[key] for key in ("digest", "size")}
        encoded = base64.b64encode(data).decode()
        await self._call("session_blob_write", descriptor=fields, path=None, data=encoded)

    async def update_labels(self, digest: str, labels: Mapping[str, str]) -> None:
        """Others stay as they are."""
        await self._call("session_blob_labels", digest=digest, labels=dict(labels))

    async def _call(self, operation: str, **arguments: Any) -> Any:
        if not self._session.offers("/containerd.services.content.v1.Content/Info"):
            raise NotFound(f"the client has no content store {self._store}")
        return await self._session.call(operation, store=self._store, **arguments)


def _showing(status: Status | None) -> Callable[[dict[str, Any]], None] | None:
    if status is None:
        return None
    return lambda message: status.advance(message["current"])


@contextlib.asynccontextmanager
async def _piped(
    producer: Callable[[int], Awaitable[None]],
) -> AsyncIterator[tuple[int, asyncio.Future[None]]]:
    """A pipe's read end, the block's to close, and what writes to the other."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    async def produce() -> None:
        try:
            result = producer(writing)
            if inspect.isawaitable(result):
                await result
        finally:
            os.close(writing)

    producing = asyncio.ensure_future(produce())
    try:
        yield reading, producing
    finally:
        await _ended(producing)


async def _both(producing: asyncio.Future[None], sending: asyncio.Future[Any]) -> None:
    """The first error of either: a producer's own before what it causes at the other end."""
    done, _ = await asyncio.wait((producing, sending), return_when=asyncio.FIRST_COMPLETED)
    if producing in done:
        producing.result()
        await sending
    else:
        sending.result()
        await producing


async def _ended(future: asyncio.Future[Any]) -> None:
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)
