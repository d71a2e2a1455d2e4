"""Which images, names and layers there are: records in SQLite, an index of them in memory.

    images       image ID          → {parent, last_tagged, part}
    references   normalised name   → {image}                   tagged names and digest names
    layers, blobs                    see layerstore.py

An image's record is written last, when its configuration and all its layers are there; what is found
without one is garbage. Readers use the index and never wait. Writers go one at a time.

A name, or an image that has none, may be bound to a target (targets.py): its record then has {target, parts}.
Images of other platforms are there as `part` of a target only, not listed, and go with the last one that has
them; naming one makes it an image like others.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from daemon.images import platforms, targets, times
from daemon.images import reference as references_of
from daemon.images.bindings import Bindings
from daemon.images.layerstore import UNPACKING, LayerStore
from daemon.images.model import Image, Json, chain_ids, digest_of
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.targets import Bound, Target
from storage.content import ContentStore
from storage.errors import DataCorrupted, InvalidArgument, NotFound
from storage.gc import Blob, Collected, Collector, Layer, Lease, Node
from storage.records import Delete, Put, Records
from storage.snapshots import Kind, Snapshotter

NEVER = "0001-01-01T00:00:00Z"


class ImageStore(LayerStore):
    def __init__(self, content: ContentStore, snapshots: Snapshotter, records: Records):
        super().__init__(content, snapshots, records)
        self.collector = Collector(content, snapshots, roots=self._roots, references=lambda node: ())
        self._images: dict[str, Image] = {}
        self._references: dict[str, str] = {}
        self._bindings = Bindings()
        self._syncing: asyncio.Task[None] | None = None
        self._purging: asyncio.Task[int] | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._untidy = False
        self._ingests = 0

    # --- reading -----------------------------------------------------------------------------------

    def load(self) -> None:
        """Fills the index; images whose parts are gone (a disk that was tampered with) are left out."""
        self._load_layers()
        references, images = self.records.load("references"), self.records.load("images")
        self._references = {ref: record["image"] for ref, record in references.items()}
        for image_id, record in images.items():
            try:
                config = json.loads(self.content.read(image_id))
            except (NotFound, DataCorrupted, ValueError):
                continue
            image = self._make(image_id, config, record)
            if all(self.has_layer(chain) for chain in image.chain_ids):
                self._images[image_id] = image
        self._bindings.hidden = {image_id for image_id in self._images if images[image_id].get("part")}
        for key, record in (*references.items(), *images.items()):
            bound = Bound.of(record)
            if bound and self.content.has(bound.target.digest) and self._images.keys() >= set(bound.images):
                self._bindings.put(key, bound)
        for image_id in self._images:
            self._rename(image_id)

    def __iter__(self) -> Iterator[Image]:
        """What users see: no images that are only part of others' targets."""
        return iter([image for image in list(self._images.values()) if image.id not in self._bindings.hidden])

    def all(self) -> list[Image]:
        return list(self._images.values())

    def get(self, image_id: str) -> Image | None:
        return self._images.get(image_id)

    def find(self, text: str) -> Image:
        """By name, digest, ID, unique prefix or a target's digest; NotFound in dockerd's words."""
        named = references_of.parse_any(text)
        if isinstance(named, str):
            if image := self._images.get(named) or self._targeted(named):
                return image
            raise NotFound(f"No such image: {named}")
        if image := self._images.get(self.image_of(named) or ""):
            return image
        if image := self._by_prefix(text):
            return image
        raise NotFound(f"No such image: {named.with_default_tag().familiar}")

    def _targeted(self, digest: str) -> Image | None:
        found = self._bindings.to(digest)
        return self._images.get(self._references.get(found[0], found[0])) if found else None

    def image_of(self, reference: Reference) -> str | None:
        """ID that a reference names; a digest counts more than a tag beside it."""
        return self._references.get(_lookup(reference))

    def bound_of(self, reference: Reference) -> Bound | None:
        """What a reference is bound to."""
        return self._bindings.get(_lookup(reference))

    def bound(self, text: str) -> Bound | None:
        """What a name, an ID or a target's digest is bound to; of an ID the first of its names that is."""
        image = self.find(text)
        named = references_of.parse_any(text)
        if (
            not isinstance(named, str)
            and self.image_of(named) == image.id
            and not self.is_prefix(image.id, text)
        ):
            return self.bound_of(named)
        bounds = [self._bindings.get(image.id), *(self.bound_of(name) for name in self.references(image.id))]
        found = [each for each in bounds if each is not None]
        return next((each for each in found if each.target.digest == named), found[0] if found else None)

    def parts_of(self, image: Image) -> list[Image]:
        """Images that are only part of what the image, or a name of it, is bound to."""
        keys = [image.id, *(str(name) for name in self.references(image.id))]
        found = {each for key in keys if (one := self._bindings.get(key)) for each in one.images}
        return [self._images[each] for each in found if each in self._bindings.hidden]

    def for_platform(self, text: str, platform: Platform | None) -> Image:
        """As find(); if what the name is bound to has an image for the platform, that one by the same names."""
        image = self.find(text)
        if platform is None or platforms.satisfies(platform, image.config):
            return image
        bound = self.bound(text)
        for other in (self._images.get(each) for each in (bound.images if bound else ())):
            if other is not None and platforms.satisfies(platform, other.config):
                return other.named(image.references, image.digests)
        return image

    def bound_to(self, digest: str) -> Bound | None:
        """By the target's digest."""
        found = self._bindings.to(digest)
        return found[1] if found else None

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

    async def add_image(
        self,
        config: bytes,
        names: Sequence[Reference] = (),
        *,
        parent: str = "",
        tagged: bool = False,
        target: Target | None = None,
        others: Sequence[bytes] = (),
    ) -> Image:
        """Stores a configuration whose layers are all there, and names the image, in one transaction.

        `target`: what the names (or the image, without any) are bound to; `others`: configurations of further
        images in it, whose layers are all there as well. Whoever calls holds a lease on all the target has.

        The layers become durable a moment later. A power cut in between makes the snapshotter drop them,
        and load() then leaves the image out: the pull is undone, not half-done.
        """
        for each in (*others, config):
            if target is None or not self.content.has(digest_of(each)):
                await asyncio.to_thread(self.content.add, each)
        image_id, parts = digest_of(config), {digest_of(each): each for each in others}
        parts.pop(image_id, None)
        async with self._writing:
            known = self._images.get(image_id)
            record = {
                "parent": parent or (known.parent if known else ""),
                "last_tagged": times.rfc3339(time.time_ns())
                if tagged and names
                else (known.last_tagged if known else NEVER),
            }
            bound = Bound(target, (image_id, *parts)) if target else None
            await self._put(self._make(image_id, json.loads(config), record), record, names, bound, parts)
        self._sync_soon()
        return self._images[image_id]

    async def _put(
        self,
        image: Image,
        record: Json,
        names: Sequence[Reference],
        bound: Bound | None,
        parts: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes an image, its names and what they are bound to. In the lock."""
        keys = [_key(name) for name in names]
        bound = bound or (None if keys else self._bindings.get(image.id))
        after = self._bindings.after((*keys, image.id), keys or [image.id], bound)
        new = {each: config for each, config in (parts or {}).items() if each not in self._images}
        gone = self._bindings.orphans(after, {image.id})
        own = after[image.id].fields() if image.id in after else {}
        fields = bound.fields() if bound else {}
        await self.records.write(
            [
                *(Put("references", key, {"image": image.id, **fields}) for key in keys),
                *(Put("images", each, _PART) for each in new),
                Put("images", image.id, record | own),
                *(Delete("images", each) for each in gone),
            ]
        )
        for each, config in new.items():
            self._images[each] = self._make(each, json.loads(config), _PART)
        self._images[image.id] = image
        self._bindings.hidden = (self._bindings.hidden | new.keys()) - {image.id}
        self._settle(after, gone)
        self._apply(names, image.id)

    def _settle(self, after: dict[str, Bound], gone: Iterable[str]) -> None:
        if self._bindings.settle(after):
            self.collect_soon()
        for each in gone:
            self._images.pop(each, None)
            self._bindings.hidden.discard(each)

    def _sync_soon(self) -> None:
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.create_task(asyncio.to_thread(self.snapshots.sync))

    async def settle(self) -> None:
        """Waits for what goes on behind the callers: making durable, deleting files."""
        for task in (self._collecting, self._syncing, self._purging):
            if task is not None:
                await asyncio.gather(task, return_exceptions=True)

    async def name(
        self, image_id: str, names: Sequence[Reference], *, tagged: bool = True, bound: Bound | None = None
    ) -> None:
        """`bound`: what the names stand for from now on beside the image; None: nothing more."""
        async with self._writing:
            image = self._images.get(image_id)
            if image is None:
                raise NotFound(f"No such image: {image_id}")
            record = {
                "parent": image.parent,
                "last_tagged": times.rfc3339(time.time_ns()) if tagged else image.last_tagged,
            }
            await self._put(self._make(image_id, image.config, record), record, names, bound)

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
            after = self._bindings.after([_key(name)])
            gone = self._bindings.orphans(after)
            await self.records.write(
                [Delete("references", _key(name)), *(Delete("images", each) for each in gone)]
            )
            self._settle(after, gone)
            image_id = self._references.pop(_key(name), "")
            if image_id in self._images:
                self._rename(image_id)

    async def set_parent(self, image_id: str, parent: str) -> None:
        async with self._writing:
            image = self._images[image_id]
            record = {"parent": parent, "last_tagged": image.last_tagged}
            own = self._bindings.get(image_id)
            await self.records.write([Put("images", image_id, record | (own.fields() if own else {}))])
            self._images[image_id] = self._make(image_id, image.config, record)
            self._rename(image_id)

    async def forget(self, image_id: str) -> None:
        """Removes the image's record; its parts go with the next collect()."""
        async with self._writing:
            after = self._bindings.after([image_id])
            gone = self._bindings.orphans(after)
            if any(image_id in each.images for each in after.values()):
                await self.records.write([Put("images", image_id, _PART)])
                self._bindings.hidden.add(image_id)
                return
            await self.records.write([Delete("images", each) for each in {image_id, *gone}])
            self._settle(after, gone)
            self._images.pop(image_id, None)
            self._bindings.hidden.discard(image_id)

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
        for target in self._bindings.targets():
            yield from map(Blob, targets.blobs(self.content, target))
        for snapshot in self.snapshots.walk():
            if snapshot.kind is not Kind.COMMITTED and snapshot.parent:
                yield Layer(snapshot.parent)

    async def collect(self) -> Collected:
        """Deletes what no image, container or lease needs, and the records about it."""
        collected = await asyncio.to_thread(self.collector.collect)
        used = {diff_id for image in self._images.values() for diff_id in image.diff_ids}
        await self._forget_lost(used)
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


_PART: Json = {"parent": "", "last_tagged": NEVER, "part": True}


def _lookup(reference: Reference) -> str:
    reference = reference.with_default_tag()
    return str(reference.with_digest(reference.digest) if reference.digest else reference)


def _key(name: Reference) -> str:
    if name.is_name_only:
        raise InvalidArgument(f"invalid reference format: {name.familiar} has neither tag nor digest")
    return str(name.with_digest(name.digest) if name.digest else name)
