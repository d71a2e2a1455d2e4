"""docker rmi and docker image prune: names first, then images that nothing needs any more.

A conflict is hard (a dependent image, a running container: force does not help) or soft (other names, a
stopped container). Removing a name goes on to remove the image quietly; what an image's removal frees is
reported by chain ID. Source: moby daemon/images/image_delete.go, whose order and texts these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from daemon.images import progress, reference, times
from daemon.images.listing import PRUNED, Filters, check, flag, labelled, labels_of
from daemon.images.model import Image, ImageUse, Json
from daemon.images.reference import Reference
from daemon.images.store import ImageStore
from daemon.until import until as until_moment
from storage.errors import Conflict, PydError

Entry = dict[str, str]
Announce = Callable[[str, Image], None]


@dataclass(frozen=True)
class _Obstacle:
    text: str
    hard: bool = False
    used: bool = False

    def error(self, image: Image) -> Conflict:
        force = "cannot be forced" if self.hard else "must be forced"
        return Conflict(f"conflict: unable to delete {progress.short(image.id)} ({force}) - {self.text}")


class Removal:
    """One request. `announce(action, image)` publishes events."""

    def __init__(self, store: ImageStore, in_use: Callable[[str], Sequence[ImageUse]], announce: Announce):
        self._store, self._in_use, self._announce = store, in_use, announce
        self.entries: list[Entry] = []
        self._parts: list[Image] = []
        """Images of other platforms that may go with the one that is removed."""

    async def remove(self, text: str, *, force: bool, prune: bool) -> None:
        image = self._store.find(text)
        names = self._store.references(image.id)
        if isinstance(reference.parse_any(text), str):
            text = image.id  # it may have been the digest of what the image is bound to
        self._parts = self._store.parts_of(image)
        if not self._store.is_prefix(image.id, text):
            if not force and _single(names) and (uses := self._uses(image)):
                raise Conflict(
                    f'conflict: unable to remove repository reference "{text}" (must force) - container'
                    f" {uses[0].container_id[:12]} is using its referenced image {progress.short(image.id)}"
                )
            if await self._untag_by_name(image, text):
                return
            await self._delete(image, force=force, prune=prune, quiet=True)
            return
        if _single(names):
            obstacle = self._obstacle(image, soft=not force, names=False)
            if obstacle is not None:
                raise obstacle.error(image)
            for name in names:
                await self._untag(image, name)
        await self._delete(image, force=force, prune=prune, quiet=False)

    async def _untag_by_name(self, image: Image, text: str) -> bool:
        """Removes the name, and the digests of its repository with its last tag; whether names are left."""
        name = reference.parse(text).with_default_tag()
        if name.digest:
            name = name.with_digest(name.digest)
        await self._untag(image, name)
        left = self._store.references(image.id)
        siblings = [each for each in left if each.name == name.name]
        if not name.digest and not any(each.tag for each in siblings):
            for each in siblings:
                await self._store.unname(each)
                self.entries.append({"Untagged": each.familiar})
        return bool(self._store.references(image.id))

    async def _untag(self, image: Image, name: Reference) -> None:
        await self._store.unname(name)
        self._announce("untag", image)
        self.entries.append({"Untagged": name.familiar})

    async def _delete(self, image: Image, *, force: bool, prune: bool, quiet: bool) -> None:
        obstacle = self._obstacle(image, soft=not force, names=True)
        if obstacle is not None:
            dangling = not self._store.references(image.id) and not self._store.children(image.id)
            if quiet and (not dangling or obstacle.used):
                return
            raise obstacle.error(image)
        for name in self._store.references(image.id):
            await self._untag(image, name)
        await self._store.forget(image.id)
        self._announce("delete", image)
        self.entries.append({"Deleted": image.id})
        await self._store.collect()
        chains = dict.fromkeys(
            chain
            for each in (image, *self._parts)
            for chain in reversed(each.chain_ids)
            if not self._store.has_layer(chain)
        )
        self.entries += [{"Deleted": chain} for chain in chains]
        parent = self._store.get(image.parent) if image.parent and prune else None
        if parent is not None:
            await self._delete(parent, force=False, prune=True, quiet=True)

    def _uses(self, image: Image) -> list[ImageUse]:
        """Of the image, and of those of other platforms that would go with it."""
        together = [image, *self._store.parts_of(image)]
        return [use for each in together for use in self._in_use(each.id)]

    def _obstacle(self, image: Image, *, soft: bool, names: bool) -> _Obstacle | None:
        if self._store.children(image.id):
            return _Obstacle("image has dependent child images", hard=True)
        uses = self._uses(image)
        if running := next((use for use in uses if use.running), None):
            text = f"image is being used by running container {running.container_id[:12]}"
            return _Obstacle(text, hard=True, used=True)
        if not soft:
            return None
        if names and self._store.references(image.id):
            return _Obstacle("image is referenced in multiple repositories")
        if stopped := next(iter(uses), None):
            text = f"image is being used by stopped container {stopped.container_id[:12]}"
            return _Obstacle(text, used=True)
        return None


def _single(names: Sequence[Reference]) -> bool:
    """All names from one repository and at most one of them a tag."""
    if len(names) <= 1:
        return len(names) == 1
    tagged = [name for name in names if not name.digest]
    repositories = {name.name for name in names if name.digest}
    if len(tagged) > 1:
        return False
    single = tagged[0] if tagged else names[0]
    return repositories == {single.name}


async def prune(
    store: ImageStore,
    filters: Filters,
    in_use: Callable[[str], Sequence[ImageUse]],
    announce: Announce,
) -> Json:
    check(filters, PRUNED)
    dangling_only = flag(filters, "dangling", True)
    until = until_moment(filters)
    sizes = {chain: store.layer_size(chain) for image in store.all() for chain in image.chain_ids}
    entries: list[Entry] = []
    for image in list(store):
        if store.get(image.id) is None or not _prunable(store, image, filters, until, dangling_only):
            continue
        for text in [str(name) for name in store.references(image.id)] or [image.id]:
            removal = Removal(store, in_use, announce)
            with suppress(PydError):  # in use, or gone meanwhile: prune takes what it can
                await removal.remove(text, force=False, prune=True)
            entries += removal.entries
    freed = sum(sizes.get(entry.get("Deleted", ""), 0) for entry in entries)
    return {"ImagesDeleted": entries or None, "SpaceReclaimed": freed}


def _prunable(
    store: ImageStore, image: Image, filters: Filters, until: int | None, dangling_only: bool
) -> bool:
    names = store.references(image.id)
    if store.children(image.id) and (not names or dangling_only):
        return False
    if dangling_only and any(not name.digest for name in names):
        return False
    if until is not None and times.nanoseconds(image.created) > until:
        return False
    labels = labels_of(image)
    if not labelled(labels, filters.get("label") or ()):
        return False
    unwanted = filters.get("label!") or ()
    return not (unwanted and labelled(labels, unwanted))
