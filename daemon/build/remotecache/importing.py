"""--cache-from: from a reference or a client's directory to tables of claims.

Whatever comes is a manifest or an index: of a cache (its configuration's type says so), or of an image whose
configuration has an inline cache. An index of images is read whole: a cache of several platforms is one cache.

Source: BuildKit cache/remotecache/import.go.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from daemon.build.bench import Bench, Job
from daemon.build.remotecache import MEMBER, config
from daemon.build.remotecache.imported import Cache, ImportedCaches
from daemon.build.remotecache.options import boolean, canonical, imported_name
from daemon.build.session.sessions import Content
from daemon.build.sources.clientlayers import ClientLayers
from daemon.build.sources.repository import open_repository
from daemon.images.layers import Source
from daemon.images.manifests import LARGEST_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from daemon.images.reference import validate_digest
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Session
from storage.errors import InvalidArgument, NotFound, PydError

UNCOMPRESSED = "containerd.io/uncompressed"
"""Annotation of a layer's descriptor: its diff ID."""
_LARGEST_CONFIG = 8 << 20
_MOST_MANIFESTS = 64
Json = dict[str, Any]


class Documents(Protocol):
    """Small blobs by digest, verified by whoever gets them."""

    async def __call__(self, digest: str, *, manifest: bool) -> bytes: ...


async def import_caches(bench: Bench, job: Job, specs: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """See the package. All at once; their order is that of `specs`."""
    imported = ImportedCaches(bench, job)
    found = await asyncio.gather(*(_import(bench, job, imported, *spec) for spec in specs))
    for caches in found:
        for cache in caches:
            imported.add(cache)
    job.imported = imported if imported.caches else None
    job.stack.push_async_callback(imported.close)


async def _import(
    bench: Bench, job: Job, imported: ImportedCaches, kind: str, attributes: Mapping[str, str]
) -> list[Cache]:
    name = attributes.get("ref") or imported_name(kind, attributes)
    with contextlib.suppress(PydError, RegistryError):  # the step shows it
        async with job.step(f"importing cache manifest from {name}") as progress:
            try:
                found, inferred = await _read(bench, job, imported, kind, attributes)
                with progress.status(f"inferred cache manifest type: {inferred}"):
                    return found
            except RegistryError as error:
                raise NotFound(f"failed to configure {kind} cache importer: {error}") from error
    return []


async def _read(
    bench: Bench, job: Job, imported: ImportedCaches, kind: str, attributes: Mapping[str, str]
) -> tuple[list[Cache], str]:
    """The caches, and the type of the manifest that they were found by."""
    if kind == "registry":
        reference = canonical(attributes)
        insecure = boolean(attributes, "registry.insecure", False)
        session = await open_repository(bench, job, reference, push=False, insecure=insecure)
        imported.keep(session)
        document = await session.manifest(reference.digest or reference.tag)
        reader = Reader(_of_repository(session), session, reference.name)
        return await reader.read(document.body), media_type(document.body)
    if kind == "local":
        content = _client(job, attributes)
        digest = validate_digest(attributes["digest"])
        body = await content.read_bytes(digest, LARGEST_MANIFEST)
        reader = Reader(_of_client(content), ClientLayers(bench, job, content), "")
        return await reader.read(body), media_type(body)
    raise InvalidArgument(f"unknown cache importer: {kind}")


def _client(job: Job, attributes: Mapping[str, str]) -> Content:
    if not attributes.get("digest"):
        raise InvalidArgument("local cache importer requires explicit digest")
    if not attributes.get("src"):
        raise InvalidArgument("local cache importer requires src")
    if not job.sessions:
        raise InvalidArgument("local cache exporter/importer requires session")
    return job.sessions[0].content(f"local:{attributes['src']}")


def _of_repository(session: Session) -> Documents:
    async def get(digest: str, *, manifest: bool) -> bytes:
        return (await session.manifest(digest)).body if manifest else await session.config(digest)

    return get


def _of_client(content: Content) -> Documents:
    async def get(digest: str, *, manifest: bool) -> bytes:
        return await content.read_bytes(digest, LARGEST_MANIFEST if manifest else _LARGEST_CONFIG)

    return get


class Reader:
    """Reads what a manifest leads to. InvalidArgument for documents that make no sense."""

    def __init__(self, documents: Documents, source: Source | None, repository: str) -> None:
        self._documents, self._source, self._repository = documents, source, repository
        self._manifests = 0

    async def read(self, body: bytes) -> list[Cache]:
        document = _object(body)
        entries = document.get("manifests")
        if isinstance(entries, list):
            return await self._index(entries)
        head = document.get("config")
        if not isinstance(head, dict):
            raise InvalidArgument("unsupported or uninferrable manifest type")
        if head.get("mediaType") == config.CONFIG_TYPE:
            return [await self._cache(head, _list(document.get("layers")))]
        return await self._inline(head, _list(document.get("layers")))

    async def _index(self, entries: list[Any]) -> list[Cache]:
        for entry in entries:
            if isinstance(entry, dict) and entry.get("mediaType") == config.CONFIG_TYPE:
                return [await self._cache(entry, [each for each in entries if each is not entry])]
        found = []
        for entry in entries:
            self._manifests += 1
            if self._manifests > _MOST_MANIFESTS:
                raise InvalidArgument("a cache of too many manifests")
            body = await self._documents(Descriptor.of(entry).digest, manifest=True)
            found += await self.read(body)
        return found

    async def _cache(self, head: Json, layers: list[Any]) -> Cache:
        """An exported cache: the layers say their diff IDs themselves."""
        body = await self._documents(Descriptor.of(head).digest, manifest=False)
        cache = await self._made(body)
        for layer in layers:
            diff_id = (layer.get("annotations") or {}).get(UNCOMPRESSED) if isinstance(layer, dict) else None
            if isinstance(diff_id, str):
                cache.layers[diff_id] = Descriptor.of(layer)
        return cache

    async def _inline(self, head: Json, layers: list[Any]) -> list[Cache]:
        """An image; its configuration lists the layers' diff IDs."""
        image = _object(await self._documents(Descriptor.of(head).digest, manifest=False))
        records, diff_ids = inline_of(image)
        if records is None:
            return []
        cache = await self._made(records)
        if len(diff_ids) == len(layers):
            descriptors = [Descriptor.of(layer) for layer in layers]
            cache.layers.update(zip(diff_ids, descriptors, strict=True))
        return [cache]

    async def _made(self, body: bytes) -> Cache:
        table = await asyncio.to_thread(config.decode, body)
        return Cache(table, {}, self._source, self._repository)


def media_type(body: bytes) -> str:
    """What a manifest says of itself, else what it looks like (BuildKit util/imageutil)."""
    document = _object(body)
    told = document.get("mediaType")
    return str(told) if told else (OCI_INDEX if "manifests" in document else OCI_MANIFEST)


def inline_of(image: Mapping[str, Any]) -> tuple[bytes | None, list[str]]:
    """(records of an image configuration's inline cache, the layers' diff IDs)."""
    encoded = image.get(MEMBER)
    diff_ids = (image.get("rootfs") or {}).get("diff_ids") or []
    if not isinstance(encoded, str) or not isinstance(diff_ids, list):
        return None, []
    try:
        return base64.b64decode(encoded, validate=True), [str(each) for each in diff_ids]
    except (binascii.Error, ValueError):
        raise InvalidArgument("invalid inline cache: not base64") from None


def _object(body: bytes) -> Json:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidArgument("unsupported or uninferrable manifest type") from None
    if not isinstance(document, dict):
        raise InvalidArgument("unsupported or uninferrable manifest type")
    return document


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
