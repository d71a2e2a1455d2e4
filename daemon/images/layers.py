"""Getting layers, each once whoever asks: the jobs that pulls share.

A job makes one committed layer: it downloads the blob (or finds it in the store), unpacks it into an active
snapshot, waits for its parent's job, and commits. Jobs of one image run side by side. A second pull that
needs the same layer joins the job and hears its progress; a job that nobody listens to any more is
cancelled and leaves nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from daemon.images import progress
from daemon.images.layerstore import UNPACKING, LayerBlob
from daemon.images.manifests import Descriptor
from daemon.images.model import Json
from daemon.images.store import ImageStore
from daemon.images.transfer.parent import Worker
from storage import failpoints
from storage.errors import Conflict, Internal, NotFound
from storage.gc import Blob, Layer

Listener = Callable[[Json], None]

MISMATCH = "layers from manifest don't match image configuration"


@dataclass(frozen=True)
class Wanted:
    """A layer in its place."""

    chain_id: str
    diff_id: str
    parent: str | None
    descriptor: Descriptor
    repository: str
    """Which is known to hold the blob then; empty when it comes from elsewhere."""

    @property
    def short(self) -> str:
        return progress.short(self.descriptor.digest)


class Source(Protocol):
    """Where layers come from: a registry's session, or a builder's client."""

    def acquire(self) -> None: ...

    async def release(self) -> None: ...

    async def layer(
        self, layer: Descriptor, directory: str, progress: Callable[[dict[str, Any]], None]
    ) -> Json:
        """Stores the blob, verified, and unpacks it; the worker's answer (ingest.Layer's fields)."""
        ...


class Here:
    """The source of layers whose blobs are in the store already."""

    def acquire(self) -> None: ...

    async def release(self) -> None: ...

    async def layer(
        self, layer: Descriptor, directory: str, progress: Callable[[dict[str, Any]], None]
    ) -> Json:
        raise Internal(f"blob {layer.digest} has gone")


class LayerJob:
    def __init__(self, jobs: LayerJobs, wanted: Wanted, session: Source, below: LayerJob | None):
        self._jobs, self.wanted, self._session, self._below = jobs, wanted, session, below
        self._listeners: list[Listener] = []
        self._last: Json | None = None
        self._task: asyncio.Task[None] | None = None

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)
        if self._last is not None:
            listener(self._last)

    def leave(self, listener: Listener) -> None:
        self._listeners.remove(listener)
        if not self._listeners and self._task is not None:
            self._task.cancel()

    def begin(self) -> None:
        self._say(progress.state("Pulling fs layer", self.wanted.short))
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._finished)

    async def wait(self) -> None:
        """Until the layer is committed; cancelling the waiter does not cancel the job."""
        assert self._task is not None
        await asyncio.wait([self._task])
        if self._task.cancelled():
            raise Internal("download canceled")
        self._task.result()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._jobs.forget(self.wanted.chain_id, self)
        if task.cancelled() or task.exception() is not None:
            self._jobs.store.collect_soon()

    def _say(self, line: Json) -> None:
        self._last = line
        for listener in list(self._listeners):
            listener(line)

    async def _run(self) -> None:
        store, wanted = self._jobs.store, self.wanted
        key = f"{UNPACKING}{secrets.token_hex(8)}"
        with store.lease() as lease:
            lease.add(Blob(wanted.descriptor.digest), Layer(wanted.chain_id))
            if self._jobs.slots.locked():
                self._say(progress.state("Waiting", wanted.short))
            self._session.acquire()
            try:
                async with self._jobs.slots:
                    store.snapshots.prepare(key, None)
                    layer = await self._fetch(key)
                if layer["diff_id"] != wanted.diff_id:
                    raise Internal(MISMATCH)
                size = wanted.descriptor.size or layer["blob_size"]
                self._say(progress.counting("Extracting", wanted.short, size, size))
                if self._below is not None:
                    await self._below.wait()
                failpoints.hit("images.layer.commit")
                await self._commit(key, layer)
            finally:
                with suppress(NotFound):
                    store.snapshots.remove(key)
                await self._session.release()
        self._say(progress.state("Pull complete", wanted.short))

    async def _fetch(self, key: str) -> Json:
        """One download of a blob at a time; whoever comes second finds it in the store."""
        wanted, store = self.wanted, self._jobs.store
        directory = str(store.snapshots.layer_dir(key))
        async with self._jobs.blob_lock(wanted.descriptor.digest):
            if store.content.has(wanted.descriptor.digest):
                self._say(progress.state("Download complete", wanted.short))
                blob = store.blob(wanted.diff_id)
                media_type = blob.media_type if blob else wanted.descriptor.media_type
                found: Json = await self._jobs.worker.call(
                    "unpack", digest=wanted.descriptor.digest, media_type=media_type, directory=directory
                )
                return found
            return await self._session.layer(wanted.descriptor, directory, self._hear)

    def _hear(self, report: dict[str, Any]) -> None:
        short, total = self.wanted.short, self.wanted.descriptor.size
        if "current" in report:
            self._say(progress.counting("Downloading", short, report["current"], total))
        elif "retry" in report:
            seconds = report["retry"]
            self._say(progress.state(f"Retrying in {seconds} second{'s' if seconds != 1 else ''}", short))
        else:
            text = {"verifying": "Verifying Checksum", "downloaded": "Download complete"}[report["state"]]
            self._say(progress.state(text, short))

    async def _commit(self, key: str, layer: Json) -> None:
        wanted, store = self.wanted, self._jobs.store
        with suppress(Conflict):  # somebody else (a load) has just made the same layer
            store.snapshots.commit(wanted.chain_id, key, parent=wanted.parent)
        blob = LayerBlob(wanted.descriptor.digest, layer["blob_size"], layer["tar_size"], layer["media_type"])
        await store.add_layer(wanted.chain_id, wanted.diff_id, layer["size"], blob)
        if wanted.repository:
            await store.note_repository(wanted.diff_id, wanted.repository)


class LayerJobs:
    """All layers that are being made, by chain ID."""

    def __init__(self, store: ImageStore, worker: Worker, limit: int):
        self.store, self.worker = store, worker
        self.slots = asyncio.Semaphore(limit)
        self._jobs: dict[str, LayerJob] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def resize(self, limit: int) -> None:
        """How many layers may be fetched at once, from the next one on; those that wait keep their place."""
        self.slots = asyncio.Semaphore(limit)

    def join(self, wanted: Wanted, session: Source, below: LayerJob | None, listener: Listener) -> LayerJob:
        """The running job for this layer, or a new one."""
        job = self._jobs.get(wanted.chain_id)
        if job is None:
            job = self._jobs[wanted.chain_id] = LayerJob(self, wanted, session, below)
            job.listen(listener)
            job.begin()
        else:
            job.listen(listener)
        return job

    @contextmanager
    def joined(self, wanted: Iterable[tuple[Wanted, Source]]) -> Iterator[list[LayerJob]]:
        """The jobs for a chain of layers, the lowest first, while the block lasts. Nobody hears how far they are."""
        jobs: list[LayerJob] = []
        try:
            for each, source in wanted:
                jobs.append(self.join(each, source, jobs[-1] if jobs else None, _silent))
            yield jobs
        finally:
            for job in jobs:
                job.leave(_silent)

    def forget(self, chain_id: str, job: LayerJob) -> None:
        if self._jobs.get(chain_id) is job:
            del self._jobs[chain_id]

    def blob_lock(self, digest: str) -> _Counted:
        return _Counted(self._locks, digest)


def _silent(line: Json) -> None:
    pass


class _Counted:
    """A lock by name that is dropped when nobody wants it."""

    def __init__(self, locks: dict[str, tuple[asyncio.Lock, int]], name: str):
        self._locks, self._name = locks, name

    async def __aenter__(self) -> None:
        lock, users = self._locks.get(self._name, (asyncio.Lock(), 0))
        self._locks[self._name] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._drop()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._locks[self._name][0].release()
        self._drop()

    def _drop(self) -> None:
        lock, users = self._locks.pop(self._name)
        if users > 1:
            self._locks[self._name] = (lock, users - 1)
