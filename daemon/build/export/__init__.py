"""What is made of a build's outcome: an image in the store or in a registry, an archive, files.

Source: BuildKit exporter/*, whose attributes and answers these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daemon.build.outcome import Attestation, BuildRecord, ExporterRequest, Outcome
from storage.errors import NotImplementedYet

if TYPE_CHECKING:
    from daemon.build.bench import Bench, Job
    from daemon.build.session.sessions import Session
    from daemon.containers.context import Context


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
    raise NotImplementedYet(f"the exporter {exporter.type}")
