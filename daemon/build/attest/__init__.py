"""Attestations: what an image was made of (provenance) and what is in it (SBOM), as in-toto predicates.

provenance.py   SLSA v0.2 and v1 as BuildKit writes them        pure
sbom.py         a generator image runs on the result, as a step of the build
usage.py        what the machine was busy with meanwhile

Source: BuildKit frontend/attestations, solver/llbsolver/provenance, docs/attestations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.build.bench import Bench, Job
    from daemon.build.outcome import Attestation, BuildRecord, Outcome
    from daemon.containers.context import Context

Requests = dict[str, dict[str, str]]
""""provenance" and "sbom", those that are wanted, to their attributes."""


def parse(attributes: Mapping[str, str]) -> Requests:
    """Of a front end's attributes (attest:*, build-arg:BUILDKIT_ATTEST_*). InvalidArgument for what there is not."""
    from daemon.build.attest.requests import parse

    return parse(attributes)


def watch(job: Job, requests: Requests) -> None:
    """Begins to note what the machine is busy with, if a wish says so (`capture-usage`)."""
    from daemon.build.attest.requests import true

    if true(requests.get("provenance", {}).get("capture-usage")):
        from daemon.build.attest.usage import Usage

        job.usage = Usage()
        job.stack.push_async_callback(job.usage.close)


async def make(
    bench: Bench, job: Job, ctx: Context, outcome: Outcome, record: BuildRecord
) -> list[Attestation]:
    """Between solving and exporting; those that `record.attrs` ask for."""
    from daemon.build.attest.making import make

    return await make(bench, job, ctx, outcome, record)
