"""Exported images into registries, with the credentials of the client (BuildKit util/push)."""

from __future__ import annotations

from daemon.build.bench import Bench, Job
from daemon.build.export.image import Committed
from daemon.build.export.options import ImageOptions
from daemon.build.session.sessions import Session
from daemon.build.steps import Progress
from daemon.containers.context import Context
from daemon.images.model import AuthConfig
from daemon.images.reference import Reference
from daemon.images.registry.errors import NO_CREDENTIALS, RegistryError
from daemon.images.sessions import Session as RegistrySession
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
        session: Session | None,
    ) -> None:
        self._bench, self._job, self._ctx = bench, job, ctx
        self._options, self._progress, self._session = options, progress, session

    async def push(self, name: Reference, committed: Committed) -> None:
        """Internal, Unauthenticated: the registry's refusal, as `failed to push NAME: ...`."""
        if self._options.push_by_digest and not name.is_name_only:
            raise InvalidArgument(f"can't push tagged ref {name} by digest")
        registries = self._ctx.images.registries
        auth = await self._credentials(name.domain)
        try:
            with registries.worker.held():
                await self._try_endpoints(name, committed, auth)
        except RegistryError as error:
            kind = Unauthenticated if error.code == "UNAUTHORIZED" else Internal
            text = NO_CREDENTIALS if error.code == "credentials" else str(error)
            raise kind(f"failed to push {name}: {text}") from error
        except PydError as error:
            raise type(error)(f"failed to push {name}: {error}") from error

    async def _credentials(self, domain: str) -> AuthConfig | None:
        if self._session is not None:
            return await self._session.credentials(domain)
        return self._job.credentials(domain) if self._job.credentials else None

    async def _try_endpoints(self, name: Reference, committed: Committed, auth: AuthConfig | None) -> None:
        """As docker push does: another endpoint only after what that one may not suffer from."""
        registries = self._ctx.images.registries
        insecure = [name.domain] if self._options.insecure else []
        failed: RegistryError | None = None
        secure: set[str] = set()
        for endpoint in await registries.endpoints(name.domain, push=True, insecure=insecure):
            if endpoint.plain and endpoint.host in secure:
                continue
            try:
                session = await registries.open(endpoint, name, auth, "pull,push")
            except RegistryError as error:
                failed = error
                if error.code != "transport" and not endpoint.plain:
                    secure.add(endpoint.host)
                continue
            try:
                await self._send(session, name, committed)
                return
            finally:
                await session.release()
        assert failed is not None
        raise failed

    async def _send(self, session: RegistrySession, name: Reference, committed: Committed) -> None:
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
