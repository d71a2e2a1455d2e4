"""The image service: what the engine and the API call.

Generators (`pull`, `push`, `load`, `save`, `import_`) are async generators: call them without await and
iterate. What is wrong before their first item raises a PydError (and so has an HTTP status); what goes
wrong later is their last item, `{"errorDetail": {"message": ..}, "error": ..}`. Closing a generator
cancels the work.

Each operation lives in a module of its own; here they get what they need and their events are published.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from daemon.config import DaemonConfig
from daemon.images import archive, create, details, listing, manifestsummary, platforms, reference, removal
from daemon.images.layers import LayerJobs
from daemon.images.load import Load
from daemon.images.login import distribution, login
from daemon.images.model import AuthConfig, Image, ImageUse, Json
from daemon.images.platforms import Platform
from daemon.images.pull import Pull
from daemon.images.push import Push
from daemon.images.reference import Reference
from daemon.images.save import Plan
from daemon.images.sessions import Patience, Registries
from daemon.images.store import ImageStore
from daemon.images.streams import Say, reported
from daemon.images.targets import Target
from daemon.images.transfer.parent import Worker
from storage.content import ContentStore
from storage.errors import Conflict, InvalidArgument, NotFound, NotImplementedYet, PydError
from storage.gc import Blob
from storage.records import Records
from storage.snapshots import Snapshotter

if TYPE_CHECKING:
    from daemon.images.fetch import Fetch

Events = Callable[[str, str, str, dict[str, str]], None]
"""(type, action, id, attributes), as the engine publishes them."""
Rows = list[Json]
PIECE = 1 << 18


class ImageService:
    """Everything about images; one instance a daemon."""

    def __init__(
        self,
        content: ContentStore,
        snapshots: Snapshotter,
        records: Records,
        events: Events,
        config: DaemonConfig,
        *,
        patience: Patience | None = None,
    ):
        self.in_use: Callable[[str], Sequence[ImageUse]] = lambda image_id: ()
        """Containers made from an image ID; the engine sets it."""
        self._store = ImageStore(content, snapshots, records)
        self._events, self._config = events, config
        self._worker = Worker(content.root)
        self._registries = Registries(
            self._worker, config.insecure_registries, config.registry_mirrors, patience
        )
        self._jobs = LayerJobs(self._store, self._worker, config.max_concurrent_downloads)
        self._pruning = False

    def reload(self, config: DaemonConfig) -> None:
        """Registries and limits as configured now; transfers that run are left alone."""
        self._registries.reconfigure(config.insecure_registries, config.registry_mirrors)
        if config.max_concurrent_downloads != self._config.max_concurrent_downloads:
            self._jobs.resize(config.max_concurrent_downloads)
        self._config = config

    @property
    def store(self) -> ImageStore:
        """For those who make images themselves: builds."""
        return self._store

    @property
    def registries(self) -> Registries:
        """For those who talk to registries themselves: caches of builds, exporters."""
        return self._registries

    @property
    def layer_jobs(self) -> LayerJobs:
        """For those who have layers to make from elsewhere: each is made once, whoever wants it."""
        return self._jobs

    @property
    def _spool(self) -> Any:
        return self._config.data_root / "tmp"

    async def start(self) -> None:
        """Loads the records and removes what an interrupted operation left."""
        await asyncio.to_thread(self._store.load)
        await asyncio.to_thread(archive.clear_spools, self._spool)
        await self._store.reconcile()

    async def stop(self) -> None:
        """Ends the worker processes."""
        await self._worker.close()
        await self._store.settle()

    # --- looking -----------------------------------------------------------------------------------

    def resolve(self, ref: str, platform: Platform | None = None) -> Image:
        """By name, digest, ID or unique ID prefix; NotFound `No such image: X` as dockerd says it.

        `platform` is a wish: an index has several images. Whoever needs it looks at what came.
        """
        return self._store.for_platform(ref, platform)

    def means(self, ref: str, image_id: str) -> bool:
        """Whether a reference means an image still, or an index that the image is part of."""
        try:
            image, bound = self._store.find(ref), self._store.bound(ref)
        except PydError:
            return False
        return image.id == image_id or (bound is not None and image_id in bound.images)

    def images(self) -> Sequence[Image]:
        """All images, unordered."""
        return list(self._store)

    def names_of(self, image_id: str) -> tuple[str, ...]:
        """Familiar tagged names of an image ID; empty when it is dangling or gone."""
        image = self._store.get(image_id)
        return image.references if image else ()

    async def list(
        self,
        all: bool = False,
        filters: dict[str, Sequence[str]] | None = None,
        digests: bool = False,
        manifests: bool = False,
        shared_size: bool = False,
    ) -> Rows:
        """GET /images/json. `Containers` is -1: only disk_usage counts them."""
        rows = listing.Listing(self._store, filters or {}).rows(all=all, shared_size=shared_size)
        for row in rows:
            if bound := self._store.bound(row["Id"]):
                row["Descriptor"] = bound.target.fields()
                if manifests:
                    row["Manifests"] = await self._manifests(bound.target)
        return rows

    async def inspect(self, ref: str, *, manifests: bool = False, platform: str = "") -> Json:
        """`platform`: text, or the API's JSON; NotFound when the image is for none such."""
        image, bound = self._for_platform(ref, platform), self._store.bound(ref)
        found = details.inspect(self._store, image, bound.target if bound else None)
        if manifests and bound:
            found["Manifests"] = await self._manifests(bound.target)
        return found

    async def _manifests(self, target: Target) -> Rows:
        return await asyncio.to_thread(manifestsummary.summaries, self._store, target, self.in_use)

    def _for_platform(self, ref: str, platform: str) -> Image:
        wanted = _platform(platform)
        image = self._store.for_platform(ref, wanted)
        if wanted is not None and not platforms.satisfies(wanted, image.config):
            raise NotFound(
                f"image with reference {ref} was found but does not provide the specified platform ({wanted})"
            )
        return image

    def history(self, ref: str, platform: str = "") -> Rows:
        return details.history(self._store, self._for_platform(ref, platform))

    # --- registries --------------------------------------------------------------------------------

    async def pull(
        self, ref: str, tag: str = "", platform: str = "", auth: AuthConfig | None = None
    ) -> AsyncIterator[Json]:
        """POST /images/create?fromImage=REF&tag=TAG."""
        wanted = reference.parse_with(ref, tag)
        system = _platform(platform)

        async def work(say: Say) -> None:
            await Pull(self._store, self._registries, self._jobs, wanted, system, auth, say).run()
            self._named_event("pull", wanted)
            self._warn_of_platform(wanted, system, say)

        async for line in reported(work):
            yield line

    def fetch(self, name: Reference, platform: Platform | None, auth: AuthConfig | None) -> Fetch:
        """For builds: an image's configuration, and its layers when they are needed; it gets no name."""
        from daemon.images.fetch import Fetch

        return Fetch(self._store, self._registries, self._jobs, name, platform, auth, lambda line: None)

    def _warn_of_platform(self, name: Reference, platform: Platform | None, say: Say) -> None:
        image = self._store.get(self._store.image_of(name) or "")
        if platform is None or image is None or platforms.satisfies(platform, image.config):
            return
        offered = Platform.of(image.config)
        text = (
            f"image with reference {name.familiar} was found but its platform ({offered})"
            f" does not match the specified platform ({platform})"
        )
        say({"status": f"WARNING: {text}"})

    async def push(
        self, ref: str, tag: str = "", auth: AuthConfig | None = None, platform: str = ""
    ) -> AsyncIterator[Json]:
        """POST /images/{ref}/push; no tag pushes every tag of the repository."""
        wanted = reference.parse_with(ref, tag)
        limit = self._config.max_concurrent_uploads

        async def work(say: Say) -> None:
            await Push(self._store, self._registries, wanted, auth, limit, say, _platform(platform)).run()
            self._named_event("push", wanted)

        async for line in reported(work):
            yield line

    async def login(self, auth: AuthConfig) -> Json:
        """POST /auth: {"Status": "Login Succeeded", "IdentityToken": ""}."""
        return await login(self._registries, auth)

    async def distribution(self, ref: str, auth: AuthConfig | None = None) -> Json:
        """GET /distribution/{ref}/json."""
        return await distribution(self._registries, reference.parse(ref), auth)

    async def search(
        self, term: str, limit: int = 25, filters: dict[str, Sequence[str]] | None = None
    ) -> Rows:
        raise NotImplementedYet(
            "searching Docker Hub is not supported: it has no place in the registry protocol"
        )

    # --- archives ----------------------------------------------------------------------------------

    async def load(
        self, stream: AsyncIterator[bytes], quiet: bool = False, platform: str = ""
    ) -> AsyncIterator[Json]:
        """POST /images/load. Errors come as the last line, since dockerd has sent 200 by then."""
        system = _platform(platform)

        async def work(say: Say) -> None:
            for image_id in await Load(self._store, self._spool, quiet, system, say).run(stream):
                self._image_event("load", self._store.find(image_id))

        async for line in reported(work):
            yield line

    async def save(self, refs: Sequence[str], platform: str = "") -> AsyncIterator[bytes]:
        """GET /images/get?names=; the first item comes only once all names are known to exist."""
        plan = Plan(self._store, _platform(platform))
        for ref in refs:
            plan.add(ref)
        with self._store.lease() as lease:
            lease.add(*(Blob(digest) for digest in plan.blobs()))
            members = await asyncio.to_thread(plan.members)
            async with archive.sending(self._store.content.root) as (worker, reader):
                writing = asyncio.create_task(worker.call("save", members=members))
                try:
                    while data := await reader.read(PIECE):
                        yield data
                    await writing
                finally:
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
        for image_id in plan.images:
            if image := self._store.get(image_id):
                self._image_event("save", image)

    async def import_(
        self,
        stream: AsyncIterator[bytes],
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> AsyncIterator[Json]:
        """POST /images/create?fromSrc=-."""
        name = reference.parse_with(repo, tag).with_default_tag() if repo else None
        if name is not None and name.digest:
            raise InvalidArgument("cannot import digest reference")
        comment = message or f"Imported from {source}"
        system = _platform(platform)

        async def work(say: Say) -> None:
            with self._store.ingesting():
                image = await create.import_archive(self._store, stream, name, comment, changes, system)
            self._image_event("import", image)
            say({"status": image.id})

        async for line in reported(work):
            yield line

    async def commit(
        self,
        key: str,
        parent: Image | None,
        config: Json,
        *,
        container_id: str = "",
        container_config: Json | None = None,
        repo: str = "",
        tag: str = "",
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
    ) -> str:
        """Makes an image of the active snapshot `key` over `parent`; returns its ID.

        `config` is the container's Config; `changes` are Dockerfile instructions applied to it.
        """
        name = reference.parse_with(repo, tag).with_default_tag() if repo else None
        with self._store.ingesting():
            image = await create.commit_container(
                self._store,
                key,
                parent,
                config,
                container_id=container_id,
                container_config=container_config or config,
                author=author,
                message=message,
                change=changes,
                name=name,
            )
        self._image_event("create", image)
        if name is not None:
            self._events("image", "tag", image.id, {"name": name.familiar, **listing.labels_of(image)})
        return image.id

    # --- names and removal -------------------------------------------------------------------------

    async def tag(self, ref: str, repo: str, tag: str = "") -> None:
        image = self._store.find(ref)
        name = reference.parse_with(repo, tag).with_default_tag()
        if name.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        await self._store.name(image.id, [name], bound=self._store.bound(ref))
        self._events("image", "tag", image.id, {"name": name.familiar, **listing.labels_of(image)})

    async def remove(self, ref: str, force: bool = False, prune: bool = True) -> Sequence[removal.Entry]:
        """[{"Untagged": name} | {"Deleted": id} ...]; prune=False is the API's noprune."""
        work = removal.Removal(self._store, self.in_use, self._image_event)
        await work.remove(ref, force=force, prune=prune)
        return work.entries

    async def prune(self, filters: dict[str, Sequence[str]] | None = None) -> Json:
        """{"ImagesDeleted": [..] | None, "SpaceReclaimed": bytes}."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            report = await removal.prune(self._store, filters or {}, self.in_use, self._image_event)
        finally:
            self._pruning = False
        self._events("image", "prune", "", {"reclaimed": str(report["SpaceReclaimed"])})
        return report

    async def collect(self) -> int:
        """Removes layers and blobs that no image and no snapshot needs (a container's removal may have
        freed them); returns the bytes freed."""
        return (await self._store.collect()).size

    async def disk_usage(self) -> Json:
        """{"LayersSize": bytes, "Images": rows with SharedSize and Containers}."""
        rows = listing.Listing(self._store, {}).rows(all=True, shared_size=True)
        for row in rows:
            parts = self._store.parts_of(self._store.find(row["Id"]))
            used = [use for each in (row["Id"], *(part.id for part in parts)) for use in self.in_use(each)]
            row["Containers"] = len(used)
        chains = {chain for image in self._store.all() for chain in image.chain_ids}
        return {"LayersSize": sum(map(self._store.layer_size, chains)), "Images": rows}

    # --- events ------------------------------------------------------------------------------------

    def _image_event(self, action: str, image: Image) -> None:
        self._events("image", action, image.id, {"name": image.id, **listing.labels_of(image)})

    def _named_event(self, action: str, name: Reference) -> None:
        """Pull and push are known by the name, not by the ID (moby daemon/images/image_events.go)."""
        attributes = {"name": name.familiar_name}
        with suppress(NotFound):
            attributes |= listing.labels_of(self._store.find(str(name)))
        self._events("image", action, name.familiar, attributes)


def _platform(text: str) -> Platform | None:
    """As `--platform` has it, or the JSON that newer clients send."""
    if not text.startswith("{"):
        return platforms.parse(text) if text else None
    try:
        wanted = Platform.of(json.loads(text))
    except ValueError:
        raise InvalidArgument(f"failed to parse platform: {text}") from None
    if not wanted.os or not wanted.architecture:
        raise InvalidArgument("invalid platform: os and architecture must be given")
    return wanted.normalized()
