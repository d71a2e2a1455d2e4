"""docker pull: manifest → configuration → layers (layers.py) → image record.

After an endpoint the next one is tried only for errors that another endpoint may not have (moby
distribution/errors.go, continueOnError). An image record is written when all of its layers are committed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

from daemon.images import manifests, platforms, progress
from daemon.images.attempts import Attempts
from daemon.images.layers import MISMATCH, LayerJob, LayerJobs, Wanted
from daemon.images.manifests import Index, Manifest
from daemon.images.model import AuthConfig, Json, chain_ids
from daemon.images.platforms import Platform
from daemon.images.reference import Reference
from daemon.images.registry.errors import RegistryError
from daemon.images.sessions import Document, Registries, Session
from daemon.images.store import ImageStore
from daemon.images.streams import Say, together
from storage.errors import Forbidden, Internal, InvalidArgument, NotFound, PydError, Unauthenticated
from storage.gc import Blob, Layer

RESERVED = "scratch"
_MISSING = {
    "DENIED": "pull access denied for {name}, repository does not exist or may require 'docker login'",
    "MANIFEST_UNKNOWN": "manifest for {reference} not found",
    "NAME_UNKNOWN": "repository {name} not found",
}
_FINAL = frozenset(("corrupt",))
"""Codes that another endpoint of the same registry would not cure."""


def not_found(error: RegistryError, reference: Reference) -> PydError:
    """dockerd's translatePullError: what becomes of a registry's refusal."""
    if error.code == "UNAUTHORIZED":
        return Unauthenticated(str(error))
    template = _MISSING.get(error.code)
    if template is None:
        return Internal(str(error))
    text = template.format(name=reference.familiar_name, reference=reference.familiar)
    return NotFound(f"{text}: {error}")


class Pull:
    """One pull of one reference, for one client."""

    def __init__(
        self,
        store: ImageStore,
        registries: Registries,
        jobs: LayerJobs,
        reference: Reference,
        platform: Platform | None,
        auth: AuthConfig | None,
        say: Say,
    ):
        self._store, self._registries, self._jobs = store, registries, jobs
        self._reference, self._platform, self._auth, self._say = reference, platform, auth, say
        self._images: list[str] = []

    async def run(self) -> list[str]:
        """IDs of the images that were pulled."""
        if self._reference.familiar_name == RESERVED:
            raise Forbidden(f"'{RESERVED}' is a reserved name")
        try:
            with self._registries.worker.held():
                await self._try_endpoints()
        except BaseException:
            self._store.collect_soon()
            raise
        return self._images

    async def _try_endpoints(self) -> None:
        attempts = Attempts(self._registries, self._reference, self._auth, push=False)
        async for session in attempts:
            try:
                await self._pull(session)
                return
            except RegistryError as error:
                attempts.failed(error)
                if error.code in _FINAL or (error.code.isupper() and not session.endpoint.mirror):
                    break
            finally:
                await session.release()
        raise not_found(attempts.error, self._reference) from attempts.error

    async def _pull(self, session: Session) -> None:
        reference = self._reference
        if reference.is_name_only:
            new = False
            for tag in await session.tags():
                new |= await self._pull_one(session, reference.with_tag(tag))
        else:
            new = await self._pull_one(session, reference)
        text = "Downloaded newer image" if new else "Image is up to date"
        self._say(progress.message(f"Status: {text} for {reference.familiar}"))

    async def _pull_one(self, session: Session, reference: Reference) -> bool:
        """Whether the reference now names another image than before."""
        wanted = reference.digest or reference.tag
        document = await session.manifest(wanted)
        decoded = manifests.decode(document.body, document.media_type, str(reference))
        self._say(progress.message(f"Pulling from {_repository(reference)}", _tag_or_digest(reference)))
        with self._store.lease() as lease:
            config_digest, config, layers = await self._resolve(session, decoded, reference)
            lease.add(Blob(config_digest), *(Layer(each.chain_id) for each in layers))
            lease.add(*(Blob(each.descriptor.digest) for each in layers))
            await self._fetch(session, layers)
            self._say(progress.message(f"Digest: {document.digest}"))
            return await self._name(reference, document, config_digest, config)

    async def _name(
        self, reference: Reference, document: Document, image_id: str, config: bytes | None
    ) -> bool:
        by_digest = reference.with_digest(document.digest)
        names = [by_digest] if reference.digest else [reference, by_digest]
        before = self._store.image_of(reference)
        bound = self._store.bound_to(document.digest)
        if config is not None:
            await self._store.add_image(config, names)
        elif bound is not None and image_id in bound.images:
            await self._store.name(image_id, names, tagged=False, bound=bound)
        elif before != image_id or self._store.image_of(by_digest) != image_id:
            await self._store.name(image_id, names, tagged=False)
        self._images.append(image_id)
        return before != image_id

    async def _resolve(
        self, session: Session, document: Manifest | Index, reference: Reference
    ) -> tuple[str, bytes | None, list[Wanted]]:
        """(image ID, its configuration unless the image is here, the layers to get)."""
        if isinstance(document, Index):
            return await self._resolve_index(session, document, reference)
        image_id = document.config.digest
        if self._store.get(image_id):
            return image_id, None, []
        manifests.check_supported(document.config.media_type)
        config = await session.config(image_id)
        diff_ids = _diff_ids(config)
        if len(diff_ids) != len(document.layers):
            raise Internal(MISMATCH)
        chains = chain_ids(diff_ids)
        layers = [
            Wanted(chain, diff_id, chains[place - 1] if place else None, layer, reference.name)
            for place, (chain, diff_id, layer) in enumerate(
                zip(chains, diff_ids, document.layers, strict=True)
            )
        ]
        return image_id, config, layers

    async def _resolve_index(
        self, session: Session, index: Index, reference: Reference
    ) -> tuple[str, bytes | None, list[Wanted]]:
        for entry in index.candidates(self._platform):
            document = await session.manifest(entry.digest)
            decoded = manifests.decode(document.body, document.media_type, str(reference))
            if isinstance(decoded, Index):
                with suppress(NotFound):
                    return await self._resolve_index(session, decoded, reference)
                continue
            return await self._resolve(session, decoded, reference)
        wanted = self._platform or platforms.local()
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")

    async def _fetch(self, session: Session, layers: Sequence[Wanted]) -> None:
        """Joins or begins a job for each missing layer; leaves them all when one fails or on cancelling."""
        joined: list[tuple[LayerJob, Say]] = []
        silent: set[str] = set()
        below: LayerJob | None = None
        try:
            for wanted in layers:
                if below is None and self._store.is_complete(wanted.chain_id, wanted.diff_id):
                    self._say(progress.state("Already exists", wanted.short))
                    await self._store.note_repository(wanted.diff_id, wanted.repository)
                    continue
                listener = _ignore if wanted.short in silent else self._say
                silent.add(wanted.short)
                below = self._jobs.join(wanted, session, below, listener)
                joined.append((below, listener))
            await together(*(job.wait() for job, _ in joined))
        finally:
            for job, listener in joined:
                job.leave(listener)


def _ignore(line: Json) -> None:
    """The same blob twice in one image: one of them speaks."""


def _repository(reference: Reference) -> str:
    """`library/busybox` for Docker Hub, without the host for others: the path, as dockerd names it."""
    return reference.path


def _tag_or_digest(reference: Reference) -> str:
    return str(reference) if reference.digest else reference.tag


def _diff_ids(config: bytes) -> list[str]:
    try:
        document = json.loads(config)
        found = document["rootfs"]["diff_ids"] if "rootfs" in document else None
    except (ValueError, KeyError, TypeError):
        raise InvalidArgument("invalid image configuration") from None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise Internal("invalid rootfs in image configuration")
    return found
