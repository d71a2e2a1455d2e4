"""Lists of what is in an image: a generator image runs upon the result and leaves SPDX statements.

    /run/src/core/sbom              the result                            BUILDKIT_SCAN_SOURCE
    /run/src/extras/sbom-NAME       other stages, the context             BUILDKIT_SCAN_SOURCE_EXTRAS
    /run/out                        in-toto statements, one a file        BUILDKIT_SCAN_DESTINATION

It is a step like any other: shown, cached, failed when the process fails.

Source: BuildKit frontend/attestations/sbom, exporter/attestation/unbundle.go, docs/attestations/sbom-protocol.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.build.bench import Bench, Job
from daemon.build.graph import About, Exec, ExecMount, Output, Source, Vertex
from daemon.build.outcome import Attestation, BuildRecord, Outcome
from daemon.build.solver.solve import Solver
from daemon.build.sources.images import Images
from daemon.containers.context import Context
from storage.archive import Root
from storage.errors import InvalidArgument

SPDX = "https://spdx.dev/Document"
CORE = "sbom"
_SOURCES, _OUT = "/run/src", "/run/out/"
_LARGEST = 40 << 20
"""Bytes of one statement (exporter/attestation/make.go), and here of all together."""


async def scanned(
    bench: Bench, job: Job, ctx: Context, outcome: Outcome, record: BuildRecord, wanted: Mapping[str, str]
) -> list[Attestation]:
    """Of each platform's result. The registry's error when there is no generator, the process's when it fails."""
    generator = wanted["generator"]
    parameters = {name: value for name, value in wanted.items() if name != "generator"}
    images = job.resolver
    if not isinstance(images, Images):
        images = Images(bench, job, ctx, credentials=job.credentials, steps=job.step)
        job.resolver = images
    image = await images.image(generator, "")
    found: list[Attestation] = []
    for place, made in enumerate(outcome.made):
        output = record.outputs[place] if place < len(record.outputs) else None
        if output is None:
            continue
        extras = record.scans[place] if place < len(record.scans) else {}
        vertex = _step(
            f"[{made.platform}] generating sbom using {generator}",
            Source(image.identifier),
            image.config.get("config") or {},
            parameters,
            output,
            {name: each for name, each in extras.items() if each is not None},
            no_cache=record.attrs.get("no-cache") == "",
        )
        result = await Solver(bench, job).solve(Output(vertex, 1))
        lower = bench.overlay(result)
        if lower is not None:
            found += await asyncio.to_thread(read, Path(lower["lower"][0]), place)
    return found


def _step(
    name: str,
    image: Source,
    config: Mapping[str, Any],
    parameters: Mapping[str, str],
    output: Output,
    extras: Mapping[str, Output],
    *,
    no_cache: bool,
) -> Vertex:
    """The generator's process. InvalidArgument for an image that has no command."""
    arguments = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
    if not arguments:
        raise InvalidArgument(f"scanner {image.identifier.partition('://')[2]} does not have cmd")
    core = f"{_SOURCES}/core/{CORE}"
    environment = [
        *(config.get("Env") or ()),
        f"BUILDKIT_SCAN_DESTINATION={_OUT}",
        f"BUILDKIT_SCAN_SOURCE={core}",
    ]
    if extras:
        environment.append(f"BUILDKIT_SCAN_SOURCE_EXTRAS={_SOURCES}/extras")
    environment += [f"BUILDKIT_SCAN_{key}={value}" for key, value in parameters.items()]
    mounts = [
        ExecMount("tmpfs", "/tmp"),
        ExecMount("bind", core, input=1, readonly=True),
        *(
            ExecMount("bind", f"{_SOURCES}/extras/{CORE}-{extra}", input=place, readonly=True)
            for place, extra in enumerate(extras, 2)
        ),
        ExecMount("bind", _OUT, output=1),
    ]
    process = Exec(
        args=arguments,
        env=tuple(environment),
        cwd=config.get("WorkingDir") or "/",
        user="",
        mounts=tuple(mounts),
    )
    inputs = (Output(Vertex(image)), output, *extras.values())
    return Vertex(process, inputs, About(name=name, no_cache=no_cache))


def read(directory: Path, place: int) -> list[Attestation]:
    """What a generator left, the one about the result first. InvalidArgument for what is no SPDX statement."""
    found = []
    left = _LARGEST
    with Root(directory) as root:
        for name in sorted(os.listdir(directory)):
            body = _file(root, name, left)
            left -= len(body)
            found.append(_attestation(name, body, place))
    return sorted(found, key=lambda each: each.path.partition(".")[0] != CORE)


def _file(root: Root, name: str, limit: int) -> bytes:
    """A regular file; a generator's links and pipes are not followed."""
    try:
        fd = root.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        raise InvalidArgument(f"{name} is not a regular file") from None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"{name} is not a regular file")
        body = file.read(limit + 1)
    if len(body) > limit:
        raise InvalidArgument(f"{name} exceeds {_LARGEST} bytes")
    return body


def _attestation(name: str, body: bytes, place: int) -> Attestation:
    try:
        statement = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"cannot decode in-toto statement: {error}") from None
    kind = statement.get("predicateType") if isinstance(statement, dict) else None
    if kind != SPDX:
        raise InvalidArgument(f"bundle entry {kind} does not match required predicate type {SPDX}")
    return Attestation(
        platform_index=place,
        predicate_type=SPDX,
        predicate=json.dumps(statement.get("predicate"), separators=(",", ":"), ensure_ascii=False).encode(),
        reason="sbom",
        path=name,
        subjects=tuple(_subject(each) for each in statement.get("subject") or ()),
    )


def _subject(subject: Any) -> tuple[str, dict[str, str]]:
    digests = subject.get("digest") if isinstance(subject, dict) else None
    if not isinstance(digests, dict):
        raise InvalidArgument("cannot decode in-toto statement: a subject without digest")
    return str(subject.get("name") or "_"), {str(key): str(value) for key, value in digests.items()}
