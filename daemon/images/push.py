"""docker push: layers up, each mounted from another repository or skipped where possible, then the manifest.

Layers go up as they are kept (store.LayerBlob), so what was pulled is pushed with the same digests. The
manifest is Docker's schema 2 as dockerd makes it, or OCI's when a layer is compressed with zstd. A name that is
bound to a target (targets.py) is pushed as that: index, manifests, attestations, byte for byte.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.images import manifests, progress, targets
from daemon.images.attempts import Attempts
from daemon.images.layerstore import LayerBlob
from daemon.images.manifests import Descriptor
from daemon.images.model import AuthConfig, Image, digest_of
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.registry.errors import NO_CREDENTIALS, RegistryError
from daemon.images.sessions import Registries, Session
from daemon.images.store import ImageStore
from daemon.images.streams import Say, together
from daemon.images.targets import Bound, Target, blobs
from daemon.images.uploads import TargetUpload, Uploads
from storage.errors import Internal, InvalidArgument, NotFound, Unauthenticated
from storage.gc import Blob


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
        platform: Platform | None = None,
    ):
        self._store, self._registries, self._reference = store, registries, reference
        self._auth, self._say, self._platform = auth, say, platform
        self._limit = limit

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
        attempts = Attempts(self._registries, self._reference, self._auth, push=True)
        async for session in attempts:
            try:
                await self._push_all(session, targets)
                return
            except RegistryError as failed:
                attempts.failed(failed)
                break
            finally:
                await session.release()
        error = attempts.error
        if error.code == "UNAUTHORIZED":
            raise Unauthenticated(str(error)) from error
        text = NO_CREDENTIALS if error.code == "credentials" else str(error)
        raise Internal(text) from error

    async def _push_all(self, session: Session, targets: Sequence[tuple[Reference, Image]]) -> None:
        uploads = Uploads(self._store, session, self._reference, self._limit)
        for reference, image in targets:
            if bound := self._store.bound_of(reference):
                await self._push_target(session, reference, image, bound)
            else:
                await self._push(session, uploads, reference, image)

    async def _push_target(self, session: Session, reference: Reference, image: Image, bound: Bound) -> None:
        """All of what the name is bound to; with a platform that one's manifest only."""
        target = bound.target
        if self._platform is not None:
            part = await asyncio.to_thread(
                targets.part_for, self._store.content, bound.target, self._platform
            )
            target = Target.of(part.descriptor)

        def announce(digest: str, size: int) -> Callable[[int], None]:
            self._say(progress.state("Preparing", progress.short(digest)))
            return lambda current: self._say(
                progress.counting("Pushing", progress.short(digest), current, size)
            )

        def done(digest: str, text: str) -> None:
            self._say(progress.state(text, progress.short(digest)))

        with self._store.lease() as lease:
            held = await asyncio.to_thread(blobs, self._store.content, target)
            lease.add(*map(Blob, held))
            upload = TargetUpload(self._store, session, reference, target, self._limit)
            await upload.blobs(announce, done)
            await upload.manifests(reference.tag)
        whole = target.digest == bound.target.digest
        await self._pushed(reference, image if whole else None, target.digest, target.size, bound)

    async def _pushed(
        self, reference: Reference, image: Image | None, digest: str, size: int, bound: Bound | None
    ) -> None:
        """`image`: what the digest is a name of from now on."""
        self._say(progress.message(f"{reference.tag}: digest: {digest} size: {size}"))
        if image is not None:
            await self._store.name(image.id, [reference.with_digest(digest)], tagged=False, bound=bound)
        self._say({"progressDetail": {}, "aux": {"Tag": reference.tag, "Digest": digest, "Size": size}})

    async def _push(self, session: Session, uploads: Uploads, reference: Reference, image: Image) -> None:
        layers = [_Layer(diff_id, self._blob(diff_id)) for diff_id in image.diff_ids]
        for layer in reversed(layers):
            self._say(progress.state("Preparing", layer.short))
        unique = {layer.blob.digest: layer for layer in layers}
        with self._store.lease() as lease:
            lease.add(*(Blob(layer.blob.digest) for layer in layers))
            await together(*(self._push_layer(uploads, layer) for layer in reversed(unique.values())))
            body, media_type = await self._put_config(session, image, layers)
            await session.put_manifest(reference.tag, body, media_type)
        await self._pushed(reference, image, digest_of(body), len(body), None)

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

    async def _push_layer(self, uploads: Uploads, layer: _Layer) -> None:
        if uploads.slots.locked():
            self._say(progress.state("Waiting", layer.short))

        def hear(current: int) -> None:
            self._say(progress.counting("Pushing", layer.short, current, layer.blob.size))

        async with uploads.slots:
            text = await uploads.send(layer.blob.digest, layer.blob.repositories, hear)
        await self._store.note_repository(layer.diff_id, self._reference.name)
        self._say(progress.state(text, layer.short))


def _as_oci(descriptor: Descriptor) -> Descriptor:
    if descriptor.media_type != manifests.DOCKER_LAYER:
        return descriptor
    return Descriptor(f"{manifests.OCI_LAYER}+gzip", descriptor.digest, descriptor.size)
