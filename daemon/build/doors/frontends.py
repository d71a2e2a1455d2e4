"""Front ends as images (gateway.v0): a process of the image's that asks for parts of a build over its stdin and stdout.

    which    the client names an image (`source`), or the Dockerfile does: `# syntax=`, BUILDKIT_SYNTAX. What is called
             `dockerfile` or `dockerfile-upstream`, wherever it comes from, is the one that is built in.
    how      as a RUN of the image's root would be, its root writable and thrown away; gRPC on its stdin and stdout,
             stderr to the log of the image's vertex (BuildKit: to the daemon's)
    result   what it returned, unless it ended with another status than 0

Source: BuildKit frontend/gateway/gateway.go, frontend/dockerfile/builder (build.go, caps.go).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon import parsebool
from daemon.build.bench import Bench, Job, Result
from daemon.build.dockerfile import directives
from daemon.build.dockerfile.source import NOWHERE, Span, locate, place_of
from daemon.build.dockerfile.source import Source as Text
from daemon.build.doors.fronts import Failed, Front, FrontResult, ImageDoor, Ref, UnsupportedCap
from daemon.build.frontend import options as options_of
from daemon.build.frontend.contexts import Named, Sources
from daemon.build.frontend.options import ARGUMENT
from daemon.build.frontend.planning import Planning
from daemon.build.graph import About, Exec, Output, Source, Vertex
from daemon.build.solver.layering import Active
from daemon.build.solver.processes import Process, Stdio, frames
from daemon.build.solver.solve import Solver, StepFailed
from daemon.build.sources.images import PREFIX, Images
from daemon.images import reference
from storage.errors import InvalidArgument, PydError, Unavailable

if TYPE_CHECKING:
    from daemon.containers.context import Context

OURS = ("dockerfile", "dockerfile-upstream")
"""Last parts of the repositories whose front end is built in."""
SYNTAX = f"{ARGUMENT}BUILDKIT_SYNTAX"
SOURCE, COMMAND_LINE = "source", "cmdline"
METADATA = "/run/config/buildkit/metadata"
PRODUCT = "docker"
_CAPS, _NO_NETWORK = "moby.buildkit.frontend.caps", "moby.buildkit.frontend.network.none"
_INPUTS = "moby.buildkit.frontend.inputs"
_OURS_CAN = frozenset(
    f"moby.buildkit.frontend.{name}" for name in ("inputs", "subrequests", "contexts", "gitquerystring")
)
_LEAVING = 10.0
"""Seconds that a process has to end when it speaks gRPC no longer."""


# -- which


def built_in(image: str) -> bool:
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0] in OURS


def source(attrs: Mapping[str, str]) -> str:
    """The image that a client asks for."""
    if "gateway-devel" in attrs:
        raise InvalidArgument("development gateway is no longer supported")
    if not (found := attrs.get(SOURCE, "")):
        raise InvalidArgument("no source specified for gateway")
    return found


def refusal(attrs: Mapping[str, str]) -> UnsupportedCap | None:
    """What the client demands in `frontend.caps` and the built-in front end can't do."""
    found = None
    for cap in filter(None, attrs.get("frontend.caps", "").split(",")):
        name, _, rest = cap.partition("+")
        if name not in _OURS_CAN:
            found = UnsupportedCap(name, forward="forward" in rest)
            if not found.forward:
                return found
    return found


@dataclass(frozen=True)
class Other:
    """The front end that a Dockerfile is for; `attrs` ask for it."""

    attrs: Mapping[str, str]
    text: Text | None = None
    span: Span = NOWHERE
    """Where the file says so."""

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Its errors come with the place that named it, unless they have one of their own."""
        try:
            yield
        except PydError as error:
            if _placed(error):
                raise
            if self.text is None:
                told = f"failed with {SYNTAX} = {self.attrs[COMMAND_LINE]}: {error}"
                raise InvalidArgument(told) from error
            locate(error, self.text, self.span)
            raise


def _placed(error: PydError) -> bool:
    if isinstance(error, Failed):
        return any("errdefs.Source" in each.type_url for each in error.returned.details)
    if isinstance(error, StepFailed):
        return error.vertex.about.span is not None
    return place_of(error) is not None


async def other(planner: Planning, attrs: Mapping[str, str]) -> Other | None:
    """None: the built-in one it is, which whoever was handed a file already never hands on."""
    name, data = await planner.read()
    if COMMAND_LINE in attrs:
        return None
    if line := attrs.get(SYNTAX, "").strip():
        asked = {**attrs, SOURCE: line.partition(" ")[0], COMMAND_LINE: attrs[SYNTAX]}
        return None if built_in(asked[SOURCE]) else Other(asked)
    found = directives.syntax(data)
    if found is None or built_in(found.image):
        return None
    asked = {**attrs, SOURCE: found.image, COMMAND_LINE: found.command_line}
    text = Text(name, tuple(data.decode("utf-8", "surrogateescape").split("\n")))
    return Other(asked, text, Span(found.line, found.line))


# -- how


@dataclass(frozen=True)
class _Image:
    output: Output
    config: Mapping[str, Any]
    """Of the image's configuration the member `config`."""


