"""Exported images into registries, with the credentials of the client (BuildKit util/push)."""

from __future__ import annotations

from daemon.build.bench import Bench, Job
from daemon.build.export.image import Committed
from daemon.build.export.options import ImageOptions
from daemon.build.sources.repository import open_repository
from daemon.build.steps import Progress
from daemon.containers.context import Context
from daemon.images.reference import Reference
from daemon.images.registry.errors import NO_CREDENTIALS, RegistryError
from daemon.images.sessions import Session
from daemon.images.uploads import Hear, TargetUpload
from storage.errors import Internal, InvalidArgument, PydError, Unauthenticated


class Pusher:
    """For one exporter of one build."""

    def __init__(
        self,
        bench: Bench,
        job: Job,
        ctx: Context,
        options: ImageOptions,
        progress: Progress,
    ) -> None:
        self._bench, self._job, self._ctx = bench, job, ctx
        self._options, self._progress = options, progress

    async def push(self, name: Reference, committed: Committed) -> None:
        """Internal, Unauthenticated: the registry's refusal, as `failed to push NAME: ...`."""
        if self._options.push_by_digest and not name.is_name_only:
            raise InvalidArgument(f"can't push tagged ref {name} by digest")
        insecure = self._options.insecure
        try:
            with self._ctx.images.registries.worker.held():
                session = await open_repository(self._bench, self._job, name, push=True, insecure=insecure)
                try:
                    await self._send(session, name, committed)
                finally:
                    await session.release()
        except RegistryError as error:
            kind = Unauthenticated if error.code == "UNAUTHORIZED" else Internal
            text = NO_CREDENTIALS if error.code == "credentials" else str(error)
            raise kind(f"failed to push {name}: {text}") from error
        except PydError as error:
            raise type(error)(f"failed to push {name}: {error}") from error

    async def _send(self, session: Session, name: Reference, committed: Committed) -> None:
        target = committed.target
        limit = self._ctx.config.max_concurrent_uploads
        upload = TargetUpload(self._bench.store, session, name, target, limit)
        with self._progress.status("pushing layers"):
            await upload.blobs(_unheard, lambda digest, text: None)
        shown = name if self._options.push_by_digest else f"{name}@{target.digest}"
        with self._progress.status(f"pushing manifest for {shown}"):
            await upload.manifests(name.tag or target.digest)


def _unheard(digest: str, size: int) -> Hear:
    return lambda current: None
