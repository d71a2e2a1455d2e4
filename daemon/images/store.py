"""Which images, names and layers there are: records in SQLite, an index of them in memory.

    images       image ID          → {parent, last_tagged}
    references   normalised name   → {image}                   tagged names and digest names
    layers       chain ID          → {diff_id, size}
    blobs        diff ID           → {digest, size, tar_size, media_type, repositories}

An image's record is written last, when its configuration and all its layers are there; what is found
without one is garbage. Readers use the index and never wait. Writers go one at a time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daemon.images import reference as references_of
from daemon.images import times
from daemon.images.model import Image, Json, chain_ids
from daemon.images.reference import Reference
from storage.content import ContentStore
from storage.errors import DataCorrupted, InvalidArgument, NotFound
from storage.gc import Blob, Collected, Collector, Layer, Lease, Node
from storage.records import Delete, Put, Records
from storage.snapshots import Kind, Snapshotter

NEVER = "0001-01-01T00:00:00Z"
UNPACKING = "unpack-"
"""Begin of the names of active snapshots that layers are unpacked into."""


@dataclass(frozen=True)
class LayerBlob:
    """The compressed form in which a layer is kept."""

    digest: str
    size: int
    tar_size: int
    media_type: str
    repositories: tuple[str, ...] = ()
    """Normalised repositories known to hold it, newest last: where a push may mount it from."""

    def fields(self) -> Json:
        return {
            "digest": self.digest,
            "size": self.size,
            "tar_size": self.tar_size,
            "media_type": self.media_type,
            "repositories": list(self.repositories),
        }

    @classmethod
    def of(cls, fields: Json) -> LayerBlob:
        values = {**fields, "repositories": tuple(fields["repositories"])}
        return cls(**values)


class ImageStore:
    def __init__(self, content: ContentStore, snapshots: Snapshotter, records: Records):
        self.content, self.snapshots, self.records = content, snapshots, records
        self.collector = Collector(content, snapshots, roots=self._roots, references=lambda node: ())
        self._images: dict[str, Image] = {}
        self._references: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._blobs: dict[str, LayerBlob] = {}
        self._writing = asyncio.Lock()
        self._syncing: asyncio.Task[None] | None = None
        self._purging: asyncio.Task[int] | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._untidy = False
        self._ingests = 0

    # --- reading -----------------------------------------------------------------------------------

    def load(self) -> None:
        """Fills the index; images whose parts are gone (a disk that was tampered with) are left out."""
        self._sizes = {chain: int(record["size"]) for chain, record in self.records.load("layers").items()}
        self._blobs = {diff: LayerBlob.of(record) for diff, record in self.records.load("blobs").items()}
        self._references = {ref: record["image"] for ref, record in self.records.load("references").items()}
        for image_id, record in self.records.load("images").items():
            try:
                config = json.loads(self.content.read(image_id))
            except (NotFound, DataCorrupted, ValueError):
                continue
            image = self._make(image_id, config, record)
            if all(self.has_layer(chain) for chain in image.chain_ids):
                self._images[image_id] = image
        for image_id in self._images:
            self._rename(image_id)

    def __iter__(self) -> Iterator[Image]:
        return iter(list(self._images.values()))

    def get(self, image_id: str) -> Image | None:
        return self._images.get(image_id)

    def find(self, text: str) -> Image:
        """By name, digest, ID or unique prefix; NotFound in dockerd's words."""
        named = references_of.parse_any(text)
        if isinstance(named, str):
            if image := self._images.get(named):
                return image
            raise NotFound(f"No such image: {named}")
        if image := self._images.get(self.image_of(named) or ""):
            return image
        if image := self._by_prefix(text):
            return image
        raise NotFound(f"No such image: {named.with_default_tag().familiar}")

    def image_of(self, reference: Reference) -> str | None:
        """ID that a reference names; a digest counts more than a tag beside it."""
        reference = reference.with_default_tag()
        key = str(reference.with_digest(reference.digest) if reference.digest else reference)
        return self._references.get(key)

    def is_prefix(self, image_id: str, text: str) -> bool:
        return image_id.startswith(text) or image_id.partition(":")[2].startswith(text)

    def _by_prefix(self, text: str) -> Image | None:
        found = [image for image_id, image in self._images.items() if self.is_prefix(image_id, text)]
        return found[0] if len(found) == 1 else None

    def references(self, image_id: str) -> list[Reference]:
        """Tagged and digest names of an image, sorted."""
        return sorted(
            (references_of.parse(text) for text, target in self._references.items() if target == image_id),
            key=str,
        )

    def references_in(self, repository: Reference) -> list[tuple[Reference, str]]:
        """Names within a repository and what they name, sorted."""
        parsed = ((references_of.parse(text), target) for text, target in self._references.items())
        return sorted(((r, t) for r, t in parsed if r.name == repository.name), key=lambda pair: str(pair[0]))

    def children(self, image_id: str) -> list[str]:
        return [image.id for image in self._images.values() if image.parent == image_id]

    def has_layer(self, chain_id: str) -> bool:
        return chain_id in self._sizes and self.snapshots.exists(chain_id)

    def is_complete(self, chain_id: str, diff_id: str) -> bool:
        """Layer and blob: a container may keep the layer of a removed image, whose blob is gone."""
        return self.has_layer(chain_id) and self.blob(diff_id) is not None

    def layer_size(self, chain_id: str) -> int:
        return self._sizes.get(chain_id, 0)

    def blob(self, diff_id: str) -> LayerBlob | None:
        """The layer's blob, if it is still in the content store."""
        blob = self._blobs.get(diff_id)
        return blob if blob and self.content.has(blob.digest) else None

    def _make(self, image_id: str, config: Json, record: Json) -> Image:
        chains = chain_ids((config.get("rootfs") or {}).get("diff_ids") or ())
        return Image(
            id=image_id,
            config=config,
            size=sum(self.layer_size(chain) for chain in chains),
            parent=record.get("parent") or "",
            last_tagged=record.get("last_tagged") or NEVER,
            chain_ids=chains,
        )

    def _rename(self, image_id: str) -> None:
        names = self.references(image_id)
        tagged = [ref.familiar for ref in names if not ref.digest]
        digests = [ref.familiar for ref in names if ref.digest]
        self._images[image_id] = self._images[image_id].named(tagged, digests)

    # --- writing -----------------------------------------------------------------------------------

    async def add_layer(self, chain_id: str, diff_id: str, size: int, blob: LayerBlob) -> None:
        """Records a layer whose snapshot is committed and whose blob is stored."""
        known = self._blobs.get(diff_id)
        if known and known.digest == blob.digest:
            blob = known
        await self._write(
            [
                Put("layers", chain_id, {"diff_id": diff_id, "size": size}),
                Put("blobs", diff_id, blob.fields()),
            ]
        )
        self._sizes[chain_id] = size
        self._blobs[diff_id] = blob

    async def note_repository(self, diff_id: str, repository: str) -> None:
        """Remembers that a repository holds the layer's blob."""
        blob = self._blobs.get(diff_id)
        if blob is None or (blob.repositories and blob.repositories[-1] == repository):
            return
        others = tuple(each for each in blob.repositories if each != repository)[-9:]
        changed = LayerBlob(blob.digest, blob.size, blob.tar_size, blob.media_type, (*others, repository))
        await self._write([Put("blobs", diff_id, changed.fields())])
        self._blobs[diff_id] = changed

    async def add_image(
        self,
        config: bytes,
        names: Sequence[Reference] = (),
        *,
        parent: str = "",
        tagged: bool = False,
    ) -> Image:
        """Stores a configuration whose layers are all there, and names the image, in one transaction.

        The layers become durable a moment later. A power cut in between makes the snapshotter drop them,
        and load() then leaves the image out: the pull is undone, not half-done.
        """
        image_id = await asyncio.to_thread(self.content.add, config)
        async with self._writing:
            known = self._images.get(image_id)
            record = {
                "parent": parent or (known.parent if known else ""),
                "last_tagged": times.rfc3339(time.time_ns())
                if tagged and names
                else (known.last_tagged if known else NEVER),
            }
            puts = [Put("references", _key(name), {"image": image_id}) for name in names]
            await self.records.write([*puts, Put("images", image_id, record)])
            self._images[image_id] = self._make(image_id, json.loads(config), record)
            self._apply(names, image_id)
        self._sync_soon()
        return self._images[image_id]

    def _sync_soon(self) -> None:
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(asyncio.to_thread(self.snapshots.sync))

    async def settle(self) -> None:
        """Waits for what goes on behind the callers: making durable, deleting files."""
        for task in (self._collecting, self._syncing, self._purging):
            if task is not None:
                await asyncio.gather(task, return_exceptions=True)

    async def name(self, image_id: str, names: Sequence[Reference], *, tagged: bool = True) -> None:
        async with self._writing:
            image = self._images.get(image_id)
            if image is None:
                raise NotFound(f"No such image: {image_id}")
            record = {
                "parent": image.parent,
                "last_tagged": times.rfc3339(time.time_ns()) if tagged else image.last_tagged,
            }
            puts = [Put("references", _key(name), {"image": image_id}) for name in names]
            await self.records.write([*puts, Put("images", image_id, record)])
            self._images[image_id] = self._make(image_id, image.config, record)
            self._apply(names, image_id)

    def _apply(self, names: Iterable[Reference], image_id: str) -> None:
        changed = {image_id}
        for name in names:
            if before := self._references.get(_key(name)):
                changed.add(before)
            self._references[_key(name)] = image_id
        for each in changed & self._images.keys():
            self._rename(each)

    async def unname(self, name: Reference) -> None:
        async with self._writing:
            await self.records.write([Delete("references", _key(name))])
            image_id = self._references.pop(_key(name), "")
            if image_id in self._images:
                self._rename(image_id)

    async def set_parent(self, image_id: str, parent: str) -> None:
        async with self._writing:
            image = self._images[image_id]
            record = {"parent": parent, "last_tagged": image.last_tagged}
            await self.records.write([Put("images", image_id, record)])
            self._images[image_id] = self._make(image_id, image.config, record)
            self._rename(image_id)

    async def forget(self, image_id: str) -> None:
        """Removes the image's record; its parts go with the next collect()."""
        async with self._writing:
            await self.records.write([Delete("images", image_id)])
            self._images.pop(image_id, None)

    async def _write(self, mutations: Sequence[Any]) -> None:
        async with self._writing:
            await self.records.write(mutations)

    # --- garbage -----------------------------------------------------------------------------------

    def lease(self) -> Lease:
        return self.collector.lease()

    @contextmanager
    def ingesting(self) -> Iterator[None]:
        """While blobs come in whose digests nobody knows yet (load, import, commit).

        A lease can only be taken for them when they are there, so until then none that is without a
        record is collected.
        """
        self._ingests += 1
        try:
            yield
        finally:
            self._ingests -= 1
            if self._untidy and not self._ingests:
                self.collect_soon()

    def _roots(self) -> Iterable[Node]:
        if self._ingests:
            self._untidy = True
            recorded = {blob.digest for blob in list(self._blobs.values())}
            yield from (Blob(digest) for digest, _ in self.content.walk() if digest not in recorded)
        for image in list(self._images.values()):
            yield Blob(image.id)
            if image.top:
                yield Layer(image.top)
            for diff_id in image.diff_ids:
                if blob := self._blobs.get(diff_id):
                    yield Blob(blob.digest)
        for snapshot in self.snapshots.walk():
            if snapshot.kind is not Kind.COMMITTED and snapshot.parent:
                yield Layer(snapshot.parent)

    async def collect(self) -> Collected:
        """Deletes what no image, container or lease needs, and the records about it."""
        collected = await asyncio.to_thread(self.collector.collect)
        used = {diff_id for image in self._images.values() for diff_id in image.diff_ids}
        gone = [chain for chain in self._sizes if not self.snapshots.exists(chain)]
        lost = [
            diff
            for diff, blob in self._blobs.items()
            if diff not in used and not self.content.has(blob.digest)
        ]
        if gone or lost:
            await self._write(
                [Delete("layers", key) for key in gone] + [Delete("blobs", key) for key in lost]
            )
        for chain in gone:
            self._sizes.pop(chain, None)
        for diff in lost:
            self._blobs.pop(diff, None)
        if collected.layers:
            self._purge_soon()
        return collected

    def collect_soon(self) -> None:
        """After something failed or was cancelled: what it had finished belongs to nobody."""
        self._untidy = True
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(self._collect_until_tidy())

    async def _collect_until_tidy(self) -> None:
        while self._untidy and not self._ingests:
            self._untidy = False
            await self.collect()

    def _purge_soon(self) -> None:
        """The files of removed layers are aside already; nobody waits for their deletion."""
        if self._purging is None or self._purging.done():
            self._purging = asyncio.create_task(asyncio.to_thread(self.snapshots.purge))

    async def reconcile(self) -> None:
        """At the start: layers that were being unpacked belong to nobody any more."""
        for snapshot in list(self.snapshots.walk()):
            if snapshot.key.startswith(UNPACKING) and snapshot.kind is Kind.ACTIVE:
                self.snapshots.remove(snapshot.key)
        await self.collect()
        self._purge_soon()


def _key(name: Reference) -> str:
    if name.is_name_only:
        raise InvalidArgument(f"invalid reference format: {name.familiar} has neither tag nor digest")
    return str(name.with_digest(name.digest) if name.digest else name)
