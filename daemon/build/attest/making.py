"""The attestations of a build that has been solved."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from daemon.build import llb
from daemon.build.attest import buildconfig
from daemon.build.attest.provenance import Facts, ImageUsed, predicate
from daemon.build.attest.requests import parse, true
from daemon.build.attest.sbom import scanned
from daemon.build.bench import Bench, Job
from daemon.build.graph import Exec, Output, Source, Vertex, digest_of, ordered
from daemon.build.outcome import Attestation, BuildRecord, Outcome
from daemon.containers.context import Context
from daemon.images import platforms
from storage.errors import NotImplementedYet

Json = dict[str, Any]
_IMAGE = "docker-image://"
_IMAGES = (_IMAGE, "oci-layout://")
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


async def make(
    bench: Bench, job: Job, ctx: Context, outcome: Outcome, record: BuildRecord
) -> list[Attestation]:
    """See the package. The lists of contents come first, as with BuildKit."""
    requests = parse(record.attrs)
    found: list[Attestation] = []
    if (wanted := requests.get("sbom")) is not None:
        found += await scanned(bench, job, ctx, outcome, record, wanted)
    if (wanted := requests.get("provenance")) is not None:
        wished = job.usage is not None and true(wanted.get("capture-usage"))
        usage = await job.usage.samples() if job.usage and wished else []
        for place in range(len(outcome.made)):
            found.append(_provenance(bench, job, outcome, record, place, wanted, usage))
    return found


def _provenance(
    bench: Bench,
    job: Job,
    outcome: Outcome,
    record: BuildRecord,
    place: int,
    wanted: Mapping[str, str],
    usage: list[Json],
) -> Attestation:
    output = record.outputs[place] if place < len(record.outputs) else None
    facts = _facts(bench, job, record, output, full=wanted.get("mode", "max") != "min")
    facts = replace(facts, usage=usage)
    kind, made = predicate(facts, wanted)
    return Attestation(
        platform_index=place,
        predicate_type=kind,
        predicate=to_json(made, indent=2),
        reason="provenance",
        inline_only=true(wanted.get("inline-only")),
        path=wanted.get("filename", "provenance.json"),
    )


def _facts(bench: Bench, job: Job, record: BuildRecord, output: Output | None, *, full: bool) -> Facts:
    vertices = ordered([output])
    processes = [vertex.operation for vertex in vertices if isinstance(vertex.operation, Exec)]
    others = {name: value for name, value in job.resolved.items() if not name.startswith(_IMAGES)}
    config, source, layers = _graph(bench, job, output) if full else (None, None, None)
    return Facts(
        frontend=record.frontend,
        arguments=record.attrs,
        images=_images(job, vertices),
        repositories=tuple(
            {_repository(name): value for name, value in others.items() if ":" not in value}.items()
        ),
        files=tuple((name, value) for name, value in others.items() if ":" in value),
        locals=record.locals,
        secrets=_mounts(processes, "secret"),
        agents=_mounts(processes, "ssh"),
        network=any(process.network != "none" for process in processes),
        platform=str(platforms.local()),
        started=record.started or job.started,
        finished=record.finished or time.time_ns(),
        invocation="".join(secrets.choice(_LETTERS) for _ in range(25)),
        config=config,
        source=source,
        layers=layers,
    )


def _repository(url: str) -> str:
    """Without the directory that was taken of it: URL#REF."""
    remote, _, fragment = url.partition("#")
    ref = fragment.partition(":")[0]
    return f"{remote}#{ref}" if ref else remote


def _images(job: Job, vertices: Iterable[Vertex]) -> tuple[ImageUsed, ...]:
    """Under the names they were asked for by; who asked for a digest is told that digest."""
    found: dict[ImageUsed, None] = {}
    for vertex in vertices:
        operation = vertex.operation
        if not isinstance(operation, Source) or not operation.identifier.startswith(_IMAGE):
            continue
        identifier, _, digest = operation.identifier.partition("@")
        name = identifier if identifier in job.resolved else operation.identifier
        platform = operation.platform or str(platforms.local())
        known = digest or job.resolved.get(identifier, "")
        found[ImageUsed(name.removeprefix(_IMAGE), known, platform)] = None
    return tuple(found)


def _mounts(processes: Iterable[Exec], kind: str) -> tuple[tuple[str, bool], ...]:
    """(ID, whether no step insists on it)"""
    found: dict[str, bool] = {}
    for process in processes:
        for mount in process.mounts:
            if mount.kind == kind:
                id = mount.id or "default"
                found[id] = found.get(id, True) and not mount.required
    return tuple(found.items())


# -- the graph


def _graph(bench: Bench, job: Job, output: Output | None) -> tuple[Json | None, Json | None, Json | None]:
    """(buildConfig, source, layers) of mode=max."""
    known: dict[tuple[str, int], Output] = {}
    try:
        definition = llb.encode(output, known)
    except NotImplementedYet:
        return None, None, None
    steps = buildconfig.Steps(definition)
    if not steps.order:
        return None, None, None
    config = {"llbDefinition": steps.definition(), "digestMapping": steps.mapping()}
    source = buildconfig.source(definition, steps.places) or buildconfig.told(known, steps.places)
    return config, source, _layers(bench, job, known, steps.places)


def _layers(
    bench: Bench, job: Job, known: Mapping[tuple[str, int], Output], places: Mapping[str, int]
) -> Json:
    """What each step gave, as descriptors of its tree's layers."""
    found: Json = {}
    for (digest, index), output in known.items():
        diff_ids = _diff_ids(job, output)
        if digest not in places or diff_ids is None:
            continue
        blobs = [bench.store.blob(diff_id) for diff_id in diff_ids]
        described = [
            {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size} for blob in blobs if blob
        ]
        if len(described) == len(blobs):
            found[f"step{places[digest]}:{index}"] = [described]
    return dict(sorted(found.items()))


def _diff_ids(job: Job, output: Output) -> tuple[str, ...] | None:
    operation = output.vertex.operation
    if isinstance(operation, Source):
        return job.images.get((operation.identifier, operation.platform))
    key = job.keys.get(output.vertex.digest)
    if key is None:
        return None
    result = job.known.get(digest_of([key, output.index]) if output.index else key)
    return None if result is None else result.diff_ids
