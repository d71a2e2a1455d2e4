"""What all builds of a daemon share, and what one build brings along."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from daemon.build.cache import Cache
from daemon.build.graph import Vertex
from daemon.build.session.sessions import Sessions
from daemon.build.steps import Progress
from daemon.build.workshop import Workshop
from daemon.images.model import chain_ids
from storage.gc import Lease

if TYPE_CHECKING:
    from daemon.containers.context import Context
    from daemon.images.store import ImageStore

BUILD_KEY = "build-"
"""Begin of the keys of snapshots that steps are working in."""
REMOVED = "removed-"
"""Begin of the names of builds' directories that are being deleted."""
PARALLEL = 16
"""Steps of all builds that run at once."""


@dataclass(frozen=True)
class Result:
    """A vertex's tree: a stack of layers, or (contexts, downloads) a directory of the build's own."""

    diff_ids: tuple[str, ...] = ()
    directory: Path | None = None

    @property
    def chain(self) -> str:
        """Chain ID of the topmost layer; empty for scratch."""
        return chain_ids(self.diff_ids)[-1] if self.diff_ids else ""


SCRATCH = Result()


class Imported(Protocol):
    """Caches that this build was told to import."""

    async def find(self, key: str) -> Result | None:
        """The result of that key, its layers unpacked and leased to the build."""
        ...


@dataclass
class Bench:
    """Shared by all builds."""

    ctx: Context
    store: ImageStore
    cache: Cache
    workshop: Workshop
    spool: Path
    cache_mounts: Path
    sessions: Sessions
    running: dict[str, asyncio.Future[Result]] = field(default_factory=dict)
    """Steps under way by cache key: an equal one waits for it."""
    exits: dict[str, asyncio.Future[tuple[int, bool]]] = field(default_factory=dict)
    """RUN processes by container ID: (status, killed for memory)."""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))
    digests: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """Content digests within layers, which never change."""
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    """Cache mounts with sharing=locked."""
    deleting: set[asyncio.Task[None]] = field(default_factory=set)
    shown: dict[str, None] = field(default_factory=dict)
    """Steps that only configure and were shown before: the classic door calls them cached."""
    private: set[str] = field(default_factory=set)
    """Cache mounts with sharing=private that are in use."""

    def discard(self, directory: Path) -> None:
        """Moves a build's directory out of sight at once; deleting 50,000 files is nobody's wait."""
        gone = directory.with_name(f"{REMOVED}{directory.name}")
        with contextlib.suppress(FileNotFoundError):
            directory.rename(gone)
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(shutil.rmtree, gone, True))
            self.deleting.add(task)
            task.add_done_callback(self.deleting.discard)

    def overlay(self, result: Result) -> dict[str, Any] | None:
        """A tree in the worker's form; None is scratch."""
        if result.directory is not None:
            return {"lower": [str(result.directory)]}
        if not result.diff_ids:
            return None
        mount = self.store.snapshots.overlay(result.chain)
        return {"lower": [str(path) for path in mount.lower]}


@dataclass(frozen=True)
class Limits:
    """Docker's resource limits for RUN steps, as HostConfig members."""

    host: Mapping[str, Any] = field(default_factory=dict)
    extra_hosts: tuple[str, ...] = ()
    host_network: bool = False
    """Whether the one who builds asked for the host's network himself."""


@dataclass
class Job:
    """One build: its directory, its secrets, what it holds, what it tells."""

    id: str
    directory: Path
    lease: Lease
    limits: Limits = field(default_factory=Limits)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    contexts: dict[str, Path] = field(default_factory=dict)
    """local://NAME to a directory."""
    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """docker-image:// identifiers to diff IDs, resolved and leased."""
    progress: dict[str, Progress] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """Digests of vertices to the keys that the cache knows their results by; the solver notes them."""
    imported: Imported | None = None
    """Results of other machines' caches, asked after our own."""

    def of(self, vertex: Vertex) -> Progress:
        found = self.progress.get(vertex.digest)
        if found is None:
            found = self.progress[vertex.digest] = Progress(vertex)
        return found
