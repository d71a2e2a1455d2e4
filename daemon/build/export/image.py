"""A build's outcome as an image of the content store: configurations, manifests, attestations, an index.

What is written is leased to the build; it becomes an image by a name or goes into an archive from there.
Source: BuildKit exporter/containerimage/writer.go.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from daemon.build.bench import Bench, Job
from daemon.build.export import config, documents, filelayers, statements
from daemon.build.export.annotations import INDEX, INDEX_DESCRIPTOR, MANIFEST, MANIFEST_DESCRIPTOR
from daemon.build.export.layers import Exported, Layers
from daemon.build.export.options import ImageOptions
from daemon.build.outcome import Attestation, Made, Outcome
from daemon.build.steps import Progress
from daemon.containers.context import Context
from daemon.images import platforms, times
from daemon.images.model import Json, chain_ids, digest_of
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.streams import together
from daemon.images.targets import Target
from storage.errors import InvalidArgument
from storage.gc import Blob


@dataclass(frozen=True)
class Written:
    """One platform's image."""

    platform: Platform
    config: bytes
    layers: tuple[Exported, ...]
    descriptor: Json
    """Of its manifest."""


@dataclass(frozen=True)
class Committed:
    """What was written."""

    descriptor: Json
    """Of the manifest or the index."""
    images: tuple[Written, ...]

    @property
    def target(self) -> Target:
        return Target.of(self.descriptor)

    @property
    def main(self) -> Written:
        """What runs here, best first; else the first."""
        local = platforms.local()
        ranked = [(platforms.rank(local, each.platform), each) for each in self.images]
        fitting = [(place, each) for place, each in ranked if place is not None]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else self.images[0]

    def answer(self, *, stored: bool) -> dict[str, str]:
        """The part of the exporter's response that all exporters of images have.

        BuildKit tells no configuration of an index. Where images are `stored` it is the image's ID, and told.
        """
        encoded = json.dumps(self.descriptor, separators=(",", ":")).encode()
        answer = {
            "containerimage.digest": self.descriptor["digest"],
            "containerimage.descriptor": base64.b64encode(encoded).decode(),
        }
        if stored or not self.target.is_index:
            answer["containerimage.config.digest"] = digest_of(self.main.config)
        return answer


