"""The daemon's view of sessions: who is connected, and what a build may ask of its clients.

The connections themselves are in the build worker (daemon.build.session.operations), which is asked by number.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from daemon.images.model import AuthConfig
from storage.errors import NotFound, NotImplementedYet

if TYPE_CHECKING:
    from daemon.build.bench import Job
    from daemon.build.steps import Status
    from daemon.build.workshop import Workshop

TIMEOUT = 5.0
"""Seconds that a build waits for the session it names: BuildKit waits as long (source/local)."""


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
        self._workshop = workshop
        self._contexts, self._sockets = contexts, sockets
        self._numbers = itertools.count(1)
        self._known: dict[str, Session] = {}
        self._changed = asyncio.Event()

    async def attach(self, id: str, name: str, shared_key: str, methods: frozenset[str], raw: Raw) -> None:
        """Serves a client's session until it goes. Conflict for an ID that is connected already."""
        raise NotImplementedYet("sessions are not supported yet")

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
        raise NotImplementedYet("local sources are not supported yet")

    async def secret(self, id: str) -> bytes | None:
        """None when the client has none of that ID."""
        raise NotImplementedYet("secrets of sessions are not supported yet")

    async def credentials(self, host: str) -> AuthConfig | None:
        """The client's credentials for a registry's host (docker.io for Docker Hub); None is anonymous."""
        raise NotImplementedYet("credentials of sessions are not supported yet")

    async def ssh_agent(self, job: Job, id: str, *, uid: int = 0, gid: int = 0, mode: int = 0o600) -> Path:
        """A Unix socket behind which the client's ssh agent ID ("default" for "") answers until the job ends.

        NotFound when the client forwards none of that ID.
        """
        raise NotImplementedYet("ssh agents are not supported yet")

    async def fetch_upload(self, url: str, path: Path) -> None:
        """What the client offers under http://buildkit-session/ID, into a new file."""
        raise NotImplementedYet("uploads are not supported yet")

    async def send_tree(
        self,
        exporter_id: int | str,
        tree: Mapping[str, Any] | Path,
        *,
        prefix: str = "",
        status: Status | None = None,
    ) -> None:
        """A tree (a directory, or the worker's {"lower": [...]}) into the directory the client exports to.

        `prefix`: a directory below it ("linux_amd64").
        """
        raise NotImplementedYet("the local exporter is not supported yet")

    async def send_file(
        self, exporter_id: int | str, source: Path | Callable[[int], Any], metadata: Mapping[str, str]
    ) -> None:
        """One stream into what the client exports to: a file, or what a producer writes to a descriptor.

        A producer is called as `await producer(fd)` with the write end of a pipe, which it may hand on; the
        end of what it writes is when it and all it gave the descriptor to have closed it. Conflict when the
        target exists.
        """
        raise NotImplementedYet("exporters to the client are not supported yet")

    def content(self, store: str) -> Content:
        """A content store of the client's: a local cache ("local:…"), an OCI layout ("oci:…")."""
        return Content(self, store)


class Content:
    """containerd's content service on the client."""

    def __init__(self, session: Session, store: str) -> None:
        self._session, self._store = session, store

    async def info(self, digest: str) -> int | None:
        """A blob's size; None when it is not there."""
        raise NotImplementedYet("content stores of sessions are not supported yet")

    async def read(self, digest: str, path: Path) -> None:
        """A blob into a new file, its digest verified. NotFound."""
        raise NotImplementedYet("content stores of sessions are not supported yet")

    async def read_bytes(self, digest: str, limit: int = 16 << 20) -> bytes:
        """A small blob (index, manifest, config), verified. NotFound."""
        raise NotImplementedYet("content stores of sessions are not supported yet")

    async def write(self, descriptor: Mapping[str, Any], path: Path) -> None:
        """A file as the blob that an OCI descriptor names; one that is there stays."""
        raise NotImplementedYet("content stores of sessions are not supported yet")

    async def write_bytes(self, descriptor: Mapping[str, Any], data: bytes) -> None:
        raise NotImplementedYet("content stores of sessions are not supported yet")

    async def update_labels(self, digest: str, labels: Mapping[str, str]) -> None:
        raise NotImplementedYet("content stores of sessions are not supported yet")
