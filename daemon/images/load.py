"""docker load: an archive of docker save (manifest.json), or an OCI layout (index.json).

The archive is read to its end first, into a directory of numbered files: manifest.json comes last in it.
Then each image's missing layers are unpacked side by side and its record written.
Sources: moby image/tarexport/load.go; OCI image-spec image-layout.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemon.images import archive, manifests, platforms, progress, reference
from daemon.images.made import Unpacked, unpack
from daemon.images.manifests import Descriptor, Index
from daemon.images.model import Json, chain_ids, digest_of
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.store import ImageStore
from daemon.images.streams import Say, together
from daemon.images.transfer.parent import Worker
from storage.errors import DataCorrupted, InvalidArgument, NotFound
from storage.gc import Lease

AT_ONCE = 2
"""Layers unpacked side by side; each keeps two processes busy."""
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class Item:
    """One image of the archive, by its members' names."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...] = ()
    parent: str = ""


@dataclass
class Loaded:
    """Lines that come at the end: names, or IDs when there is no name at all."""

    lines: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


class Load:
    def __init__(self, store: ImageStore, spool: Path, quiet: bool, platform: Platform | None, say: Say):
        self._store, self._spool, self._quiet, self._platform, self._say = store, spool, quiet, platform, say
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, stream: AsyncIterator[bytes]) -> list[str]:
        """IDs of the images loaded."""
        loaded = Loaded()
        try:
            with self._store.ingesting():
                await self._run(stream, loaded)
        except BaseException:
            self._store.collect_soon()
            raise
        for line in loaded.lines or [f"Loaded image ID: {image_id}" for image_id in loaded.ids]:
            self._say({"stream": f"{line}\n"})
        return loaded.images

    async def _run(self, stream: AsyncIterator[bytes], loaded: Loaded) -> None:
        async with (
            archive.spool_directory(self._spool) as directory,
            archive.receiving(self._store.content.root, stream) as worker,
        ):
            members = set(await worker.call("spool", directory=str(directory)))
            items = await _items(worker, members)
            for item in items:
                await self._load(worker, item, loaded)
            await self._link_parents(items, loaded)

    async def _load(self, worker: Worker, item: Item, loaded: Loaded) -> None:
        body = await _member(worker, item.config)
        config = _object(body, item.config)
        system = str(config.get("os") or "linux")
        if system != "linux":
            raise InvalidArgument(f"cannot load {system} image on linux")
        if self._platform and not platforms.satisfies(self._platform, config):
            return
        diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
        if len(item.layers) != len(diff_ids):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(item.layers)}, got {len(diff_ids)}"
            )
        names = [_tagged(name) for name in item.names]
        with self._store.lease() as lease:
            await self._layers(worker, item.layers, diff_ids, lease)
            for name in names:
                self._announce(name, body, loaded)
            image = await self._store.add_image(body, names, tagged=bool(names))
        loaded.images.append(image.id)
        loaded.ids.append(image.id)
        loaded.lines += [f"Loaded image: {name.familiar}" for name in names]

    def _announce(self, name: Reference, config: bytes, loaded: Loaded) -> None:
        before = self._store.image_of(name)
        if before and before != digest_of(config):
            text = f"The image {name.familiar} already exists, renaming the old one with ID {before}"
            loaded.lines.append(f"{text} to empty string")

    async def _layers(
        self, worker: Worker, members: Sequence[str], diff_ids: Sequence[str], lease: Lease
    ) -> None:
        chains = chain_ids(diff_ids)
        layers = enumerate(zip(chains, diff_ids, strict=True))
        missing = [n for n, (chain, diff_id) in layers if not self._store.is_complete(chain, diff_id)]
        made: dict[int, Unpacked] = {}

        async def one(place: int) -> None:
            async with self._slots:
                made[place] = await self._unpack(worker, members[place], diff_ids[place])

        try:
            await together(*(one(place) for place in missing))
            for place in missing:
                if made[place].diff_id != diff_ids[place]:
                    raise DataCorrupted(
                        f'invalid diffID for layer {place}: expected "{diff_ids[place]}",'
                        f' got "{made[place].diff_id}"'
                    )
                await made.pop(place).commit(lease, tuple(diff_ids[:place]))
        finally:
            for unpacked in made.values():
                unpacked.drop()

    async def _unpack(self, worker: Worker, member: str, diff_id: str) -> Unpacked:
        short = progress.short(diff_id)

        def hear(report: dict[str, int]) -> None:
            if not self._quiet:
                self._say(progress.counting("Loading layer", short, report["current"], report["total"]))

        async def ingest(directory: str) -> Json:
            answer: Json = await worker.call("ingest_member", progress=hear, name=member, directory=directory)
            return answer

        return await unpack(self._store, ingest)

    async def _link_parents(self, items: Sequence[Item], loaded: Loaded) -> None:
        for item, image_id in zip(items, loaded.images, strict=False):
            if item.parent and self._store.get(item.parent) and self._store.get(image_id):
                await self._store.set_parent(image_id, item.parent)


async def _items(worker: Worker, members: set[str]) -> list[Item]:
    if "manifest.json" in members:
        return _docker_items(await _member(worker, "manifest.json"))
    if "index.json" in members:
        return await _oci_items(worker, _object(await _member(worker, "index.json"), "index.json"))
    raise InvalidArgument("invalid archive: does not contain a manifest.json or an index.json")


def _docker_items(body: bytes) -> list[Item]:
    try:
        return [
            Item(
                str(entry["Config"]),
                tuple(map(str, entry["Layers"])),
                tuple(map(str, entry.get("RepoTags") or ())),
                str(entry.get("Parent") or ""),
            )
            for entry in json.loads(body)
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidArgument("invalid manifest.json in the archive") from None


async def _oci_items(worker: Worker, index: Json) -> list[Item]:
    items = []
    for entry in index.get("manifests") or ():
        descriptor = Descriptor.of(entry)
        manifest = await _oci_manifest(worker, descriptor)
        layers = tuple(_blob(layer) for layer in manifest.layers)
        annotations = entry.get("annotations") or {}
        names = [annotations[key] for key in _NAME_ANNOTATIONS[:1] if key in annotations]
        if not names and ":" in (annotations.get(_NAME_ANNOTATIONS[1]) or ""):
            names = [annotations[_NAME_ANNOTATIONS[1]]]
        items.append(Item(_blob(manifest.config), layers, tuple(names)))
    if not items:
        raise InvalidArgument("invalid archive: its index.json names no image")
    return items


async def _oci_manifest(worker: Worker, descriptor: Descriptor) -> manifests.Manifest:
    """An index within the layout: its entry for this machine."""
    decoded = manifests.decode(await _member(worker, _blob(descriptor)), descriptor.media_type)
    if isinstance(decoded, Index):
        return await _oci_manifest(worker, decoded.candidates(None)[0])
    return decoded


def _blob(descriptor: Descriptor) -> str:
    return "blobs/" + descriptor.digest.replace(":", "/")


async def _member(worker: Worker, name: str) -> bytes:
    try:
        return base64.b64decode(await worker.call("member", name=name))
    except NotFound as error:
        raise InvalidArgument(f"invalid archive: {error}") from None


def _object(body: bytes, name: str) -> Json:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidArgument(f"invalid archive: {name} is not a JSON object")
    return found


def _tagged(name: str) -> Reference:
    parsed = reference.parse(name)
    if not parsed.tag:
        raise InvalidArgument(f'invalid tag "{name}"')
    return parsed.trimmed().with_tag(parsed.tag)