async def run(
    bench: Bench,
    job: Job,
    ctx: Context,
    front: Front,
    attrs: Mapping[str, str],
    inputs: Mapping[str, Output | None],
) -> FrontResult:
    """What the image gives. Failed, when it says that it failed; else the errors of getting and running it."""
    if bench.image_door is None:
        raise Unavailable("this daemon has no door for front ends as images")
    image = await _image(bench, job, ctx, attrs, inputs)
    _check(image, attrs, inputs)
    tree = await Solver(bench, job).solve(image.output)
    operation = _operation(image.config, attrs, job, bench.image_door)
    try:
        async with Active(bench, tree) as active:
            status = await _served(bench, job, front, image, operation, tree, active.key)
        found = front.result
    finally:
        await asyncio.shield(front.leave())
    if status != 0:
        raise InvalidArgument(f"exit code: {status}")
    if found is None:
        raise InvalidArgument("no result for incomplete build")
    return found


async def _image(
    bench: Bench, job: Job, ctx: Context, attrs: Mapping[str, str], inputs: Mapping[str, Output | None]
) -> _Image:
    """The build's context of that name, or what the name means here or at its registry."""
    asked = source(attrs)
    try:
        name = reference.parse(asked).with_default_tag()
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid context name {asked}: {error}") from None
    images = job.resolver = Images(bench, job, ctx, credentials=job.credentials)
    told = replace(images, steps=job.step)
    given = await Named(Sources(bench, job, options_of.read(attrs), inputs, told), {}).named(asked, "")
    if given is not None:
        if given.output is None:
            raise InvalidArgument("gateway source didn't return default result")
        return _Image(given.output, (given.config or {}).get("config") or {})
    shown = f"resolve image config for {PREFIX}{name}"
    found = await replace(images, steps=lambda _: job.step(shown), worded=False).image(str(name), "")
    vertex = Vertex(Source(found.identifier), (), About(found.identifier))
    return _Image(Output(vertex), found.config.get("config") or {})


def _check(image: _Image, attrs: Mapping[str, str], inputs: Mapping[str, Output | None]) -> None:
    """UnsupportedCap for what is demanded and the image's label doesn't promise."""
    labels = image.config.get("Labels") or {}
    can = _caps(str(labels.get(_CAPS, "")))
    for cap in _caps(attrs.get("frontend.caps", "")) + ([_INPUTS] if inputs else []):
        if cap not in can:
            raise UnsupportedCap(cap)


def _caps(text: str) -> list[str]:
    return [each.partition("+")[0] for each in text.split(",") if each]


def _operation(config: Mapping[str, Any], attrs: Mapping[str, str], job: Job, door: ImageDoor) -> Exec:
    env = [str(each) for each in config.get("Env") or ()]
    env += [f"BUILDKIT_FRONTEND_OPT_{n}={name}={value}" for n, (name, value) in enumerate(attrs.items())]
    env += [
        f"BUILDKIT_SESSION_ID={job.sessions[0].id if job.sessions else ''}",
        f"BUILDKIT_WORKERS={door.workers()}",
        f"BUILDKIT_EXPORTEDPRODUCT={PRODUCT}",
    ]
    labels = config.get("Labels") or {}
    return Exec(
        args=tuple(config.get("Entrypoint") or ("/run",)),
        env=tuple(env),
        cwd=config.get("WorkingDir") or "/",
        user="",
        network="none" if labels.get(_NO_NETWORK) in parsebool.TRUE else "default",
    )


async def _served(
    bench: Bench, job: Job, front: Front, image: _Image, operation: Exec, tree: Result, key: str
) -> int:
    """Runs the process and answers it; its status."""
    assert bench.image_door is not None
    process = Process(bench, job, operation, key)
    await asyncio.to_thread(process.directory.mkdir)
    calls, theirs = socket.socketpair()
    told, telling = socket.socketpair()
    log = job.of(image.output.vertex).log
    try:
        process.mounted.mounts.append(await _definition(front, image.output, process.directory))
        stdio = (
            Stdio(theirs, stdin=True, stderr=False, framed=False),
            Stdio(telling, stdout=False),
        )
        served = bench.image_door.serve(front, calls)
        async with (
            process.running(tree, stdio) as ended,
            _beside(served, frames(told, log)) as (serving, reading),
        ):
            await asyncio.wait((ended, serving), return_when=asyncio.FIRST_COMPLETED)
            try:
                patience = None if ended.done() else _LEAVING
                status, _ = await asyncio.wait_for(asyncio.shield(ended), patience)
            except TimeoutError:
                raise Unavailable("frontend grpc server closed unexpectedly") from None
            await asyncio.wait((reading,), timeout=_LEAVING)
            return status
    finally:
        await asyncio.shield(process.clean())
        for each in (calls, theirs, told, telling):
            each.close()


@contextlib.asynccontextmanager
async def _beside(*works: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Tasks that end with the block."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _definition(front: Front, output: Output, directory: Path) -> dict[str, Any]:
    """The mount with the image's own definition, which some front ends want for their provenance."""
    data = front.bridge.definition(Ref(secrets.token_hex(4), output)).SerializeToString()
    place = directory / "metadata"

    def write() -> None:
        place.mkdir()
        (place / "frontend.bin").write_bytes(data)

    await asyncio.to_thread(write)
    options = ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"]
    return {"destination": METADATA, "type": "bind", "source": str(place), "options": options}
