"""--cache-to: what a build did, as a cache for others.

collect   keys, trees and contents that were read, in an order that is the same for the same build   (config.Writer)
offer     which layers go along: those of the results (mode=min), or of every step (mode=max)
write     blobs that the target has not got, the configuration, the manifest                          (targets.py)

Source: BuildKit cache/remotecache/export.go, cache/remotecache/inline.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from daemon.build.bench import Bench, Job, Result
from daemon.build.export.layers import Layers
from daemon.build.export.options import Compression
from daemon.build.outcome import Outcome
from daemon.build.remotecache import config
from daemon.build.remotecache.config import Writer
from daemon.build.remotecache.imported import ImportedCaches
from daemon.build.remotecache.importing import UNCOMPRESSED
from daemon.build.remotecache.options import Export, parse
from daemon.build.remotecache.targets import ClientTarget, RegistryTarget, Target
from daemon.build.sources.repository import open_repository
from daemon.build.steps import Progress
from daemon.images import manifests
from daemon.images.manifests import Descriptor
from daemon.images.model import digest_of
from daemon.images.registry.errors import RegistryError
from daemon.images.streams import together
from storage.errors import Internal, InvalidArgument, PydError
from storage.gc import Blob

Json = dict[str, Any]
_NAMES = {
    "registry": "exporting cache to registry",
    "local": "exporting cache to client directory",
}
RESPONSE = "cache.manifest"
AT_ONCE = 4
"""Layers that are written side by side."""


async def export_caches(
    bench: Bench, job: Job, outcome: Outcome, specs: Sequence[tuple[str, Mapping[str, str]]]
) -> dict[str, str]:
    """See the package."""
    response: dict[str, str] = {}
    for export in [parse(*spec) for spec in specs]:
        if export.type == "inline":
            continue
        try:
            async with job.step(_NAMES[export.type]) as progress:
                response |= await _export(bench, job, outcome, export, progress)
        except PydError:
            if not export.ignore_error:
                raise
    return response


def inline(bench: Bench, job: Job, outcome: Outcome) -> tuple[bytes | None, ...]:
    """See the package."""
    writer = collect(bench, job)
    if not writer:
        return tuple(None for _ in outcome.made)
    return tuple(config.encode(writer.inline(each.result.diff_ids)) for each in outcome.made)


def collect(bench: Bench, job: Job) -> Writer:
    """What every step of the build was known by and gave, sorted: equal builds give equal caches."""
    writer = Writer()
    known = {key: result for key, result in sorted(job.known.items()) if result.diff_ids}
    for key, result in known.items():
        writer.step(key, result.diff_ids, _created(bench, job, key, result))
    bases = (Result(diff_ids) for diff_ids in job.images.values())
    trees = {result.chain: result.diff_ids for result in (*bases, *known.values())}
    for memo, digest in sorted(job.reads.items()):
        if memo[0] in trees:
            writer.read(trees[memo[0]], memo, digest)
    return writer


def _created(bench: Bench, job: Job, key: str, result: Result) -> int:
    entry = bench.cache.entries.get(key)
    return entry.created if entry is not None else job.times.get(result.chain, time.time_ns())


async def _export(
    bench: Bench, job: Job, outcome: Outcome, export: Export, progress: Progress
) -> dict[str, str]:
    try:
        target, close = await _target(bench, job, export)
        try:
            with progress.status("preparing build cache for export"):
                writer = collect(bench, job)
                results = [made.result for made in outcome.made]
                if export.all:
                    results += job.known.values()
                layers = await _offered(bench, job, results, target)
                if export.compression:
                    layers |= await _compressed(bench, job, results, export)
                blobs = {diff_id: layer.digest for diff_id, layer in layers.items()}
                document, order = writer.document(blobs.get)
            if not order:
                with progress.status("skipping cache export for empty result"):
                    return {}
            return await _write(export, document, [(each, layers[each]) for each in order], target, progress)
        finally:
            await close()
    except RegistryError as error:
        raise Internal(f"error writing cache: {error}") from error


async def _target(bench: Bench, job: Job, export: Export) -> tuple[Target, Any]:
    if export.reference is not None:
        session = await open_repository(bench, job, export.reference, push=True, insecure=export.insecure)
        return RegistryTarget(bench, session, export.reference), session.release
    if not job.sessions:
        raise InvalidArgument("local cache exporter/importer requires session")

    async def nothing() -> None:
        pass

    return ClientTarget(bench, job.sessions[0].content(f"local:{export.store}")), nothing


# -- layers


async def _compressed(
    bench: Bench, job: Job, results: Sequence[Result], export: Export
) -> dict[str, Descriptor]:
    """Those that are here, as they are to be compressed."""
    layers = Layers(bench, job, bench.ctx.images.registries.worker)
    wanted = Compression(export.compression, export.level, export.force)
    found: dict[str, Descriptor] = {}
    for result in results:
        if all(_stored(bench, job, diff_id) for diff_id in result.diff_ids):
            for layer in await layers.compressed(layers.of(result), wanted):
                found[layer.made.diff_id] = layer.descriptor
    return found


async def _offered(
    bench: Bench, job: Job, results: Sequence[Result], target: Target
) -> dict[str, Descriptor]:
    """Diff IDs to blobs that are here or at the target."""
    found: dict[str, Descriptor] = {}
    for result in results:
        for diff_id in result.diff_ids:
            if diff_id not in found and (layer := await _layer(bench, job, target, diff_id, result)):
                found[diff_id] = layer
    return found


async def _layer(bench: Bench, job: Job, target: Target, diff_id: str, result: Result) -> Descriptor | None:
    """A blob of this machine; else one of an imported cache, which is got unless the target has it."""
    if (found := _stored(bench, job, diff_id)) is not None:
        return found
    imported = job.imported
    if not isinstance(imported, ImportedCaches):
        return None
    elsewhere = imported.where(diff_id)
    if elsewhere is not None and await target.has(elsewhere[0].digest):
        return elsewhere[0]
    return _stored(bench, job, diff_id) if await imported.bring(result) else None


def _stored(bench: Bench, job: Job, diff_id: str) -> Descriptor | None:
    blob = bench.store.blob(diff_id)
    if blob is None:
        return None
    job.lease.add(Blob(blob.digest))
    if not bench.store.content.has(blob.digest):
        return None
    return Descriptor(blob.media_type, blob.digest, blob.size)


# -- documents


async def _write(
    export: Export,
    document: Json,
    layers: Sequence[tuple[str, Descriptor]],
    target: Target,
    progress: Progress,
) -> dict[str, str]:
    await _write_layers(layers, target, progress)
    body = config.encode(document)
    head = Descriptor(config.CONFIG_TYPE, digest_of(body), len(body))
    with progress.status(f"writing config {head.digest}"):
        await target.put(head, body)
    described = [_described(diff_id, layer, oci=export.oci) for diff_id, layer in layers]
    kind, manifest = _manifest(export, head, described)
    made = Descriptor(kind, digest_of(manifest), len(manifest))
    image = "image " if export.manifest else ""
    with progress.status(f"writing cache {image}manifest {made.digest}"):
        await target.name(made, manifest)
    return {RESPONSE: config.encode(made.fields()).decode()}


async def _write_layers(layers: Iterable[tuple[str, Descriptor]], target: Target, progress: Progress) -> None:
    waiting = list({layer.digest: (diff_id, layer) for diff_id, layer in layers}.values())[::-1]

    async def work() -> None:
        while waiting:
            diff_id, layer = waiting.pop()
            with progress.status(f"writing layer {layer.digest}") as status:
                await target.layer(diff_id, layer, status)

    await together(*(work() for _ in range(AT_ONCE)))


def _described(diff_id: str, layer: Descriptor, *, oci: bool) -> Json:
    kind = layer.media_type
    if oci and kind == manifests.DOCKER_LAYER:
        kind = f"{manifests.OCI_LAYER}+gzip"
    elif not oci and kind == f"{manifests.OCI_LAYER}+gzip":
        kind = manifests.DOCKER_LAYER
    return {**layer.fields(), "mediaType": kind, "annotations": {UNCOMPRESSED: diff_id}}


def _manifest(export: Export, head: Descriptor, layers: list[Json]) -> tuple[str, bytes]:
    if export.manifest:
        kind = manifests.OCI_MANIFEST
        members: Json = {"config": head.fields(), "layers": layers}
    else:
        kind = manifests.OCI_INDEX if export.oci else manifests.DOCKER_LIST
        members = {"manifests": [*layers, head.fields()]}
    return kind, config.encode({"schemaVersion": 2, "mediaType": kind, **members})
