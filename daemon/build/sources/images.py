"""Base images of a build: the local one where it fits, else the registry's.

What comes from a registry for a build gets no name, as with BuildKit: the build cache holds it (and `du` shows
"pulled from NAME"), until it is pruned or nobody uses it any longer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from time import time_ns
from typing import TYPE_CHECKING, Any

from daemon.build.bench import Bench, Job
from daemon.build.graph import Source, digest_of
from daemon.build.sources.layouts import LAYOUT, Layout, bring, look
from daemon.build.sources.resolved import ResolvedImage
from daemon.build.steps import Progress, Status
from daemon.build.upkeep.cache import Entry
from daemon.images import platforms, reference
from daemon.images.model import AuthConfig, Image, chain_ids
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from storage.errors import Forbidden, Internal, InvalidArgument, NotFound, PydError
from storage.gc import Blob, Layer

if TYPE_CHECKING:
    from daemon.build.sources.policy import SourcePolicies
    from daemon.containers.context import Context
    from daemon.images.fetch import Fetch

PREFIX = "docker-image://"
PULL, LOCAL, DEFAULT = "pull", "local", "default"
"""image.resolvemode (solver/pb/attr.go)."""
Steps = Callable[[str], AbstractAsyncContextManager[Any]]
"""A name to a step that is shown while the block runs."""
Credentials = Callable[[str], Awaitable[AuthConfig | None]]
"""By a registry's host."""


