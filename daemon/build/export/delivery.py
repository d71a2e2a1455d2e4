"""The exporters of images: image, moby, oci, docker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from daemon.build.bench import Bench, Job
from daemon.build.export import archives, keeping, options
from daemon.build.export.annotations import Annotations
from daemon.build.export.image import Committed, Writer
from daemon.build.export.pushing import Pusher
from daemon.build.outcome import Attestation, ExporterRequest, Outcome
from daemon.build.session.sessions import Session
from daemon.build.steps import Progress
from daemon.containers.context import Context
from daemon.images.reference import Reference
from storage.errors import InvalidArgument


class Delivery:
    def __init__(
        self,
        bench: Bench,
        job: Job,
        ctx: Context,
        exporter: ExporterRequest,
        epoch: str | None,
        progress: Progress,
        session: Session | None,
    ) -> None:
        self._bench, self._job, self._ctx = bench, job, ctx
        self._exporter, self._progress, self._session = exporter, progress, session
        self._options = options.parse(exporter.type, exporter.attrs, epoch)

    async def export(
        self,
        outcome: Outcome,
        attestations: Sequence[Attestation],
        inline_cache: Sequence[bytes | None] | None,
    ) -> dict[str, str]:
        """The exporter's answer."""
        kind = self._exporter.type
        if kind == "docker" and outcome.multi:
            raise InvalidArgument("docker exporter does not currently support exporting manifest lists")
        said = Annotations.of({key: value.decode() for key, value in outcome.metadata.items()})
        wanted = replace(self._options, annotations=self._options.annotations.merged(said))
        named = outcome.metadata.get("image.name", b"").decode()
        names = options.names(wanted, named)
        writer = Writer(self._bench, self._job, self._ctx, wanted, self._progress, names)
        committed = await writer.commit(outcome, attestations, inline_cache)
        if kind in ("oci", "docker"):
            archive = archives.Archive(self._bench, self._progress, self._session, self._exporter.id)
            return await archive.send(kind, wanted, names, committed)
        return await self._deliver(wanted, names, committed)

    async def _deliver(
        self, wanted: options.ImageOptions, names: Sequence[Reference], committed: Committed
    ) -> dict[str, str]:
        digest = committed.target.digest
        image = None
        if wanted.store:
            image = await keeping.keep(
                self._bench, self._job, self._ctx, wanted, names, committed, self._progress
            )
        if wanted.push:
            pusher = Pusher(self._bench, self._job, self._ctx, wanted, self._progress)
            for name in names:
                await pusher.push(name, committed)
                if image is not None:  # as after docker push: the registry has it under this digest
                    bound = self._bench.store.bound_to(digest)
                    await self._bench.store.name(
                        image.id, [name.with_digest(digest)], tagged=False, bound=bound
                    )
        shown = [str(name) for name in names]
        if wanted.dangling_prefix and not (wanted.dangling_empty_only and names):
            shown.append(f"{wanted.dangling_prefix}@{digest}")
        answer = committed.answer(stored=wanted.store)
        if wanted.store and not wanted.push:
            # What docker run and inspect know it by: Compose takes this for the image's ID, and would make
            # containers anew if it were another. dockerd answers so where IDs are digests of configurations.
            answer["containerimage.digest"] = answer["containerimage.config.digest"]
        return answer | ({"image.name": ",".join(shown)} if shown else {})
