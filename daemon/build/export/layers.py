"""The layers of a result in the form in which they are to be exported.

A layer is kept as it was compressed when it was made or pulled. Asked for another compression, those that the
build made are compressed anew, and with force all; asked to rewrite times, those that the build made become
other layers, with other diff IDs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from daemon.build.bench import Bench, Job, Result
from daemon.build.export.config import LayerMade
from daemon.build.export.options import GZIP, UNCOMPRESSED, ZSTD, Compression
from daemon.images import manifests
from daemon.images.layers import Here, LayerJobs, Source, Wanted
from daemon.images.layerstore import LayerBlob
from daemon.images.manifests import Descriptor
from daemon.images.model import chain_ids
from daemon.images.streams import together
from daemon.images.transfer.parent import Worker
from storage.errors import InvalidArgument, NotFound
from storage.gc import Blob, Layer

REWRITTEN = "buildkit/rewritten-timestamp"
MEDIA_TYPES = {
    GZIP: manifests.DOCKER_LAYER,
    ZSTD: f"{manifests.OCI_LAYER}+zstd",
    UNCOMPRESSED: manifests.OCI_LAYER,
}


@dataclass(frozen=True)
class Exported:
    """One layer as it goes out."""

    made: LayerMade
    blob: LayerBlob
    inherited: bool
    """It came with a base image."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Annotations of its descriptor, where there is a place for them."""

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.blob.media_type, self.blob.digest, self.blob.size)


class Layers:
    """For one exporter of one build: what several platforms share is converted once."""

    def __init__(self, bench: Bench, job: Job, worker: Worker) -> None:
        self._bench, self._job, self._worker = bench, job, worker
        self._inherited = set(_prefixes(job.images.values()))
        self._done: dict[tuple[str, str, int | None, int | None], tuple[str, LayerBlob]] = {}

    def of(self, result: Result) -> list[Exported]:
        """As they are kept. NotFound when one is not here."""
        if result.directory is not None:
            raise InvalidArgument("a directory of the client's is no result that can be exported")
        store, found = self._bench.store, []
        entries = {entry.chain: entry for entry in self._bench.cache.entries.values()}
        for chain, diff_id in zip(chain_ids(result.diff_ids), result.diff_ids, strict=True):
            if (known := store.recorded_blob(diff_id)) is not None:
                self._job.lease.add(Blob(known.digest), Layer(chain))
            blob = store.blob(diff_id)
            if blob is None:
                raise NotFound(f"layer {diff_id} is not in the content store")
            entry = entries.get(chain)
            created = entry.created if entry else self._job.times.get(chain, 0)
            made = LayerMade(diff_id, created, entry.text if entry else "")
            found.append(Exported(made, blob, chain in self._inherited))
        return found

    async def compressed(self, layers: Sequence[Exported], wanted: Compression) -> list[Exported]:
        async def one(layer: Exported) -> Exported:
            if not _needs(layer, wanted):
                return layer
            _, blob = await self._convert(layer, wanted, None)
            return replace(layer, blob=blob)

        return await _each(layers, one)

    async def rewritten(self, layers: Sequence[Exported], wanted: Compression, epoch: int) -> list[Exported]:
        """With no time after `epoch` in what the build made."""

        async def one(layer: Exported) -> Exported:
            if layer.inherited:
                return layer
            diff_id, blob = await self._convert(layer, wanted, epoch)
            made, notes = replace(layer.made, diff_id=diff_id), {REWRITTEN: str(epoch // 10**9)}
            return replace(layer, made=made, blob=blob, notes=notes)

        return await _each(layers, one)

    async def _convert(
        self, layer: Exported, wanted: Compression, epoch: int | None
    ) -> tuple[str, LayerBlob]:
        key = (layer.blob.digest, wanted.type, wanted.level, epoch)
        if key not in self._done:
            with self._bench.store.ingesting():
                async with self._bench.slots:
                    fields = await self._worker.call(
                        "convert",
                        blob=layer.blob.digest,
                        compression=wanted.type,
                        level=wanted.level,
                        epoch=epoch,
                    )
                self._job.lease.add(Blob(fields["digest"]))
            blob = LayerBlob(fields["digest"], fields["size"], fields["tar_size"], MEDIA_TYPES[wanted.type])
            self._done[key] = (fields["diff_id"], blob)
        return self._done[key]


async def _each(
    layers: Sequence[Exported], work: Callable[[Exported], Awaitable[Exported]]
) -> list[Exported]:
    done: dict[int, Exported] = {}

    async def one(place: int, layer: Exported) -> None:
        done[place] = await work(layer)

    await together(*(one(place, layer) for place, layer in enumerate(layers)))
    return [done[place] for place in range(len(layers))]


def _prefixes(stacks: Iterable[Sequence[str]]) -> Iterable[str]:
    for stack in stacks:
        yield from chain_ids(stack)


def _needs(layer: Exported, wanted: Compression) -> bool:
    if compression_of(layer.blob.media_type) == wanted.type:
        return wanted.level is not None and not layer.inherited
    return wanted.force or not layer.inherited


def compression_of(media_type: str) -> str:
    if media_type.endswith("gzip"):
        return GZIP
    return ZSTD if media_type.endswith("zstd") else UNCOMPRESSED


async def unpacked(bench: Bench, job: Job, jobs: LayerJobs, layers: Sequence[Exported]) -> None:
    """Makes the layers that are only blobs yet: an image in the store has all of them."""
    chains = chain_ids([layer.made.diff_id for layer in layers])
    job.lease.add(*(Layer(chain) for chain in chains), *(Blob(layer.blob.digest) for layer in layers))
    missing: list[tuple[Wanted, Source]] = []
    for place, (chain, layer) in enumerate(zip(chains, layers, strict=True)):
        if missing or not bench.store.is_complete(chain, layer.made.diff_id):
            parent = chains[place - 1] if place else None
            missing.append((Wanted(chain, layer.made.diff_id, parent, layer.descriptor, ""), Here()))
    with jobs.joined(missing) as joined:
        await together(*(each.wait() for each in joined))
