"""The attestations of a build that has been solved."""

from __future__ import annotations

from daemon.build.attest.requests import parse
from daemon.build.bench import Bench, Job
from daemon.build.outcome import Attestation, BuildRecord, Outcome
from daemon.containers.context import Context
from storage.errors import NotImplementedYet


async def make(
    bench: Bench, job: Job, ctx: Context, outcome: Outcome, record: BuildRecord
) -> list[Attestation]:
    if parse(record.attrs):
        raise NotImplementedYet("attestations are not supported yet")
    return []
