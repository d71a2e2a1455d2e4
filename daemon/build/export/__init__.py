"""What is made of a build's outcome: an image in the store or in a registry, an archive, files.

    attributes, options, annotations    what the client asked for                                     pure
    config, documents, statements       configurations, manifests, indexes, in-toto statements        pure
    layers      layers as they are to go out: compressed otherwise, times rewritten
    image       all that as blobs of the content store
    keeping     under names in the image store        pushing   into registries
    archives    OCI and docker archives, directories  files     local and tar

Source: BuildKit exporter/*, whose attributes and answers these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daemon.build.outcome import Attestation, BuildRecord, ExporterRequest, Outcome
from storage.errors import NotFound

if TYPE_CHECKING:
    from daemon.build.bench import Bench, Job
    from daemon.build.session.sessions import Session
    from daemon.containers.context import Context

IMAGES = frozenset(("image", "moby"))
ARCHIVES = frozenset(("oci", "docker"))
FILES = frozenset(("local", "tar"))
_STEPS = {
    **dict.fromkeys(IMAGES, "exporting to image"),
    "oci": "exporting to oci image format",
    "docker": "exporting to docker image format",
    "local": "exporting to client directory",
    "tar": "exporting to client tarball",
}


def check(exporters: Sequence[ExporterRequest]) -> None:
    """Before anything is built: InvalidArgument for attributes that make no sense, NotFound for an exporter."""
    from daemon.build.export import options

    for exporter in exporters:
        if exporter.type in IMAGES | ARCHIVES:
            options.names(options.parse(exporter.type, exporter.attrs, None))
        elif exporter.type in FILES:
            options.parse_files(exporter.attrs, None)
        elif exporter.type != "cacheonly":
            raise NotFound(f'exporter "{exporter.type}" could not be found')


async def export(
    bench: Bench,
    job: Job,
    ctx: Context,
    outcome: Outcome,
    exporter: ExporterRequest,
    record: BuildRecord,
    session: Session | None,
    attestations: Sequence[Attestation] = (),
    inline_cache: Sequence[bytes | None] | None = None,
) -> dict[str, str]:
    """Does what the client asked for; the exporter's answer (containerimage.digest, image.name, ...).

    `session`: whose credentials are used and where files go (daemon.build.session); `inline_cache`: for each
    of outcome.made the record that its configuration is to carry. InvalidArgument for attributes that make no
    sense; steps are shown through job.step.
    """
    check([exporter])
    if exporter.type == "cacheonly":
        return {}
    epoch = record.attrs.get("build-arg:SOURCE_DATE_EPOCH")
    if "source.date.epoch" in outcome.metadata:
        epoch = epoch or outcome.metadata["source.date.epoch"].decode("ascii", "replace")
    async with job.step(_STEPS[exporter.type]) as progress:
        if exporter.type in FILES:
            from daemon.build.export.files import Files

            files = Files(bench, job, ctx.images.registries.worker, exporter, epoch, progress, session)
            return await files.export(outcome, attestations)
        from daemon.build.export.delivery import Delivery

        return await Delivery(bench, job, ctx, exporter, epoch, progress, session).export(
            outcome, attestations, inline_cache
        )
