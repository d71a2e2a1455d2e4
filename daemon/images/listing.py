"""docker images and the filters that it and docker image prune take (moby daemon/images/image_list.go)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from daemon.images import reference, times
from daemon.images.model import Image, Json
from daemon.images.store import ImageStore
from storage.errors import InvalidArgument

Filters = Mapping[str, Sequence[str]]
LISTED = frozenset(("dangling", "label", "before", "since", "reference", "until"))
PRUNED = frozenset(("dangling", "label", "label!", "until"))


def check(filters: Filters, allowed: frozenset[str]) -> None:
    for name in filters:
        if name not in allowed:
            raise InvalidArgument(f"invalid filter '{name}'")


def flag(filters: Filters, name: str, default: bool) -> bool:
    values = filters.get(name) or ()
    if not values:
        return default
    known = {"1": True, "true": True, "0": False, "false": False}
    if len(set(values)) != 1 or values[0].lower() not in known:
        raise InvalidArgument(f"invalid filter '{name}=[{' '.join(values)}]'")
    return known[values[0].lower()]


def labelled(labels: Mapping[str, str], wanted: Iterable[str]) -> bool:
    """All of `name` or `name=value`."""
    for each in wanted:
        name, equals, value = each.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    return True


def labels_of(image: Image) -> dict[str, str]:
    return image.container_config.get("Labels") or {}


class Listing:
    def __init__(self, store: ImageStore, filters: Filters):
        check(filters, LISTED)
        self._store, self._filters = store, filters
        self._dangling_only = flag(filters, "dangling", False)
        self._before, self._since = self._bounds()

    def _bounds(self) -> tuple[int | None, int | None]:
        """The earliest `before` or `until` and the latest `since`."""
        find = self._store.find
        before = [times.nanoseconds(find(name).created) for name in self._filters.get("before") or ()]
        before += [times.timestamp(text) for text in self._filters.get("until") or ()]
        since = [times.nanoseconds(find(name).created) for name in self._filters.get("since") or ()]
        return min(before, default=None), max(since, default=None)

    def rows(self, *, all: bool, shared_size: bool) -> list[Json]:
        parents = {image.parent for image in self._store if image.parent}
        newest_first = sorted(self._store, key=lambda image: -times.nanoseconds(image.created))
        rows = [row for image in newest_first if (row := self._row(image, parents, all)) is not None]
        if shared_size:
            self._add_shared(rows)
        return rows

    def _row(self, image: Image, parents: set[str], all: bool) -> Json | None:
        if not self._in_time(image) or not labelled(labels_of(image), self._filters.get("label") or ()):
            return None
        tags, digests = self._names(image)
        has_children = image.id in parents
        if not tags and not digests:
            hidden = (has_children and not all) or (self._dangling_only and has_children)
            excluded = "reference" in self._filters or (
                "dangling" in self._filters and not self._dangling_only
            )
            if hidden or excluded:
                return None
        elif self._dangling_only and (tags or has_children):
            return None
        return {
            "Containers": -1,
            "Created": times.nanoseconds(image.created) // 10**9,
            "Id": image.id,
            "Labels": image.container_config.get("Labels"),
            "ParentId": image.parent,
            "RepoDigests": digests,
            "RepoTags": tags,
            "SharedSize": -1,
            "Size": image.size,
        }

    def _in_time(self, image: Image) -> bool:
        created = times.nanoseconds(image.created)
        if self._before is not None and not created < self._before:
            return False
        return self._since is None or created > self._since

    def _names(self, image: Image) -> tuple[list[str], list[str]]:
        patterns = self._filters.get("reference")
        if not patterns:
            return list(image.references), list(image.digests)
        found = [
            ref
            for ref in self._store.references(image.id)
            if any(reference.matches(pattern, ref) for pattern in patterns)
        ]
        return [r.familiar for r in found if not r.digest], [r.familiar for r in found if r.digest]

    def _add_shared(self, rows: list[Json]) -> None:
        users = Counter(chain for image in self._store.all() for chain in image.chain_ids)
        for row in rows:
            image = self._store.get(row["Id"])
            chains = image.chain_ids if image else ()
            row["SharedSize"] = sum(self._store.layer_size(chain) for chain in chains if users[chain] > 1)
