"""One build from its context to its image, whichever door asked for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from daemon.build import imageconfig
from daemon.build.bench import Bench, Job, Limits, Result
from daemon.build.dockerfile.ignore import lines
from daemon.build.dockerfile.parser import Dockerfile, parse
from daemon.build.dockerfile.source import MAX_SIZE, DockerfileError
from daemon.build.epoch import moment
from daemon.build.frontend.stages import Frontend
from daemon.build.frontend.terms import Built, Request
from daemon.build.frontend.variables import PlatformName
from daemon.build.request import BuildRequest
from daemon.build.solver.solve import Solver
from daemon.build.sources import gitrefs
from daemon.build.sources.resolved import ResolvedImage
from daemon.containers.context import Context
from daemon.images import platforms, reference
from daemon.images.manifests import encode
from daemon.images.model import AuthConfig, Image, chain_ids
from daemon.images.reference import Reference
from storage.errors import InvalidArgument, NotFound, NotImplementedYet, PydError
from storage.gc import Blob, Layer

Notice = Callable[[dict[str, Any]], None]
CONTEXT = "context"
INLINE_CACHE = "BUILDKIT_INLINE_CACHE"
"""The build argument that wants an inline cache in the image."""


class Building:
    """A build's life: `async with`, so that its directory and its lease go whatever happens."""

    def __init__(self, bench: Bench, request: BuildRequest, ctx: Context, notice: Notice) -> None:
        self._bench, self._request, self._ctx, self._notice = bench, request, ctx, notice
        ident = secrets.token_hex(8)
        directory = bench.spool / f"build-{ident}"
        limits = Limits(request.host, request.extra_hosts, request.network == "host")
        self.job = Job(ident, directory, bench.store.lease(), limits, request.secrets)
        self.names = [_name(tag) for tag in request.tags]

    async def __aenter__(self) -> Building:
        await asyncio.to_thread(self.job.directory.mkdir, mode=0o700, parents=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.job.lease.release()
        self._bench.discard(self.job.directory)

    # -- the context

    async def receive(self, body: AsyncIterator[bytes]) -> Dockerfile:
        """Takes the context in, reads the Dockerfile, and drops what .dockerignore names."""
        directory = self.job.directory / "context"
        directory.mkdir()
        base = await self._fetch(directory, body)
        name = self._request.dockerfile or "Dockerfile"
        data = await self._read(base, name)
        if data is None and not self._request.dockerfile:
            data = await self._read(base, "dockerfile")
        if data is None:
            shown = name if name.startswith("/") else f"{name}"
            raise InvalidArgument(f"failed to read dockerfile: open {shown}: no such file or directory")
        if not data.strip():
            raise DockerfileError(f"the Dockerfile ({name}) cannot be empty")
        await self._ignore(base, name)
        self.job.contexts[CONTEXT] = base
        return await asyncio.to_thread(parse, data, name)

    async def _fetch(self, directory: Path, body: AsyncIterator[bytes]) -> Path:
        remote = self._request.remote
        workshop = self._bench.workshop
        if not remote:
            await workshop.context(body, directory)
            return directory
        if (git := gitrefs.parse(remote, context=True)) is not None:
            await workshop.call(
                "clone",
                url=git.url,
                directory=str(directory),
                keep_git=bool(git.keep),
                checksum=git.checksum,
                submodules=git.submodules,
            )
            return directory / git.directory if git.directory else directory
        if not remote.startswith(("http://", "https://")):
            raise InvalidArgument(
                f"unable to prepare context: {remote} is no URL that contexts are taken from"
            )
        spool = self.job.directory / "download"
        spool.mkdir()
        got = await workshop.call("download", url=remote, directory=str(spool), checksum="")
        await workshop.context(_pieces(spool / got["name"]), directory)
        return directory

    async def _read(self, base: Path, name: str) -> bytes | None:
        found = await self._bench.workshop.call("read", directory=str(base), path=name, limit=MAX_SIZE)
        return None if found is None else base64.b64decode(found)

    async def _ignore(self, base: Path, dockerfile: str) -> None:
        data = await self._read(base, f"{dockerfile}.dockerignore") or await self._read(base, ".dockerignore")
        if data:
            patterns = lines(data.decode("utf-8", "replace"))
            await self._bench.workshop.call("prune", directory=str(base), patterns=patterns)

    # -- the graph

    async def plan(self, dockerfile: Dockerfile) -> Built:
        request = self._request
        local = platforms.local()
        build = PlatformName(local.os, local.architecture, local.variant)
        asked = platforms.parse(request.platform) if request.platform else local
        asked_for = Request(
            target=request.target,
            arguments=request.arguments,
            labels=request.labels,
            platform=PlatformName(asked.os, asked.architecture, asked.variant),
            build_platform=build,
            asked=bool(request.platform),
            no_cache=request.no_cache,
            no_cache_stages=request.no_cache_stages,
            network=_network(request.network),
        )
        return await Frontend(dockerfile, asked_for, self).run()

    async def image(self, name: str, platform: str) -> ResolvedImage:
        """The resolver: the local image, else (or with --pull) the registry's."""
        image = await self._find(name, platform or self._request.platform)
        self.job.lease.add(Blob(image.id), *(Layer(chain) for chain in image.chain_ids))
        identifier = f"docker-image://{name}@{image.id}"
        self.job.images[identifier, ""] = image.diff_ids
        return ResolvedImage(identifier, image.config)

    async def _find(self, name: str, platform: str) -> Image:
        images = self._ctx.images
        if not self._request.pull:
            with contextlib.suppress(NotFound):
                image = images.resolve(name)
                if _runs_on(image, platform):
                    return image
        parsed = reference.parse(name).with_default_tag()
        auth = self._auth(parsed)
        try:
            async for line in images.pull(name, "", platform, auth):
                if "error" in line:
                    raise InvalidArgument(str(line["error"]))
                self._notice(line)
        except PydError as error:
            known = parsed.name + (f":{parsed.tag}" if parsed.tag else "")
            sentence = f"{name}: failed to resolve source metadata for {known}: {error}"
            raise type(error)(sentence) from error
        image = images.resolve(name)
        if not _runs_on(image, platform):
            offered = f"{image.config.get('os')}/{image.config.get('architecture')}"
            raise NotFound(
                f"{name}: no match for platform {platform} in manifest: {offered} is what there is"
            )
        return image

    def _auth(self, name: Reference) -> AuthConfig | None:
        credentials = self._request.credentials
        domain = name.name.partition("/")[0]
        if domain == "docker.io":
            return credentials.get("https://index.docker.io/v1/") or credentials.get("docker.io")
        return credentials.get(domain) or credentials.get(f"https://{domain}")

    # -- the outcome

    async def solve(self, built: Built) -> Result:
        if self._request.cache_from:
            from daemon.build.remotecache.history import from_images

            from_images(self._bench, self.job, built, self._request.cache_from)
        return await Solver(self._bench, self.job).solve(built.output)

    async def export(self, built: Built, result: Result) -> Image:
        """The image, named; the times are those at which its layers were made."""
        from daemon.build.export.config import LayerMade, finished

        times_of = {entry.chain: entry.created for entry in self._bench.cache.entries.values()}
        times_of = self.job.times | times_of
        layers = [
            LayerMade(diff_id, times_of.get(chain, 0))
            for chain, diff_id in zip(chain_ids(result.diff_ids), result.diff_ids, strict=True)
        ]
        epoch = moment(self._request.arguments.get("SOURCE_DATE_EPOCH"))
        document = finished(built.document, layers, epoch)
        if self._request.arguments.get(INLINE_CACHE) in ("1", "true"):
            document |= self._inline(result)
        image = await self._bench.store.add_image(encode(document), self.names, tagged=True)
        self._ctx.events.publish("image", "create", image.id, {"name": image.id})
        for name in self.names:
            self._ctx.events.publish("image", "tag", image.id, {"name": name.familiar})
        return image

    def _inline(self, result: Result) -> dict[str, str]:
        """The image's own cache, as a member of its configuration."""
        from daemon.build.outcome import Made, Outcome
        from daemon.build.remotecache import MEMBER, inline

        (records,) = inline(self._bench, self.job, Outcome((Made(platforms.local(), result),)))
        return {MEMBER: base64.b64encode(records).decode()} if records else {}


def _runs_on(image: Image, platform: str) -> bool:
    return not platform or platforms.satisfies(platforms.parse(platform), image.config)


def _network(mode: str) -> str:
    """The network of RUN steps: a mode, or the name of a network."""
    if mode in ("", "default", "bridge"):
        return "default"
    if mode.startswith("container:"):
        raise InvalidArgument(f"network mode {mode!r} is not supported for builds: name a network instead")
    return mode


def _name(tag: str) -> Reference:
    name = reference.parse(tag).with_default_tag()
    if name.digest:
        raise InvalidArgument(
            f"invalid reference format: {tag}: refusing to create a tag with a digest reference"
        )
    return name


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, 1 << 20):
            yield data


def explain_unused(names: Sequence[str]) -> str:
    return f"[Warning] One or more build-args {imageconfig.plain_list(names)} were not consumed\n"


__all__ = ["Building", "NotImplementedYet", "explain_unused"]
