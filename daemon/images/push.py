"""docker push: layers up, each mounted from another repository or skipped where possible, then the manifest.

Layers go up as they are kept (store.LayerBlob), so what was pulled is pushed with the same digests. The
manifest is Docker's schema 2 as dockerd makes it, or OCI's when a layer is compressed with zstd.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.images import manifests, progress
from daemon.images.manifests import Descriptor
from daemon.images.model import AuthConfig, Image, digest_of
from daemon.images.reference import DEFAULT_DOMAIN, Reference
from daemon.images.registry.errors import NO_CREDENTIALS, RegistryError
from daemon.images.sessions import Registries, Session
from daemon.images.store import ImageStore, LayerBlob
from daemon.images.streams import Say, together
from storage.errors import Internal, InvalidArgument, NotFound, Unauthenticated
from storage.gc import Blob

MOUNTS_TRIED = 3


@dataclass(frozen=True)
class _Layer:
    diff_id: str
    blob: LayerBlob

    @property
    def short(self) -> str:
        return progress.short(self.diff_id)


class Push:
    """One push of a tag, or of all tags of a repository."""

    def __init__(
        self,
        store: ImageStore,
        registries: Registries,
        reference: Reference,
        auth: AuthConfig | None,
        limit: int,
        say: Say,
    ):
        self._store, self._registries, self._reference = store, registries, reference
        self._auth, self._say = auth, say
        self._slots = asyncio.Semaphore(limit)
        self._known: set[str] = set()
        """Digests that the registry has in this repository."""

    async def run(self) -> None:
        self._say(progress.message(f"The push refers to repository [{self._reference.name}]"))
        targets = self._targets()
        with self._registries.worker.held():
            await self._try_endpoints(targets)

    def _targets(self) -> list[tuple[Reference, Image]]:
        reference = self._reference
        if reference.digest:
            raise InvalidArgument("cannot push a digest reference")
        if reference.tag:
            image = self._store.get(self._store.image_of(reference) or "")
            if image is None:
                raise Internal(f"tag does not exist: {reference.familiar}")
            return [(reference, image)]
        named = [(ref, self._store.get(target)) for ref, target in self._store.references_in(reference)]
        found = [(ref, image) for ref, image in named if image is not None and not ref.digest]
        if not found:
            raise Internal(f"An image does not exist locally with the tag: {reference.familiar_name}")
        return found

    async def _try_endpoints(self, targets: Sequence[tuple[Reference, Image]]) -> None:
        error: RegistryError | None = None
        secure: set[str] = set()
        for endpoint in await self._registries.endpoints(self._reference.domain, push=True):
            if endpoint.plain and endpoint.host in secure:
                continue
            try:
                session = await self._registries.open(endpoint, self._reference, self._auth, "pull,push")
            except RegistryError as failed:
                error = failed
                if failed.code != "transport" and not endpoint.plain:
                    secure.add(endpoint.host)
                continue
            try:
                for reference, image in targets:
                    await self._push(session, reference, image)
                return
            except RegistryError as failed:
                error = failed
                break
            finally:
                await session.release()
        assert error is not None
        if error.code == "UNAUTHORIZED":
            raise Unauthenticated(str(error)) from error
        text = NO_CREDENTIALS if error.code == "credentials" else str(error)
        raise Internal(text) from error

    async def _push(self, session: Session, reference: Reference, image: Image) -> None:
        layers = [_Layer(diff_id, self._blob(diff_id)) for diff_id in image.diff_ids]
        for layer in reversed(layers):
            self._say(progress.state("Preparing", layer.short))
        unique = {layer.blob.digest: layer for layer in layers}
        with self._store.lease() as lease:
            lease.add(*(Blob(layer.blob.digest) for layer in layers))
            await together(*(self._push_layer(session, layer) for layer in reversed(unique.values())))
            body, media_type = await self._put_config(session, image, layers)
            await session.put_manifest(reference.tag, body, media_type)
        digest = digest_of(body)
        self._say(progress.message(f"{reference.tag}: digest: {digest} size: {len(body)}"))
        await self._store.name(image.id, [reference.with_digest(digest)], tagged=False)
        aux = {"Tag": reference.tag, "Digest": digest, "Size": len(body)}
        self._say({"progressDetail": {}, "aux": aux})

    def _blob(self, diff_id: str) -> LayerBlob:
        blob = self._store.blob(diff_id)
        if blob is None:
            raise NotFound(f"layer {diff_id} is not in the content store")
        return blob

    async def _put_config(
        self, session: Session, image: Image, layers: Sequence[_Layer]
    ) -> tuple[bytes, str]:
        config = await asyncio.to_thread(self._store.content.read, image.id)
        await session.put_blob(image.id, config)
        descriptors = [
            Descriptor(layer.blob.media_type, layer.blob.digest, layer.blob.size) for layer in layers
        ]
        if all(each.media_type == manifests.DOCKER_LAYER for each in descriptors):
            head = Descriptor(manifests.DOCKER_CONFIG, image.id, len(config))
            return manifests.docker_manifest(head, descriptors), manifests.DOCKER_MANIFEST
        oci = [_as_oci(each) for each in descriptors]
        head = Descriptor(manifests.OCI_CONFIG, image.id, len(config))
        document = {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "config": head.fields(),
            "layers": [each.fields() for each in oci],
        }
        return json.dumps(document, separators=(",", ":")).encode(), manifests.OCI_MANIFEST

    async def _push_layer(self, session: Session, layer: _Layer) -> None:
        if self._slots.locked():
            self._say(progress.state("Waiting", layer.short))
        async with self._slots:
            text = await self._send(session, layer)
        self._known.add(layer.blob.digest)
        await self._store.note_repository(layer.diff_id, self._reference.name)
        self._say(progress.state(text, layer.short))

    async def _send(self, session: Session, layer: _Layer) -> str:
        """What the client is told of the layer."""
        digest, location = layer.blob.digest, None
        if digest in self._known or await session.has_blob(digest):
            return "Layer already exists"
        for source in self._sources(layer.blob):
            try:
                location = await session.mount(digest, source.path)
            except RegistryError:
                continue
            if location is None:
                return f"Mounted from {source.path}"
            break

        def hear(report: dict[str, int]) -> None:
            line = progress.counting("Pushing", layer.short, report["current"], layer.blob.size)
            self._say(line)

        await session.upload(digest, location, hear)
        return "Pushed"

    def _sources(self, blob: LayerBlob) -> list[Reference]:
        """Other repositories of the same registry that had the blob, newest first."""
        found = []
        for name in reversed(blob.repositories):
            domain, _, path = name.partition("/")
            if domain == self._reference.domain and path != self._reference.path:
                found.append(Reference(domain or DEFAULT_DOMAIN, path))
        return found[:MOUNTS_TRIED]


def _as_oci(descriptor: Descriptor) -> Descriptor:
    if descriptor.media_type != manifests.DOCKER_LAYER:
        return descriptor
    return Descriptor(f"{manifests.OCI_LAYER}+gzip", descriptor.digest, descriptor.size)