class Writer:
    """For one exporter."""

    def __init__(
        self,
        bench: Bench,
        job: Job,
        ctx: Context,
        options: ImageOptions,
        progress: Progress,
        names: Sequence[Reference],
    ) -> None:
        self._bench, self._job, self._ctx, self._progress = bench, job, ctx, progress
        self._options, self._names = options, names

    async def commit(
        self,
        outcome: Outcome,
        attestations: Sequence[Attestation],
        inline_cache: Sequence[bytes | None] | None,
    ) -> Committed:
        options = self._options
        said = [each for each in attestations if options.inline_attestations or not each.inline_only]
        if len(outcome.made) > 1 and not outcome.multi:
            raise InvalidArgument("cannot export multiple platforms without multi-platform enabled")
        options.annotations.check([str(made.platform) for made in outcome.made])
        indexed = outcome.multi or bool(said)
        if options.annotations.need_oci or said:
            options = self._options = replace(options, oci=True)
        if not indexed and any(options.annotations.at(level) for level in (INDEX, INDEX_DESCRIPTOR)):
            raise InvalidArgument("index annotations not supported for single platform export")
        stacks = await self._layers(outcome.made)
        images: list[Written] = []
        attested: list[Json] = []
        for place, (made, layers) in enumerate(zip(outcome.made, stacks, strict=True)):
            cache = inline_cache[place] if inline_cache and place < len(inline_cache) else None
            images.append(await self._image(made, layers, cache))
            if mine := [each for each in said if each.platform_index == place]:
                mine = [await self._by_layers(each, made, images[place]) for each in mine]
                attested.append(await self._attest(images[place], mine))
        if not indexed:
            fields = documents.platform_fields(images[0].platform)
            return Committed({**images[0].descriptor, "platform": fields}, tuple(images))
        return Committed(await self._index(images, attested), tuple(images))

    async def _layers(self, made: Sequence[Made]) -> list[list[Exported]]:
        worker = self._ctx.images.registries.worker
        options, layers = self._options, Layers(self._bench, self._job, worker)
        with self._progress.status("exporting layers"):
            stacks = [layers.of(each.result) for each in made]
            stacks = [await layers.compressed(stack, options.compression) for stack in stacks]
        if not options.rewrite_timestamp or options.epoch is None:
            return stacks
        seconds = options.epoch // 10**9
        moment = times.rfc3339(options.epoch).replace("T", " ").replace("Z", " +0000 UTC")
        with self._progress.status(f"rewriting layers with source-date-epoch {seconds} ({moment})"):
            return [await layers.rewritten(stack, options.compression, options.epoch) for stack in stacks]

    async def _image(self, made: Made, layers: Sequence[Exported], cache: bytes | None) -> Written:
        options, platform = self._options, str(made.platform)
        document = made.document or config.default(made.platform)
        found = config.finished(document, [layer.made for layer in layers], options.epoch)
        encoded = config.encoded(found, cache)
        body, media_type = documents.manifest(
            encoded,
            [(layer.descriptor, layer.notes) for layer in layers],
            oci=options.oci,
            annotations=options.annotations.at(MANIFEST, platform),
        )
        await together(
            self._written(f"exporting manifest {digest_of(body)}", body),
            self._written(f"exporting config {digest_of(encoded)}", encoded),
        )
        descriptor = documents.descriptor(
            media_type, body, annotations=options.annotations.at(MANIFEST_DESCRIPTOR, platform)
        )
        return Written(made.platform, encoded, tuple(layers), descriptor)

    async def _index(self, images: Sequence[Written], attested: Sequence[Json]) -> Json:
        options = self._options
        entries = [
            {**image.descriptor, "platform": documents.platform_fields(image.platform)} for image in images
        ]
        entries += attested
        body, media_type = documents.index(
            entries, oci=options.oci, annotations=options.annotations.at(INDEX)
        )
        await self._written(f"exporting manifest list {digest_of(body)}", body)
        return documents.descriptor(media_type, body, annotations=options.annotations.at(INDEX_DESCRIPTOR))

    async def _by_layers(self, said: Attestation, made: Made, image: Written) -> Attestation:
        if not filelayers.wanted(said) or not made.result.diff_ids:
            return said
        snapshots = self._bench.store.snapshots
        directories = [snapshots.layer_dir(chain) for chain in chain_ids(made.result.diff_ids)]
        digests = [layer.descriptor.digest for layer in image.layers]
        return await asyncio.to_thread(filelayers.named, said, list(zip(digests, directories, strict=True)))

    async def _attest(self, image: Written, said: Sequence[Attestation]) -> Json:
        subjects = statements.image_subjects(self._names, image.platform, image.descriptor["digest"])
        made = [
            (each.predicate_type, await asyncio.to_thread(statements.statement, each, subjects))
            for each in said
        ]
        body, encoded, descriptor = documents.attestation_manifest(
            made, image.descriptor, artifact=self._options.artifact
        )
        documents_of_it = [*(document for _, document in made), encoded, body]
        await self._written(f"exporting attestation manifest {digest_of(body)}", *documents_of_it)
        return descriptor

    async def _written(self, text: str, *bodies: bytes) -> None:
        """All at once: each waits for the disk."""
        with self._progress.status(text):
            await together(*map(self._store, bodies))

    async def _store(self, body: bytes) -> None:
        """Leased first: a collection may be under way."""
        content, digest = self._bench.store.content, digest_of(body)
        self._job.lease.add(Blob(digest))
        if not content.has(digest):
            await asyncio.to_thread(content.add, body, digest)
