"""docker load: an archive of docker save (manifest.json), or an OCI layout (index.json).

The archive is read to its end first, into a directory of numbered files: manifest.json comes last in it.
Then each image's missing layers are unpacked side by side and its record written. An index, or a manifest over
compressed layers, is kept: the names are bound to it (layouts.py, targets.py).
Sources: moby image/tarexport/load.go; OCI image-spec image-layout.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemon.images import archive, layouts, platforms, progress, reference
from daemon.images.layouts import Entry, member, parsed
from daemon.images.made import Unpacked, unpack
from daemon.images.model import Json, chain_ids, digest_of
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.store import ImageStore
from daemon.images.streams import Say, together
from daemon.images.transfer.parent import Worker
from storage.errors import DataCorrupted, InvalidArgument
from storage.gc import Blob, Lease

AT_ONCE = 2
"""Layers unpacked side by side; each keeps two processes busy."""


@dataclass(frozen=True)
class Item:
    """One image of the archive, by its members' names."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...] = ()
    parent: str = ""
    entry: Entry | None = None
    """What the names are bound to: the image is in it."""


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
            items = await _items(worker, members, self._platform)
            for item in items:
                await self._load(worker, item, loaded)
            await self._link_parents(items, loaded)

    async def _load(self, worker: Worker, item: Item, loaded: Loaded) -> None:
        body, config = await _config(worker, item.config)
        if self._platform and not platforms.satisfies(self._platform, config):
            return
        names = [_tagged(name) for name in item.names]
        with self._store.lease() as lease:
            await self._layers(worker, item.layers, _diff_ids(config, item.layers), lease)
            others, target = [], None
            if item.entry is not None:
                lease.add(*map(Blob, item.entry.blobs))
                others = await self._others(worker, item, lease)
                target = item.entry.target
                await self._blobs(worker, item.entry)
            for name in names:
                self._announce(name, body, loaded)
            image = await self._store.add_image(body, names, tagged=bool(names), target=target, others=others)
        loaded.images.append(image.id)
        loaded.ids.append(image.id)
        loaded.lines += [f"Loaded image: {name.familiar}" for name in names]

    async def _others(self, worker: Worker, item: Item, lease: Lease) -> list[bytes]:
        """The layers of the entry's other images, and their configurations."""
        assert item.entry is not None
        found = []
        for image in item.entry.images:
            if layouts.path(image.config) == item.config:
                continue
            body, config = await _config(worker, layouts.path(image.config))
            members = tuple(map(layouts.path, image.layers))
            await self._layers(worker, members, _diff_ids(config, members), lease)
            found.append(body)
        return found

    async def _blobs(self, worker: Worker, entry: Entry) -> None:
        """All that no layer's unpacking has stored: manifests, attestations, layers that were known otherwise."""
        for digest in entry.blobs:
            if not self._store.content.has(digest):
                await worker.call("store_member", name=layouts.path(digest), digest=digest)

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


async def _items(worker: Worker, members: set[str], platform: Platform | None) -> list[Item]:
    """With a platform only that one's images are wanted, and no index of all."""
    if "manifest.json" not in members and "index.json" not in members:
        raise InvalidArgument("invalid archive: does not contain a manifest.json or an index.json")
    if "manifest.json" in members:
        items = _docker_items(await member(worker, "manifest.json"))
        if not {"index.json", "oci-layout"} <= members:
            return items
        entries = await layouts.read(worker, members)
        items = [replace(item, entry=_entry_of(item, entries)) for item in items]
        if platform is None:
            return items
        return [_only(item, item.entry, platform) if item.entry else item for item in items]
    items = [_oci_item(entry, platform) for entry in await layouts.read(worker, members)]
    if not items:
        raise InvalidArgument("invalid archive: its index.json names no image")
    return items


def _entry_of(item: Item, entries: Sequence[Entry]) -> Entry | None:
    """What index.json has for an image of manifest.json, if that is to be kept."""
    names = {str(_tagged(name)) for name in item.names}
    for entry in entries:
        named = (not names and not entry.names) or bool(names & {str(_tagged(name)) for name in entry.names})
        configs = {layouts.path(image.config) for image in entry.images}
        if entry.kept and named and item.config in configs:
            return entry
    return None


def _oci_item(entry: Entry, platform: Platform | None) -> Item:
    item = Item("", (), tuple(dict.fromkeys(entry.names)), entry=entry if entry.kept else None)
    return _only(item, entry, platform)


def _only(item: Item, entry: Entry, platform: Platform | None) -> Item:
    """The entry's image for a platform by the item's names; a platform that is asked for leaves no index."""
    image = entry.image(platform)
    kept = item.entry if platform is None else None
    layers = tuple(map(layouts.path, image.layers))
    return replace(item, config=layouts.path(image.config), layers=layers, entry=kept)


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


async def _config(worker: Worker, name: str) -> tuple[bytes, Json]:
    body = await member(worker, name)
    config = parsed(body, name)
    system = str(config.get("os") or "linux")
    if system != "linux":
        raise InvalidArgument(f"cannot load {system} image on linux")
    return body, config


def _diff_ids(config: Json, layers: Sequence[str]) -> list[str]:
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(layers) != len(diff_ids):
        raise InvalidArgument(
            f"invalid manifest, layers length mismatch: expected {len(layers)}, got {len(diff_ids)}"
        )
    return [str(diff_id) for diff_id in diff_ids]


def _tagged(name: str) -> Reference:
    parsed = reference.parse(name)
    if not parsed.tag:
        raise InvalidArgument(f'invalid tag "{name}"')
    return parsed.trimmed().with_tag(parsed.tag)
