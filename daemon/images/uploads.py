"""Blobs on their way into one repository: each sent once, skipped where it is, mounted from where it was.

What is sent is a blob of the store as it lies there; what a target has is found in its manifests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from daemon.images import targets
from daemon.images.reference import DEFAULT_DOMAIN, Reference
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Session
from daemon.images.store import ImageStore
from daemon.images.streams import together
from daemon.images.targets import Part, Target
from storage.errors import NotFound

MOUNTS_TRIED = 3
Hear = Callable[[int], None]
"""Called with the bytes that are gone."""
EXISTS, PUSHED = "Layer already exists", "Pushed"


class Uploads:
    """To one repository, over one session. `limit`: blobs on their way at once."""

    def __init__(self, store: ImageStore, session: Session, reference: Reference, limit: int) -> None:
        self._store, self._session, self._reference = store, session, reference
        self.slots = asyncio.Semaphore(limit)
        self._known: set[str] = set()
        """Digests that the registry has in this repository."""

    async def send(self, digest: str, repositories: Sequence[str], hear: Hear) -> str:
        """What became of it, in dockerd's words."""
        text = await self._send(digest, repositories, hear)
        self._known.add(digest)
        return text

    async def _send(self, digest: str, repositories: Sequence[str], hear: Hear) -> str:
        location = None
        if digest in self._known or await self._session.has_blob(digest):
            return EXISTS
        for source in self._sources(repositories):
            try:
                location = await self._session.mount(digest, source.path)
            except RegistryError:
                continue
            if location is None:
                return f"Mounted from {source.path}"
            break
        await self._session.upload(digest, location, lambda report: hear(report["current"]))
        return PUSHED

    def _sources(self, repositories: Sequence[str]) -> list[Reference]:
        """Other repositories of the same registry that had the blob, newest first."""
        found = []
        for name in reversed(repositories):
            domain, _, path = name.partition("/")
            if domain == self._reference.domain and path != self._reference.path:
                found.append(Reference(domain or DEFAULT_DOMAIN, path))
        return found[:MOUNTS_TRIED]


class TargetUpload:
    """A target with all it refers to. Whoever makes one holds a lease on that."""

    def __init__(self, store: ImageStore, session: Session, reference: Reference, target: Target, limit: int):
        self._store, self._session, self._reference, self._target = store, session, reference, target
        self._uploads = Uploads(store, session, reference, limit)
        self._parts: list[Part] = []

    async def blobs(self, announce: Callable[[str, int], Hear], done: Callable[[str, str], None]) -> None:
        """All but the manifests. `announce(digest, size)` gives who hears of it; `done(digest, what became)`."""
        store, target = self._store, self._target
        self._parts = await asyncio.to_thread(targets.parts, store.content, target)
        wanted = {blob.digest: blob.size for part in self._parts for blob in part.blobs}
        absent = [part.digest for part in self._parts if part.manifest is None]
        absent += [digest for digest in wanted if not store.content.has(digest)]
        if absent:
            raise NotFound(f"content digest {absent[0]}: not found")
        layers = store.diff_ids_of_blobs()
        hears = {digest: announce(digest, size) for digest, size in wanted.items()}

        async def one(digest: str) -> None:
            blob = store.blob(layers[digest]) if digest in layers else None
            async with self._uploads.slots:
                text = await self._uploads.send(digest, blob.repositories if blob else (), hears[digest])
            if blob is not None:
                await store.note_repository(layers[digest], self._reference.name)
            done(digest, text)

        await together(*(one(digest) for digest in wanted))

    async def manifests(self, reference: str) -> None:
        """Those within the target by their digests, then the target under the reference (a tag or its digest)."""
        content, sent = self._store.content, {self._target.digest}
        within = [(part.digest, str(part.descriptor["mediaType"])) for part in self._parts]
        within += await asyncio.to_thread(targets.nested, content, self._target)
        for digest, media_type in within:
            if digest not in sent:
                sent.add(digest)
                await self._put(digest, digest, media_type)
        await self._put(reference, self._target.digest, self._target.media_type)

    async def _put(self, reference: str, digest: str, media_type: str) -> None:
        body = await asyncio.to_thread(self._store.content.read, digest)
        await self._session.put_manifest(reference, body, media_type)
