"""Where a cache is written to: a registry's repository, or a directory of the client's."""

from __future__ import annotations

from typing import Protocol

from daemon.build.bench import Bench
from daemon.build.session.sessions import Content
from daemon.build.steps import Status
from daemon.images.manifests import Descriptor
from daemon.images.reference import Reference
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Session
from storage.errors import PydError

_MOUNTS_TRIED = 2


class Target(Protocol):
    """Every call raises RegistryError or PydError when the other side refuses."""

    async def has(self, digest: str) -> bool: ...

    async def layer(self, diff_id: str, layer: Descriptor, status: Status) -> None:
        """A layer's blob out of the content store, unless it is there."""
        ...

    async def put(self, descriptor: Descriptor, body: bytes) -> None:
        """A small blob."""
        ...

    async def name(self, descriptor: Descriptor, body: bytes) -> None:
        """The manifest, under the cache's name."""
        ...


class RegistryTarget:
    def __init__(self, bench: Bench, session: Session, reference: Reference) -> None:
        self._bench, self._session, self._reference = bench, session, reference

    async def has(self, digest: str) -> bool:
        return await self._session.has_blob(digest)

    async def layer(self, diff_id: str, layer: Descriptor, status: Status) -> None:
        if await self.has(layer.digest):
            return
        location = None
        for path in self._elsewhere(diff_id):
            try:
                location = await self._session.mount(layer.digest, path)
            except (RegistryError, PydError):
                continue
            if location is None:
                return
            break
        await self._session.upload(
            layer.digest, location, lambda report: status.advance(report["current"], layer.size)
        )

    def _elsewhere(self, diff_id: str) -> list[str]:
        """Other repositories of this registry that are known to have the blob."""
        blob = self._bench.store.blob(diff_id)
        prefix = f"{self._reference.domain}/"
        names = reversed(blob.repositories) if blob else ()
        paths = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [path for path in paths if path != self._reference.path][:_MOUNTS_TRIED]

    async def put(self, descriptor: Descriptor, body: bytes) -> None:
        await self._session.put_blob(descriptor.digest, body)

    async def name(self, descriptor: Descriptor, body: bytes) -> None:
        wanted = self._reference.tag or descriptor.digest
        await self._session.put_manifest(wanted, body, descriptor.media_type)


class ClientTarget:
    """The client itself writes the directory's index: it is told the manifest's descriptor."""

    def __init__(self, bench: Bench, content: Content) -> None:
        self._bench, self._content = bench, content

    async def has(self, digest: str) -> bool:
        return await self._content.info(digest) is not None

    async def layer(self, diff_id: str, layer: Descriptor, status: Status) -> None:
        if not await self.has(layer.digest):
            await self._content.write(layer.fields(), self._bench.store.content.path(layer.digest))
        status.advance(layer.size, layer.size)

    async def put(self, descriptor: Descriptor, body: bytes) -> None:
        await self._content.write_bytes(descriptor.fields(), body)

    async def name(self, descriptor: Descriptor, body: bytes) -> None:
        await self.put(descriptor, body)
