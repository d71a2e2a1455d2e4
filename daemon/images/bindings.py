"""The index of what is bound to what (targets.py), and of the images that are here for that alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from daemon.images.targets import Bound, Target


class Bindings:
    """Changed by the store's writers only: they work out `after`, write it down, and then settle() on it."""

    def __init__(self) -> None:
        self._bound: dict[str, Bound] = {}
        self.hidden: set[str] = set()
        """Images that are only part of a target."""

    def get(self, key: str) -> Bound | None:
        """By a normalised name, or by the ID of an image without a name."""
        return self._bound.get(key)

    def put(self, key: str, bound: Bound) -> None:
        self._bound[key] = bound

    def to(self, digest: str) -> tuple[str, Bound] | None:
        """A (key, bound) with that target."""
        return next((pair for pair in self._bound.items() if pair[1].target.digest == digest), None)

    def targets(self) -> set[Target]:
        return {bound.target for bound in list(self._bound.values())}

    # -- changes

    def after(
        self, dropped: Iterable[str], keys: Iterable[str] = (), bound: Bound | None = None
    ) -> dict[str, Bound]:
        """Without some keys, and with others bound."""
        left = {key: each for key, each in self._bound.items() if key not in set(dropped)}
        return left | (dict.fromkeys(keys, bound) if bound else {})

    def orphans(self, after: Mapping[str, Bound], kept: Set[str] = frozenset()) -> list[str]:
        """Hidden images that are part of nothing then."""
        held = {image for bound in after.values() for image in bound.images}
        return [image for image in self.hidden if image not in held and image not in kept]

    def settle(self, after: dict[str, Bound]) -> bool:
        """Whether a target is gone with it, whose blobs can be collected."""
        before = self.targets()
        self._bound = after
        return bool(before - self.targets())
