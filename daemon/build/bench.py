"""What all builds of a daemon share, and what one build brings along."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from daemon.build.graph import About, Source, Vertex
from daemon.build.session.sessions import Session, Sessions
from daemon.build.steps import CANCELED, Feed, Progress
from daemon.build.upkeep.cache import Cache
from daemon.build.upkeep.cachemounts import CacheMounts
from daemon.build.workshop import Workshop
from daemon.images.model import chain_ids
from storage.gc import Lease

if TYPE_CHECKING:
    from daemon.build.attest.usage import Usage
    from daemon.build.doors.fronts import ImageDoor
    from daemon.build.sources.policy import SourcePolicies
    from daemon.containers.context import Context
    from daemon.images.model import AuthConfig
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
    snapshot: str = ""
    """What a failed step left, upon the layers: a snapshot of this name, for this build alone."""

    @property
    def chain(self) -> str:
        """Chain ID of the topmost layer, or the snapshot; empty for scratch."""
        if self.snapshot:
            return self.snapshot
        return chain_ids(self.diff_ids)[-1] if self.diff_ids else ""


SCRATCH = Result()


class ImageSource(Protocol):
    """The build's way to images (images.py)."""

    async def layers(self, source: Source, progress: Progress) -> tuple[str, ...]:
        """Diff IDs of docker-image://... or oci-layout://..., leased to the build."""
        ...


Memo = tuple[str, tuple[str, ...], bool, tuple[str, ...]]
"""What a step reads of a tree: (chain ID, paths, wildcard, excludes)."""


class Imported(Protocol):
    """Caches that this build was told to import. What they claim serves this build alone."""

    def find(self, key: str) -> Result | None:
        """The result that a cache has for the key; its layers need not be on this machine."""
        ...

    def read(self, memo: Memo) -> str | None:
        """The content digest that a cache has for what is read of a tree."""
        ...

    async def bring(self, result: Result) -> bool:
        """Leases a result's layers to the build, and gets those that are missing. False: they can't be had."""
        ...


@dataclass
class Bench:
    """Shared by all builds."""

    ctx: Context
    store: ImageStore
    cache: Cache
    workshop: Workshop
    spool: Path
    cache_mounts: CacheMounts
    sessions: Sessions
    running: dict[str, asyncio.Future[tuple[Result, ...]]] = field(default_factory=dict)
    """Steps under way by cache key: an equal one waits for it."""
    exits: dict[str, asyncio.Future[tuple[int, bool]]] = field(default_factory=dict)
    """Processes by container ID, those beside them by ID/NAME: (status, killed for memory)."""
    started: set[str] = field(default_factory=set)
    """Those whose start the supervisor has acknowledged."""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))
    digests: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """Content digests within layers, which never change."""
    deleting: set[asyncio.Task[None]] = field(default_factory=set)
    image_door: ImageDoor | None = None
    """How front ends that run as images reach us."""
    shown: dict[str, None] = field(default_factory=dict)
    """Steps that only configure and were shown before: the classic door calls them cached."""

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
        if not result.chain:
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
    images: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(docker-image:// identifier, platform) to diff IDs, resolved and leased."""
    resolved: dict[str, str] = field(default_factory=dict)
    """What sources were: `docker-image://NAME`, a repository's or a file's URL, to manifest, commit or checksum."""
    fetched: dict[str, Result] = field(default_factory=dict)
    """Directories that came already, by their vertices' digests: what is uploaded can be had once only."""
    fetching: dict[str, asyncio.Lock] = field(default_factory=dict)
    entitlements: frozenset[str] = frozenset()
    """`network.host`, `security.insecure`: what steps may have because the user said --allow."""
    resolver: ImageSource | None = None
    """Where images come from that nobody resolved before the graph was solved."""
    policy: SourcePolicies | None = None
    """What the client says of sources; asked when an image's name is resolved and when a graph is solved."""
    progress: dict[str, Progress] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """Digests of vertices to the keys that the cache knows their results by; the solver notes them."""
    known: dict[str, Result] = field(default_factory=dict)
    """Keys to what they stand for, of all steps; the solver notes them."""
    reads: dict[Memo, str] = field(default_factory=dict)
    """Content digests that keys were made of; the solver notes them."""
    left: dict[str, Result] | None = None
    """Not None: what failed steps left is kept for whoever asks, by IDs that the errors tell."""
    times: dict[str, int] = field(default_factory=dict)
    """Chain IDs of imported layers to when they were made, in nanoseconds."""
    imported: Imported | None = None
    """Results of other machines' caches, asked after our own."""
    sessions: tuple[Session, ...] = ()
    """The client's own; none at the classic door."""
    usage: Usage | None = None
    """Samples of what the machine is busy with, for a provenance that tells of it."""
    started: int = field(default_factory=time.time_ns)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    """What is given back when the build ends."""
    feed: Feed = field(default_factory=Feed)

    async def credentials(self, host: str) -> AuthConfig | None:
        """Of the first of the build's clients that has any for a registry's host."""
        for session in self.sessions:
            if (found := await session.credentials(host)) is not None:
                return found
        return None

    def of(self, vertex: Vertex) -> Progress:
        found = self.progress.get(vertex.digest)
        if found is None:
            found = self.progress[vertex.digest] = Progress(vertex, notify=self.feed.note)
        return found

    def unseen(self, vertex: Vertex) -> Progress:
        """The progress of what is begun before it is known to be wanted: shown when `show` says so."""
        return self.progress.setdefault(vertex.digest, Progress(vertex))

    def show(self, progress: Progress) -> None:
        progress.notify = self.feed.note
        self.feed.note(progress)

    def forget(self, progress: Progress) -> None:
        """What was begun was not wanted."""
        if self.progress.get(progress.digest) is progress:
            del self.progress[progress.digest]

    @contextlib.asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[Progress]:
        """Shows what is no operation of the graph ("exporting to image") as a vertex of its own.

        It starts now and ends with the block; what the block raises is its error.
        """
        progress = self.of(Vertex(Source(f"internal://{secrets.token_hex(16)}"), about=About(name=name)))
        progress.start()
        try:
            yield progress
        except asyncio.CancelledError:
            progress.finish("failed", CANCELED)
            raise
        except Exception as error:
            progress.finish("failed", str(error))
            raise
        progress.finish("done")