class Shown:
    """A pull's lines as statuses of the vertex that waits for it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, line: dict[str, Any]) -> None:
        layer, text = line.get("id"), line.get("status")
        if not layer or text not in _SHOWN:
            return
        detail = line.get("progressDetail") or {}
        statuses = self._progress.statuses
        known = statuses.get(layer)
        if known is None:
            known = statuses[layer] = Status(layer, str(layer), started=time_ns(), notify=self._progress.wake)
        if "current" in detail:
            known.advance(int(detail["current"]), int(detail.get("total") or 0))
        if text in _COMPLETE and not known.completed:
            known.finish()


_COMPLETE = ("Pull complete", "Already exists")
_SHOWN = ("Downloading", "Extracting", "Download complete", *_COMPLETE)


class NoImage(Forbidden):
    """A policy made something else of an image."""

    def __init__(self, text: str, name: Reference, identifier: str) -> None:
        self.identifier = identifier
        super().__init__(f"{text}: ref mutated by policy to non-image: {PREFIX}{name} -> {identifier}")


@contextlib.asynccontextmanager
async def unseen(name: str) -> AsyncIterator[None]:
    yield


async def anonymous(host: str) -> AuthConfig | None:
    return None


@dataclass
class Images:
    """One build's way to images: the front end's resolver, and the solver's source of layers."""

    bench: Bench
    job: Job
    ctx: Context
    mode: str = DEFAULT
    credentials: Credentials = anonymous
    steps: Steps = unseen
    several: bool = False
    """Of several platforms: steps' names tell which."""
    worded: bool = True
    """Errors begin with the name as it was asked for: the Dockerfile's front end says so."""
    policy: SourcePolicies | None = None
    """None: the build's own."""
    _known: dict[tuple[str, str], ResolvedImage] = field(default_factory=dict)
    _fetches: dict[tuple[str, str], Fetch] = field(default_factory=dict)
    _layouts: dict[tuple[str, str], Layout] = field(default_factory=dict)

    async def image(self, reference: str, platform: str, label: str = "internal") -> ResolvedImage:
        """What a name means now. The errors are worded as BuildKit words them."""
        key = (reference, platform)
        if key not in self._known:
            self._known[key] = await self._resolve(reference, platform, self.mode, label)
        return self._known[key]

    async def layout(self, store: str, digest: str, platform: str, name: str) -> Layout:
        """An image of an OCI layout that the client serves."""
        known = self._layouts.get((f"{LAYOUT}{store}@{digest}", platform))
        if known is not None:
            return known
        wanted = platforms.parse(platform) if platform else platforms.local()
        async with self.steps(f"[context {name}] load metadata for {reference.parse(name)}@{digest}"):
            found = await look(self.job, store, digest, wanted)
        self._layouts[found.identifier, platform] = found
        return found

    async def layers(self, source: Source, progress: Progress) -> tuple[str, ...]:
        """Of `docker-image://...` and `oci-layout://...`; what was not resolved yet is."""
        key = (source.identifier, source.platform)
        if source.identifier.startswith(LAYOUT):
            self.job.images[key] = await self._unpacked(source, key)
        elif key not in self.job.images and key not in self._fetches and not self._pulled(key):
            mode = source.attribute("image.resolvemode") or self.mode
            found = await self._resolve(source.identifier.removeprefix(PREFIX), source.platform, mode)
            key = (found.identifier, source.platform)
        if key not in self.job.images:
            self.job.images[key] = await self._bring(self._fetches[key], *key, progress)
        return self.job.images[key]

    def _pulled(self, key: tuple[str, str]) -> bool:
        """Whether an earlier build got it, so that nobody need be asked what it is."""
        entry = self.bench.cache.entries.get(_cache_key(*key))
        if entry is None:
            return False
        self.job.lease.add(*(Layer(chain) for chain in chain_ids(entry.diff_ids)))
        store = self.bench.store
        if not all(
            store.is_complete(c, d) for c, d in zip(chain_ids(entry.diff_ids), entry.diff_ids, strict=True)
        ):
            return False
        self.bench.cache.find(entry.key)
        self.job.images[key] = entry.diff_ids
        return True

    async def _unpacked(self, source: Source, key: tuple[str, str]) -> tuple[str, ...]:
        found = self._layouts.get(key)
        if found is None:
            digest = source.identifier.partition("@")[2]
            wanted = platforms.parse(source.platform) if source.platform else platforms.local()
            found = await look(self.job, source.attribute("oci.store"), digest, wanted)
        return await bring(self.bench, self.job, found)

    async def _resolve(self, text: str, platform: str, mode: str, label: str = "internal") -> ResolvedImage:
        asked = reference.parse(text).with_default_tag()
        name = self._allowed(text, asked)
        shown = f"{platform} {label}" if platform and self.several and label == "internal" else label
        async with self.steps(f"[{shown}] load metadata for {asked}"):
            wanted = platforms.parse(platform) if platform else None
            image = None if mode == PULL else self._local(name, wanted)
            if image is not None:
                return self._held(name, platform, image)
            return await self._remote(text, name, platform, wanted)

    def _allowed(self, text: str, name: Reference) -> Reference:
        """The image that the client's policies want read. Forbidden; NoImage when that is no image."""
        policy = self.policy or self.job.policy
        if policy is None:
            return name
        try:
            identifier, _ = policy.evaluate(f"{PREFIX}{name}", {})
        except Forbidden as error:
            reason = f"could not resolve image due to policy: {error}"
            sentence = f"{self._asked(text)}failed to resolve source metadata for {name}: {reason}"
            raise Forbidden(sentence) from None
        if not identifier.startswith(PREFIX):
            raise NoImage(text, name, identifier)
        return reference.parse(identifier.removeprefix(PREFIX)).with_default_tag()

    def _asked(self, text: str) -> str:
        return f"{text}: " if self.worded else ""

    def _local(self, name: Reference, platform: Platform | None) -> Image | None:
        """By its name, or by its digest alone: what was local may have no name in a registry."""
        for text in (name.familiar, name.digest):
            with contextlib.suppress(NotFound):
                image: Image | None = self.ctx.images.resolve(text, platform) if text else None
                if image and (platform is None or platforms.satisfies(platform, image.config)):
                    return image
        return None

    def _held(self, name: Reference, platform: str, image: Image) -> ResolvedImage:
        self.job.lease.add(Blob(image.id), *(Layer(chain) for chain in image.chain_ids))
        digest = name.digest or _repo_digest(name, image) or image.id
        identifier = _identifier(name, digest)
        self.job.images[identifier, _foreign(platform)] = image.diff_ids
        self.job.resolved[f"{PREFIX}{name}"] = digest
        return ResolvedImage(identifier, image.config)

    async def _remote(
        self, text: str, name: Reference, platform: str, wanted: Platform | None
    ) -> ResolvedImage:
        fetch = self.ctx.images.fetch(name, wanted, await self.credentials(name.domain))
        try:
            await fetch.look()
        except PydError as error:
            reason = str(error)
            if isinstance(error, NotFound) and reason.startswith("manifest for"):
                reason = f"{name}: not found"
            raise _worded(
                type(error), f"{self._asked(text)}failed to resolve source metadata for {name}: {reason}"
            ) from error
        if wanted is not None and not platforms.satisfies(wanted, fetch.config):
            offered = Platform.of(fetch.config)
            raise NotFound(
                f"{self._asked(text)}no match for platform {wanted} in manifest: {offered} is what there is"
            )
        identifier = _identifier(name, fetch.digest)
        self._fetches[identifier, _foreign(platform)] = fetch
        self.job.resolved[f"{PREFIX}{name}"] = fetch.digest
        return ResolvedImage(identifier, fetch.config)

    async def _bring(
        self, fetch: Fetch, identifier: str, platform: str, progress: Progress
    ) -> tuple[str, ...]:
        """The layers, here and held by the build and by the cache."""
        await fetch.bring(self.job.lease, Shown(progress))
        diff_ids = tuple((fetch.config.get("rootfs") or {}).get("diff_ids") or ())
        chains = chain_ids(diff_ids)
        store = self.bench.store
        blobs = [store.blob(diff_id) for diff_id in diff_ids]
        if not all(blobs) or not all(store.has_layer(chain) for chain in chains):
            raise Internal(f"{identifier}: its layers went while they came")
        self.job.lease.add(
            *(Layer(chain) for chain in chains), *(Blob(each.digest) for each in blobs if each)
        )
        if diff_ids:
            now = time_ns()
            size = sum(store.layer_size(chain) for chain in chains)
            text = f"pulled from {identifier.removeprefix(PREFIX)}"
            key = _cache_key(identifier, platform)
            last = blobs[-1].digest if blobs[-1] else ""
            await self.bench.cache.add(
                Entry(key, diff_ids, chains[-1], last, size, now, now, 1, "source", text)
            )
        return diff_ids


def _worded(kind: type[PydError], sentence: str) -> PydError:
    try:
        return kind(sentence)
    except TypeError:
        return InvalidArgument(sentence)


def _cache_key(identifier: str, platform: str) -> str:
    return digest_of(["image", identifier, platform])


def _identifier(name: Reference, digest: str) -> str:
    return f"{PREFIX}{name}" if name.digest else f"{PREFIX}{name}@{digest}"


def _repo_digest(name: Reference, image: Image) -> str:
    """What a pull or push called it, in the same repository."""
    for text in image.digests:
        known = reference.parse(text)
        if known.name == name.name:
            return known.digest
    return ""


def _foreign(platform: str) -> str:
    return "" if platform == str(platforms.local()) else platform
